"""Saved reports: the same after loading, whole or not at all, and harmless to read."""

import contextlib
import errno
import json
import os
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.io import output_folder
from spectroscope.statistics.storage import FORMAT


@pytest.fixture
def report():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.ReLU6())
    x = torch.randn(5, 2, 20)
    x[0, 0, 0] = torch.nan
    with spectroscope.record(model, fs=10.0) as recorder:
        model(x)
        model(torch.randn(2, 2, 20))
    return recorder.report()


@pytest.mark.parametrize("table", ["dc", "sites", "spectra", "coverage"])
def test_a_loaded_report_is_the_saved_one(report, tmp_path, table):
    report.save(tmp_path / "out")
    loaded = spectroscope.load(tmp_path / "out")
    pd.testing.assert_frame_equal(
        getattr(loaded, table)(), getattr(report, table)(), check_exact=True
    )


def test_a_loaded_report_merges(report, tmp_path):
    report.save(tmp_path)
    twice = report.merge(spectroscope.load(tmp_path))
    assert twice.dc()["n_samples"].eq(14).all()
    pd.testing.assert_series_equal(twice.dc()["dc_out"], report.dc()["dc_out"], rtol=1e-14)


def test_a_report_whose_arrays_another_program_has_written_column_by_column_merges(
    report, tmp_path
):
    report.save(tmp_path)
    expected = report.merge(spectroscope.load(tmp_path))
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        np.savez(path, **{k: np.array(array, order="F") for k, array in arrays.items()})
    merged = report.merge(spectroscope.load(tmp_path))
    pd.testing.assert_frame_equal(merged.dc(), expected.dc(), check_exact=True)
    pd.testing.assert_frame_equal(merged.spectra(), expected.spectra(), check_exact=True)


def test_what_a_report_is_about_is_kept(tmp_path):
    model = nn.ReLU()
    reports = []
    for data in ("PPG-DaLiA; wrist", "naïve"):
        with spectroscope.record(model, about={"data": data}) as recorder:
            model(torch.ones(1, 2, 4))
        reports.append(recorder.report())
    for name, report in (("one", reports[0]), ("both", reports[0].merge(reports[1]))):
        report.save(tmp_path / name)
        assert spectroscope.load(tmp_path / name).about == report.about
    # Texts are told apart after loading, too: what is there already isn't there twice.
    loaded = spectroscope.load(tmp_path / "both")
    assert loaded.merge(reports[1]).about == loaded.about
    assert loaded.about["data"] == "PPG-DaLiA; wrist; naïve"


def test_a_report_of_before_there_was_about_is_read(report, tmp_path):
    report.save(tmp_path)
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    header = json.loads(str(arrays["header"]))
    del header["about"]
    np.savez(path, **arrays | {"header": np.array(json.dumps(header))})
    loaded = spectroscope.load(tmp_path)
    assert loaded.about == {}
    pd.testing.assert_frame_equal(loaded.dc(), report.dc(), check_exact=True)
    assert report.merge(loaded).about == report.about


def test_recordings_at_different_rates_do_not_merge(report):
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU())
    with spectroscope.record(model, fs=20.0) as recorder:
        model(torch.randn(5, 2, 20))
    with pytest.raises(spectroscope.RequestError, match=r"fs=10\.0 and fs=20\.0"):
        report.merge(recorder.report())


def test_recordings_of_different_models_do_not_merge(report):
    model = nn.Sequential(nn.Conv1d(2, 7, 3), nn.ReLU())
    with spectroscope.record(model, fs=10.0) as recorder:
        model(torch.randn(5, 2, 20))
    with pytest.raises(spectroscope.RequestError, match="differ at 1#0: 4 channels, then 7"):
        report.merge(recorder.report())


def test_tables_are_written_beside_the_report(report, tmp_path):
    report.save(tmp_path)
    for name in ("dc", "sites", "coverage"):
        expected = getattr(report, name)()
        found = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=name != "coverage")
        assert list(found) == list(expected)
        assert len(found) == len(expected)
    written = pd.read_csv(tmp_path / "dc.csv")["dc_out"]
    np.testing.assert_allclose(written, report.dc()["dc_out"], rtol=5e-7)  # 7 digits


def test_saving_replaces_a_report_and_leaves_other_files(report, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "dc.csv").write_text("old")
    report.save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "dc.csv").read_text() != "old"
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"notes.txt", "dc.csv", "sites.csv", "introduced.csv", "coverage.csv",
                     "dead.csv", "columns.csv", "spectrogram.csv", "network.csv",
                     "report.npz"}  # fmt: skip


def npz(path, **arrays):
    np.savez(path, **arrays)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a saved report"),
        (b"not a zip", "not a saved report"),
        (pickle.dumps(Evil()), "not a saved report"),
        (lambda path: np.savez(path, header=np.array([Evil()], dtype=object)), "not a saved"),
        (lambda path: np.savez(path, something=np.ones(3)), "not a saved report"),
        (
            lambda path: np.savez(path, header=np.array(json.dumps({"format": 999}))),
            f"format 999; this version reads {FORMAT}",
        ),
    ],
)
def test_what_is_no_report_is_refused_in_one_line_and_not_run(tmp_path, capsys, content, message):
    path = tmp_path / "report.npz"
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(spectroscope.RequestError, match=message) as error:
        spectroscope.load(tmp_path)
    assert "\n" not in str(error.value)
    assert "ran" not in capsys.readouterr().out


