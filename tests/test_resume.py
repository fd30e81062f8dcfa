"""A run that is killed at any time and resumed is bit-equal to an uninterrupted one."""

import html
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import long_runs
import numpy as np
import pandas as pd
import pytest
import torch
from long_runs import BATCH, INPUTS, Waves, one_thread  # noqa: F401
from torch.utils.data import DataLoader, Dataset

import spectroscope
from spectroscope import cli, run
from spectroscope.statistics import storage

BATCHES = -(-INPUTS // BATCH)
HERE = Path(__file__).parent


def content(folder):
    """Everything in a saved report except the date and the command."""
    files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    with np.load(Path(folder) / "report.npz", allow_pickle=False) as arrays:
        tensors = {name: arrays[name].tobytes() for name in arrays if name != "header"}
        header = json.loads(str(arrays["header"]))
    made = {header["about"].pop("recorded")[0], *header["about"].pop("command", ())}
    for name in ("report.npz", "spectra.png"):
        files.pop(name, None)
    for when_or_how in made:  # the page has them too, the tables don't
        shown = html.escape(when_or_how).encode()
        for name in files:
            if name.endswith(".html"):
                assert files[name].count(shown) == 1
                files[name] = files[name].replace(shown, b"")
    return files, tensors, header


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run.inspect(long_runs.waves()).report.save(folder)
    return content(folder)


class Killed(BaseException):
    pass


def interrupt_after(specimen, folder, after, **options):
    """Run `specimen` and interrupt it after that many batches."""
    left = iter(range(after))

    def hook(*_):
        if next(left, None) is None:
            raise Killed

    handle = specimen.model.register_forward_pre_hook(hook)
    every = options.pop("every", 1)
    with pytest.raises(Killed):
        run.inspect(specimen, checkpoint=run.Checkpoint(folder, every=every), **options)
    handle.remove()


def resume(specimen, folder, **options):
    checkpoint = run.Checkpoint(folder, options.get("shard", run.Shard()), resume=True)
    result = run.inspect(specimen, checkpoint=checkpoint, **options)
    result.report.save(folder)
    checkpoint.remove()
    return result


@pytest.mark.parametrize(
    ("after", "every"), [(1, 1), (2, 2), (5, 3), (6, 4), (BATCHES - 1, 1), (BATCHES - 1, 12)]
)
def test_a_resumed_run_is_bit_equal(after, every, whole, tmp_path):
    interrupt_after(long_runs.waves(), tmp_path, after, every=every)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]
    specimen = long_runs.waves()
    resume(specimen, tmp_path)
    assert content(tmp_path) == whole
    done = after // every * every
    first = list(range(BATCH))  # batch 0, to compare the data
    assert specimen.inputs.dataset.loaded == first + list(range(done * BATCH, INPUTS))


def test_killed_before_the_report_was_written(whole, tmp_path):
    run.inspect(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, every=BATCHES))
    specimen = long_runs.waves()
    resume(specimen, tmp_path)
    assert content(tmp_path) == whole
    assert specimen.inputs.dataset.loaded == list(range(BATCH))


def test_killed_repeatedly(whole, tmp_path):
    interrupt_after(long_runs.waves(), tmp_path, 2)
    for _ in range(3):
        left = iter([None] * 2)
        specimen = long_runs.waves()
        specimen.model.register_forward_pre_hook(lambda *_, left=left: next(left))
        with pytest.raises(StopIteration):
            run.inspect(specimen, checkpoint=run.Checkpoint(tmp_path, resume=True))
    recording, more = storage.read_with_more(tmp_path / "checkpoint.npz")
    assert (more["batches"], recording.run_shard.inputs) == (8, 8 * BATCH)
    resume(long_runs.waves(), tmp_path)
    assert content(tmp_path) == whole


@pytest.mark.parametrize("options", [{"workers": 2}, {"shard": run.Shard(2, 3)},
                                     {"dtype": "float64"}, {"limit": 39}])  # fmt: skip
@pytest.mark.parametrize("made", [long_runs.waves, long_runs.shuffled, long_runs.listed])
@pytest.mark.filterwarnings("ignore:workers=2 is ignored")
def test_a_resumed_run_is_bit_equal_with_any_options(made, options, tmp_path):
    contents = []
    for name in ("killed", "whole"):
        folder = tmp_path / name
        if name == "killed":
            shard = {k: v for k, v in options.items() if k == "shard"}
            specimen = made()
            left = iter([None] * 3)
            specimen.model.register_forward_pre_hook(lambda *_, left=left: next(left))
            with pytest.raises(StopIteration):
                checkpoint = run.Checkpoint(folder, *shard.values(), every=2)
                run.inspect(specimen, checkpoint=checkpoint, **options)
            checkpoint = run.Checkpoint(folder, *shard.values(), resume=True)
            report = run.inspect(made(), checkpoint=checkpoint, **options).report
            checkpoint.remove()
            assert not list(folder.iterdir())
        else:
            report = run.inspect(made(), **options).report
        report.save(folder)
        contents.append(content(folder))
    assert contents[0] == contents[1]


