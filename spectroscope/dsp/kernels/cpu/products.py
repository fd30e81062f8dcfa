"""Products of the spectra of both sides."""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_reordered,
    retry_uncached,
)

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
def _add_four(x, y, first, last, sums):
    """As :func:`_add_one`, of four spectra: sums are read and written a fourth of the times."""
    p, q, r, s = x[0, first:last], x[1, first:last], x[2, first:last], x[3, first:last]
    t, u, v, w = y[0, first:last], y[1, first:last], y[2, first:last], y[3, first:last]
    for i in range(p.size):
        k = np.uint64(i)
        a, b, c, d = np.float64(p[k]), np.float64(q[k]), np.float64(r[k]), np.float64(s[k])
        e, f, g, h = np.float64(t[k]), np.float64(u[k]), np.float64(v[k]), np.float64(w[k])
        sums[0, k] += a * a + b * b + c * c + d * d
        sums[1, k] += e * e + f * f + g * g + h * h
        sums[2, k] += a * e + b * f + c * g + d * h


@compile_reordered
def _add_imaginary(a, b, total):
    for i in range(total.size):
        re, im = np.uint64(2 * i), np.uint64(2 * i + 1)
        p, q, r, s = np.float64(a[re]), np.float64(b[re]), np.float64(a[im]), np.float64(b[im])
        total[np.uint64(i)] += p * s - r * q


@retry_uncached
@compile_exactly
def add_products(x, y, sums, imaginary):
    """Add |X|², |Y|², Re conj(X)·Y and, unless `imaginary` is empty, Im conj(X)·Y over spectra.

    Args:
        x: ``[c, m, 2·F]``, real and imaginary parts interleaved, of m spectra of each channel.
        y: likewise.
        sums: float64, ``[3, c, F]``, added to.
        imaginary: float64, ``[c, F]``, added to, or of no channels.
    """
    spectra, parts = x.shape[1], x.shape[2]
    work = np.empty((3, _BLOCK))
    for c in range(x.shape[0]):
        for first in range(0, parts, _BLOCK):
            last = min(first + _BLOCK, parts)
            size = last - first
            work[:] = 0
            fours = spectra - spectra % 4
            for m in range(0, fours, 4):
                _add_four(x[c, m : m + 4], y[c, m : m + 4], first, last, work)
            for m in range(fours, spectra):
                _add_one(x[c, m, first:last], y[c, m, first:last], work)
            to = first // 2
            for row in range(3):
                for k in range(size // 2):
                    sums[row, c, to + k] += work[row, 2 * k] + work[row, 2 * k + 1]
            if len(imaginary):
                for m in range(spectra):
                    _add_imaginary(
                        x[c, m, first:last], y[c, m, first:last], imaginary[c, to : to + size // 2]
                    )
    return 0
