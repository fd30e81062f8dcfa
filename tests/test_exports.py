"""What other libraries read of a report is what its tables say."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.cli import main
from spectroscope.schema import COLUMNS


class Net(nn.Module):
    """With a module and a function of the same name, in itself and in a part."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.MaxPool1d(2))
        self.relu = nn.ReLU()

    def forward(self, x):
        return torch.relu(self.relu(self.first(x) - 0.1) - 0.1)


def report(model, *inputs, **options):
    with spectroscope.record(model, **options) as recorder:
        for x in inputs:
            model(x)
    return recorder.report()


@pytest.fixture
def of_lines():
    return report(Net(), torch.randn(4, 1, 42), fs=32.0, window="hann", f0=2.0)


@pytest.fixture
def of_images():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.ReLU())
    x = torch.randn(4, 2, 15, 11)
    x[:, :, 0, 0] = torch.nan
    return report(model, x)


def missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it weren't installed


@pytest.mark.parametrize("which", ["of_lines", "of_images"])
def test_parquet_is_the_tables_with_units(request, tmp_path, which):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, of extra [parquet]")
    report = request.getfixturevalue(which)
    report.save(tmp_path, parquet=True)
    names = {file.stem for file in tmp_path.glob("*.parquet")}
    assert names >= {"dc", "sites", "introduced", "coverage", "spectra", "cross_spectra"}
    assert ("harmonics" in names) == (which == "of_lines")
    for name in names:
        table, expected = pd.read_parquet(tmp_path / f"{name}.parquet"), getattr(report, name)()
        for column in {"shape", "inputs"} & set(table):  # which are lists there
            table[column] = [tuple(np.array(value).tolist()) for value in table[column]]
        nullable = expected.columns[expected.dtypes == "boolean"]  # Parquet's Booleans always are
        table = table.astype(dict.fromkeys(nullable, "boolean"))
        pd.testing.assert_frame_equal(table, expected, check_exact=True)
        schema = parquet.read_schema(tmp_path / f"{name}.parquet")
        assert schema.names == list(expected)
        for field in schema:
            said = {key.decode(): text.decode() for key, text in field.metadata.items()}
            unit, definition = COLUMNS[field.name]
            assert {"unit": unit, "definition": definition}.items() <= said.items()
    loaded = spectroscope.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.dc(), report.dc(), check_exact=True)


