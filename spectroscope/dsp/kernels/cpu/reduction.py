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
    X_M2,
    X_MEAN,
    XY,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)


@compile_reordered
def _sums(moments, first, samples):
    """Sums over the inputs of a channel, of which the first is column `first` of `moments`.

    Returns:
        Means; sums of M2 and products; number of positive values; squares and products of the
        means of inputs without their own mean.
    """
    x_sum = y_sum = xx = yy = xy = positive = 0.0
    x_pivot, y_pivot = moments[X_MEAN, np.uint64(first)], moments[Y_MEAN, np.uint64(first)]
    for i in range(samples):
        k = np.uint64(first + i)
        x_sum += moments[X_MEAN, k] - x_pivot
        y_sum += moments[Y_MEAN, k] - y_pivot
        xx += moments[X_M2, k]
        yy += moments[Y_M2, k]
        xy += moments[XY, k]
        positive += moments[Y_POSITIVE, k]
    x_near, y_near = x_sum / samples, y_sum / samples
    x_between = y_between = between = 0.0
    for i in range(samples):
        k = np.uint64(first + i)
        a, b = (moments[X_MEAN, k] - x_pivot) - x_near, (moments[Y_MEAN, k] - y_pivot) - y_near
        x_between += a * a
        y_between += b * b
        between += a * b
    means = x_pivot + x_near, y_pivot + y_near
    return means, (xx, yy, xy), positive, (x_between, y_between, between)


@retry_uncached
@compile_exactly
def reduce_batch(moments, length, table):
    """Reduce moments of inputs that are finite throughout to those of channels.

    Args:
        moments: ``[LINE_FIELDS, C · N]``.
        length: number of values of an input.
        table: ``[TABLE_ROWS, C]``, written to.
    """
    channels = table.shape[1]
    samples = moments.shape[1] // channels
    values = samples * length
    for c in range(channels):
        k = np.uint64(c)
        means, within, positive, between = _sums(moments, c * samples, samples)
        for side in range(2):
            dc, sums = DC + side * DC_SIDE, SUMS + side * SUMS_SIDE
            table[dc + BY_ROW + WEIGHT, k], table[dc + BY_VALUE + WEIGHT, k] = samples, values
            table[dc + BY_ROW + MEAN, k] = table[dc + BY_VALUE + MEAN, k] = means[side]
            table[dc + BY_ROW + M2, k] = between[side]
            table[dc + BY_VALUE + M2, k] = between[side] * length
            table[sums + SUM_M2, k] = within[side]
            table[sums + SUM_POSITIVE, k] = positive if side == 1 else 0.0
            table[sums + SUM_NONFINITE, k] = 0.0
            table[JOINT + MEAN_X + side, k] = means[side]
        table[JOINT + PAIRS, k] = values
        for i in range(3):
            table[JOINT + M2_XX + i, k] = within[i] + length * between[i]
    return 0


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