def test_date_and_command_are_those_of_the_start(tmp_path):
    specimen = long_runs.waves()
    interrupt_after(specimen, tmp_path, 3, about={"command": "first"})
    path = tmp_path / "checkpoint.npz"
    recording, more = storage.read_with_more(path)
    recording.about["recorded"] = ("1999-12-31",)
    storage.write(recording, path, more=more)
    about = resume(specimen, tmp_path, about={"command": "second"}).report.about
    assert (about["recorded"], about["command"]) == ("1999-12-31", "first")


def test_modules_without_a_call_are_restored(tmp_path):
    class Silent(torch.nn.ReLU):
        def forward(self, x):
            return x * 1

    def made():
        specimen = long_runs.waves()
        specimen.model.norm = torch.nn.Sequential(specimen.model.norm, Silent())
        return specimen

    options = {"checkpoint": None}
    with pytest.warns(UserWarning, match="ran 13 times without an activation call"):
        whole = run.inspect(made(), **options).report
    interrupt_after(made(), tmp_path, BATCHES - 1)
    with pytest.warns(UserWarning, match="ran 13 times without an activation call"):
        report = run.inspect(made(), checkpoint=run.Checkpoint(tmp_path, resume=True)).report
    assert report.coverage().equals(whole.coverage())


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({}, {"dtype": "float64"}, "dtype is the model's there and float64 here"),
        ({}, {"spectra": False}, "spectra is True there and False here"),
        ({}, {"f0": ("auto", 2, 9)}, r"f0 is None there and \('auto', 2, 9\) here"),
        ({}, {"limit": 48}, "number of inputs is 50 there and 48 here"),
        ({}, {"channels_last": True}, "channels_last is False there and True here"),
        ({"fs": 32.0, "f0": None}, {}, "targets and f0 is .*, fs is 64.0 there and 32.0 here"),
        ({"name": "other"}, {}, "specimen is waves there and other here"),
        ({"options": {"input": "a/b.csv"}}, {}, "made with is no options there and input=b.csv "),
        ({"targets": torch.zeros(INPUTS)}, {}, "targets and f0 is"),
        ({"inputs": DataLoader(Waves(), 5)}, {}, "batch size is 4 there and 5 here"),
        ({"inputs": [torch.ones(4, 1, 64)] * 13}, {}, "first batch is [0-9a-f]* there"),
        ("weights", {}, "parameters and buffers is [0-9a-f]* there and [0-9a-f]* here"),
        ("buffer", {}, "parameters and buffers is [0-9a-f]* there and [0-9a-f]* here"),
        ("stride", {}, "layers is [0-9a-f]* there and [0-9a-f]* here"),
        ("training", {}, "layers is [0-9a-f]* there and [0-9a-f]* here"),
        ("version", {}, "torch is .* there and 9.9 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(
    changed, options, message, tmp_path, monkeypatch
):
    interrupt_after(long_runs.waves(), tmp_path, 2)
    specimen = replace(long_runs.waves(), **(changed if isinstance(changed, dict) else {}))
    with torch.no_grad():
        if changed == "weights":
            specimen.model.head.bias[0] += 1e-6
        elif changed == "buffer":
            specimen.model.norm.running_mean += 1e-6
        elif changed == "stride":
            specimen.model.second.stride = (1,)
        elif changed == "training":
            specimen.model.norm.train()
        elif changed == "version":
            monkeypatch.setattr(torch, "__version__", "9.9")
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(spectroscope.RequestError, match=f"is of another run: .*{message}") as error:
        run.inspect(specimen, checkpoint=run.Checkpoint(tmp_path, resume=True), **options)
    assert "\n" not in str(error.value)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


def test_existing_missing_and_damaged_checkpoints_are_refused(tmp_path):
    with pytest.raises(spectroscope.RequestError, match=r"no .*checkpoint\.npz to resume from"):
        run.inspect(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, resume=True))
    interrupt_after(long_runs.waves(), tmp_path, 2)
    with pytest.raises(spectroscope.RequestError, match="--resume continues that run; delete"):
        run.Checkpoint(tmp_path, every=1)
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(spectroscope.RequestError, match="is not a saved report, or damaged"):
        run.inspect(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, resume=True))
    run.inspect(long_runs.waves()).report.save(tmp_path)
    os.replace(tmp_path / "report.npz", tmp_path / "checkpoint.npz")
    with pytest.raises(spectroscope.RequestError, match="is a report, not a checkpoint"):
        run.inspect(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, resume=True))


