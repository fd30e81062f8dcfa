"""Runs of several processes: the same as of one; and what is left when one of them dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import long_runs
import pytest
from long_runs import one_thread  # noqa: F401
from test_runs import ROUNDING, assert_same

import spectroscope
from spectroscope import run

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
    """What the processes wrote is what one would have, and they said it once."""
    report = spectroscope.load(out)
    assert_same(report, whole.report, **ROUNDING)
    assert printed.count("relu#1") == 1
    for name, value in whole.scores.items():
        assert printed.count(f"{name}: {value:.2f}\n") == 1
    for line in whole.labels:
        assert f"{line}\n" in printed
    assert ";" not in report.about["recorded"]
    assert {file.name for file in out.iterdir()} == {
        "aliasing.csv", "columns.csv", "coverage.csv", "dc.csv", "harmonics.csv",
        "introduced.csv", "report.html", "report.npz", "sites.csv", "spectra.png",
    }  # fmt: skip


def test_a_rank_that_dies_is_an_error_and_the_others_shards_are_kept(whole, tmp_path):
    out = tmp_path / "out"
    began = time.monotonic()
    done = torchrun(2, "long_runs:dies", "--out", out, "--checkpoint-every", 1, DIES="1")
    assert time.monotonic() - began < 60
    assert done.returncode == 1
    ours = [line for line in done.stderr.splitlines() if "spectroscope: rank" in line]
    assert ours
    assert all("was told to end: another has probably died" in line for line in ours)
    assert any("--resume runs the others" in line or "no shard was" in line for line in ours)
    assert "relu#1" not in done.stdout
    assert not (out / "report.npz").exists()
    left = {str(path.relative_to(out)) for path in out.rglob("*.npz")}
    assert "checkpoint-2-of-2.npz" in left  # of its first batch

    done = torchrun(2, "long_runs:dies", "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert_whole(out, done.stdout, whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 15])  # of 13 batches
def test_any_number_of_processes_is_the_same_as_one(processes, whole, tmp_path):
    done = torchrun(processes, "long_runs:waves", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "out", done.stdout, whole)


@pytest.mark.slow
def test_what_is_refused_is_said_and_nothing_hangs(tmp_path):
    done = torchrun(2, "long_runs:waves", "--out", tmp_path / "out", "--resume")
    assert done.returncode == 1
    assert "to resume from" in done.stderr
    assert not list(tmp_path.iterdir())
    done = torchrun(2, "long_runs:waves", "--shard", "1/2")
    assert "leave --shard out" in done.stderr


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def by_hand(world, *arguments, **environment):
    """Processes without torchrun's agent, as on a cluster whose own launcher starts them."""
    code = (
        "from spectroscope import cli; from spectroscope.run import ranks; ranks.SILENCE = 6.0; "
        "cli.sys.exit(cli.main())"
    )
    around = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    around |= {"WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, "inspect", *map(str, arguments)],
            cwd=HERE,
            env=os.environ | around | environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("dies", [0, 1])
def test_without_an_agent_the_others_notice_in_time(dies, number, whole, tmp_path):
    out = tmp_path / "out"
    processes = by_hand(3, "long_runs:dies", "--out", out, DIES=str(dies), SIGNAL=str(int(number)))
    try:
        for rank, process in enumerate(processes):
            if rank != dies:
                _, errors = process.communicate(timeout=60)
                assert process.returncode == 1, errors
                assert "Traceback" not in errors
                last = errors.splitlines()[-1]
                if dies and rank:  # if the first hasn't gone, and the store with it
                    assert (
                        f"rank {dies} of 3 hasn't been heard of for 6 s" in last or "gone" in last
                    )
                elif dies:
                    assert f"rank {dies} of 3 hasn't been heard of for 6 s" in last
                else:  # the store is gone with it, or is as silent
                    assert "is gone" in last or "store is, hasn't answered for 6 s" in last
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    finished = sorted(path.name for path in out.glob("shard-*"))
    assert finished == [f"shard-{rank + 1}-of-3" for rank in range(3) if rank != dies]
    shard = run.Shard(dies + 1, 3)
    missing = run.inspect(long_runs.dies(), shard=shard)
    missing.report.save(out / f"shard-{shard.filename}")
    merged = run.merge(list(out.glob("shard-*")))
    assert_same(merged.report, whole.report, **ROUNDING)
