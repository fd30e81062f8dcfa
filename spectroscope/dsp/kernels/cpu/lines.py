"""Moments of lines of both sides of an activation, and the lines without their means.

A line is a run of values next to each other in memory. It is read once for the sums, from which its
first value is subtracted so that they keep their digits far from 0, and again, from the cache, for
what is left without its mean.

Indices are unsigned: numba tests an index that could be negative each time it is used, and then
vectorises nothing.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_reordered,
    retry_uncached,
)
from spectroscope.dsp.moments import (
    X_FINITE,
    X_M2,
    X_MEAN,
    XY,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)

# Samples of a channel that are read one after another: their moments fill cache lines.
_SAMPLES = 8


@compile_reordered
def _sums_of_relu(x, first, length, x_pivot, y_pivot):
    """Sums of a = x − x_pivot, b = ReLU(x) − y_pivot, a², b², 0, and the number of x > 0."""
    x_sum = y_sum = xx = yy = positive = 0.0
    for i in range(length):
        value = np.float64(x[np.uint64(first + i)])
        a, b = value - x_pivot, max(value, 0.0) - y_pivot
        x_sum += a
        y_sum += b
        xx += a * a
        yy += b * b
        positive += 1.0 if value > 0 else 0.0
    return x_sum, y_sum, xx, yy, 0.0, positive


@compile_reordered
def _sums(x, x_first, y, y_first, length, x_pivot, y_pivot):
    """As :func:`_sums_of_relu`, of a given y, and with the sum of a·b."""
    x_sum = y_sum = xx = yy = xy = positive = 0.0
    for i in range(length):
        value = np.float64(y[np.uint64(y_first + i)])
        a, b = np.float64(x[np.uint64(x_first + i)]) - x_pivot, value - y_pivot
        x_sum += a
        y_sum += b
        xx += a * a
        yy += b * b
        xy += a * b
        positive += 1.0 if value > 0 else 0.0
    return x_sum, y_sum, xx, yy, xy, positive


@compile_exactly
def _subtract(x, first, length, mean, out, to):
    """Write x − mean, which has twice the digits of the values."""
    high = out.dtype.type(mean)
    low = out.dtype.type(mean - high)
    for i in range(length):
        out[np.uint64(to + i)] = (x[np.uint64(first + i)] - high) - low


@compile_exactly
def _subtract_from_relu(x, first, length, mean, out, to):
    """As :func:`_subtract`, from ReLU(x)."""
    high = out.dtype.type(mean)
    low = out.dtype.type(mean - high)
    zero = out.dtype.type(0)
    for i in range(length):
        out[np.uint64(to + i)] = (max(x[np.uint64(first + i)], zero) - high) - low


@compile_exactly
def _finite_moments(x, first, length, rectify):
    """Mean, M2, number > 0 and number of the finite values."""
    finite = total = positive = m2 = 0.0
    for i in range(first, first + length):
        value = 0.0 if rectify and x[i] < 0 else np.float64(x[i])
        if np.isfinite(value):
            finite += 1.0
            total += value
            positive += 1.0 if value > 0 else 0.0
    mean = total / max(finite, 1.0)
    for i in range(first, first + length):
        value = 0.0 if rectify and x[i] < 0 else np.float64(x[i])
        if np.isfinite(value):
            m2 += (value - mean) * (value - mean)
    return mean, m2, positive, finite


@retry_uncached
@compile_exactly
def center_lines(
    x, x_strides, y, y_strides, rectify, shape, length, moments, batch, sample, x_out, y_out
):
    """Moments of lines, and the lines without their means.

    Args:
        x: the input's memory, from the first value on.
        x_strides: of samples and channels in `x`; the lines of a channel follow each other.
        y: the output's memory, likewise; not read if `rectify`.
        y_strides: likewise.
        rectify: the output is ReLU(x).
        shape: n samples, c channels and f lines.
        length: T, of the lines.
        moments: ``[LINE_FIELDS, c · N · f]``, in the layout of `spectroscope.dsp.moments`, of
            which n samples are written.
        batch: N.
        sample: the first of those n.
        x_out: ``[n · c · f · T]``, written to: the lines without their means, and 0 where any of
            the f lines isn't finite on both sides. Nothing is written if it is empty.
        y_out: likewise.

    Returns:
        Number of inputs, times channels, that aren't finite on both sides.
    """
    samples, channels, lines = shape
    inverse = 1 / length
    write = x_out.size > 0
    incomplete = 0
    for first_sample in range(0, samples, _SAMPLES):
        last_sample = min(first_sample + _SAMPLES, samples)
        for c in range(channels):
            for n in range(first_sample, last_sample):
                all_finite = True
                out = (n * channels + c) * lines * length
                for f in range(lines):
                    first = n * x_strides[0] + c * x_strides[1] + f * length
                    second = n * y_strides[0] + c * y_strides[1] + f * length
                    x_pivot = np.float64(x[np.uint64(first)])
                    if rectify:
                        y_pivot = max(x_pivot, 0.0)
                        sums = _sums_of_relu(x, first, length, x_pivot, y_pivot)
                    else:
                        y_pivot = np.float64(y[np.uint64(second)])
                        sums = _sums(x, first, y, second, length, x_pivot, y_pivot)
                    x_sum, y_sum, xx, yy, xy, positive = sums
                    if np.isfinite(xx) and np.isfinite(yy):
                        x_near, y_near = x_sum * inverse, y_sum * inverse
                        x_mean, y_mean = x_pivot + x_near, y_pivot + y_near
                        xx, yy = max(xx - x_sum * x_near, 0.0), max(yy - y_sum * y_near, 0.0)
                        xy -= x_sum * y_near
                        if rectify:  # Σxy = Σy², because x = y or y = 0
                            xy = yy + length * (y_mean * (y_mean - x_mean))
                        x_finite = y_finite = np.float64(length)
                        if write:
                            to = out + f * length
                            _subtract(x, first, length, x_mean, x_out, to)
                            if rectify:
                                _subtract_from_relu(x, first, length, y_mean, y_out, to)
                            else:
                                _subtract(y, second, length, y_mean, y_out, to)
                    else:
                        all_finite = False
                        xy = 0.0
                        x_mean, xx, _, x_finite = _finite_moments(x, first, length, False)
                        if rectify:
                            other = _finite_moments(x, first, length, True)
                        else:
                            other = _finite_moments(y, second, length, False)
                        y_mean, yy, positive, y_finite = other
                    k = np.uint64((c * batch + sample + n) * lines + f)
                    moments[X_MEAN, k], moments[Y_MEAN, k] = x_mean, y_mean
                    moments[X_M2, k], moments[Y_M2, k] = xx, yy
                    moments[XY, k], moments[Y_POSITIVE, k] = xy, positive
                    moments[X_FINITE, k], moments[Y_FINITE, k] = x_finite, y_finite
                incomplete += 0 if all_finite else 1
                if write and not all_finite:
                    x_out[out : out + lines * length] = 0
                    y_out[out : out + lines * length] = 0
    return incomplete
