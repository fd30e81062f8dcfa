"""Moments of the rows of a tensor ``[N, C, T]`` and of its ReLU, as it lies in memory.

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
    CANCELLATION,
    X_COMPENSATION,
    X_FINITE,
    X_M2,
    X_MEAN,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)

_LARGEST = float(np.finfo(np.float64).max)
# Values added up at a time; sums of sums, because adding 10⁶ numbers one by one would lose digits.
# Not only by chance: squares of float32 end in the same bits (an odd number's is 1 modulo 8), so
# that a sum eight times as long as this rounds down most times.
_CHUNK = 512
_CHUNK_PER_CHANNEL = 128  # likewise where each channel has one accumulator
_CHANNELS = 256  # channels at a time where they are contiguous


@compile_reordered
def _sums(values):
    """Σx, Σx², Σy, Σy² and the number of y > 0, where y is ReLU(x)."""
    x_sum = x_square = y_sum = y_square = positive = 0.0
    for i in range(values.size):
        x = np.float64(values[np.uint64(i)])
        y = max(x, 0.0)
        x_sum += x
        x_square += x * x
        y_sum += y
        y_square += y * y
        positive += 1.0 if x > 0 else 0.0
    return x_sum, x_square, y_sum, y_square, positive


@compile_exactly
def _add(total, compensation, value):
    """Σ + value, and the rounding error of Σ so far (Neumaier, *ZAMM* 54, 1974)."""
    result = total + value
    if abs(total) >= abs(value):
        return result, compensation + ((total - result) + value)
    return result, compensation + ((value - result) + total)


@compile_exactly
def _write_moments(out, row, length, sums):
    """Write a row's moments to `out`; if it is ill-conditioned, NaN as its M2, and return 1."""
    x_sum, x_square, y_sum, y_square, positive = sums
    x_mean, y_mean = x_sum / length, y_sum / length
    x_m2, y_m2 = x_square - x_mean * x_sum, y_square - y_mean * y_sum
    # False for NaN, true for a row of zeros.
    well_conditioned = x_square <= x_m2 * CANCELLATION and y_square <= y_m2 * CANCELLATION
    well_conditioned = well_conditioned or (length == 1 and x_square <= _LARGEST)
    out[X_MEAN, row], out[Y_MEAN, row] = x_mean, y_mean
    out[X_M2, row], out[Y_M2, row] = x_m2, y_m2
    out[Y_POSITIVE, row] = positive
    if well_conditioned:
        return 0
    out[X_M2, row] = np.nan
    return 1


@retry_uncached
@compile_exactly
def row_moments_contiguous(flat, shape, strides, begin, end, out):
    """Moments of rows whose values are contiguous.

    Args:
        flat: the memory, from the tensor's first value on.
        shape: N, C, T.
        strides: of N, C and T in `flat`; the last is 1.
        begin: the first of the N·C rows to reduce.
        end: the row after the last.
        out: ``[ROW_FIELDS, N·C]``, see `spectroscope.dsp.moments`; only the first five are written.

    Returns:
        Number of ill-conditioned rows, which are left to :func:`row_moments_two_pass`.
    """
    channels, length = shape[1], shape[2]
    ill_conditioned = 0
    for row in range(begin, end):
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        x_sum = x_square = y_sum = y_square = positive = 0.0
        x_error = x_square_error = y_error = y_square_error = 0.0
        for chunk in range(0, length, _CHUNK):
            stop = min(chunk + _CHUNK, length)
            a, b, c, d, e = _sums(flat[start + chunk : start + stop])
            x_sum, x_error = _add(x_sum, x_error, a)
            x_square, x_square_error = _add(x_square, x_square_error, b)
            y_sum, y_error = _add(y_sum, y_error, c)
            y_square, y_square_error = _add(y_square, y_square_error, d)
            positive += e
        sums = (
            x_sum + x_error,
            x_square + x_square_error,
            y_sum + y_error,
            y_square + y_square_error,
            positive,
        )
        ill_conditioned += _write_moments(out, row, length, sums)
    return ill_conditioned


