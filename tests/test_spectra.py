"""Spectra on a line, over rings and in the plane, against scipy, numpy's FFT and closed forms."""

import math
from itertools import count

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from scipy.special import ndtr, ndtri
from torch import nn

import spectroscope
from spectroscope.dsp.spectra import Transform

TAPERS = ["boxcar", "hann", ("tukey", 0.3)]
TABLES = ["dc", "sites", "spectra", "cross_spectra", "introduced"]


class Late(nn.Module):
    """A full-wave rectifier that is three samples late, so that the cross-spectrum has a phase."""

    def forward(self, x):
        return x.abs().roll(3, -1)


def report_of(model, *batches, **options):
    with spectroscope.record(model, **options) as recorder:
        for batch in batches:
            model(batch.clone())
    return recorder.report()


def values(table, column, side=None):
    """One column as ``[C, F]``."""
    rows = table if side is None else table[table["side"] == side]
    return rows[column].to_numpy().reshape(rows["channel"].nunique(), -1)


def assert_close(found, expected):
    """Equal to rounding, which in tiny bins is that of the others."""
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * np.abs(expected).mean())


def cross_spectrum(x, y, window="boxcar"):
    """Scipy's, ``[C, F]``, mean over inputs; what a taper leaves in the DC bin is put right."""
    x, y = (np.asarray(side, np.float64) for side in (x, y))
    detrend = False if window == "boxcar" else "constant"
    _, cross = scipy.signal.csd(
        x, y, window=window, nperseg=x.shape[-1], detrend=detrend, scaling="spectrum"
    )
    cross[..., 0] = x.mean(-1) * y.mean(-1)
    return cross.mean(0)


def power_spectrum(x, window="boxcar"):
    return cross_spectrum(x, x, window).real


def assert_same_tables(found, expected, names=TABLES):
    for name in names:
        pd.testing.assert_frame_equal(
            getattr(found, name)(), getattr(expected, name)(), rtol=1e-10, atol=1e-14
        )


@pytest.mark.parametrize("length", [64, 65])
@pytest.mark.parametrize("window", TAPERS)
@pytest.mark.parametrize("scaling", ["spectrum", "density"])
def test_spectra_are_scipys_periodograms(length, window, scaling):
    x = 2 + torch.randn(5, 3, length)
    detrend, first = (False, 0) if window == "boxcar" else ("constant", 1)
    table = report_of(nn.ReLU(), x, fs=50.0, window=window).spectra(scaling=scaling)
    for side, tensor in (("in", x), ("out", x.relu())):
        tensor = tensor.double().numpy()
        freq, expected = scipy.signal.periodogram(
            tensor, 50.0, window, detrend=detrend, scaling=scaling
        )
        found = values(table, {"spectrum": "power"}.get(scaling, scaling), side)
        assert_close(found[:, first:], expected.mean(0)[:, first:])
        if scaling == "spectrum":
            assert_close(found[:, 0], (tensor.mean(-1) ** 2).mean(0))
        np.testing.assert_allclose(values(table, "freq", side)[0], freq, rtol=1e-15)


@pytest.mark.parametrize("window", TAPERS[:2])
@pytest.mark.parametrize(("length", "k"), [(64, 0), (64, 1), (64, 9), (64, 32), (65, 9), (65, 31)])
def test_a_cosine_on_a_bin_reads_its_amplitude(window, length, k):
    phase = 0.7 if 0 < 2 * k < length else 0.0
    time = torch.arange(length, dtype=torch.float64)
    x = 3 * torch.cos(2 * torch.pi * k * time / length + phase).expand(2, 1, -1)
    table = report_of(nn.ReLU(), x, window=window).spectra(scaling="amplitude")
    assert values(table, "amplitude", "in")[0, k] == pytest.approx(3, rel=1e-13)


