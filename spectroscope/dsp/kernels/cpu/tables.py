"""The table of channel moments: what is added to it, and two tables into one.

The layout is declared in :mod:`spectroscope.dsp.moments`.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import (
    compile_exactly,
    compile_inline,
    retry_uncached,
)
from spectroscope.dsp.moments import (
    AC_XX,
    AC_XY,
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
)

# Sums over the inputs of a channel that are finite on both sides: number of them, mean and M2 of
# their means, M2 about their own means, and the number of y > 0.
_COUNT, _X, _Y, _XX, _YY, _XY, _AC_XX, _AC_YY, _AC_XY, _POSITIVE = range(10)
CHANNEL_SUMS = 10


@compile_inline
def add_input(sums, k, x_mean, y_mean, xx, yy, xy, positive):
    """Add an input to column `k` of the sums (B. P. Welford, *Technometrics* 4, 1962).

    Args:
        sums: ``[CHANNEL_SUMS, c]``.
        k: the channel.
        x_mean: of the input's values.
        y_mean: likewise.
        xx: M2 about that mean.
        yy: likewise.
        xy: product of the deviations from both means.
        positive: number of y > 0.
    """
    count = sums[_COUNT, k] + 1.0
    inverse = 1 / count
    a, b = x_mean - sums[_X, k], y_mean - sums[_Y, k]
    sums[_COUNT, k] = count
    sums[_X, k] += a * inverse
    sums[_Y, k] += b * inverse
    b_left = y_mean - sums[_Y, k]
    sums[_XX, k] += a * (x_mean - sums[_X, k])
    sums[_YY, k] += b * b_left
    sums[_XY, k] += a * b_left
    sums[_AC_XX, k] += xx
    sums[_AC_YY, k] += yy
    sums[_AC_XY, k] += xy
    sums[_POSITIVE, k] += positive


@compile_exactly
def add_channels(table, channel, sums, values):
    """Add the sums, over inputs of so many values, to the table, from column `channel` on."""
    c = slice(channel, channel + sums.shape[1])
    count = sums[_COUNT]
    for side in range(2):
        dc, mean, m2 = DC + side * DC_SIDE, sums[_X + side], sums[_XX + side]
        _add_moments(table[dc + BY_ROW : dc + BY_VALUE, c], count, mean, m2, 1.0)
        _add_moments(table[dc + BY_VALUE : dc + DC_SIDE, c], count, mean, m2, values)
        _add(table[SUMS + side * SUMS_SIDE + SUM_M2, c], sums[_AC_XX + side])
    _add(table[SUMS + SUMS_SIDE + SUM_POSITIVE, c], sums[_POSITIVE])
    joint = table[JOINT:, c]
    for i in range(3):
        _add(joint[AC_XX + i], sums[_AC_XX + i])
        _add(joint[M2_XX + i], sums[_AC_XX + i])
    _add_pairs(joint, count, sums[_X], sums[_Y], sums[_XX], sums[_YY], sums[_XY], values)


@compile_exactly
def add_side(table, k, side, values, moments):
    """Add one side of an input of so many values to column `k` of the table.

    Args:
        table: ``[TABLE_ROWS, C]``.
        k: the channel.
        side: 0: input, 1: output.
        values: number of values.
        moments: mean, M2, number > 0 and number of the finite values.
    """
    mean, m2, positive, finite = moments
    dc, sums, c = DC + side * DC_SIDE, SUMS + side * SUMS_SIDE, slice(k, k + 1)
    means, zero = np.array([mean]), np.zeros(1)
    once, often = np.array([min(finite, 1.0)]), np.array([finite])
    _add_moments(table[dc + BY_ROW : dc + BY_VALUE, c], once, means, zero, 1.0)
    _add_moments(table[dc + BY_VALUE : dc + DC_SIDE, c], often, means, zero, 1.0)
    table[sums + SUM_M2, k] += m2
    table[sums + SUM_POSITIVE, k] += side * positive
    table[sums + SUM_NONFINITE, k] += values - finite


@retry_uncached
@compile_exactly
def merge(first, second):
    """Add table `second`, ``[TABLE_ROWS, C]``, to `first`, as :meth:`ChannelMoments.merge` does."""
    for row in range(DC, SUMS, BY_VALUE):
        weight, mean, m2 = second[row + WEIGHT], second[row + MEAN], second[row + M2]
        _add_moments(first[row : row + BY_VALUE], weight, mean, m2, 1.0)
    for row in range(SUMS, JOINT):
        _add(first[row], second[row])
    pairs = second[JOINT:]
    _add_pairs(
        first[JOINT:], pairs[PAIRS], pairs[MEAN_X], pairs[MEAN_Y], pairs[M2_XX], pairs[M2_YY],
        pairs[M2_XY], 1.0,
    )  # fmt: skip
    for row in range(AC_XX, AC_XY + 1):
        _add(first[JOINT + row], pairs[row])
    return 0


@compile_exactly
def _add(to, values):
    for c in range(values.size):
        to[np.uint64(c)] += values[np.uint64(c)]


@compile_exactly
def _add_moments(to, weight, mean, m2, scale):
    """Add moments, whose weight and M2 are multiplied by `scale` (Chan, Golub & LeVeque, 1979)."""
    to_weight, to_mean, to_m2 = to[WEIGHT], to[MEAN], to[M2]
    for c in range(mean.size):
        k = np.uint64(c)
        before, added = to_weight[k], weight[k] * scale
        total = before + added
        fraction = added / max(total, 1.0)
        difference = mean[k] - to_mean[k]
        to_weight[k] = total
        to_mean[k] += difference * fraction
        to_m2[k] += m2[k] * scale + difference * difference * (before * fraction)


@compile_exactly
def _add_pairs(to, pairs, x_mean, y_mean, xx, yy, xy, scale):
    """Likewise, of pairs of both sides."""
    to_pairs, to_x, to_y = to[PAIRS], to[MEAN_X], to[MEAN_Y]
    to_xx, to_yy, to_xy = to[M2_XX], to[M2_YY], to[M2_XY]
    for c in range(pairs.size):
        k = np.uint64(c)
        before, added = to_pairs[k], pairs[k] * scale
        total = before + added
        fraction = added / max(total, 1.0)
        between = before * fraction
        x, y = x_mean[k] - to_x[k], y_mean[k] - to_y[k]
        to_pairs[k] = total
        to_x[k] += x * fraction
        to_y[k] += y * fraction
        to_xx[k] += xx[k] * scale + x * x * between
        to_yy[k] += yy[k] * scale + y * y * between
        to_xy[k] += xy[k] * scale + x * y * between