def test_a_repr_may_contain_an_address(tmp_path):
    def made():
        specimen = long_runs.waves()
        specimen.model.never.extra_repr = lambda: f"{object()}"
        return specimen

    interrupt_after(made(), tmp_path, 2)
    assert repr(made().model) != repr(made().model)
    resume(made(), tmp_path)


def test_a_checkpoint_of_another_shard_is_refused(tmp_path):
    interrupt_after(long_runs.waves(), tmp_path, 2)
    os.replace(tmp_path / "checkpoint.npz", tmp_path / "checkpoint-2-of-3.npz")
    shard = run.Shard(2, 3)
    with pytest.raises(spectroscope.RequestError, match="is of shard 1/1, not of shard 2/3"):
        resume(long_runs.waves(), tmp_path, shard=shard)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_write_leaves_the_previous_checkpoint(error, tmp_path, monkeypatch):
    interrupt_after(long_runs.waves(), tmp_path, 2)
    before = (tmp_path / "checkpoint.npz").read_bytes()

    def stop(number):
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ValueError):
        run.inspect(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, resume=True))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


# Killed by SIGKILL

# Kill in write number N after this many bytes (-1: all bytes, but before the file is moved).
WRITING = """
import os, sys
from spectroscope.run import checkpoint
number, size = int(sys.argv[1]), int(sys.argv[2])
class Dying:
    def __init__(self, file): self.file, self.left = file, size
    def write(self, data):
        data = bytes(data)
        if size >= 0 and len(data) >= self.left:
            self.file.write(data[:self.left]); self.file.flush(); os.kill(os.getpid(), 9)
        self.left -= len(data)
        return self.file.write(data)
    def __getattr__(self, name): return getattr(self.file, name)
true, writes, fsync = checkpoint.storage.write, [], os.fsync
def write(recording, to, **more):
    writes.append(1)
    true(recording, Dying(to) if len(writes) == number else to, **more)
checkpoint.storage.write = write
os.fsync = lambda n: os.kill(os.getpid(), 9) if size < 0 and len(writes) == number else fsync(n)
import long_runs
long_runs.main(*sys.argv[3:])
"""


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=HERE,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("number", "size"),
    [(4, 3000), *(pytest.param(n, size, marks=pytest.mark.slow)
                  for n, size in [(2, 1), (2, 100_000), (4, -1), (13, 0), (13, -1)])],
)  # fmt: skip
def test_killed_while_a_checkpoint_is_written(number, size, whole, tmp_path):
    process = start("-c", WRITING, number, size, tmp_path)
    if process.wait(100) == 0:
        assert size == 100_000  # it isn't so long
        assert content(tmp_path) == whole
        return
    assert process.returncode == -signal.SIGKILL
    torn = f".checkpoint-{process.pid}.writing"
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.npz", torn}
    assert storage.read_with_more(tmp_path / "checkpoint.npz")[1]["batches"] == number - 1
    resume(long_runs.waves(), tmp_path)
    assert content(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_times(seed, whole, tmp_path):
    chance = random.Random(seed)
    kills = 0
    for _ in range(20):
        there = (tmp_path / "checkpoint.npz").exists()
        process = start("long_runs.py", tmp_path, *["resume"] * there, SLOW="0.02")
        until = time.monotonic() + 30
        before = (tmp_path / "checkpoint.npz").stat().st_mtime_ns if there else 0
        # Only after progress, or the run would never finish.
        while process.poll() is None and time.monotonic() < until:
            now = tmp_path / "checkpoint.npz"
            if now.exists() and now.stat().st_mtime_ns > before:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
        if not (tmp_path / "checkpoint.npz").exists():  # it was all done
            break
    assert kills >= 2
    assert content(tmp_path) == whole
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.slow
def test_a_resumed_command_is_bit_equal(tmp_path):
    call = ["-m", "spectroscope", "inspect", "long_runs:waves", "--out"]
    assert start(*call, tmp_path / "whole").wait(100) == 0
    out = tmp_path / "killed"
    process = start(*call, out, "--checkpoint-every", 2, SLOW="0.1")
    while not (out / "checkpoint.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    torn = f".checkpoint-{process.pid}.writing"
    assert {file.name for file in out.iterdir()} <= {"checkpoint.npz", torn}
    assert start(*call, out, "--resume").wait(100) == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_finished_shard_is_not_overwritten(tmp_path):
    made = {"shard": run.Shard(1, 2), "keep": True}
    checkpoint = run.Checkpoint(tmp_path, **made)
    result = run.inspect(long_runs.waves(), shard=run.Shard(1, 2))
    checkpoint.keep_finished(result.report._recording)
    with pytest.raises(spectroscope.RequestError, match=r"shard-1-of-2.*--resume"):
        run.Checkpoint(tmp_path, **made)
    assert run.Checkpoint(tmp_path, resume=True, **made).exists


def test_a_checkpoint_with_another_metric_is_refused(tmp_path):
    def wrong(outputs, targets):
        return {"MAE": 100 * outputs[:, 0]}

    subject = long_runs.waves()
    checkpoint = run.Checkpoint(tmp_path, every=1)
    run.inspect(subject, checkpoint=checkpoint)
    other = replace(subject, metric=wrong)
    with pytest.raises(spectroscope.RequestError, match=r"metric is .*wrong here"):
        run.inspect(other, checkpoint=run.Checkpoint(tmp_path, resume=True))


class Augmented(Dataset):
    """Random augmentation: waves with new noise at each reading."""

    def __init__(self):
        self.noise = []

    def __len__(self):
        return INPUTS

    def __getitem__(self, index):
        self.noise.append(torch.randn(1, 64))
        return Waves()[index] + self.noise[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_augmentation_is_reproduced_by_resume_and_shards(stream, tmp_path):
    def made(data=None):
        loader = DataLoader(data or Augmented(), BATCH)
        return long_runs.of((batch for batch in loader) if stream else loader)

    data = Augmented()
    whole = run.inspect(made(data)).report
    assert len(torch.stack(data.noise).unique(dim=0)) == INPUTS
    torch.randn(3)
    interrupt_after(made(), tmp_path, 5, every=2)
    torch.randn(3)
    assert resume(made(), tmp_path).report.dc().equals(whole.dc())
    shards = [run.inspect(made(), shard=run.Shard(i, 2)).report for i in (1, 2)]
    merged = shards[0].merge(shards[1]).dc()
    pd.testing.assert_frame_equal(merged, whole.dc(), rtol=1e-11, atol=1e-13)


def test_resume_removes_unfinished_files_of_the_killed_run(tmp_path):
    interrupt_after(long_runs.waves(), tmp_path, 2)
    (tmp_path / ".writing-abc").mkdir()
    (tmp_path / ".writing-abc" / "dc.csv").write_text("half")
    (tmp_path / ".checkpoint-1.writing").write_text("half")
    (tmp_path / "notes.txt").write_text("of the user")
    run.Checkpoint(tmp_path, resume=True).remove()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("every", [1, 9])
def test_an_interrupt_reports_whether_there_is_a_checkpoint(every, tmp_path, monkeypatch, capsys):
    left = iter(range(3))

    def stop(*_):
        if next(left, None) is None:
            raise KeyboardInterrupt

    def interrupted():
        specimen = long_runs.waves()
        specimen.model.register_forward_pre_hook(stop)
        return specimen

    monkeypatch.chdir(HERE)
    monkeypatch.setattr(long_runs, "dies", interrupted)
    out = tmp_path / "out"
    call = ["inspect", "long_runs:dies", "--out", str(out), "--checkpoint-every", str(every)]
    assert cli.main(call) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    if every == 1:
        assert last == f"spectroscope: interrupted; --resume goes on from {out}/checkpoint.npz"
        assert [file.name for file in out.iterdir()] == ["checkpoint.npz"]
    else:
        assert last == "spectroscope: interrupted, nothing written"
        assert not out.exists()


class Lazy:
    """A sampler that draws lazily, with replacement."""

    def __iter__(self):
        for _ in range(long_runs.INPUTS):
            yield int(torch.randint(long_runs.INPUTS, ()))

    def __len__(self):
        return long_runs.INPUTS


def test_a_lazy_sampler_draws_the_same_for_every_shard():
    def subject():
        return long_runs.of(DataLoader(long_runs.Waves(), 4, sampler=Lazy()))

    whole = run.inspect(subject()).report.dc()
    shards = [run.inspect(subject(), shard=run.Shard(i, 3)).report for i in (1, 2, 3)]
    merged = shards[0].merge(shards[1]).merge(shards[2]).dc()
    pd.testing.assert_frame_equal(merged, whole, rtol=1e-11, atol=1e-13)