@pytest.mark.parametrize("model", [nn.ReLU(), Late()])
@pytest.mark.parametrize("length", [64, 65])
@pytest.mark.parametrize("window", TAPERS)
def test_cross_spectra_and_coherence_are_scipys(model, length, window):
    x = 0.5 + torch.randn(4, 3, length)
    y = model(x)
    report = report_of(model, x, window=window, kinds=[Late])
    table = report.cross_spectra()
    expected = cross_spectrum(x, y, window)
    assert_close(values(table, "cross_real"), expected.real)
    assert_close(values(table, "cross_imag"), expected.imag)
    coherence = np.abs(expected) ** 2 / (power_spectrum(x, window) * power_spectrum(y, window))
    np.testing.assert_allclose(values(table, "coherence"), coherence, rtol=1e-10)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.2, inplace=True)])
@pytest.mark.parametrize("window", TAPERS[:2])
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


@pytest.mark.parametrize("window", TAPERS[:2])
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


@pytest.mark.parametrize("window", TAPERS[:2])
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


def ring_sums(x, y, window):
    """Of conj(X)·Y and of 1 over the rings of ``[N, C, H, W]``, and the taper's noise bandwidth."""
    height, width = x.shape[-2:]
    taper = np.outer(*(scipy.signal.get_window(window, length) for length in (height, width)))
    means = [side.mean((-2, -1), keepdims=True) for side in (x, y)]
    a, b = (
        np.fft.fft2((side - (window != "boxcar") * mean) * taper) / taper.sum()
        for side, mean in zip((x, y), means, strict=True)
    )
    plane = (a.conj() * b).mean(0).real
    plane[:, 0, 0] = (means[0] * means[1]).mean((0, 2, 3))
    sums, modes = np.zeros((x.shape[1], height + width)), np.zeros(height + width)
    for i in range(height):
        for j in range(width):
            # In whole numbers: (2·L·H·W)² times the squared frequency. Halfway goes up.
            square = (min(i, height - i) * width) ** 2 + (min(j, width - j) * height) ** 2
            square *= (2 * max(height, width)) ** 2
            ring = next(r for r in count() if ((2 * r + 1) * height * width) ** 2 > square)
            sums[:, ring] += plane[:, i, j]
            modes[ring] += 1
    rings = np.flatnonzero(modes).max() + 1
    return sums[:, :rings], modes[:rings], (taper**2).mean() / taper.mean() ** 2


@pytest.mark.parametrize("window", TAPERS[:2])
@pytest.mark.parametrize(
    "shape", [(8, 8), (7, 7), (8, 6), (9, 4), (5, 12), (2, 3), (31, 2), (3, 6, 7)]
)
def test_rings_are_summed_by_brute_force(window, shape):
    x = 0.5 + torch.randn(3, 2, *shape)
    report = report_of(nn.ReLU(), x, window=window)
    # The frames of a video count as so many images.
    x = x.double().view(3, 2, -1, *shape[-2:]).transpose(1, 2).flatten(0, 1).numpy()
    y = np.maximum(x, 0)
    (cross, modes, width), before, after = (
        ring_sums(*sides, window) for sides in ((x, y), (x, x), (y, y))
    )
    table, density = report.spectra(), report.spectra(scaling="density")
    assert set(table["freq_unit"]) == {"cycles/pixel"}
    freq = np.arange(len(modes)) / max(shape[-2:])
    np.testing.assert_allclose(values(table, "freq", "in")[0], freq, rtol=1e-15)
    full = modes > 0
    for side, (power, *_) in (("in", before), ("out", after)):
        assert_close(values(table, "power", side), power)
        psd = power[:, full] / modes[full] * math.prod(shape[-2:]) / width
        assert_close(values(density, "density", side)[:, full], psd)
    table = report.cross_spectra()
    assert_close(values(table, "cross_real"), cross)
    assert (table["cross_imag"] == 0).all()
    coherence = cross[:, full] ** 2 / (before[0] * after[0])[:, full]
    np.testing.assert_allclose(values(table, "coherence")[:, full], coherence, rtol=1e-10)