def test_without_spectra_or_sites_there_is_still_parquet_of_the_rest(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, of extra [parquet]")
    report(Net(), torch.randn(4, 1, 42), torch.randn(4, 1, 22), spectra=False).save(
        tmp_path / "a", parquet=True
    )
    assert not list((tmp_path / "a").glob("*spectra*"))
    lengths = pd.read_parquet(tmp_path / "a" / "sites.parquet")["shape"]
    assert lengths[0][0] == 3
    assert np.isnan(lengths[0][1])  # it differed
    spectroscope.record(Net()).report().save(tmp_path / "b", parquet=True)
    assert pd.read_parquet(tmp_path / "b" / "dc.parquet").empty


def test_parquet_that_can_not_be_written_writes_nothing(of_lines, tmp_path, monkeypatch):
    (tmp_path / "spectra.parquet").mkdir()
    with pytest.raises(spectroscope.RequestError, match="there is a folder of that name"):
        of_lines.save(tmp_path, parquet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["spectra.parquet"]
    missing(monkeypatch, "pyarrow")
    message = r"Parquet needs pyarrow: pip install pyarrow \(the extra \[parquet\]\)"
    with pytest.raises(spectroscope.RequestError, match=message):
        of_lines.save(tmp_path / "new", parquet=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("which", ["of_lines", "of_images"])
def test_datasets_are_the_spectra(request, which):
    pytest.importorskip("xarray", reason="needs xarray, of extra [xarray]")
    report = request.getfixturevalue(which)
    found = report.to_xarray()
    spectra, cross = report.spectra(), report.cross_spectra()
    assert list(found) == spectra["site"].unique().tolist()
    for site, data in found.items():
        rows = spectra[spectra["site"] == site]
        back = data["power"].to_dataframe().reset_index()
        keys = ["side", "channel", "freq"]
        expected = rows[[*keys, "power"]].sort_values(keys, ignore_index=True)
        back = back[[*keys, "power"]].sort_values(keys, ignore_index=True)
        pd.testing.assert_frame_equal(back, expected, check_exact=True, check_dtype=False)
        rows, keys = cross[cross["site"] == site], ["channel", "freq"]
        for name in ("cross_real", "cross_imag", "coherence", "preserved", "introduced"):
            assert data[name].dims == ("channel", "freq")
            back = data[name].to_dataframe().reset_index()[[*keys, name]]
            expected = rows[[*keys, name]].reset_index(drop=True)
            pd.testing.assert_frame_equal(back, expected, check_exact=True)
            assert data[name].attrs == {
                "units": COLUMNS[name].unit, "long_name": COLUMNS[name].definition
            }  # fmt: skip
        assert data["freq"].attrs["units"] == rows["freq_unit"].iloc[0]
        assert data.sizes == {"side": 2, "channel": 3, "freq": rows["freq"].nunique()}


def test_sites_are_told_apart_and_said(of_lines):
    pytest.importorskip("xarray", reason="needs xarray, of extra [xarray]")
    found = of_lines.to_xarray()
    assert list(found) == ["first.1#0", "relu#0", "/relu#0"]
    assert found["/relu#0"].attrs == {
        "site": "/relu#0", "module": "", "function": "relu", "call": 0, "kind": "ReLU",
        "fs": 16.0, "window": "hann",
    }  # fmt: skip
    assert not np.array_equal(found["/relu#0"]["power"], found["relu#0"]["power"])
    # 40 samples at 32 Hz, then 20 at 16.
    np.testing.assert_allclose(found["first.1#0"]["freq"], np.arange(21) * 0.8)
    np.testing.assert_allclose(found["relu#0"]["freq"], np.arange(11) * 0.8)
    assert list(of_lines.to_xarray("first.*")) == ["first.1#0"]
    with pytest.raises(spectroscope.RequestError, match="no site matches 'nowhere'"):
        of_lines.to_xarray("nowhere")


@pytest.mark.parametrize("window", ["boxcar", ("kaiser", 8.0)])
def test_datasets_can_be_written_as_netcdf(tmp_path, window):
    xarray = pytest.importorskip("xarray", reason="needs xarray, of extra [xarray]")
    (data,) = report(nn.ReLU(), torch.randn(4, 3, 20), window=window).to_xarray().values()
    data.to_netcdf(tmp_path / "a.nc", engine="scipy")
    back = xarray.load_dataset(tmp_path / "a.nc", engine="scipy")
    xarray.testing.assert_equal(back, data)
    assert back["power"].attrs == data["power"].attrs
    assert back.attrs == data.attrs


def test_the_datasets_of_a_model_are_a_tree():
    xarray = pytest.importorskip("xarray", reason="needs xarray, of extra [xarray]")
    model = nn.Sequential(Net(), nn.ReLU())
    found = report(model, torch.randn(4, 1, 42)).to_xarray()
    tree = xarray.DataTree.from_dict(found)
    for site, data in found.items():
        xarray.testing.assert_identical(tree[site].to_dataset(), data)


def test_what_xarray_takes_is_said(of_lines, monkeypatch):
    missing(monkeypatch, "xarray")
    message = r"to_xarray needs xarray: pip install xarray \(the extra \[xarray\]\)"
    with pytest.raises(spectroscope.RequestError, match=message):
        of_lines.to_xarray()


def test_the_command_refuses_parquet_before_the_work(monkeypatch, capsys, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, of extra [parquet]")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which it changes
    monkeypatch.setattr(
        "spectroscope.specimens.catalog.specimen", lambda *_, **__: pytest.fail("it ran")
    )
    assert main(["inspect", "kid-ppg", "--parquet"]) == 2
    assert (
        capsys.readouterr().err
        == "spectroscope: --parquet takes --out DIR, the folder of its files\n"
    )
    missing(monkeypatch, "pyarrow")
    assert main(["inspect", "kid-ppg", "--parquet", "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.startswith("spectroscope: --parquet needs pyarrow: pip install")
    assert not (tmp_path / "new").exists()
