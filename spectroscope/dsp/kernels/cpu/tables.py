"""The table of channel moments: what is added to it, and two tables into one.

The layout is declared in :mod:`spectroscope.dsp.moments`.
"""

import ctypes

import numba
import numpy as np
from torch import Tensor

from spectroscope.dsp.kernels.cpu.compilation import (
    c_function,
    compile_exactly,
    compile_inline,
    fields_of,
    pointer,
)
from spectroscope.dsp.kernels.parallel import run
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
    TABLE_ROWS,
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
    count, scale = sums[_COUNT], float(values)
    for side in range(2):
        dc, mean, m2 = DC + side * DC_SIDE, sums[_X + side], sums[_XX + side]
        _add_moments(table, dc + BY_ROW, channel, count, mean, m2, 1.0)
        _add_moments(table, dc + BY_VALUE, channel, count, mean, m2, scale)
        _add(table, SUMS + side * SUMS_SIDE + SUM_M2, channel, sums[_AC_XX + side])
    _add(table, SUMS + SUMS_SIDE + SUM_POSITIVE, channel, sums[_POSITIVE])
    for i in range(3):
        _add(table, JOINT + AC_XX + i, channel, sums[_AC_XX + i])
        _add(table, JOINT + M2_XX + i, channel, sums[_AC_XX + i])
    _add_pairs(
        table, channel, count, sums[_X], sums[_Y], sums[_XX], sums[_YY], sums[_XY], scale
    )  # fmt: skip


@compile_exactly
def add_incomplete(table, channel, values, x_moments, y_moments):
    """Add an input that isn't finite on both sides to column `channel` of the table.

    Args:
        table: ``[TABLE_ROWS, C]``.
        channel: the channel.
        values: number of values of each side.
        x_moments: mean, M2, number > 0 and number of the finite values of x.
        y_moments: likewise of y.
    """
    rows = np.zeros((4, 1))
    for side, (mean, m2, positive, finite) in enumerate((x_moments, y_moments)):
        rows[0], rows[1], rows[2] = mean, min(finite, 1.0), finite
        dc, sums = DC + side * DC_SIDE, SUMS + side * SUMS_SIDE
        _add_moments(table, dc + BY_ROW, channel, rows[1], rows[0], rows[3], 1.0)
        _add_moments(table, dc + BY_VALUE, channel, rows[2], rows[0], rows[3], 1.0)
        table[sums + SUM_M2, channel] += m2
        table[sums + SUM_POSITIVE, channel] += side * positive
        table[sums + SUM_NONFINITE, channel] += values - finite


class _Tables(ctypes.Structure):
    """Addresses of two tables ``[TABLE_ROWS, channels]``."""

    _fields_ = fields_of("first", "second", "channels")


def _merge(record):
    job = numba.carray(record, 1)[0]
    shape = TABLE_ROWS, job.channels
    first, second = (
        numba.carray(pointer(job.first), shape, np.float64),
        numba.carray(pointer(job.second), shape, np.float64),
    )
    for row in range(DC, SUMS, BY_VALUE):
        weight, mean, m2 = second[row + WEIGHT], second[row + MEAN], second[row + M2]
        _add_moments(first, row, 0, weight, mean, m2, 1.0)
    for row in range(SUMS, JOINT):
        _add(first, row, 0, second[row])
    _add_pairs(
        first, 0, second[JOINT + PAIRS], second[JOINT + MEAN_X], second[JOINT + MEAN_Y],
        second[JOINT + M2_XX], second[JOINT + M2_YY], second[JOINT + M2_XY], 1.0,
    )  # fmt: skip
    for row in range(JOINT + AC_XX, JOINT + AC_XY + 1):
        _add(first, row, 0, second[row])


def merge(first: Tensor, second: Tensor) -> None:
    """Add table `second` to `first`, as :meth:`ChannelMoments.merge` does; both contiguous."""
    job = _Tables(first.data_ptr(), second.data_ptr(), first.shape[1])
    run(c_function(_merge, _Tables), job, 1)


@compile_exactly
def _add(table, row, channel, values):
    """Add values to a row of the table, from column `channel` on."""
    for c in range(values.size):
        table[row, np.uint64(channel + c)] += values[np.uint64(c)]


@compile_exactly
def _add_moments(table, row, channel, weight, mean, m2, scale):
    """Add moments to the rows from `row` on, with weight and M2 multiplied by `scale`.

    Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
    """
    to_weight, to_mean, to_m2 = table[row + WEIGHT], table[row + MEAN], table[row + M2]
    for c in range(mean.size):
        k, to = np.uint64(c), np.uint64(channel + c)
        before, added = to_weight[to], weight[k] * scale
        total = before + added
        fraction = added / max(total, 1.0)
        difference = mean[k] - to_mean[to]
        to_weight[to] = total
        to_mean[to] += difference * fraction
        to_m2[to] += m2[k] * scale + difference * difference * (before * fraction)


@compile_exactly
def _add_pairs(table, channel, pairs, x_mean, y_mean, xx, yy, xy, scale):
    """Likewise, of pairs of both sides."""
    to_pairs, to_x, to_y = table[JOINT + PAIRS], table[JOINT + MEAN_X], table[JOINT + MEAN_Y]
    to_xx, to_yy, to_xy = table[JOINT + M2_XX], table[JOINT + M2_YY], table[JOINT + M2_XY]
    for c in range(pairs.size):
        k, to = np.uint64(c), np.uint64(channel + c)
        before, added = to_pairs[to], pairs[k] * scale
        total = before + added
        fraction = added / max(total, 1.0)
        between = before * fraction
        x, y = x_mean[k] - to_x[to], y_mean[k] - to_y[to]
        to_pairs[to] = total
        to_x[to] += x * fraction
        to_y[to] += y * fraction
        to_xx[to] += xx[k] * scale + x * x * between
        to_yy[to] += yy[k] * scale + y * y * between
        to_xy[to] += xy[k] * scale + x * y * between
