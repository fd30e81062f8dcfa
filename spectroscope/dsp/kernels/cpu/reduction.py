"""From moments of rows to the table of channel moments, and two such tables into one.

Both layouts are declared in :mod:`spectroscope.dsp.moments`.
"""

import numpy as np

from spectroscope.dsp.kernels.cpu.compilation import compile_exactly, retry_uncached
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
    MEAN_X,
    MEAN_Y,
    OFFSET,
    PAIRS,
    PIVOT,
    SUM_M2,
    SUM_NONFINITE,
    SUM_POSITIVE,
    SUMS,
    SUMS_SIDE,
    WEIGHT,
    X_COMPENSATION,
    X_FINITE,
    X_M2,
    X_MEAN,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)


@retry_uncached
@compile_exactly
def reduce_batch(rows, length, table):
    """Reduce moments of rows over the samples, where all values are finite.

    Args:
        rows: ``[ROW_FIELDS, N, C]``; compensations and numbers of finite values are not read.
        length: of the rows.
        table: ``[TABLE_ROWS, C]``, written to.
    """
    samples, channels = rows.shape[1], rows.shape[2]
    table[:] = 0
    x_dc, y_dc = table[DC : DC + DC_SIDE], table[DC + DC_SIDE : DC + 2 * DC_SIDE]
    x_pivot, x_offset, x_dc_m2 = x_dc[PIVOT], x_dc[OFFSET], x_dc[M2]
    y_pivot, y_offset, y_dc_m2 = y_dc[PIVOT], y_dc[OFFSET], y_dc[M2]
    x_within, y_within = table[SUMS + SUM_M2], table[SUMS + SUMS_SIDE + SUM_M2]
    positive = table[SUMS + SUMS_SIDE + SUM_POSITIVE]
    product = table[JOINT + M2_XY]
    x_pivot[:], y_pivot[:] = rows[X_MEAN, 0], rows[Y_MEAN, 0]
    for n in range(samples):
        x, y, x_m2, y_m2 = rows[X_MEAN, n], rows[Y_MEAN, n], rows[X_M2, n], rows[Y_M2, n]
        above = rows[Y_POSITIVE, n]
        for c in range(channels):
            k = np.uint64(c)
            x_offset[k] += x[k] - x_pivot[k]
            y_offset[k] += y[k] - y_pivot[k]
            x_within[k] += x_m2[k]
            y_within[k] += y_m2[k]
            positive[k] += above[k]
            product[k] += y[k] * (y[k] - x[k])  # as `relu_product`
    for c in range(channels):
        x_offset[c] /= samples
        y_offset[c] /= samples
        product[c] = y_within[c] + length * product[c]
    for n in range(samples):
        x, y = rows[X_MEAN, n], rows[Y_MEAN, n]
        for c in range(channels):
            k = np.uint64(c)
            x_deviation = (x[k] - x_pivot[k]) - x_offset[k]
            y_deviation = (y[k] - y_pivot[k]) - y_offset[k]
            x_dc_m2[k] += x_deviation * x_deviation
            y_dc_m2[k] += y_deviation * y_deviation
            product[k] += length * (x_deviation * y_deviation)
    for side in range(2):
        dc, within = table[DC + side * DC_SIDE :], table[SUMS + side * SUMS_SIDE + SUM_M2]
        for c in range(channels):
            dc[BY_ROW + WEIGHT, c] = samples
            dc[BY_VALUE + WEIGHT, c] = samples * length
            dc[BY_VALUE + PIVOT, c] = dc[BY_ROW + PIVOT, c]
            dc[BY_VALUE + OFFSET, c] = dc[BY_ROW + OFFSET, c]
            dc[BY_VALUE + M2, c] = dc[BY_ROW + M2, c] * length
            table[JOINT + MEAN_X + side, c] = dc[BY_ROW + PIVOT, c] + dc[BY_ROW + OFFSET, c]
            table[JOINT + M2_XX + side, c] = within[c] + dc[BY_VALUE + M2, c]
    table[JOINT + PAIRS] = samples * length


