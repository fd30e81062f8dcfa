"""From moments of inputs to the table of channel moments, and two such tables into one.

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


@triton.jit(do_not_specialize=["samples", "channels", "length"])
def _reduce_batch(
    moments,
    out,
    samples,
    channels,
    length,
    SAMPLES: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Reduce moments of inputs: some channels, and one part of the table."""
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
        to = out + (DC + side * DC_SIDE + by_value * BY_VALUE) * channels + channel
        tl.store(to + WEIGHT * channels, weight, valid)
        tl.store(to + MEAN * channels, mean, valid)
        tl.store(to + M2 * channels, m2, valid)
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
        nonfinite = samples.to(tl.float64) * length - finite
        to = out + (SUMS + side * SUMS_SIDE) * channels + channel
        tl.store(to + SUM_M2 * channels, within, valid)
        tl.store(to + SUM_POSITIVE * channels, side * positive, valid)
        tl.store(to + SUM_NONFINITE * channels, nonfinite, valid)
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
        for first in range(0, samples, SAMPLES):
            at, inside = _inputs(moments, first, samples, channel, valid, SAMPLES)
            complete = _complete(at, size, inside, length)
            a = tl.load(at + X_MEAN * size, complete, 0.0) - x_mean[:, None]
            b = tl.load(at + Y_MEAN * size, complete, 0.0) - y_mean[:, None]
            x_m2 = tl.load(at + X_M2 * size, complete, 0.0)
            y_m2 = tl.load(at + Y_M2 * size, complete, 0.0)
            product = tl.load(at + XY * size, complete, 0.0)
            xx += tl.sum(tl.where(complete, x_m2 + length * (a * a), 0.0), 1)
            yy += tl.sum(tl.where(complete, y_m2 + length * (b * b), 0.0), 1)
            xy += tl.sum(tl.where(complete, product + length * (a * b), 0.0), 1)
        to = out + JOINT * channels + channel
        tl.store(to + PAIRS * channels, pairs * length, valid)
        tl.store(to + MEAN_X * channels, x_mean, valid)
        tl.store(to + MEAN_Y * channels, y_mean, valid)
        tl.store(to + M2_XX * channels, xx, valid)
        tl.store(to + M2_YY * channels, yy, valid)
        tl.store(to + M2_XY * channels, xy, valid)


def reduce_batch(moments: Tensor, length: int) -> Tensor:
    """Reduce moments of inputs to those of channels.

    Args:
        moments: ``[LINE_FIELDS, C, N]``.
        length: number of values of an input.

    Returns:
        Float64, ``[TABLE_ROWS, C]``.
    """
    _, channels, samples = moments.shape
    out = moments.new_empty(layout.TABLE_ROWS, channels)
    sample_block = min(64, triton.next_power_of_2(samples))
    channel_block = min(16, triton.next_power_of_2(channels))
    with torch.cuda.device(moments.device):
        _reduce_batch[triton.cdiv(channels, channel_block), 7](
            moments.contiguous(), out, samples, channels, length, sample_block, channel_block
        )
    return out


@triton.jit
def _load(table, row, channels, channel, valid):
    return tl.load(table + row * channels + channel, valid, 0.0)


@triton.jit
def _store(table, row, channels, channel, valid, value):
    tl.store(table + row * channels + channel, value, valid)


@triton.jit(do_not_specialize=["channels"])
def _merge(first, second, out, channels, CHANNELS: tl.constexpr):  # noqa: N803
    """Write two tables as one, of some channels."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    valid = channel < channels
    for row in tl.static_range(DC, SUMS, BY_VALUE):
        weight = _load(first, row + WEIGHT, channels, channel, valid)
        other_weight = _load(second, row + WEIGHT, channels, channel, valid)
        total = weight + other_weight
        fraction = other_weight / tl.maximum(total, 1.0)
        mean = _load(first, row + MEAN, channels, channel, valid)
        difference = _load(second, row + MEAN, channels, channel, valid) - mean
        m2 = _load(first, row + M2, channels, channel, valid)
        m2 += _load(second, row + M2, channels, channel, valid)
        _store(out, row + WEIGHT, channels, channel, valid, total)
        _store(out, row + MEAN, channels, channel, valid, mean + difference * fraction)
        m2 += difference * difference * (weight * fraction)
        _store(out, row + M2, channels, channel, valid, m2)
    for row in tl.static_range(SUMS, JOINT):
        total = _load(first, row, channels, channel, valid)
        total += _load(second, row, channels, channel, valid)
        _store(out, row, channels, channel, valid, total)
    pairs = _load(first, JOINT + PAIRS, channels, channel, valid)
    other_pairs = _load(second, JOINT + PAIRS, channels, channel, valid)
    total = pairs + other_pairs
    fraction = other_pairs / tl.maximum(total, 1.0)
    scale = pairs * fraction
    x_mean = _load(first, JOINT + MEAN_X, channels, channel, valid)
    y_mean = _load(first, JOINT + MEAN_Y, channels, channel, valid)
    x = _load(second, JOINT + MEAN_X, channels, channel, valid) - x_mean
    y = _load(second, JOINT + MEAN_Y, channels, channel, valid) - y_mean
    xx = _load(first, JOINT + M2_XX, channels, channel, valid)
    xx += _load(second, JOINT + M2_XX, channels, channel, valid)
    yy = _load(first, JOINT + M2_YY, channels, channel, valid)
    yy += _load(second, JOINT + M2_YY, channels, channel, valid)
    xy = _load(first, JOINT + M2_XY, channels, channel, valid)
    xy += _load(second, JOINT + M2_XY, channels, channel, valid)
    _store(out, JOINT + PAIRS, channels, channel, valid, total)
    _store(out, JOINT + MEAN_X, channels, channel, valid, x_mean + x * fraction)
    _store(out, JOINT + MEAN_Y, channels, channel, valid, y_mean + y * fraction)
    _store(out, JOINT + M2_XX, channels, channel, valid, xx + x * x * scale)
    _store(out, JOINT + M2_YY, channels, channel, valid, yy + y * y * scale)
    _store(out, JOINT + M2_XY, channels, channel, valid, xy + x * y * scale)


def merge(first: Tensor, second: Tensor) -> Tensor:
    """Two tables of :func:`reduce_batch` as one, as :meth:`ChannelMoments.merge` does."""
    out = torch.empty_like(first)
    channels = first.shape[1]
    with torch.cuda.device(first.device):
        _merge[(triton.cdiv(channels, 128),)](first, second, out, channels, 128)
    return out
