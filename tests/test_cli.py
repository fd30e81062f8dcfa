"""The command as a user runs it: exit status, one line on standard error, nothing half-written."""

import hashlib
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import spectroscope
from spectroscope import cli
from spectroscope.adapters import heart_rate
from spectroscope.cli import main
from spectroscope.schema import METRICS


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command in this process: (exit status, standard output, standard error)."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main() replaces it

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def refused(done):
    """The line on standard error, after checking that it is one line and the status is 2."""
    status, _, errors = done
    assert status == 2, errors
    noise = ("fetching ", "kid-ppg: ", "small: ", "\r")
    lines = [line for line in errors.split("\n") if line and not line.startswith(noise)]
    assert len(lines) == 1, errors
    assert lines[0].startswith("spectroscope: ")
    return lines[0]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Name of a small specimen, defined by a module in the current folder, with a score in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "small_model.py").write_text(
        textwrap.dedent("""
            import spectroscope, torch
            from torch import nn

            def small():
                torch.manual_seed(0)
                return spectroscope.Specimen(
                    "small", "a test", "MIT", nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU()).eval(),
                    [torch.randn(4, 1, 64)], 4, fs=10.0,
                    metric=lambda y, target: {"σ < 8, {n} inputs": y.mean((1, 2))},
                )
        """)
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "small_model", raising=False)
    return "small_model:small"


