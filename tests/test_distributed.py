"""Runs in several processes give the report of one process, and survive the death of a rank."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import long_runs
import pytest
import torch
from long_runs import one_thread  # noqa: F401
from test_runs import ROUNDING, assert_same

import spectroscope
from spectroscope import cli, run

HERE = Path(__file__).parent


def torchrun(processes, *arguments, **environment):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "spectroscope", "inspect", *map(str, arguments)],
        cwd=HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def whole():
    return run.inspect(long_runs.waves())


def assert_whole(out, printed, whole):
    """The processes wrote what one process writes, and printed it once."""
    report = spectroscope.load(out)
    assert_same(report, whole.report, **ROUNDING)
    assert printed.count("3 sites, 18 channels") == 1
    for name, value in whole.scores.items():
        assert printed.count(f"{name}: {value:.2f}\n") == 1
    for line in whole.labels:
        assert f"{line}\n" in printed
    assert ";" not in report.about["recorded"]
    assert {file.name for file in out.iterdir()} == {
        "aliasing.csv", "columns.csv", "coverage.csv", "dc.csv", "dead.csv", "harmonics.csv",
        "introduced.csv", "network.csv", "report.html", "report.npz", "sites.csv",
        "spectra.png", "spectrogram.csv",
    }  # fmt: skip


# Started without torchrun, as on a cluster with a launcher of its own


def rank_main(folder, rank, environment, timeout, arguments):
    os.environ |= environment | {"RANK": str(rank)}
    os.chdir(HERE)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    if timeout is not None:
        run.process_group = partial(run.process_group, timeout=timedelta(seconds=timeout))
    sys.exit(cli.main(arguments))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start_ranks(tmp_path_factory, monkeypatch):
    """Starts ranks as forks of a process that has imported everything: that takes no time."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "spectroscope.plots"])
    processes = []

    def start(world, *arguments, timeout=None, **environment):
        folder = tmp_path_factory.mktemp("ranks")
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"WORLD_SIZE": str(world)}
        arguments = ["inspect", *map(str, arguments)]
        for rank in range(world):
            process = context.Process(
                target=rank_main, args=(folder, rank, environment, timeout, arguments)
            )
            process.printed = folder / str(rank)
            process.start()
            processes.append(process)
        return processes[-world:]

    yield start
    for process in processes:
        process.kill()
        process.join()


def finished(process, status):
    """What it printed on standard output and error, once it has exited with that status."""
    process.join(60)
    out, err = (process.printed.with_suffix(end).read_text() for end in (".out", ".err"))
    assert process.exitcode == status, err
    assert "Traceback" not in err
    return out, err


@pytest.mark.slow
def test_more_ranks_than_batches_give_the_report_of_one_process(whole, start_ranks, tmp_path):
    processes = start_ranks(15, "long_runs:waves", "--out", tmp_path / "out")  # 13 batches
    printed = [finished(process, 0)[0] for process in processes]
    assert not any(printed[1:])
    assert_whole(tmp_path / "out", printed[0], whole)


def test_a_run_resumes_to_the_report_of_one_process(whole, start_ranks, tmp_path):
    out = tmp_path / "out"
    arguments = ["long_runs:dies", "--out", out, "--checkpoint-every", 1]
    survivor, killed = start_ranks(2, *arguments, DIES="1")
    printed, _ = finished(survivor, 1)
    finished(killed, -signal.SIGKILL)
    assert "relu#1" not in printed
    assert {str(path.relative_to(out)) for path in out.rglob("*.npz")} == {
        "checkpoint-1-of-2.npz",
        "checkpoint-2-of-2.npz",  # of its first batch
        "shard-1-of-2/report.npz",
    }
    processes = start_ranks(2, "long_runs:dies", "--out", out, "--resume")
    printed, _ = finished(processes[0], 0)
    assert finished(processes[1], 0)[0] == ""
    assert_whole(out, printed, whole)


@pytest.mark.parametrize(
    ("dies", "number"),
    [
        (0, signal.SIGKILL),
        (1, signal.SIGKILL),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies_or_hangs_is_an_error_on_the_others(
    dies, number, whole, start_ranks, tmp_path
):
    out = tmp_path / "out"
    # A dead rank is reported at once, and a hanging one after the timeout.
    timeout = 6 if number == signal.SIGSTOP else None
    processes = start_ranks(3, "long_runs:dies", "--out", out, timeout=timeout,
                            DIES=str(dies), SIGNAL=str(int(number)))  # fmt: skip
    for rank in {0, 1, 2} - {dies}:
        last = finished(processes[rank], 1)[1].splitlines()[-1]
        assert last.startswith(f"spectroscope: rank {rank} of 3: another rank is gone or hangs (")
        assert "Timed out waiting 6000ms" in last or "Connection " in last
        assert f"{rank + 1}/3" in last.partition("are finished and kept in")[0]
        assert f"{dies + 1}/3" in last.partition("--resume runs the others (")[2]
    kept = sorted(path.name for path in out.glob("shard-*"))
    assert kept == [f"shard-{rank + 1}-of-3" for rank in range(3) if rank != dies]
    shard = run.Shard(dies + 1, 3)
    missing = run.inspect(long_runs.dies(), shard=shard)
    missing.report.save(out / f"shard-{shard.filename}")
    merged = run.merge(list(out.glob("shard-*")))
    assert_same(merged.report, whole.report, **ROUNDING)


def test_a_rank_that_waits_for_a_hanging_one_can_be_terminated(start_ranks, tmp_path):
    out = tmp_path / "out"
    waiting, _ = start_ranks(2, "long_runs:dies", "--out", out, DIES="1",
                             SIGNAL=str(int(signal.SIGSTOP)))  # fmt: skip
    until = time.monotonic() + 60
    while not (out / "shard-1-of-2" / "report.npz").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    waiting.terminate()
    time.sleep(0.1)
    waiting.terminate()  # once more, while it prints its message or ends
    _, errors = finished(waiting, 1)
    last = errors.splitlines()[-1]
    assert last.startswith("spectroscope: rank 0 of 2 was terminated: another rank has probably")
    assert "--resume runs the others (2/2)" in last


def test_what_is_refused_is_refused_on_each_rank(start_ranks, tmp_path):
    for process in start_ranks(2, "long_runs:waves", "--out", tmp_path / "out", "--resume"):
        assert "to resume from" in finished(process, 2)[1]
    for process in start_ranks(2, "long_runs:waves", "--shard", "1/2"):
        assert "leave --shard out" in finished(process, 2)[1]
    assert not list(tmp_path.iterdir())


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(spectroscope.RequestError, match=r"1 GPU and at least 2 processes"):
        with run.process_group("cuda"):
            pass


# Started by torchrun


@pytest.mark.slow
def test_torchrun_ends_the_other_ranks_when_one_dies(tmp_path):
    out = tmp_path / "out"
    began = time.monotonic()
    done = torchrun(2, "long_runs:dies", "--out", out, "--checkpoint-every", 1, DIES="1")
    assert time.monotonic() - began < 120  # they would wait for minutes
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "spectroscope: rank 0 of 2" in line]
    assert "was terminated: another" in line or "another rank is gone" in line
    assert "--resume runs the others" in line
    assert "relu#1" not in done.stdout
    assert not (out / "report.npz").exists()
    assert (out / "checkpoint-2-of-2.npz").exists()  # of its first batch


@pytest.mark.slow
def test_torchrun_gives_the_report_of_one_process(whole, tmp_path):
    done = torchrun(2, "long_runs:waves", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "out", done.stdout, whole)
