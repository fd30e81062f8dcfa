"""Moments of both sides of a line, a run of values next to each other in memory.

The line is read once. Where its mean is so large that a sum of squares would lose digits, the sums
are repeated about the mean.

Indices are unsigned: numba tests an index that could be negative each time it is used, and then
vectorises nothing.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_inline,
    compile_reordered,
)
from spectroscope.dsp.moments import X_M2, X_MEAN, XY, Y_M2, Y_MEAN, Y_POSITIVE

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
    """As :func:`moments_of`, and whether the pivots were near enough to the means."""
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
def moments_of(x, x_first, y, y_first, length):
    """Means, M2 and Σ(x − mean)·(y − mean) of a line, and the number of y > 0; NaN or Inf."""
    moments, near = _moments_about(x, x_first, y, y_first, length, 0.0, 0.0)
    if not near and np.isfinite(moments[2] + moments[3]):
        about = moments[0], moments[1]
        moments, _ = _moments_about(x, x_first, y, y_first, length, *about)
    return moments


@compile_exactly
def finite_moments(x, first, length, rectify):
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
def finite_output(x, x_first, y, y_first, length):
    """As :func:`finite_moments`, of the output."""
    if y is None:
        return finite_moments(x, x_first, length, 1)
    return finite_moments(y, y_first, length, 0)


@compile_inline
def add_line(sums, f, line, length):
    """Sums of the first f lines of an input, and of one more: those of all values so far.

    Args:
        sums: mean of x, mean of y, M2 of x, M2 of y, product of the deviations, number of y > 0,
            and sums of the squared means of x and of y and of their products.
        f: number of lines before.
        line: as :func:`moments_of` returns them.
        length: of the lines.
    """
    x_mean, y_mean, xx, yy, xy, positive, means_xx, means_yy, means_xy = sums
    x, y = line[X_MEAN], line[Y_MEAN]
    a, b = x - x_mean, y - y_mean
    if f == 0:
        x_mean, y_mean = x, y
    else:
        x_mean += a / (f + 1)
        y_mean += b / (f + 1)
    return (
        x_mean,
        y_mean,
        xx + (line[X_M2] + length * (a * (x - x_mean))),
        yy + (line[Y_M2] + length * (b * (y - y_mean))),
        xy + (line[XY] + length * (a * (y - y_mean))),
        positive + line[Y_POSITIVE],
        means_xx + x * x,
        means_yy + y * y,
        means_xy + x * y,
    )


NO_SUMS = (0.0,) * 9
