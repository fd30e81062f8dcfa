"""From moments of inputs to the table of channel moments, and two such tables into one.

Both layouts are declared in :mod:`spectroscope.dsp.moments`.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_reordered,
    retry_uncached,
)
from spectroscope.dsp.moments import (
    BY_ROW,
    BY_VALUE,
    DC,
    DC_SIDE,
    JOINT,
    M2,
    M2_XX,
    M2_XY,
    M2_YY,
    MEAN,
    MEAN_X,
    MEAN_Y,
    PAIRS,
    SUM_M2,
    SUM_NONFINITE,
    SUM_POSITIVE,
    SUMS,
    SUMS_SIDE,
    WEIGHT,
    X_FINITE,
    X_M2,
    X_MEAN,
    XY,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)


@compile_reordered
def _sum(values):
    total = 0.0
    for i in range(values.size):
        total += values[np.uint64(i)]
    return total


@compile_reordered
def _dc(means, finite, by_value, out):
    """Write weight, mean and M2 of some means to `out`; they count once, or `finite` times."""
    weight = near = m2 = 0.0
    most = np.inf if by_value else 1.0
    pivot = means[0]
    for i in range(means.size):
        k = np.uint64(i)
        w = min(finite[k], most)
        weight += w
        near += w * (means[k] - pivot)
    near /= max(weight, 1.0)
    for i in range(means.size):
        k = np.uint64(i)
        deviation = (means[k] - pivot) - near
        m2 += min(finite[k], most) * (deviation * deviation)
    out[WEIGHT], out[MEAN], out[M2] = weight, pivot + near, m2


@compile_reordered
def _joint(moments, length, out):
    """Write the fields of `CoMoments` to `out`, over the inputs that are finite on both sides."""
    x, y, x_finite, y_finite = (
        moments[X_MEAN],
        moments[Y_MEAN],
        moments[X_FINITE],
        moments[Y_FINITE],
    )
    pairs = x_near = y_near = xx = yy = xy = 0.0
    x_pivot, y_pivot = x[0], y[0]
    for i in range(x.size):
        k = np.uint64(i)
        w = 1.0 if min(x_finite[k], y_finite[k]) == length else 0.0
        pairs += w
        x_near += w * (x[k] - x_pivot)
        y_near += w * (y[k] - y_pivot)
    x_near /= max(pairs, 1.0)
    y_near /= max(pairs, 1.0)
    x_m2, y_m2, product = moments[X_M2], moments[Y_M2], moments[XY]
    for i in range(x.size):
        k = np.uint64(i)
        w = 1.0 if min(x_finite[k], y_finite[k]) == length else 0.0
        a, b = (x[k] - x_pivot) - x_near, (y[k] - y_pivot) - y_near
        xx += w * (x_m2[k] + length * (a * a))
        yy += w * (y_m2[k] + length * (b * b))
        xy += w * (product[k] + length * (a * b))
    out[PAIRS] = pairs * length
    out[MEAN_X], out[MEAN_Y] = (x_pivot + x_near, y_pivot + y_near) if pairs > 0 else (0.0, 0.0)
    out[M2_XX], out[M2_YY], out[M2_XY] = xx, yy, xy


@retry_uncached
@compile_exactly
def reduce_batch(moments, length, table):
    """Reduce moments of inputs to those of channels.

    Args:
        moments: ``[LINE_FIELDS, C, N]``.
        length: number of values of an input.
        table: ``[TABLE_ROWS, C]``, written to.
    """
    samples = moments.shape[2]
    for c in range(moments.shape[1]):
        channel = moments[:, c]
        for side in range(2):
            means, finite = channel[X_MEAN + side], channel[X_FINITE + side]
            dc, sums = table[DC + side * DC_SIDE :, c], table[SUMS + side * SUMS_SIDE :, c]
            _dc(means, finite, False, dc[BY_ROW:])
            _dc(means, finite, True, dc[BY_VALUE:])
            sums[SUM_M2] = _sum(channel[X_M2 + side])
            sums[SUM_POSITIVE] = _sum(channel[Y_POSITIVE]) if side == 1 else 0.0
            sums[SUM_NONFINITE] = samples * length - dc[BY_VALUE + WEIGHT]
        _joint(channel, length, table[JOINT:, c])


@retry_uncached
@compile_exactly
def merge(first, second, out):
    """Write two tables ``[TABLE_ROWS, C]`` as one, as :meth:`ChannelMoments.merge` does."""
    for row in range(DC, SUMS, BY_VALUE):
        _merge_moments(first[row:], second[row:], out[row:])
    for row in range(SUMS, JOINT):
        _add(first[row], second[row], out[row])
    _merge_joint(first[JOINT:], second[JOINT:], out[JOINT:])


@compile_exactly
def _merge_moments(first, second, out):
    for c in range(first.shape[1]):
        k = np.uint64(c)
        weight, other_weight = first[WEIGHT, k], second[WEIGHT, k]
        total = weight + other_weight
        fraction = other_weight / max(total, 1.0)
        difference = second[MEAN, k] - first[MEAN, k]
        m2 = first[M2, k] + second[M2, k]
        out[WEIGHT, k], out[MEAN, k] = total, first[MEAN, k] + difference * fraction
        out[M2, k] = m2 + difference * difference * (weight * fraction)


@compile_exactly
def _add(first, second, out):
    for c in range(first.size):
        k = np.uint64(c)
        out[k] = first[k] + second[k]


@compile_exactly
def _merge_joint(first, second, out):
    for c in range(first.shape[1]):
        k = np.uint64(c)
        pairs, other_pairs = first[PAIRS, k], second[PAIRS, k]
        total = pairs + other_pairs
        fraction = other_pairs / max(total, 1.0)
        x, y = second[MEAN_X, k] - first[MEAN_X, k], second[MEAN_Y, k] - first[MEAN_Y, k]
        out[PAIRS, k] = total
        out[MEAN_X, k] = first[MEAN_X, k] + x * fraction
        out[MEAN_Y, k] = first[MEAN_Y, k] + y * fraction
        out[M2_XX, k] = first[M2_XX, k] + second[M2_XX, k] + x * x * (pairs * fraction)
        out[M2_YY, k] = first[M2_YY, k] + second[M2_YY, k] + y * y * (pairs * fraction)
        out[M2_XY, k] = first[M2_XY, k] + second[M2_XY, k] + x * y * (pairs * fraction)
