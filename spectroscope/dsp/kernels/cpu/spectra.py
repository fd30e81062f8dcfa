"""Around the transform of both sides: their values as float64, and products of their spectra."""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import compile_exactly, retry_uncached


@retry_uncached
@compile_exactly
def to_float64(flat, shape, strides, begin, end, x, y):
    """Write rows as float64 to `x`, and their ReLU to `y`, both ``[N·C, T]``.

    The other arguments are those of :func:`..moments.row_moments_contiguous`.
    """
    channels, length = shape[1], shape[2]
    for row in range(begin, end):
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        values, x_row, y_row = flat[start : start + length], x[row], y[row]
        for i in range(values.size):
            k = np.uint64(i)
            value = np.float64(values[k])
            x_row[k] = value
            # NaN stays NaN.
            y_row[k] = 0.0 if value <= 0.0 else value
    return 0


@retry_uncached
@compile_exactly
def add_products(x, y, components, chunk, begin, end, sums, imag):
    """Add |X|², |Y|², Re conj(X)·Y and, unless `imag` is empty, Im conj(X)·Y, summed over inputs.

    Args:
        x: ``[n, c, f, 2·F]``, real and imaginary parts interleaved, of f frames.
        y: likewise.
        components: F.
        chunk: number of components whose sums fit the nearest cache.
        begin: first of the c · (number of chunks) tasks.
        end: the task after the last.
        sums: ``[3, c, F]``, added to.
        imag: ``[c, F]``, added to, or of no channels.
    """
    chunks = (components + chunk - 1) // chunk
    for task in range(begin, end):
        c, first = task // chunks, (task % chunks) * chunk
        last = min(first + chunk, components)
        xx, yy, xy = sums[0, c, first:last], sums[1, c, first:last], sums[2, c, first:last]
        for n in range(x.shape[0]):
            for f in range(x.shape[2]):
                a, b = x[n, c, f, 2 * first : 2 * last], y[n, c, f, 2 * first : 2 * last]
                for i in range(xx.size):
                    k, re, im = np.uint64(i), np.uint64(2 * i), np.uint64(2 * i + 1)
                    xx[k] += a[re] * a[re] + a[im] * a[im]
                    yy[k] += b[re] * b[re] + b[im] * b[im]
                    xy[k] += a[re] * b[re] + a[im] * b[im]
                if len(imag):
                    xy_imag = imag[c, first:last]
                    for i in range(xx.size):
                        re, im = np.uint64(2 * i), np.uint64(2 * i + 1)
                        xy_imag[np.uint64(i)] += a[re] * b[im] - a[im] * b[re]
    return 0
