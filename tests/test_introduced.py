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


def without_dc(x):
    """Without each input's own mean."""
    return x - x.mean(-1, keepdim=True)


def regression_gains(x, y):
    """Slope of y over x, of each channel about the inputs' own means."""
    sides = [without_dc(side).transpose(0, 1).flatten(1).numpy() for side in (x, y)]
    return np.array([np.polyfit(a, b, 1)[0] for a, b in zip(*sides, strict=True)])


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True)])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_the_output_is_split_into_what_is_preserved_and_the_rest(model, window):
    x = 0.3 + torch.randn(6, 2, 65, dtype=torch.float64)
    y = model(x.clone())
    ac, y_ac = without_dc(x), without_dc(y)
    gain = regression_gains(x, y)
    report = report_of(model, x, window=window, kinds=["LeakyReLU"])
    kept = torch.from_numpy(gain)[:, None] * x
    table = report.cross_spectra()
    assert_close(values(table, "preserved"), power_spectrum(kept, window))
    assert_close(values(table, "introduced"), power_spectrum(y - kept, window))
    row = report.introduced()
    total, kept = y_ac.square().mean((0, 2)), torch.from_numpy(gain)[:, None] * ac
    np.testing.assert_allclose(row["regression_gain"], gain, rtol=1e-11)
    for name, power in (
        ("preserved", kept.square().mean((0, 2))),
        ("introduced", (y_ac - kept).square().mean((0, 2))),
    ):
        np.testing.assert_allclose(row[f"{name}_fraction"], power / total, rtol=1e-10)
        site = report.sites()[f"{name}_fraction"].item()
        assert site == pytest.approx((power.sum() / total.sum()).item(), rel=1e-11)
        np.testing.assert_array_equal(report.dc()[f"{name}_fraction"], row[f"{name}_fraction"])
    assert (row["preserved_fraction"] + row["introduced_fraction"]).tolist() == [1, 1]
    parts = row.filter(regex="introduced_(in_band|above_band)_fraction").sum(axis=1)
    if window == "boxcar":
        np.testing.assert_allclose(parts, row["introduced_fraction"], rtol=1e-10)
    if isinstance(model, nn.ReLU):
        mean_square = y.square().mean((0, 2))
        half = (x.square().mean((0, 2)) / 4 / mean_square).numpy()
        np.testing.assert_allclose(row["half_x_ratio"], half, rtol=1e-11)
        np.testing.assert_allclose(row["half_abs_ratio"], half, rtol=1e-11)
    else:
        assert row[["half_x_ratio", "half_abs_ratio"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("mean", "preserved"),
    [(0.0, 0.25 / (0.5 - 0.5 / np.pi)), (-1.0, None), (5.0, None), (-3.0, None)],
)
def test_of_a_gaussian_the_fractions_are_the_closed_forms(mean, preserved):
    x = torch.from_numpy(ndtri((np.arange(1 << 16) + 0.5) / (1 << 16))) + mean
    row = report_of(nn.ReLU(), x[torch.randperm(len(x))].view(16, 1, -1)).introduced().iloc[0]
    density = np.exp(-(mean**2) / 2) / np.sqrt(2 * np.pi)
    dc = density + mean * ndtr(mean)
    variance = mean * density + (1 + mean**2) * ndtr(mean) - dc**2
    if preserved is None:
        preserved = ndtr(mean) ** 2 / variance
    assert row["preserved_fraction"] == pytest.approx(preserved, rel=2e-2 if mean < -2 else 1e-3)
    assert 0 <= row["introduced_fraction"] <= 1


def test_fractions_of_a_site_are_of_the_power_of_all_channels():
    x = torch.randn(5, 3, 64) * torch.tensor([1, 10, 0.1]).view(1, 3, 1)
    x += torch.tensor([0.0, 3, 9]).view(1, 3, 1)
    y = x.double().relu()
    site = report_of(nn.ReLU(), x).sites().iloc[0]
    dc = y.mean(-1).square().mean(0).sum() / y.square().mean((0, 2)).sum()
    assert site["dc_fraction"] == pytest.approx(dc.item(), rel=1e-6)


def test_what_is_introduced_lies_in_the_band_of_the_input_or_above():
    smooth = scipy.signal.lfilter([1], [1, -0.9], torch.randn(6, 3, 300).numpy())
    x = torch.from_numpy(smooth)
    row = report_of(nn.ReLU(), x, fs=30).introduced()
    y = x.relu()
    gain = regression_gains(x, y)
    before, added = power_spectrum(x), power_spectrum(y - torch.from_numpy(gain).view(-1, 1) * x)
    for c, total in enumerate(without_dc(y).square().mean((0, 2)).tolist()):
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
    dc = (3 / (m * math.tan(math.pi / m))) ** 2
    assert dc == pytest.approx((3 / math.pi) ** 2, rel=(math.pi / m) ** 2)
    assert row["preserved_fraction"] * (output - dc) == pytest.approx(9 / 8, rel=1e-12)
    assert row["introduced_fraction"] * (output - dc) == pytest.approx(9 / 8 - dc, rel=1e-12)
    for name in ("half_x_ratio", "half_abs_ratio"):  # the DC is in ½|x|
        assert row[name] == pytest.approx(0.5, rel=1e-12)
    assert row["band_edge"] == 2
    assert row["introduced_in_band_fraction"] < 1e-15
    above = row["introduced_above_band_fraction"]
    assert above == pytest.approx(row["introduced_fraction"], rel=1e-11)


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.6])
def test_regression_gain_of_a_gaussian_is_its_distribution_function(mean):
    # Quantiles in place of random numbers; what is missing of the tails beyond 1/n is under 10⁻⁴.
    n = 1 << 16
    z = torch.from_numpy(ndtri((np.arange(n) + 0.5) / n))[torch.randperm(n)]
    x = (mean + 2 * z).view(16, 1, -1)
    row = report_of(nn.ReLU(), x).introduced()
    assert row["regression_gain"].item() == pytest.approx(
        regression_gains(x, x.relu()).item(), rel=1e-11
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
    assert row[["preserved_fraction", "introduced_fraction"]].isna().all(axis=None)
    assert row["half_abs_ratio"].item() == pytest.approx(0.25, rel=1e-12)
    assert row["band_edge"].item() == 0


def test_a_dc_that_varies_between_inputs_is_no_ac():
    offsets = torch.tensor([-3.0, 0, 5, 40]).view(4, 1, 1)
    x = offsets + torch.randn(4, 2, 64, dtype=torch.float64)
    y = x.relu()
    report = report_of(nn.ReLU(), x)
    gain, ac = regression_gains(x, y), without_dc(y).square().mean((0, 2)).numpy()
    kept = gain**2 * without_dc(x).square().mean((0, 2)).numpy()
    np.testing.assert_allclose(report.dc()["preserved_fraction"], kept / ac, rtol=1e-10)
    np.testing.assert_allclose(report.dc()["ac_rms_out"] ** 2, ac, rtol=1e-10)
    dense = report_of(nn.ReLU(), torch.randn(9, 3)).dc()
    assert dense["preserved_fraction"].isna().all()
