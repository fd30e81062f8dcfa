"""Spectra on a line, over rings and in the plane, against scipy, numpy's FFT and closed forms."""

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from helpers import (
    DC_TABLE,
    SPECTRUM,
    TABLES,
    assert_close,
    assert_same_tables,
    assert_spectra_close,
    cross_spectrum,
    power_spectrum,
    report_of,
    values,
)
from torch import nn

import spectroscope

pytestmark = pytest.mark.usefixtures("two_threads")

TAPERS = ["boxcar", "hann", ("tukey", 0.3)]


class Late(nn.Module):
    """A full-wave activation that is three samples late, so that the cross-spectrum has a phase."""

    def forward(self, x):
        return x.abs().roll(3, -1)


@pytest.mark.parametrize("length", [64, 65])
@pytest.mark.parametrize("window", TAPERS)
@pytest.mark.parametrize("scaling", ["spectrum", "density"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spectra_are_scipys_periodograms(length, window, scaling, dtype):
    x = 2 + torch.randn(5, 3, length, dtype=dtype)
    detrend, first = (False, 0) if window == "boxcar" else ("constant", 1)
    table = report_of(nn.ReLU(), x, fs=50.0, window=window).spectra(scaling=scaling)
    for side, tensor in (("in", x), ("out", x.relu())):
        tensor = tensor.double().numpy()
        freq, expected = scipy.signal.periodogram(
            tensor, 50.0, window, detrend=detrend, scaling=scaling
        )
        found = values(table, {"spectrum": "power"}.get(scaling, scaling), side)
        expected = expected.mean(0)
        assert_spectra_close(found[:, first:], expected[:, first:], expected.sum(1), dtype)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_spectra_and_coherence_are_scipys(model, length, window, dtype):
    x = 0.5 + torch.randn(4, 3, length, dtype=dtype)
    y = model(x)
    report = report_of(model, x, window=window, kinds=[Late])
    table = report.cross_spectra()
    expected = cross_spectrum(x, y, window)
    powers = power_spectrum(x, window), power_spectrum(y, window)
    total = np.sqrt(powers[0].sum(1) * powers[1].sum(1))
    assert_spectra_close(values(table, "cross_real"), expected.real, total, dtype)
    assert_spectra_close(values(table, "cross_imag"), expected.imag, total, dtype)
    coherence = np.abs(expected) ** 2 / (powers[0] * powers[1])
    # Of single bins, of which the smallest has a thousandth of the mean power.
    rtol = 1e-10 if dtype == torch.float64 else 1e3 * SPECTRUM
    np.testing.assert_allclose(values(table, "coherence"), coherence, rtol=rtol)
    assert table["n_inputs"].eq(4).all()
    alone = report_of(model, x[:1], kinds=[Late]).cross_spectra()
    assert alone["coherence"].isna().all()
    frames = report_of(nn.ReLU(), torch.randn(1, 1, 8, 5, 5)).cross_spectra()
    assert frames["coherence"].notna().all()


@pytest.mark.parametrize("shape", [(64,), (12, 16)])
def test_coherence_of_independent_noise_is_its_bias(shape):
    class Other(nn.Module):
        def forward(self, x):
            return torch.randn_like(x)

    inputs, channels = 5, 400
    x = torch.randn(inputs, channels, *shape)
    table = report_of(Other(), x, kinds=[Other]).cross_spectra()
    found = values(table, "coherence").mean(0)
    components = np.ones(len(found))
    if len(shape) == 2:
        frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
        components = np.bincount(np.floor(frequency * max(shape) + 0.5 + 1e-10).astype(int).flat)
    np.testing.assert_allclose(found, 1 / (inputs * components), rtol=0.2)


@pytest.mark.parametrize("window", ["boxcar", "hann", "blackman"])
def test_power_above_is_the_power_of_the_bins_over_the_noise_bandwidth(window):
    model = nn.Sequential(nn.ReLU(), nn.AvgPool1d(4))
    x = torch.randn(2000, 1, 64)
    report = report_of(model, x, window=window)
    taper = scipy.signal.get_window(window, 64)
    width = 64 * (taper**2).sum() / taper.sum() ** 2
    power = values(report.spectra(), "power", "out")[0]
    above = report.aliasing()["power_above"].item()
    assert above == pytest.approx(power[9:].sum() / width, rel=1e-9)
    # Parseval, on average over phases.
    y = x.relu()
    assert power[1:].sum() / width == pytest.approx(y.var(-1, correction=0).mean().item(), rel=0.02)


@pytest.mark.parametrize("shape", [(2,), (64,), (65,), (8, 8), (7, 12), (3, 6, 5)])
@pytest.mark.parametrize("spectra", [True, "plane"])
def test_power_adds_up_to_the_mean_square(shape, spectra):
    x = 3 + torch.randn(4, 2, *shape, dtype=torch.float64)
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


@pytest.mark.parametrize("shape", [(77,), (6, 9), (3, 4, 5)])
@pytest.mark.parametrize("options", [{}, {"window": "hann"}, {"spectra": "plane"}])
@pytest.mark.parametrize("model", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_any_split_and_merge_gives_the_same_tables(shape, options, model):
    x = 1 + torch.randn(9, 3, *shape, dtype=torch.float64)
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
def test_half_precision_is_transformed_in_single(dtype, shape):
    x = torch.randn(4, 2, *shape).to(dtype)
    report = report_of(nn.ReLU(), x)
    assert_same_tables(report, report_of(nn.ReLU(), x.float()))
    double = report_of(nn.ReLU(), x.double())
    pd.testing.assert_frame_equal(
        report.dc().iloc[:, :13], double.dc().iloc[:, :13], rtol=DC_TABLE, atol=0
    )
    if len(shape) == 1:
        power = power_spectrum(x.double())
        assert_spectra_close(values(report.spectra(), "power", "in"), power, power.sum(1))


@pytest.mark.parametrize("window", TAPERS[:2])
def test_inputs_that_are_not_finite_are_left_out_of_both_sides(window):
    x = torch.randn(5, 3, 50, dtype=torch.float64)
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
        sides = [side - side.mean(-1, keepdim=True) for side in (finite, finite.relu())]
        gain = np.polyfit(*(side.flatten() for side in sides), 1)[0]
        assert_close(added, power_spectrum(finite.relu() - gain * finite, window))


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
        power = power_spectrum(tensor)
        assert_spectra_close(values(report.spectra(), "power", side), power, power.sum(1))
    x = x.double()
    gain = np.polyfit(x.flatten(), x.relu().flatten(), 1)[0]
    added = power_spectrum(x.relu() - gain * x)
    found = values(report.cross_spectra(), "introduced")
    assert_spectra_close(found, added, added.sum(1))


@pytest.mark.parametrize("window", TAPERS)
@pytest.mark.parametrize("shape", [(50,), (6, 7)])
def test_what_is_saved_is_loaded(tmp_path, window, shape):
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.MaxPool1d(2))[: 4 - len(shape)]
    # With fs, frequency is along time alone.
    fs = 20 if len(shape) == 1 else None
    report = report_of(model, torch.randn(4, 3, *shape), window=window, fs=fs, spectra="plane")
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
    reasons = "no spectra: one recording has none", "no spectra: inputs of lengths (64,) and (63,)"
    for other, reason in zip(reports[1:], reasons, strict=True):
        assert reports[0].merge(other).coverage()["reason"].item() == reason
