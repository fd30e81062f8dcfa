"""Moments of both sides of an activation, and the lines without their means.

A line is a run of values next to each other in memory. It is read once for the sums, and again,
from the cache, for what is left without its mean. Where the mean is so large that a sum of squares
would lose digits, the sums are repeated about the mean.

Indices are unsigned: numba tests an index that could be negative each time it is used, and then
vectorises nothing.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_inline,
    compile_reordered,
    retry_uncached,
)
from spectroscope.dsp.kernels.cpu.tables import (
    CHANNEL_SUMS,
    add_channels,
    add_incomplete,
    add_input,
)
from spectroscope.dsp.moments import (
    INPUTS,
    MEANS_XX,
    MEANS_XY,
    MEANS_YY,
    X_FINITE,
    X_M2,
    X_MEAN,
    XY,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)

# Of a line of T values, T·mean² over M2 above which the sums are repeated: 4 of float64's 16 digits
# are lost there.
_LARGE_MEAN = 1e4


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


@compile_inline
def _moments_about(x, x_first, y, y_first, length, x_pivot, y_pivot):
    """As :func:`_moments`, and whether the pivots were near enough to the means."""
    if y is None:
        sums = _sums_of_relu(x, x_first, length, x_pivot, y_pivot)
    else:
        sums = _sums(x, x_first, y, y_first, length, x_pivot, y_pivot)
    x_sum, y_sum, xx, yy, xy, positive = sums
    inverse = 1 / length
    x_near, y_near = x_sum * inverse, y_sum * inverse
    xx, yy = max(xx - x_sum * x_near, 0.0), max(yy - y_sum * y_near, 0.0)
    x_mean, y_mean = x_pivot + x_near, y_pivot + y_near
    if y is None:  # Σxy = Σy², because x = y or y = 0
        xy = yy + length * (y_mean * (y_mean - x_mean))
    else:
        xy -= x_sum * y_near
    near = x_sum * x_near <= _LARGE_MEAN * xx and y_sum * y_near <= _LARGE_MEAN * yy
    return (x_mean, y_mean, xx, yy, xy, positive), near


@compile_inline
def _moments(x, x_first, y, y_first, length):
    """Means, M2 and Σ(x − mean)·(y − mean) of a line, and the number of y > 0; NaN or Inf."""
    moments, near = _moments_about(x, x_first, y, y_first, length, 0.0, 0.0)
    if not near and np.isfinite(moments[2] + moments[3]):
        about = moments[0], moments[1]
        moments, _ = _moments_about(x, x_first, y, y_first, length, *about)
    return moments


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


@compile_exactly
def _finite_output(x, x_first, y, y_first, length):
    """As :func:`_finite_moments`, of the output."""
    if y is None:
        return _finite_moments(x, x_first, length, 1)
    return _finite_moments(y, y_first, length, 0)


@retry_uncached
@compile_exactly
def read_lines(
    x, x_strides, y, y_strides, shape, length, chosen, channel, table, means, x_out, y_out
):  # fmt: skip
    """Add moments of inputs to a table, and write the lines of some without their means.

    Args:
        x: the input's memory, from the first value on.
        x_strides: of samples and channels in `x`; the lines of a channel follow each other.
        y: the output's memory, likewise; None: ReLU(x), which is another compiled function.
        y_strides: likewise.
        shape: n samples, c channels and f lines.
        length: T, of the lines.
        chosen: number of the first and step of the m inputs whose lines are wanted.
        channel: the first of the c channels among C.
        table: ``[TABLE_ROWS, C]``, in the layout of `spectroscope.dsp.moments`, added to.
        means: ``[MEAN_ROWS, C]``, of the chosen inputs, likewise; or of no channels.
        x_out: ``[m · c · f · T]``, written to: the lines without their means, and 0 where any of
            the f lines isn't finite on both sides. Nothing is written if it is empty.
        y_out: likewise.
    """
    samples, channels, lines = shape
    values = lines * length
    start, step = chosen
    write = x_out.size > 0
    sums = np.zeros((CHANNEL_SUMS, channels))
    for n in range(samples):
        is_chosen = n >= start and (n - start) % step == 0
        m = (n - start) // step
        for c in range(channels):
            x_first = n * x_strides[0] + c * x_strides[1]
            y_first = n * y_strides[0] + c * y_strides[1]
            out = (m * channels + c) * values
            x_mean = y_mean = xx = yy = xy = positive = 0.0
            means_xx = means_yy = means_xy = 0.0
            for f in range(lines):
                first, second = x_first + f * length, y_first + f * length
                line = _moments(x, first, y, second, length)
                # The mean of the lines until now, which are of one length.
                a, b = line[X_MEAN] - x_mean, line[Y_MEAN] - y_mean
                if f == 0:
                    x_mean, y_mean = a, b
                else:
                    x_mean += a / (f + 1)
                    y_mean += b / (f + 1)
                xx += line[X_M2] + length * (a * (line[X_MEAN] - x_mean))
                yy += line[Y_M2] + length * (b * (line[Y_MEAN] - y_mean))
                xy += line[XY] + length * (a * (line[Y_MEAN] - y_mean))
                positive += line[Y_POSITIVE]
                if is_chosen:
                    means_xx += line[X_MEAN] * line[X_MEAN]
                    means_yy += line[Y_MEAN] * line[Y_MEAN]
                    means_xy += line[X_MEAN] * line[Y_MEAN]
                    if write:
                        to = out + f * length
                        _subtract(x, first, length, line[X_MEAN], x_out, to)
                        if y is None:
                            _subtract_from_relu(x, first, length, line[Y_MEAN], y_out, to)
                        else:
                            _subtract(y, second, length, line[Y_MEAN], y_out, to)
            if np.isfinite(xx + yy):
                add_input(sums, np.uint64(c), x_mean, y_mean, xx, yy, xy, positive)
                if is_chosen and means.size:
                    k = np.uint64(channel + c)
                    means[INPUTS, k] += 1.0
                    means[MEANS_XX, k] += means_xx
                    means[MEANS_YY, k] += means_yy
                    means[MEANS_XY, k] += means_xy
            else:
                x_moments = _finite_moments(x, x_first, values, 0)
                y_moments = _finite_output(x, x_first, y, y_first, values)
                add_incomplete(table, channel + c, values, x_moments, y_moments)
                if write and is_chosen:
                    x_out[out : out + values] = 0
                    y_out[out : out + values] = 0
    add_channels(table, channel, sums, values)
    return 0


@retry_uncached
@compile_exactly
def write_line_moments(x, x_strides, y, y_strides, shape, length, chosen, fields):
    """Write the moments of the lines of some inputs, or of the finite values in them.

    Args:
        x: as in :func:`read_lines`.
        x_strides: likewise.
        y: likewise.
        y_strides: likewise.
        shape: likewise.
        length: likewise.
        chosen: likewise.
        fields: ``[LINE_FIELDS, c · m · f]``, in the layout of `spectroscope.dsp.moments`.
    """
    samples, channels, lines = shape
    start, step = chosen
    count = (samples - start + step - 1) // step
    for m in range(count):
        n = start + m * step
        for c in range(channels):
            for f in range(lines):
                first = n * x_strides[0] + c * x_strides[1] + f * length
                second = n * y_strides[0] + c * y_strides[1] + f * length
                k = (c * count + m) * lines + f
                line = _moments(x, first, y, second, length)
                if np.isfinite(line[X_M2] + line[Y_M2]):
                    for field in range(X_FINITE):
                        fields[field, k] = line[field]
                    fields[X_FINITE, k] = fields[Y_FINITE, k] = length
                    continue
                mean, m2, _, finite = _finite_moments(x, first, length, 0)
                fields[X_MEAN, k], fields[X_M2, k], fields[X_FINITE, k] = mean, m2, finite
                mean, m2, positive, finite = _finite_output(x, first, y, second, length)
                fields[Y_MEAN, k], fields[Y_M2, k], fields[Y_FINITE, k] = mean, m2, finite
                fields[XY, k], fields[Y_POSITIVE, k] = 0.0, positive
    return 0