def test_a_truncated_report_is_refused(report, tmp_path):
    report.save(tmp_path)
    path = tmp_path / "report.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(spectroscope.RequestError, match="not a saved report"):
        spectroscope.load(tmp_path)


def test_a_report_that_is_larger_than_its_file_is_refused(report, tmp_path):
    report.save(tmp_path)
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    np.savez_compressed(path, **arrays | {"0.moments.table": np.zeros((28, 4))})
    with pytest.raises(spectroscope.RequestError, match="not a saved report, or damaged"):
        spectroscope.load(tmp_path)


def test_damaged_reports_are_refused_or_read_but_never_crash(report, tmp_path):
    report.save(tmp_path)
    path = tmp_path / "report.npz"
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), 3):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        refused += 1
        with contextlib.suppress(spectroscope.RequestError):
            spectroscope.load(tmp_path)
            refused -= 1
    assert refused > 100


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(header=np.array("[" * 100_000)),
        lambda arrays: arrays.update({"0.moments.table": np.ones((28, 9))}),
        lambda arrays: arrays.update({"0.moments.table": np.ones((27, 4), dtype=np.float32)}),
        lambda arrays: arrays.update({"0.spectra.power": np.ones((2, 4, 2))}),
        lambda arrays: arrays.update({"0.spectra.lengths": np.array([17])}),
        lambda arrays: arrays.pop("1.moments.table"),
        lambda arrays: arrays.update(
            header=np.array(str(arrays["header"]).replace('"fs": 10.0', '"fs": -1'))
        ),
        lambda arrays: arrays.update(
            header=np.array(str(arrays["header"]).replace('"fs": 10.0', '"fs": "abc"'))
        ),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(report, tmp_path, change):
    report.save(tmp_path)
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(spectroscope.RequestError, match="not a saved report, or damaged"):
        spectroscope.load(tmp_path)


def test_a_folder_in_the_way_of_a_file_changes_nothing(report, tmp_path):
    (tmp_path / "dc.csv").mkdir()
    with pytest.raises(spectroscope.RequestError, match=r"there is a folder of that name"):
        report.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["dc.csv"]


def test_a_name_that_no_file_can_have(report):
    with pytest.raises(spectroscope.RequestError, match=r"cannot write to .*too long"):
        report.save("x" * 300)
    with pytest.raises(spectroscope.RequestError, match="too long"):
        spectroscope.load("x" * 300)


def test_merging_keeps_what_could_not_be_recorded():
    model = nn.ReLU()

    def report(*channels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with spectroscope.record(model) as recorder:
                for count in channels:
                    model(torch.ones(2, count, 8))
        return recorder.report()

    whole, partial = report(3), report(3, 5)
    for merged in (whole.merge(partial), partial.merge(whole)):
        row = merged.coverage().iloc[0]
        assert row["status"] == "incomplete"
        assert row["reason"] == "call 0: 3 channels, then 5"
        assert row["fired"] == 3


def test_different_kinds_do_not_merge():
    reports = []
    for model in (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU6())):
        with spectroscope.record(model) as recorder:
            model(torch.ones(2, 3, 8))
        reports.append(recorder.report())
    with pytest.raises(spectroscope.RequestError, match="differ at 0#0: ReLU, then ReLU6"):
        reports[0].merge(reports[1])


def test_loading_from_nowhere_says_so(tmp_path):
    with pytest.raises(spectroscope.RequestError, match="No such file"):
        spectroscope.load(tmp_path / "nowhere")


def test_output_appears_at_the_end_and_together(tmp_path):
    folder = tmp_path / "a" / "b"
    with output_folder(folder) as staging:
        (staging / "one").write_text("1")
        (staging / "two").write_text("2")
        assert not (folder / "one").exists()
    assert {file.name for file in folder.iterdir()} == {"one", "two"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_things_as_they_were(tmp_path, error):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "one").write_text("before")
    for folder in (tmp_path / "kept", tmp_path / "new" / "deep"):
        with pytest.raises(error), output_folder(folder) as staging:
            (staging / "one").write_text("half")
            raise error
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "kept",
        "kept/one",
    ]
    assert (tmp_path / "kept" / "one").read_text() == "before"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT])
def test_a_full_disk_is_said_in_one_line_and_nothing_else_is_taken_for_it(tmp_path, number):
    kind = spectroscope.RequestError if number == errno.ENOSPC else FileNotFoundError
    with pytest.raises(kind) as error, output_folder(tmp_path / "new") as staging:
        with output_folder(staging):
            raise OSError(number, os.strerror(number))
    if number == errno.ENOSPC:
        assert str(error.value) == f"cannot write to {tmp_path}/new: No space left on device"
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(spectroscope.RequestError, match=r"cannot write to .*file"),
        output_folder(tmp_path / "file" / "out"),
    ):
        pytest.fail("the block ran")