@pytest.fixture(scope="module")
def out(kid_ppg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "deep" / "report"
    done = process("-m", "spectroscope", "inspect", "kid-ppg", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_inspect_prints_the_table_and_the_error(out):
    folder, done = out
    lines = done.stdout.splitlines()
    assert sum(line.startswith("block") for line in lines) == 18
    assert "dense_relu#0" in done.stdout
    assert max(map(len, lines[:-1])) <= 80
    findings, table = (next(i for i, line in enumerate(lines) if line.startswith(start))
                       for start in ("Dead channels: 29 of 1,120", "block1.0.relu#0"))  # fmt: skip
    assert findings < table
    assert "heart-rate MAE, all 214 windows (BPM): 6.4" in done.stdout
    assert "windows with σ < 8 BPM (BPM): 2." in done.stdout
    assert str(folder) in done.stdout
    assert "\r" not in done.stderr  # no terminal


def test_inspect_writes_everything(out):
    folder, _ = out
    assert {file.name for file in folder.iterdir()} == {
        "aliasing.csv",
        "columns.csv",
        "coverage.csv",
        "dc.csv",
        "dead.csv",
        "harmonics.csv",
        "introduced.csv",
        "network.csv",
        "report.html",
        "report.npz",
        "sites.csv",
        "spectra.png",
        "spectrogram.csv",
    }
    assert len(pd.read_csv(folder / "dc.csv")) == 1120
    assert len(pd.read_csv(folder / "sites.csv")) == 19
    assert len(spectroscope.load(folder).dc()) == 1120
    assert (folder / "spectra.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_without_out_writes_nothing(small, command):
    files = {file.name for file in Path().iterdir()}
    status, printed, _ = command("inspect", small)
    assert status == 0
    assert "σ < 8, 4 inputs: " in printed
    assert {file.name for file in Path().iterdir()} - files <= {"__pycache__"}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("kidppg", "unknown specimen 'kidppg'; the nearest: kid-ppg;"),
        ("kid_ppg", "the nearest: kid-ppg;"),
        ("KID-PPG", "the nearest: kid-ppg;"),
        ("resnet18", "the nearest: torchvision:resnet18,"),
        ("ResNet-50", "the nearest: torchvision:resnet50,"),
        ("torchvision.models.resnet18", "the nearest: torchvision:resnet18,"),
        ("torchvision/resnet18", "the nearest: torchvision:resnet18,"),
        ("torchvison:resnet18", "or is it torchvision:resnet18?"),
        ("model.pt", "package.module:callable --weights model.pt"),
        ("qqq", "there are: crepe, kid-ppg, paper-ppg, torchvision; or module:callable"),
    ],
)
def test_an_unknown_specimen_is_answered_with_the_nearest(tmp_path, command, name, answer):
    assert answer in refused(command("inspect", name, "--out", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_module_of_a_specimen_is_no_misspelt_adapter(tmp_path, monkeypatch, command):
    (tmp_path / "torchvisions.py").write_text("import not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    line = refused(command("inspect", "torchvisions:network"))
    assert line.endswith("No module named 'not_installed'")


@pytest.mark.parametrize("name", ["inspect", "ablate"])
def test_an_unwritable_out_is_refused_before_the_work(tmp_path, monkeypatch, command, name):
    monkeypatch.setattr(
        "spectroscope.specimens.catalog.specimen", lambda *_, **__: pytest.fail("it ran")
    )
    (tmp_path / "file").write_text("mine")
    line = refused(command(name, "kid-ppg", "--out", tmp_path / "file"))
    assert "cannot write to" in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def fetched_from(tmp_path, monkeypatch, command):
    """`inspect` with an empty cache and no index but the folder `shelf`, or none at all."""

    def run(shelf):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
        return command("inspect", "kid-ppg", "--out", tmp_path / "out")

    return run


def test_without_network_it_says_what_to_pass(tmp_path, fetched_from):
    line = refused(fetched_from(""))
    assert "--weights PATH" in line
    assert "pip download" in line
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_with_a_wrong_hash_is_refused_and_not_cached(tmp_path, fetched_from, command):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / heart_rate.WHEEL.filename
    build_empty_wheel(wheel)
    line = refused(fetched_from(shelf))
    assert f"its SHA-256 is {hashlib.sha256(wheel.read_bytes()).hexdigest()}" in line
    assert list(tmp_path.iterdir()) == [shelf]
    line = refused(command("inspect", "kid-ppg", "--weights", wheel))
    assert "its SHA-256 is" in line


def build_empty_wheel(path):
    info = "kid_ppg-0.0.4.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: kid-ppg\nVersion: 0.0.4\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_a_closed_pipe_costs_no_file(small, tmp_path):
    # The installed command, to whose path the current folder with `small` is not added by Python.
    process = subprocess.Popen(
        [Path(sys.executable).with_name("spectroscope"), "inspect", small, "--out", "../out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "Exception" not in errors
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"dc.csv", "report.npz", "spectra.png"} <= written


def test_an_encoding_without_sigma_costs_a_letter_at_most(small, monkeypatch, command):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["inspect", small]) == 0
    assert "? < 8, 4 inputs: " in output.buffer.getvalue().decode("ascii")


def test_a_folder_in_the_way_is_one_line(small, tmp_path, command):
    (tmp_path / "out" / "spectra.png").mkdir(parents=True)
    assert "there is a folder" in refused(command("inspect", small, "--out", tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["spectra.png"]


def test_list_names_the_specimens_without_importing_torch():
    code = "import sys; from spectroscope.cli import main; main(['list']); 'torch' in sys.modules"
    done = process("-c", code.replace("'torch'", "assert 'torch' not"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == ["crepe", "kid-ppg", "paper-ppg", "torchvision"]
    assert "heart rate from wrist PPG" in done.stdout
    assert "can't be loaded" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["dance"],
        ["inspect", "kid-ppg", "--no"],
        ["inspect", "kid-ppg", "--f0", "fast"],
        ["inspect", "kid-ppg", "--f0", "0.7:3.5"],
        ["inspect", "kid-ppg", "--f0", "auto,slow,fast"],
        ["inspect", "kid-ppg", "--window", "kaiser,wide"],
        ["ablate", "x", "--metric", "mea"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"spectroscope( \w+)?: .+; see spectroscope( \w+)? --help\n", printed.err)


def test_ablate_takes_every_metric_and_says_what_one_needs(small, command):
    assert refused(command("ablate", small, "--metric", "mae")).endswith("or targets=")
    status, printed, _ = command("ablate", small, "--metric", "relative_l2")
    assert status == 0
    assert printed.splitlines()[0] == "small: a test (MIT)"
    assert printed.splitlines()[1].startswith("relative_l2, 4 inputs, one ReLU changed at a time;")


@pytest.mark.parametrize("name", ["", "list", "inspect", "ablate", "compare", "merge"])
def test_help_has_an_example_that_can_be_parsed_and_fits(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as raised:
        main([*name.split(), "--help"])
    assert raised.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("examples:") + 1 :]
    for example in examples:
        program, *arguments = shlex.split(example)
        assert program == "spectroscope"
        cli._parser().parse_args(arguments)
    assert examples


def test_help_names_every_metric(capsys):
    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    assert ",".join(METRICS) in "".join(capsys.readouterr().out.split())


def test_inputs_of_a_wrong_shape_are_one_line(tmp_path, monkeypatch, command):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\nnet = lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    np.save("x.npy", np.zeros((3, 2, 40), np.float32))
    for name in ("inspect", "ablate"):
        line = refused(command(name, "own_net:net", "--input", "x.npy"))
        assert "own_net:net can't run its inputs, model([3, 2, 40] float32): RuntimeError: " in line
        assert "to have 1 channels" in line


def test_an_error_that_only_recording_has_is_not_the_inputs(small, monkeypatch):
    monkeypatch.setattr("spectroscope.recorder.reduce", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        assert main(["inspect", small]) == 1
    monkeypatch.setattr("spectroscope.run.scores.Scores.add", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", small])


def test_inspect_records_what_it_is_asked_for(small, tmp_path, command):
    out = tmp_path / "out"
    status, _, errors = command("inspect", small, "--out", out, "--f0", "1.5", "--harmonics", 3,
                                "--window", "kaiser,8.6", "--select", "nothing*,1#0",
                                "--spectra-every", 2, "--examples", 1)  # fmt: skip
    assert status == 0, errors
    report = spectroscope.load(out)
    assert report.harmonics()["harmonic"].max() == 3
    assert report.harmonics()["freq"].min() == 1.5
    assert report.harmonics()["n_inputs"].eq(2).all()  # of four
    assert len(report.examples()) > 0
    assert report.to_xarray()["1#0"].attrs["window"] == "('kaiser', 8.6)"
    assert "matches no activation" in refused(command("inspect", small, "--select", "nothing*"))
    assert "Invalid window name" in refused(command("inspect", small, "--window", "bay"))
    assert "must be 1 or more" in refused(command("inspect", small, "--harmonics", "0"))
    assert "low < high" in refused(command("inspect", small, "--f0", "auto,3.5,0.7"))
    assert command("inspect", small, "--f0", "auto,0.05,0.45", "--out", out)[0] == 0
    assert "tone from 0.05 to 0.45 " in spectroscope.load(out).about["f0"]
    assert command("inspect", small, "--no-spectra", "--out", out)[0] == 0
    with pytest.raises(spectroscope.RequestError, match="no spectra"):
        spectroscope.load(out).spectra()


# Importing the packages of the extra [adapters] raises, as if they were not installed.
WITHOUT_EXTRA = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("h5py", "platformdirs", "torchvision"):
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocker())
import torch, spectroscope
from spectroscope.cli import main
print("list", main(["list"]))
with spectroscope.record(torch.nn.ReLU()) as recorder:
    torch.nn.ReLU()(torch.ones(1, 1, 4))
for name in ("kid-ppg", "crepe", "torchvision:resnet18"):
    print(name, main(["inspect", name]))
print("inspect", main(["inspect", "small_model:small", "--out", "../out"]))
from spectroscope.adapters.support import keras_weights
try:
    keras_weights.load(torch.nn.ReLU(), None, "x.h5")
except spectroscope.RequestError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_the_extra_adapters_everything_else_works(small, tmp_path):
    done = process("-c", WITHOUT_EXTRA)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in ("list 0", "kid-ppg 2", "crepe 2", "torchvision:resnet18 2", "inspect 0"):
        assert line in lines
    missing = [line for line in done.stderr.splitlines() if "this specimen needs" in line]
    for line, package in zip(missing, ("platformdirs", "platformdirs", "torchvision"), strict=True):
        assert line == (
            f"spectroscope: this specimen needs {package} (No module named {package!r}): "
            'pip install -e ".[adapters]"'
        )
    assert "needs h5py" in lines[-1]
    assert lines[-1].endswith('pip install -e ".[adapters]"')
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "report.html").exists()


GELU = """
import torch
from torch import nn

import spectroscope


def specimen():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.GELU(), nn.Conv1d(2, 2, 3), nn.GELU())
    return spectroscope.Specimen(
        "gelu", "Two GELUs.", "MIT", model.eval(), inputs=[torch.randn(12, 1, 32)], n_inputs=12
    )
"""


def test_where_nothing_was_recorded_the_status_is_1_and_kinds_help(tmp_path, monkeypatch, command):
    (tmp_path / "gelus.py").write_text(GELU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    remedy = '2 GELU calls were seen, none recorded: kinds=["GELU"] or kinds="all"'
    for name in ("inspect", "ablate"):
        with pytest.warns(UserWarning, match=re.escape(remedy)):
            status, _, errors = command(name, "gelus:specimen")
        assert status == 1
        assert errors.splitlines()[-1] == "spectroscope: gelu: no activation was recorded"
        for kinds in ("all", "GELU", "SiLU,GELU"):
            status, printed, errors = command(name, "gelus:specimen", "--kinds", kinds)
            assert (status, "1#0" in printed, "3#0" in printed) == (0, True, True), errors
    assert "kind 'Gelu' is neither" in refused(
        command("inspect", "gelus:specimen", "--kinds", "Gelu")
    )
