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
def _add_one(x, y, sums):
    """Add squares and products of the parts of one spectrum of each side."""
    for i in range(x.size):
        k = np.uint64(i)
        a, b = np.float64(x[k]), np.float64(y[k])
        sums[0, k] += a * a
        sums[1, k] += b * b
        sums[2, k] += a * b


@compile_reordered
def _add_four(p, q, r, s, t, u, v, w, sums):
    """As :func:`_add_one`, of four spectra: sums are read and written a fourth of the times."""
    for i in range(p.size):
        k = np.uint64(i)
        a, b, c, d = np.float64(p[k]), np.float64(q[k]), np.float64(r[k]), np.float64(s[k])
        e, f, g, h = np.float64(t[k]), np.float64(u[k]), np.float64(v[k]), np.float64(w[k])
        sums[0, k] += a * a + b * b + c * c + d * d
        sums[1, k] += e * e + f * f + g * g + h * h
        sums[2, k] += a * e + b * f + c * g + d * h


@compile_reordered
def _add_imaginary(x, y, sums):
    for i in range(sums.size):
        re, im = np.uint64(2 * i), np.uint64(2 * i + 1)
        a, b, c, d = np.float64(x[re]), np.float64(y[re]), np.float64(x[im]), np.float64(y[im])
        sums[np.uint64(i)] += a * d - c * b


@retry_uncached
@compile_exactly
def add_products(x, y, weights, bins, max_norm_bins, radial, channel, power, cross, max_norm):
    """Add |X|², |Y|² and conj(X)·Y over spectra, and over the components of each bin.

    Args:
        x: ``[n, c, f, 2·F]``, real and imaginary parts interleaved.
        y: likewise.
        weights: ``[F]``, of the components.
        bins: ``[F]``, bin of each component.
        max_norm_bins: ``[F]``, likewise; or empty.
        radial: imaginary parts aren't needed.
        channel: the first of the c channels among C.
        power: float64, ``[2, C, B]``, added to: |X|² and |Y|².
        cross: float64, ``[C, 2·B]``, added to: conj(X)·Y, real and imaginary parts interleaved.
        max_norm: float64, ``[C, S]``, added to: |Y|² in max-norm bins, if there are any.
    """
    lines, parts = x.shape[2], x.shape[3]
    spectra = x.shape[0] * lines
    fours = spectra - spectra % 4
    work, work_imaginary = np.empty((3, _BLOCK)), np.empty(_BLOCK // 2)
    for c in range(x.shape[1]):
        to = channel + c
        for first in range(0, parts, _BLOCK):
            last = min(first + _BLOCK, parts)
            work[:] = 0
            for m in range(0, fours, 4):
                i, j, k, n = m // lines, (m + 1) // lines, (m + 2) // lines, (m + 3) // lines
                e, f, g, h = m % lines, (m + 1) % lines, (m + 2) % lines, (m + 3) % lines
                _add_four(
                    x[i, c, e, first:last],
                    x[j, c, f, first:last],
                    x[k, c, g, first:last],
                    x[n, c, h, first:last],
                    y[i, c, e, first:last],
                    y[j, c, f, first:last],
                    y[k, c, g, first:last],
                    y[n, c, h, first:last],
                    work,
                )
            for m in range(fours, spectra):
                n, f = m // lines, m % lines
                _add_one(x[n, c, f, first:last], y[n, c, f, first:last], work)
            count = (last - first) // 2
            for k in range(count):
                component = first // 2 + k
                weight, b = weights[component], bins[component]
                output = work[1, 2 * k] + work[1, 2 * k + 1]
                power[0, to, b] += weight * (work[0, 2 * k] + work[0, 2 * k + 1])
                power[1, to, b] += weight * output
                cross[to, 2 * b] += weight * (work[2, 2 * k] + work[2, 2 * k + 1])
                if max_norm_bins.size:
                    max_norm[to, max_norm_bins[component]] += weight * output
            if not radial:
                work_imaginary[:] = 0
                for m in range(spectra):
                    a, b = x[m // lines, c, m % lines], y[m // lines, c, m % lines]
                    _add_imaginary(a[first:last], b[first:last], work_imaginary[:count])
                for k in range(count):
                    component = first // 2 + k
                    at = 2 * bins[component] + 1
                    cross[to, at] += weights[component] * work_imaginary[k]
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
