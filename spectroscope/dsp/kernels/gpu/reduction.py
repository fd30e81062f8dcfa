"""What is added to the table of channel moments: moments of inputs, or another table.

Both layouts are declared in :mod:`spectroscope.dsp.moments`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp import moments as layout

# Triton takes no globals but these.
X_MEAN, Y_MEAN = tl.constexpr(layout.X_MEAN), tl.constexpr(layout.Y_MEAN)
X_M2, Y_M2, XY = tl.constexpr(layout.X_M2), tl.constexpr(layout.Y_M2), tl.constexpr(layout.XY)
Y_POSITIVE = tl.constexpr(layout.Y_POSITIVE)
X_FINITE, Y_FINITE = tl.constexpr(layout.X_FINITE), tl.constexpr(layout.Y_FINITE)
DC, DC_SIDE = tl.constexpr(layout.DC), tl.constexpr(layout.DC_SIDE)
BY_VALUE = tl.constexpr(layout.BY_VALUE)
WEIGHT, MEAN, M2 = tl.constexpr(layout.WEIGHT), tl.constexpr(layout.MEAN), tl.constexpr(layout.M2)
SUMS, SUMS_SIDE = tl.constexpr(layout.SUMS), tl.constexpr(layout.SUMS_SIDE)
SUM_M2, SUM_POSITIVE = tl.constexpr(layout.SUM_M2), tl.constexpr(layout.SUM_POSITIVE)
SUM_NONFINITE = tl.constexpr(layout.SUM_NONFINITE)
JOINT, PAIRS = tl.constexpr(layout.JOINT), tl.constexpr(layout.PAIRS)
MEAN_X, MEAN_Y = tl.constexpr(layout.MEAN_X), tl.constexpr(layout.MEAN_Y)
M2_XX, M2_YY = tl.constexpr(layout.M2_XX), tl.constexpr(layout.M2_YY)
M2_XY = tl.constexpr(layout.M2_XY)
INPUTS, MEANS_XX = tl.constexpr(layout.INPUTS), tl.constexpr(layout.MEANS_XX)
MEANS_YY, MEANS_XY = tl.constexpr(layout.MEANS_YY), tl.constexpr(layout.MEANS_XY)
AC_XX, AC_XY = tl.constexpr(layout.AC_XX), tl.constexpr(layout.AC_XY)


@triton.jit
def _inputs(moments, first, samples, channel, valid, SAMPLES: tl.constexpr):  # noqa: N803
    """Pointers to the first field of some inputs from `first` on, and which of them exist."""
    sample = first + tl.arange(0, SAMPLES)
    at = moments + channel[:, None].to(tl.int64) * samples + sample[None, :]
    return at, (sample < samples)[None, :] & valid[:, None]


@triton.jit
def _weights(at, inside, by_value):
    """How often each input counts: as often as it has finite values, or once if it has any."""
    count = tl.load(at, inside, 0.0)
    return tl.where(by_value > 0, count, tl.minimum(count, 1.0))


@triton.jit
def _complete(at, size, inside, length):
    """Which inputs are finite on both sides."""
    x_finite = tl.load(at + X_FINITE * size, inside, 0.0)
    y_finite = tl.load(at + Y_FINITE * size, inside, 0.0)
    return inside & (tl.minimum(x_finite, y_finite) == length)


@triton.jit
def _add(table, row, channels, channel, valid, value):
    """Add to one row of some channels."""
    to = table + row * channels + channel
    tl.store(to, tl.load(to, valid, 0.0) + value, valid)


@triton.jit
def _add_moments(table, row, channels, channel, valid, weight, mean, m2):
    """Add moments to those whose first row is `row` (Chan, Golub & LeVeque, 1979)."""
    to = table + row * channels + channel
    before = tl.load(to + WEIGHT * channels, valid, 0.0)
    mean_before = tl.load(to + MEAN * channels, valid, 0.0)
    m2_before = tl.load(to + M2 * channels, valid, 0.0)
    total = before + weight
    fraction = weight / tl.maximum(total, 1.0)
    difference = mean - mean_before
    tl.store(to + WEIGHT * channels, total, valid)
    tl.store(to + MEAN * channels, mean_before + difference * fraction, valid)
    m2 += m2_before + difference * difference * (before * fraction)
    tl.store(to + M2 * channels, m2, valid)


@triton.jit
def _add_pairs(table, channels, channel, valid, pairs, x_mean, y_mean, xx, yy, xy):
    """Likewise, of pairs of both sides."""
    to = table + JOINT * channels + channel
    before = tl.load(to + PAIRS * channels, valid, 0.0)
    x_before = tl.load(to + MEAN_X * channels, valid, 0.0)
    y_before = tl.load(to + MEAN_Y * channels, valid, 0.0)
    total = before + pairs
    fraction = pairs / tl.maximum(total, 1.0)
    scale = before * fraction
    x, y = x_mean - x_before, y_mean - y_before
    tl.store(to + PAIRS * channels, total, valid)
    tl.store(to + MEAN_X * channels, x_before + x * fraction, valid)
    tl.store(to + MEAN_Y * channels, y_before + y * fraction, valid)
    _add(to, M2_XX, channels, 0, valid, xx + x * x * scale)
    _add(to, M2_YY, channels, 0, valid, yy + y * y * scale)
    _add(to, M2_XY, channels, 0, valid, xy + x * y * scale)


@triton.jit(do_not_specialize=["samples", "channels", "length", "table_channels"])
def _add_inputs(
    moments,
    table,
    samples,
    channels,
    length,
    table_channels,
    SAMPLES: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Add moments of inputs: of some channels, to one part of the table."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    size = samples.to(tl.int64) * channels
    part = tl.program_id(1)
    if part < 4:  # as `Moments.of`: one side, one weighting
        side, by_value = part // 2, part % 2
        weight = tl.zeros((CHANNELS,), tl.float64)
        mean = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            count = _weights(at + (X_FINITE + side) * size, inside, by_value)
            weight += tl.sum(count, 1)
            mean += tl.sum(count * tl.load(at + (X_MEAN + side) * size, inside, 0.0), 1)
        mean /= tl.maximum(weight, 1.0)
        m2 = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            count = _weights(at + (X_FINITE + side) * size, inside, by_value)
            deviation = tl.load(at + (X_MEAN + side) * size, inside, 0.0) - mean[:, None]
            m2 += tl.sum(count * (deviation * deviation), 1)
        row = DC + side * DC_SIDE + by_value * BY_VALUE
        _add_moments(table, row, table_channels, channel, valid, weight, mean, m2)
    elif part < 6:  # sums over all inputs of one side
        side = part - 4
        within = tl.zeros((CHANNELS,), tl.float64)
        positive = tl.zeros((CHANNELS,), tl.float64)
        finite = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            within += tl.sum(tl.load(at + (X_M2 + side) * size, inside, 0.0), 1)
            positive += tl.sum(tl.load(at + Y_POSITIVE * size, inside, 0.0), 1)
            finite += tl.sum(tl.load(at + (X_FINITE + side) * size, inside, 0.0), 1)
        row = SUMS + side * SUMS_SIDE
        nonfinite = samples.to(tl.float64) * length - finite
        _add(table, row + SUM_M2, table_channels, channel, valid, within)
        _add(table, row + SUM_POSITIVE, table_channels, channel, valid, side * positive)
        _add(table, row + SUM_NONFINITE, table_channels, channel, valid, nonfinite)
    else:  # as `CoMoments.of`: pairs of both sides, in inputs that are finite on both
        pairs = tl.zeros((CHANNELS,), tl.float64)
        x_mean = tl.zeros((CHANNELS,), tl.float64)
        y_mean = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            complete = _complete(at, size, inside, length)
            pairs += tl.sum(tl.where(complete, 1.0, 0.0).to(tl.float64), 1)
            x_mean += tl.sum(tl.load(at + X_MEAN * size, complete, 0.0), 1)
            y_mean += tl.sum(tl.load(at + Y_MEAN * size, complete, 0.0), 1)
        x_mean /= tl.maximum(pairs, 1.0)
        y_mean /= tl.maximum(pairs, 1.0)
        xx = tl.zeros((CHANNELS,), tl.float64)
        yy = tl.zeros((CHANNELS,), tl.float64)
        xy = tl.zeros((CHANNELS,), tl.float64)
        ac_xx = tl.zeros((CHANNELS,), tl.float64)
        ac_yy = tl.zeros((CHANNELS,), tl.float64)
        ac_xy = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            complete = _complete(at, size, inside, length)
            a = tl.load(at + X_MEAN * size, complete, 0.0) - x_mean[:, None]
            b = tl.load(at + Y_MEAN * size, complete, 0.0) - y_mean[:, None]
            xx += tl.sum(tl.where(complete, a * a, 0.0), 1)
            yy += tl.sum(tl.where(complete, b * b, 0.0), 1)
            xy += tl.sum(tl.where(complete, a * b, 0.0), 1)
            ac_xx += tl.sum(tl.load(at + X_M2 * size, complete, 0.0), 1)
            ac_yy += tl.sum(tl.load(at + Y_M2 * size, complete, 0.0), 1)
            ac_xy += tl.sum(tl.load(at + XY * size, complete, 0.0), 1)
        _add_pairs(
            table, table_channels, channel, valid, pairs * length, x_mean, y_mean,
            ac_xx + length * xx, ac_yy + length * yy, ac_xy + length * xy,
        )  # fmt: skip
        _add(table, JOINT + AC_XX, table_channels, channel, valid, ac_xx)
        _add(table, JOINT + AC_XX + 1, table_channels, channel, valid, ac_yy)
        _add(table, JOINT + AC_XY, table_channels, channel, valid, ac_xy)


def add_moments(moments: layout.LineMoments, channel: int, table: Tensor) -> None:
    """Add moments of c channels to the table, from `channel` on.

    Args:
        moments: of the lines of some inputs.
        channel: the first of the c channels among C.
        table: float64, ``[TABLE_ROWS, C]``, contiguous, added to.
    """
    inputs = moments.of_inputs()
    fields = inputs.fields.squeeze(-1)
    _, channels, samples = fields.shape
    sample_block = min(64, triton.next_power_of_2(samples))
    channel_block = min(16, triton.next_power_of_2(channels))
    with torch.cuda.device(table.device):
        _add_inputs[triton.cdiv(channels, channel_block), 7](
            fields, table[:, channel:], samples, channels, inputs.length, table.shape[1],
            sample_block, channel_block,
        )  # fmt: skip


@triton.jit(do_not_specialize=["samples", "channels", "lines", "length", "table_channels"])
def _add_means(
    moments,
    inputs,
    means,
    samples,
    channels,
    lines,
    length,
    table_channels,
    SAMPLES: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Add products of the means of lines, of inputs that are finite on both sides."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    size = samples.to(tl.int64) * channels
    count = tl.zeros((CHANNELS,), tl.float64)
    xx = tl.zeros((CHANNELS,), tl.float64)
    yy = tl.zeros((CHANNELS,), tl.float64)
    xy = tl.zeros((CHANNELS,), tl.float64)
    for first in range(0, samples, SAMPLES):
        at, inside = _inputs(inputs, first, samples, channel, valid, SAMPLES)
        complete = _complete(at, size, inside, length)
        count += tl.sum(tl.where(complete, 1.0, 0.0).to(tl.float64), 1)
        number = channel[:, None].to(tl.int64) * samples + (first + tl.arange(0, SAMPLES))[None, :]
        line = moments + number * lines
        for f in range(0, lines):
            x = tl.load(line + X_MEAN * size * lines + f, complete, 0.0)
            y = tl.load(line + Y_MEAN * size * lines + f, complete, 0.0)
            xx += tl.sum(x * x, 1)
            yy += tl.sum(y * y, 1)
            xy += tl.sum(x * y, 1)
    _add(means, INPUTS, table_channels, channel, valid, count)
    _add(means, MEANS_XX, table_channels, channel, valid, xx)
    _add(means, MEANS_YY, table_channels, channel, valid, yy)
    _add(means, MEANS_XY, table_channels, channel, valid, xy)


def add_means(moments: layout.LineMoments, channel: int, means: Tensor) -> None:
    """Add products of the means of lines of c channels, as :meth:`LineMoments.mean_products`.

    Args:
        moments: of the lines of some inputs.
        channel: the first of the c channels among C.
        means: float64, ``[MEAN_ROWS, C]``, contiguous, added to.
    """
    inputs = moments.of_inputs()
    _, channels, samples, lines = moments.fields.shape
    sample_block = min(64, triton.next_power_of_2(samples))
    channel_block = min(16, triton.next_power_of_2(channels))
    with torch.cuda.device(means.device):
        _add_means[(triton.cdiv(channels, channel_block),)](
            moments.fields, inputs.fields, means[:, channel:], samples, channels, lines,
            inputs.length, means.shape[1], sample_block, channel_block,
        )  # fmt: skip


@triton.jit
def _load(table, row, channels, channel, valid):
    return tl.load(table + row * channels + channel, valid, 0.0)


@triton.jit(do_not_specialize=["channels"])
def _merge(first, second, channels, CHANNELS: tl.constexpr):  # noqa: N803
    """Add one table to another, of some channels."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    for row in tl.static_range(DC, SUMS, BY_VALUE):
        weight = _load(second, row + WEIGHT, channels, channel, valid)
        mean = _load(second, row + MEAN, channels, channel, valid)
        m2 = _load(second, row + M2, channels, channel, valid)
        _add_moments(first, row, channels, channel, valid, weight, mean, m2)
    for row in tl.static_range(SUMS, JOINT):
        value = _load(second, row, channels, channel, valid)
        _add(first, row, channels, channel, valid, value)
    pairs = _load(second, JOINT + PAIRS, channels, channel, valid)
    x_mean = _load(second, JOINT + MEAN_X, channels, channel, valid)
    y_mean = _load(second, JOINT + MEAN_Y, channels, channel, valid)
    xx = _load(second, JOINT + M2_XX, channels, channel, valid)
    yy = _load(second, JOINT + M2_YY, channels, channel, valid)
    xy = _load(second, JOINT + M2_XY, channels, channel, valid)
    _add_pairs(first, channels, channel, valid, pairs, x_mean, y_mean, xx, yy, xy)
    for row in tl.static_range(JOINT + AC_XX, JOINT + AC_XY + 1):
        value = _load(second, row, channels, channel, valid)
        _add(first, row, channels, channel, valid, value)


def merge(first: Tensor, second: Tensor) -> None:
    """Add table `second` to `first`, as :meth:`ChannelMoments.merge` does."""
    channels = first.shape[1]
    with torch.cuda.device(first.device):
        _merge[(triton.cdiv(channels, 128),)](first, second, channels, 128)
