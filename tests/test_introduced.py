"""What an activation preserved and introduced, against closed forms and regression."""

import math
from itertools import count

import numpy as np
import pytest
import scipy.signal
import torch
from helpers import assert_close, power_spectrum, report_of, values
from scipy.special import ndtr, ndtri
from torch import nn


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True)])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_the_output_is_split_into_what_is_preserved_and_the_rest(model, window):
    x = 0.3 + torch.randn(6, 2, 65, dtype=torch.float64)
    y = model(x.clone())
    gain = np.full(2, 0.5)
    if not isinstance(model, nn.ReLU):
        gain = np.array([np.polyfit(x[:, c].flatten(), y[:, c].flatten(), 1)[0] for c in range(2)])
    report = report_of(model, x, window=window, kinds=["LeakyReLU"])
    kept = torch.from_numpy(gain)[:, None] * x
    table = report.cross_spectra()
    assert_close(values(table, "preserved"), power_spectrum(kept, window))
    assert_close(values(table, "introduced"), power_spectrum(y - kept, window))
    row = report.introduced()
    total = y.square().mean((0, 2))
    np.testing.assert_allclose(row["gain"], gain, rtol=1e-11)
    for name, power in (
        ("preserved", kept.square().mean((0, 2))),
        ("introduced", (y - kept).square().mean((0, 2))),
        ("introduced_dc", (y - kept).mean(-1).square().mean(0)),
    ):
        np.testing.assert_allclose(row[f"{name}_fraction"], power / total, rtol=1e-11)


def test_what_is_introduced_lies_in_the_band_of_the_input_or_above():
    smooth = scipy.signal.lfilter([1], [1, -0.9], torch.randn(6, 3, 300).numpy())
    x = torch.from_numpy(smooth)
    row = report_of(nn.ReLU(), x, fs=30).introduced()
    before, added = power_spectrum(x), power_spectrum(x.abs() / 2)
    for c, total in enumerate(x.relu().square().mean((0, 2)).tolist()):
        edge = next(k for k in count() if before[c, 1 : k + 1].sum() >= 0.99 * before[c, 1:].sum())
        assert row["band_edge"][c] == pytest.approx(edge * 30 / 300, rel=1e-15)
        in_band = added[c, 1 : edge + 1].sum() / total
        above = added[c, edge + 1 :].sum() / total
        assert row["introduced_in_band_fraction"][c] == pytest.approx(in_band, rel=1e-11)
        assert row["introduced_above_band_fraction"][c] == pytest.approx(above, rel=1e-11)


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("nonfinite", [False, True])
def test_nothing_is_introduced_by_what_changes_nothing(window, nonfinite):
    x = 1 + torch.randn(4, 2, 64)
    if nonfinite:
        x[0, 0, 3] = torch.nan
    row = report_of(nn.LeakyReLU(1.0), x, window=window, kinds=["LeakyReLU"]).introduced()
    np.testing.assert_allclose(row["regression_gain"], 1, rtol=1e-12)
    np.testing.assert_allclose(row["preserved_fraction"], 1, rtol=1e-12)
    np.testing.assert_allclose(row["introduced_fraction"], 0, atol=1e-12)


def test_introduced_by_a_cosine_is_what_fourier_says():
    # 4096 samples a period: mean |cos| is 2·cot(π/m)/m, exactly; 2/π but for (π/m)²/3.
    m = 4096
    time = torch.arange(2 * m, dtype=torch.float64)
    x = 3 * torch.cos(2 * torch.pi * time / m).expand(2, 1, -1)
    report = report_of(nn.ReLU(), x, fs=2 * m)
    row = report.introduced().iloc[0]
    output = report.spectra().query("side == 'out'")["power"].sum()
    assert output == pytest.approx(9 / 4, rel=1e-12)
    assert row["preserved_fraction"] * output == pytest.approx(9 / 8, rel=1e-12)
    assert row["introduced_fraction"] * output == pytest.approx(9 / 8, rel=1e-12)
    dc = row["introduced_dc_fraction"] * output
    assert dc == pytest.approx((3 / (m * math.tan(math.pi / m))) ** 2, rel=1e-12)
    assert dc == pytest.approx((3 / math.pi) ** 2, rel=(math.pi / m) ** 2)
    assert row["band_edge"] == 2
    assert row["introduced_in_band_fraction"] < 1e-15
    assert row["introduced_above_band_fraction"] * output == pytest.approx(9 / 8 - dc, rel=1e-11)


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.6])
def test_regression_gain_of_a_gaussian_is_its_distribution_function(mean):
    # Quantiles in place of random numbers; what is missing of the tails beyond 1/n is under 10⁻⁴.
    n = 1 << 16
    z = torch.from_numpy(ndtri((np.arange(n) + 0.5) / n))[torch.randperm(n)]
    x = (mean + 2 * z).view(16, 1, -1)
    row = report_of(nn.ReLU(), x).introduced()
    expected = np.cov(x.flatten(), x.relu().flatten())
    assert row["regression_gain"].item() == pytest.approx(
        expected[0, 1] / expected[0, 0], rel=1e-11
    )
    assert row["regression_gain"].item() == pytest.approx(ndtr(mean / 2), abs=1e-4)


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.0)])
def test_a_dead_channel_has_no_fractions(model, window):
    x = torch.stack([-torch.rand(3, 64), torch.randn(3, 64)], 1)
    report = report_of(model, x, window=window, kinds=["LeakyReLU"])
    dead, alive = report.introduced().filter(like="fraction").to_numpy()
    assert np.isnan(dead).all()
    assert np.isfinite(alive).all()
    coherence = values(report.cross_spectra(), "coherence")
    assert np.isnan(coherence[0]).all()
    assert (coherence[1] <= 1 + 1e-12).all()


def test_a_constant_has_no_band():
    row = report_of(nn.ReLU(), torch.full((3, 1, 50), 0.1)).introduced()
    assert row["introduced_dc_fraction"].item() == pytest.approx(0.25, rel=1e-12)
    assert row["band_edge"].item() == 0