@pytest.mark.parametrize("shape", [(12, 18), (16, 24), (30, 35)])
def test_components_of_equal_frequency_are_in_one_ring(shape):
    height, width = shape
    transform = Transform.of(shape, "boxcar", torch.device("cpu"))
    rings = {}
    for number, ring in enumerate(transform.rings.tolist()):
        i, j = divmod(number, width // 2 + 1)
        square = (min(i, height - i) * width) ** 2 + (j * height) ** 2
        assert rings.setdefault(square, ring) == ring


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (4, 9)])
def test_planes_are_numpys(shape):
    height, width = shape
    x = 0.5 + torch.randn(3, 2, *shape)
    report = report_of(nn.ReLU(), x, spectra="plane")
    table = report.planes()
    half = range(width // 2 + 1)
    for side, tensor in (("in", x), ("out", x.relu())):
        plane = (np.abs(np.fft.rfft2(tensor.double().numpy(), norm="forward")) ** 2).mean(0)
        twice = [1 + ((width - j) % width not in half) for j in half]
        assert_close(values(table, "power", side), (plane * twice).reshape(2, -1))
        grid = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
        for column, expected in zip(("freq_y", "freq_x"), grid, strict=True):
            np.testing.assert_array_equal(values(table, column, side)[1], expected.ravel())
    assert_same_tables(report, report_of(nn.ReLU(), x))


@pytest.mark.parametrize("shape", [(2,), (64,), (65,), (8, 8), (7, 12), (3, 6, 5)])
@pytest.mark.parametrize("spectra", [True, "plane"])
def test_power_adds_up_to_the_mean_square(shape, spectra):
    x = 3 + torch.randn(4, 2, *shape)
    report = report_of(nn.ReLU(), x, spectra=spectra)
    tables = [report.spectra()]
    if spectra == "plane" and len(shape) > 1:
        tables.append(report.planes())
    x, y = (side.double().transpose(0, 1).flatten(1) for side in (x, x.relu()))
    for side, tensor in (("in", x), ("out", y)):
        for table in tables:
            total = values(table, "power", side).sum(1)
            np.testing.assert_allclose(total, tensor.square().mean(1), rtol=1e-12)
    cross = values(report.cross_spectra(), "cross_real").sum(1)
    np.testing.assert_allclose(cross, (x * y).mean(1), rtol=1e-12)


@pytest.mark.parametrize("axis", [2, 3])
def test_an_axis_of_one_is_none(axis):
    x = torch.randn(3, 2, 40)
    line, other = report_of(nn.ReLU(), x, fs=20), report_of(nn.ReLU(), x.unsqueeze(axis), fs=20)
    for name in ("spectra", "cross_spectra", "introduced"):
        pd.testing.assert_frame_equal(getattr(other, name)(), getattr(line, name)())


@pytest.mark.parametrize("shape", [(77,), (6, 9), (3, 4, 5)])
@pytest.mark.parametrize("options", [{}, {"window": "hann"}, {"spectra": "plane"}])
@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_any_split_and_merge_gives_the_same_tables(shape, options, model):
    x = 1 + torch.randn(9, 3, *shape)
    x[4].view(3, -1)[1, 5] = torch.nan
    options = options | {"kinds": ["LeakyReLU"]}
    whole = report_of(model, x, **options)
    parts = x.split([1, 2, 6])
    a, b, c = (report_of(model, part, **options) for part in parts)
    names = TABLES + ["planes"] * (options.get("spectra") == "plane" and len(shape) > 1)
    for report in (report_of(model, *parts, **options), a.merge(b).merge(c), c.merge(a.merge(b))):
        assert_same_tables(report, whole, names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (6, 7)])
def test_half_precision_is_computed_in_double(dtype, shape):
    x = torch.randn(4, 2, *shape).to(dtype)
    report = report_of(nn.ReLU(), x)
    assert_same_tables(report, report_of(nn.ReLU(), x.double()))
    if len(shape) == 1:
        assert_close(values(report.spectra(), "power", "in"), power_spectrum(x.double()))