@retry_uncached
@compile_exactly
def reduce_batch_finite(rows, length, table):
    """As :func:`reduce_batch`, of the finite values alone and with the means' compensations.

    Args:
        rows: ``[ROW_FIELDS, N, C]``.
        length: of the rows.
        table: ``[TABLE_ROWS, C]``, written to.
    """
    samples, channels = rows.shape[1], rows.shape[2]
    table[:] = 0
    weights = np.empty((samples, channels))
    for side in range(2):
        means, compensation = rows[X_MEAN + side], rows[X_COMPENSATION + side]
        finite = rows[X_FINITE + side]
        for n in range(samples):
            for c in range(channels):
                weights[n, c] = 1.0 if finite[n, c] > 0 else 0.0
        dc = table[DC + side * DC_SIDE :]
        _moments(means, compensation, weights, dc[BY_ROW:])
        _moments(means, compensation, finite, dc[BY_VALUE:])
    x_sums, y_sums, joint = table[SUMS:], table[SUMS + SUMS_SIDE :], table[JOINT:]
    for n in range(samples):
        for c in range(channels):
            x_sums[SUM_M2, c] += rows[X_M2, n, c]
            y_sums[SUM_M2, c] += rows[Y_M2, n, c]
            y_sums[SUM_POSITIVE, c] += rows[Y_POSITIVE, n, c]
            x_sums[SUM_NONFINITE, c] += length - rows[X_FINITE, n, c]
            y_sums[SUM_NONFINITE, c] += length - rows[Y_FINITE, n, c]
            if min(rows[X_FINITE, n, c], rows[Y_FINITE, n, c]) == length:
                joint[PAIRS, c] += length
                joint[MEAN_X, c] += length * rows[X_MEAN, n, c]
                joint[MEAN_Y, c] += length * rows[Y_MEAN, n, c]
    for c in range(channels):
        joint[MEAN_X, c] /= max(joint[PAIRS, c], 1.0)
        joint[MEAN_Y, c] /= max(joint[PAIRS, c], 1.0)
    for n in range(samples):
        for c in range(channels):
            if min(rows[X_FINITE, n, c], rows[Y_FINITE, n, c]) == length:
                x, y, y_m2 = rows[X_MEAN, n, c], rows[Y_MEAN, n, c], rows[Y_M2, n, c]
                a, b = x - joint[MEAN_X, c], y - joint[MEAN_Y, c]
                joint[M2_XX, c] += rows[X_M2, n, c] + length * (a * a)
                joint[M2_YY, c] += y_m2 + length * (b * b)
                # As `relu_product`.
                joint[M2_XY, c] += y_m2 + length * (y * (y - x) + a * b)


@compile_exactly
def _moments(values, compensation, weights, result):
    """Write the fields of `Moments.of` ``[N, C]`` to the first rows of `result`, which are 0."""
    weight, pivot, offset, m2 = result[WEIGHT], result[PIVOT], result[OFFSET], result[M2]
    for n in range(len(values)):
        for c in range(weight.size):
            weight[c] += weights[n, c]
            pivot[c] += weights[n, c] * values[n, c]
    for c in range(weight.size):
        pivot[c] /= max(weight[c], 1.0)
    for n in range(len(values)):
        for c in range(weight.size):
            offset[c] += weights[n, c] * ((values[n, c] - pivot[c]) + compensation[n, c])
    for c in range(weight.size):
        offset[c] /= max(weight[c], 1.0)
    for n in range(len(values)):
        for c in range(weight.size):
            deviation = ((values[n, c] - pivot[c]) + compensation[n, c]) - offset[c]
            m2[c] += weights[n, c] * (deviation * deviation)


@retry_uncached
@compile_exactly
def merge(first, second, out):
    """Write two tables ``[TABLE_ROWS, C]`` as one, as :meth:`ChannelMoments.merge` does."""
    for row in range(DC, SUMS, M2 + 1):
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
        pivot = first[PIVOT, k] if weight > 0 else second[PIVOT, k]
        offset = first[OFFSET, k] + (first[PIVOT, k] - pivot)
        other_offset = second[OFFSET, k] + (second[PIVOT, k] - pivot)
        difference = other_offset - offset
        fraction = other_weight / max(total, 1.0)
        m2 = first[M2, k] + second[M2, k]
        out[WEIGHT, k], out[PIVOT, k] = total, pivot
        out[OFFSET, k] = (weight * offset + other_weight * other_offset) / max(total, 1.0)
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