@compile_reordered
def _add_per_channel(first, second, third, fourth, sums):
    """Add four values of each of several channels to their sums ``[5, channels]``."""
    for i in range(first.size):
        k = np.uint64(i)
        a, b = np.float64(first[k]), np.float64(second[k])
        c, d = np.float64(third[k]), np.float64(fourth[k])
        sums[0, k] += a + b + c + d
        sums[1, k] += a * a + b * b + c * c + d * d
        e, f, g, h = max(a, 0.0), max(b, 0.0), max(c, 0.0), max(d, 0.0)
        sums[2, k] += e + f + g + h
        sums[3, k] += e * e + f * f + g * g + h * h
        positive = (1.0 if a > 0 else 0.0) + (1.0 if b > 0 else 0.0)
        sums[4, k] += positive + (1.0 if c > 0 else 0.0) + (1.0 if d > 0 else 0.0)


@retry_uncached
@compile_exactly
def row_moments_channels_last(flat, shape, strides, begin, end, out):
    """As :func:`row_moments_contiguous`, where the stride of C is 1.

    `begin` and `end` count samples.
    """
    channels, length = shape[1], shape[2]
    ill_conditioned = 0
    sums = np.empty((5, _CHANNELS))
    total, error = np.empty((5, _CHANNELS)), np.empty((5, _CHANNELS))
    zeros = np.zeros(_CHANNELS, flat.dtype)
    for sample in range(begin, end):
        for first in range(0, channels, _CHANNELS):
            count = min(_CHANNELS, channels - first)
            total[:] = error[:] = 0
            for chunk in range(0, length, _CHUNK_PER_CHANNEL):
                sums[:] = 0
                stop = min(chunk + _CHUNK_PER_CHANNEL, length)
                start = sample * strides[0] + chunk * strides[2] + first
                for _ in range((stop - chunk) // 4):
                    a = flat[start : start + count]
                    b = flat[start + strides[2] :][:count]
                    c = flat[start + 2 * strides[2] :][:count]
                    d = flat[start + 3 * strides[2] :][:count]
                    _add_per_channel(a, b, c, d, sums)
                    start += 4 * strides[2]
                for _ in range((stop - chunk) % 4):
                    a = flat[start : start + count]
                    _add_per_channel(a, zeros, zeros, zeros, sums)
                    start += strides[2]
                for k in range(5):
                    for i in range(count):
                        total[k, i], error[k, i] = _add(total[k, i], error[k, i], sums[k, i])
            total += error
            for i in range(count):
                row_sums = (total[0, i], total[1, i], total[2, i], total[3, i], total[4, i])
                row = sample * channels + first + i
                ill_conditioned += _write_moments(out, row, length, row_sums)
    return ill_conditioned


@compile_exactly
def _centered_sums(flat, start, stride, length, center, rectified):
    """Number of finite values v, Σ(v − center) and Σ(v − center)² of one row."""
    finite = total = square = 0.0
    for chunk in range(0, length, _CHUNK):
        chunk_total = chunk_square = 0.0
        for time in range(chunk, min(chunk + _CHUNK, length)):
            x = np.float64(flat[start + time * stride])
            if rectified and x < 0:
                x = 0.0
            if abs(x) <= _LARGEST:
                finite += 1
                chunk_total += x - center
                chunk_square += (x - center) * (x - center)
        total += chunk_total
        square += chunk_square
    return finite, total, square


@retry_uncached
@compile_exactly
def row_moments_two_pass(flat, shape, strides, begin, end, out):
    """Moments of the finite values of the ill-conditioned rows, and the last four fields of all.

    The mean is subtracted first, as in :func:`spectroscope.dsp.moments.row_moments`.

    Args:
        flat: as of :func:`row_moments_contiguous`.
        shape: likewise.
        strides: likewise, but none of them need be 1.
        begin: likewise.
        end: likewise.
        out: likewise, after one of the other loops; overwritten.
    """
    channels, length = shape[1], shape[2]
    for row in range(begin, end):
        for side in range(2):
            out[X_COMPENSATION + side, row] = 0
            out[X_FINITE + side, row] = length
        if not np.isnan(out[X_M2, row]):
            continue
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        for side in range(2):
            finite, total, _ = _centered_sums(flat, start, strides[2], length, 0.0, side == 1)
            mean = total / max(finite, 1.0)
            _, error, m2 = _centered_sums(flat, start, strides[2], length, mean, side == 1)
            out[X_MEAN + side, row], out[X_M2 + side, row] = mean, m2
            out[X_COMPENSATION + side, row] = error / max(finite, 1.0)
            out[X_FINITE + side, row] = finite
        positive = 0.0
        for time in range(length):
            x = np.float64(flat[start + time * strides[2]])
            positive += 1.0 if 0 < x <= _LARGEST else 0.0
        out[Y_POSITIVE, row] = positive
    return 0
