"""The spectrogram through depth: power of every layer in one grid of frequencies."""

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from helpers import report_of
from torch import nn

import spectroscope

LENGTH = 60


def db(power):
    return 10 * np.log10(power)


def of_power(values):
    return 10 ** (values.to_numpy() / 10)


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(0)
    return torch.randn(5, 3, LENGTH, dtype=torch.float64)


def test_a_layer_of_few_bins_has_scipys_periodogram(x):
    frame = report_of(nn.ReLU().double(), x, fs=30.0).spectrogram()
    freq, power = scipy.signal.periodogram(
        x.relu().numpy(), fs=30.0, detrend=False, scaling="spectrum"
    )
    power = power.mean(axis=(0, 1))
    np.testing.assert_allclose(frame["freq"], freq[1:], rtol=1e-12)
    np.testing.assert_allclose(frame["power_db"], db(power[1:]), atol=1e-5)
    np.testing.assert_allclose(frame["dc_db"], db(power[0]), atol=1e-9)
    np.testing.assert_allclose(frame["total_db"], db((x.relu() ** 2).mean().item()), atol=1e-9)
    assert set(frame["nyquist"]) == {15.0}
    assert set(frame["freq_unit"]) == {"Hz"}


@pytest.mark.parametrize("length", [8, 61, 255, 256, 600, 2049])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_cells_add_up_to_the_power_of_the_bins(length, window):
    torch.manual_seed(1)
    x = torch.randn(4, 2, length, dtype=torch.float64)
    model = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.ReLU(), nn.AvgPool1d(3, 1), nn.ReLU())
    report = report_of(model.double(), x, fs=1.0, window=window)
    frame = report.spectrogram()
    lengths = {site: shape[1] for site, shape in report.sites().set_index("site")["shape"].items()}
    for site, rows in frame.groupby("site"):
        taper = scipy.signal.get_window(window, lengths[site])
        bandwidth = lengths[site] * (taper**2).sum() / taper.sum() ** 2
        spectra = report.spectra(site)
        out = spectra[(spectra["side"] == "out") & (spectra["freq"] > 0)]
        total = out.groupby("channel")["power"].sum().mean() / bandwidth
        np.testing.assert_allclose(of_power(rows["power_db"]).sum(), total, rtol=1e-6)
    assert frame.groupby("site").size().max() <= 128


def test_layers_share_one_grid_and_end_at_their_nyquist_frequency(x):
    model = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.ReLU())
    frame = report_of(model.double(), x, fs=30.0).spectrogram()
    first, second = (frame[frame["site"] == site] for site in ("0#0", "2#0"))
    assert set(second["nyquist"]) == {7.5}
    assert second["freq"].tolist() == first["freq"].tolist()[: len(second)]
    assert second["freq"].max() == pytest.approx(7.5)


def test_a_tone_is_in_the_cell_of_its_frequency():
    t = torch.arange(1024, dtype=torch.float64) / 1024
    tone = (2 + torch.cos(2 * torch.pi * 100 * t)).expand(1, 1, -1)
    frame = report_of(nn.ReLU().double(), tone, fs=1024.0).spectrogram()
    assert len(frame) == 128
    peak = frame.loc[frame["power_db"].idxmax()]
    assert abs(peak["freq"] - 100) <= 2
    assert peak["power_db"] == pytest.approx(db(0.5))
    assert peak["dc_db"] == pytest.approx(db(4))


def test_a_layer_without_a_spectrum_is_a_row_with_its_dc():
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.ReLU())
    report = report_of(model, torch.randn(12, 4, 32), fs=32.0)
    (row,) = report.spectrogram("3#0").to_dict("records")
    assert np.isnan(row["freq"])
    assert np.isnan(row["power_db"])
    assert row["dc_db"] == pytest.approx(row["total_db"])
    with pytest.raises(spectroscope.RequestError, match="no site matches"):
        report.spectrogram("nothing")


def test_silence_has_no_power_and_no_warning():
    frame = report_of(nn.ReLU(), -torch.rand(3, 2, 16)).spectrogram()
    assert (frame[["power_db", "dc_db", "total_db"]] == -np.inf).all(axis=None)


def test_the_nyquist_frequency_of_images_is_below_their_diagonal():
    frame = report_of(nn.ReLU(), torch.randn(3, 2, 16, 16)).spectrogram()
    assert set(frame["nyquist"]) == {0.5}
    assert frame["freq"].max() > 0.5


def test_every_column_has_a_definition(x):
    report = report_of(nn.ReLU().double(), x)
    assert set(report.spectrogram()) <= set(report.describe()["column"])
    assert isinstance(report.spectrogram(), pd.DataFrame)
