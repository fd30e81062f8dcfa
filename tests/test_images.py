"""Spectra of images and video, against NumPy's FFT and loops over it."""

import math
from itertools import count

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch
from helpers import (
    SPECTRUM,
    assert_close,
    assert_same_tables,
    assert_spectra_close,
    report_of,
    values,
)
from torch import nn

from spectroscope.dsp.spectra import Transform


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


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize(
    "shape", [(8, 8), (7, 7), (8, 6), (9, 4), (5, 12), (2, 3), (31, 2), (3, 6, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rings_are_summed_by_brute_force(window, shape, dtype):
    x = 0.5 + torch.randn(3, 2, *shape, dtype=dtype)
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
    totals = [power.sum(1) for power, *_ in (before, after)]
    for side, (power, *_), total in zip(("in", "out"), (before, after), totals, strict=True):
        assert_spectra_close(values(table, "power", side), power, total, dtype)
        per_power = math.prod(shape[-2:]) / width
        psd = power[:, full] / modes[full] * per_power
        found = values(density, "density", side)[:, full]
        assert_spectra_close(found, psd, total * per_power, dtype)
    table = report.cross_spectra()
    assert_spectra_close(values(table, "cross_real"), cross, np.sqrt(totals[0] * totals[1]), dtype)
    assert (table["cross_imag"] == 0).all()
    coherence = cross[:, full] ** 2 / (before[0] * after[0])[:, full]
    coherence[:, (len(x) * modes[full] * math.prod(x.shape[2:-2])) == 1] = np.nan
    rtol = 1e-10 if dtype == torch.float64 else 1e3 * SPECTRUM  # the smallest rings have little
    np.testing.assert_allclose(values(table, "coherence")[:, full], coherence, rtol=rtol)


@pytest.mark.parametrize("shape", [(12, 18), (16, 24), (30, 35)])
def test_components_of_equal_frequency_are_in_one_ring(shape):
    height, width = shape
    transform = Transform.of(shape, "boxcar", torch.device("cpu"))
    rings = {}
    for number, ring in enumerate(transform.bin.tolist()):
        i, j = divmod(number, width)
        square = (min(i, height - i) * width) ** 2 + (min(j, width - j) * height) ** 2
        assert rings.setdefault(square, ring) == ring


@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (4, 9)])
def test_planes_are_numpys(shape):
    height, width = shape
    x = 0.5 + torch.randn(3, 2, *shape, dtype=torch.float64)
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


@pytest.mark.parametrize("shape", [(1, 8), (1, 7), (8, 1), (7, 1)])
def test_planes_of_one_row_or_column_are_numpys(shape):
    test_planes_are_numpys(shape)


@pytest.mark.parametrize("axis", [2, 3])
def test_an_axis_of_one_is_none(axis):
    x = torch.randn(3, 2, 40)
    line, other = report_of(nn.ReLU(), x, fs=20), report_of(nn.ReLU(), x.unsqueeze(axis), fs=20)
    for name in ("spectra", "cross_spectra", "introduced"):
        pd.testing.assert_frame_equal(getattr(other, name)(), getattr(line, name)())