@pytest.mark.parametrize("window", TAPERS[:2])
def test_inputs_that_are_not_finite_are_left_out_of_both_sides(window):
    x = torch.randn(5, 3, 50)
    x[1, 0, 7], x[3, 1, 0] = torch.nan, -torch.inf  # whose output is a finite 0
    report = report_of(nn.ReLU(), x, window=window)
    for c, rest in enumerate(([0, 2, 3, 4], [0, 1, 2, 4], range(5))):
        finite = x[list(rest), c : c + 1].double()
        for side, tensor in (("in", finite), ("out", finite.relu())):
            found = values(report.spectra(), "power", side)[[c]]
            assert_close(found, power_spectrum(tensor, window))
        cross = cross_spectrum(finite, finite.relu(), window)
        assert_close(values(report.cross_spectra(), "cross_real")[[c]], cross.real)
        added = values(report.cross_spectra(), "introduced")[[c]]
        assert_close(added, power_spectrum(finite.abs() / 2, window))


@pytest.mark.parametrize("kind", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("shape", [(50,), (6, 7)])
def test_in_place_is_the_same(kind, shape):
    x = torch.randn(4, 3, *shape)
    options = {"kinds": ["LeakyReLU"], "window": "hann"}
    there, not_there = (report_of(kind(inplace=inplace), x, **options) for inplace in (True, False))
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(there, name)(), getattr(not_there, name)(), check_exact=True
        )


def test_a_million_samples():
    x = torch.randn(1, 1, 1_000_000)
    report = report_of(nn.ReLU(), x)
    for side, tensor in (("in", x), ("out", x.relu())):
        assert_close(values(report.spectra(), "power", side), power_spectrum(tensor))
    assert_close(values(report.cross_spectra(), "introduced"), power_spectrum(x.abs() / 2))


@pytest.mark.parametrize("window", TAPERS)
@pytest.mark.parametrize("shape", [(50,), (6, 7)])
def test_what_is_saved_is_loaded(tmp_path, window, shape):
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.MaxPool1d(2))[: 4 - len(shape)]
    report = report_of(model, torch.randn(4, 3, *shape), window=window, fs=20, spectra="plane")
    report.save(tmp_path / "saved")
    loaded = spectroscope.load(tmp_path / "saved")
    names = [*TABLES, "aliasing" if len(shape) == 1 else "planes"]
    for name in names:
        pd.testing.assert_frame_equal(getattr(loaded, name)(), getattr(report, name)())
    for scaling in ("density", "amplitude"):
        pd.testing.assert_frame_equal(
            loaded.spectra(scaling=scaling), report.spectra(scaling=scaling)
        )
    assert loaded.merge(report).sites()["n_samples"].item() == 8


@pytest.mark.parametrize("options", [{"window": "round"}, {"spectra": "planes"}])
def test_what_is_not_known_is_refused(options):
    with pytest.raises(spectroscope.RequestError, match=next(iter(options))):
        spectroscope.record(nn.ReLU(), **options)
    with pytest.raises(spectroscope.RequestError, match="scaling='power'"):
        report_of(nn.ReLU(), torch.randn(1, 1, 8)).spectra(scaling="power")


@pytest.mark.parametrize(
    "window", [8.0, "nothing", ("kaiser", "x"), ("general_cosine", [1.0, 0.5])]
)
def test_a_window_that_scipy_or_a_file_does_not_take_is_refused(window):
    with pytest.raises(spectroscope.RequestError, match="window="):
        spectroscope.record(nn.ReLU(), window=window)


def test_spectra_that_a_merge_can_not_keep_are_noted():
    model, x = nn.ReLU(), torch.randn(2, 1, 64)
    reports = []
    for options, signal in (
        ({}, x),
        ({"spectra": False}, x),
        ({"window": "rectangular"}, x[..., 1:]),
    ):
        with spectroscope.record(model, **options) as recorder:
            model(signal)
        reports.append(recorder.report())
    for other in reports[1:]:
        coverage = reports[0].merge(other).coverage()
        assert "no spectra: not all of what was merged" in coverage["reason"].item()
