"""Products of the spectra of both sides."""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_reordered,
    retry_uncached,
)
from spectroscope.dsp.moments import MEANS_XX, MEANS_XY, MEANS_YY

# Real and imaginary parts whose sums stay in the nearest cache.
_BLOCK = 1024


@compile_reordered
def _add_one(x, y, first, length, sums):
    """Add squares and products of the parts of one spectrum of each side."""
    for i in range(length):
        k, at = np.uint64(i), np.uint64(first + i)
        a, b = np.float64(x[at]), np.float64(y[at])
        sums[0, k] += a * a
        sums[1, k] += b * b
        sums[2, k] += a * b


@compile_reordered
def _add_four(x, y, first, second, third, fourth, length, sums):
    """As :func:`_add_one`, of four spectra: sums are read and written a fourth of the times."""
    for i in range(length):
        k, p, q = np.uint64(i), np.uint64(first + i), np.uint64(second + i)
        r, s = np.uint64(third + i), np.uint64(fourth + i)
        a, b, c, d = np.float64(x[p]), np.float64(x[q]), np.float64(x[r]), np.float64(x[s])
        e, f, g, h = np.float64(y[p]), np.float64(y[q]), np.float64(y[r]), np.float64(y[s])
        sums[0, k] += a * a + b * b + c * c + d * d
        sums[1, k] += e * e + f * f + g * g + h * h
        sums[2, k] += a * e + b * f + c * g + d * h


@compile_reordered
def _add_imaginary(x, y, first, length, sums):
    """Add the imaginary part of conj(x)·y to the sums of even index.

    Those of odd index are of no use. A loop over pairs alone would be vectorised with shuffles,
    which take longer.
    """
    for i in range(length - 1):
        k, at, after = np.uint64(i), np.uint64(first + i), np.uint64(first + i + 1)
        a, b, c, d = (
            np.float64(x[at]),
            np.float64(y[at]),
            np.float64(x[after]),
            np.float64(y[after]),
        )
        sums[k] += a * d - c * b


@retry_uncached
@compile_exactly
def add_products(
    x, y, shape, weights, bins, max_norm_bins, radial, channel, power, cross, max_norm
):
    """Add |X|², |Y|² and conj(X)·Y over spectra, and over the components of each bin.

    Args:
        x: ``[n · c · f · 2·F]``, real and imaginary parts interleaved.
        y: likewise.
        shape: n, c, f and 2·F.
        weights: ``[F]``, of the components.
        bins: ``[F]``, bin of each component.
        max_norm_bins: ``[F]``, likewise; or empty.
        radial: imaginary parts aren't needed.
        channel: the first of the c channels among C.
        power: float64, ``[2, C, B]``, added to: |X|² and |Y|².
        cross: float64, ``[C, 2·B]``, added to: conj(X)·Y, real and imaginary parts interleaved.
        max_norm: float64, ``[C, S]``, added to: |Y|² in max-norm bins, if there are any.
    """
    samples, channels, lines, parts = shape
    starts = np.empty(samples * lines, np.int64)
    fours = starts.size - starts.size % 4
    work = np.empty((4, _BLOCK))
    for c in range(channels):
        to = channel + c
        for first in range(0, parts, _BLOCK):
            length = min(_BLOCK, parts - first)
            for m in range(starts.size):
                line = (m // lines * channels + c) * lines + m % lines
                starts[m] = line * parts + first
            work[:] = 0
            for m in range(0, fours, 4):
                at = starts[m], starts[m + 1], starts[m + 2], starts[m + 3]
                _add_four(x, y, at[0], at[1], at[2], at[3], length, work)
            for m in range(fours, starts.size):
                _add_one(x, y, starts[m], length, work)
            if not radial:
                for m in range(starts.size):
                    _add_imaginary(x, y, starts[m], length, work[3])
            for k in range(length // 2):
                component, re, im = first // 2 + k, 2 * k, 2 * k + 1
                weight, b = weights[component], bins[component]
                output = work[1, re] + work[1, im]
                power[0, to, b] += weight * (work[0, re] + work[0, im])
                power[1, to, b] += weight * output
                cross[to, 2 * b] += weight * (work[2, re] + work[2, im])
                if not radial:
                    cross[to, 2 * b + 1] += weight * work[3, re]
                if max_norm_bins.size:
                    max_norm[to, max_norm_bins[component]] += weight * output
    return 0


@retry_uncached
@compile_exactly
def scale_products(power, cross, max_norm, means, lines, points):
    """Make mean powers of lines of these sums over lines, with the DC in its bin.

    Args:
        power: ``[2, C, B]``.
        cross: ``[C, 2·B]``.
        max_norm: ``[C, S]``.
        means: ``[MEAN_ROWS, C]``, products of the means of lines.
        lines: number of lines of an input.
        points: of a line.
    """
    scale = 1 / (lines * points**2)
    for c in range(means.shape[1]):
        for row in (power[0, c], power[1, c], cross[c], max_norm[c]):
            for b in range(row.size):
                row[np.uint64(b)] *= scale
        x, y = means[MEANS_XX, c] / lines, means[MEANS_YY, c] / lines
        power[0, c, 0], power[1, c, 0] = x, y
        cross[c, 0], cross[c, 1] = means[MEANS_XY, c] / lines, 0.0
        if max_norm.shape[1]:
            max_norm[c, 0] = y
    return 0
