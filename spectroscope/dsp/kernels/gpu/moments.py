"""Moments of both sides of a ReLU, of rows and of channels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp.kernels.gpu.memory import rows_of, tile, values


@triton.jit(do_not_specialize=["size", "channels", "length", "of_sample", "of_channel"])
def _read(
    x,
    out,
    size,
    channels,
    length,
    of_sample,
    of_channel,
    of_time,
    ROWS: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
):
    """Moments of some rows, which are channels of one sample; `size` is N·C."""
    sample, channel, here, begin = rows_of(x, channels, of_sample, of_channel, ROWS)
    x_sum = tl.zeros((ROWS, TIMES), tl.float64)
    y_sum = tl.zeros((ROWS, TIMES), tl.float64)
    x_count = tl.zeros((ROWS, TIMES), tl.float64)
    y_count = tl.zeros((ROWS, TIMES), tl.float64)
    positive = tl.zeros((ROWS, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        value, x_fine, y_fine = values(begin, first, length, of_time, here, TIMES)
        above = y_fine & (value > 0)
        x_sum += tl.where(x_fine, value, 0.0)
        y_sum += tl.where(above, value, 0.0)
        x_count += tl.where(x_fine, 1.0, 0.0)
        y_count += tl.where(y_fine, 1.0, 0.0)
        positive += tl.where(above, 1.0, 0.0)
    x_finite, y_finite = tl.sum(x_count, 1), tl.sum(y_count, 1)
    x_mean = tl.sum(x_sum, 1) / tl.maximum(x_finite, 1.0)
    y_mean = tl.sum(y_sum, 1) / tl.maximum(y_finite, 1.0)
    x_rest = tl.zeros((ROWS, TIMES), tl.float64)
    y_rest = tl.zeros((ROWS, TIMES), tl.float64)
    x_m2 = tl.zeros((ROWS, TIMES), tl.float64)
    y_m2 = tl.zeros((ROWS, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        value, x_fine, y_fine = values(begin, first, length, of_time, here, TIMES)
        x_near = tl.where(x_fine, value - x_mean[:, None], 0.0)
        y_near = tl.where(y_fine, tl.where(value > 0, value, 0.0) - y_mean[:, None], 0.0)
        x_rest += x_near
        y_rest += y_near
        x_m2 += x_near * x_near
        y_m2 += y_near * y_near
    at = out + sample * channels + channel
    size = size.to(tl.int64)
    tl.store(at, x_mean, here)
    tl.store(at + size, y_mean, here)
    tl.store(at + 2 * size, tl.sum(x_m2, 1), here)
    tl.store(at + 3 * size, tl.sum(y_m2, 1), here)
    tl.store(at + 4 * size, tl.sum(positive, 1), here)
    tl.store(at + 5 * size, tl.sum(x_rest, 1) / tl.maximum(x_finite, 1.0), here)
    tl.store(at + 6 * size, tl.sum(y_rest, 1) / tl.maximum(y_finite, 1.0), here)
    tl.store(at + 7 * size, x_finite, here)
    tl.store(at + 8 * size, y_finite, here)


def read(flat: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Moments of the rows of a tensor, and of those of its ReLU, as it lies in memory.

    Args:
        flat: float16, bfloat16, float32 or float64, on a GPU; from its first value on.
        shape: N, C, T.
        strides: of those in `flat`.

    Returns:
        Float64, ``[9, N, C]``: mean and M2 of the finite values of either side, the number of
        finite values > 0, what rounding left out of either mean, and the number of finite values
        on either side.
    """
    samples, channels, length = shape
    out = torch.empty(9, samples, channels, dtype=torch.float64, device=flat.device)
    rows, times = tile(shape, strides)
    grid = (samples * triton.cdiv(channels, rows),)
    with torch.cuda.device(flat.device):
        _read[grid](flat, out, samples * channels, channels, length, *strides, rows, times)
    return out


@triton.jit
def _rows(rows, first, samples, channels, channel, here, SAMPLES: tl.constexpr):  # noqa: N803
    """Where the moments of some samples from `first` on are, and which of them there are."""
    sample = first + tl.arange(0, SAMPLES)
    at = rows + sample[:, None].to(tl.int64) * channels + channel[None, :]
    return at, (sample < samples)[:, None] & here[None, :]


@triton.jit
def _counts(at, inside, often):
    """How often each row's mean counts: once, if it has finite values, or once for each of them."""
    count = tl.load(at, inside, 0.0)
    return tl.where(often > 0, count, tl.minimum(count, 1.0))


@triton.jit
def _finite(at, size, inside, length):
    """Which rows are finite throughout on both sides."""
    fewest = tl.minimum(tl.load(at, inside, 0.0), tl.load(at + size, inside, 0.0))
    return inside & (fewest == length)


@triton.jit(do_not_specialize=["samples", "channels", "length"])
def _fold(
    rows,
    out,
    samples,
    channels,
    length,
    SAMPLES: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    """Sum the moments of rows up into those of some channels, one part of them in each program."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < channels
    size = samples.to(tl.int64) * channels
    part = tl.program_id(1)
    if part < 4:  # as `Moments.of`: of either side, each mean once or as often as it has values
        side, often = part // 2, part % 2
        weight = tl.zeros((CHANNELS,), tl.float64)
        pivot = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            count = _counts(at + (7 + side) * size, inside, often)
            weight += tl.sum(count, 0)
            pivot += tl.sum(count * tl.load(at + side * size, inside, 0.0), 0)
        pivot /= tl.maximum(weight, 1.0)
        offset = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            count = _counts(at + (7 + side) * size, inside, often)
            near = tl.load(at + side * size, inside, 0.0) - pivot[None, :]
            offset += tl.sum(count * (near + tl.load(at + (5 + side) * size, inside, 0.0)), 0)
        offset /= tl.maximum(weight, 1.0)
        m2 = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            count = _counts(at + (7 + side) * size, inside, often)
            near = tl.load(at + side * size, inside, 0.0) - pivot[None, :]
            near += tl.load(at + (5 + side) * size, inside, 0.0) - offset[None, :]
            m2 += tl.sum(count * (near * near), 0)
        to = out + 4 * part * channels + channel
        tl.store(to, weight, here)
        tl.store(to + channels, pivot, here)
        tl.store(to + 2 * channels, offset, here)
        tl.store(to + 3 * channels, m2, here)
    elif part < 6:  # sums over all rows of one side
        side = part - 4
        within = tl.zeros((CHANNELS,), tl.float64)
        positive = tl.zeros((CHANNELS,), tl.float64)
        finite = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            within += tl.sum(tl.load(at + (2 + side) * size, inside, 0.0), 0)
            positive += tl.sum(tl.load(at + 4 * size, inside, 0.0), 0)
            finite += tl.sum(tl.load(at + (7 + side) * size, inside, 0.0), 0)
        to = out + (16 + 3 * side) * channels + channel
        tl.store(to, within, here)
        tl.store(to + channels, side * positive, here)
        tl.store(to + 2 * channels, samples.to(tl.float64) * length - finite, here)
    else:  # as `CoMoments.of`: the pairs of both sides, of rows that are finite throughout
        pairs = tl.zeros((CHANNELS,), tl.float64)
        x_mean = tl.zeros((CHANNELS,), tl.float64)
        y_mean = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            whole = _finite(at + 7 * size, size, inside, length)
            pairs += tl.sum(tl.where(whole, 1.0, 0.0).to(tl.float64), 0)
            x_mean += tl.sum(tl.load(at, whole, 0.0), 0)
            y_mean += tl.sum(tl.load(at + size, whole, 0.0), 0)
        x_mean /= tl.maximum(pairs, 1.0)
        y_mean /= tl.maximum(pairs, 1.0)
        xx = tl.zeros((CHANNELS,), tl.float64)
        yy = tl.zeros((CHANNELS,), tl.float64)
        xy = tl.zeros((CHANNELS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            at, inside = _rows(rows, first, samples, channels, channel, here, SAMPLES)
            whole = _finite(at + 7 * size, size, inside, length)
            x, y = tl.load(at, whole, 0.0), tl.load(at + size, whole, 0.0)
            a, b = x - x_mean[None, :], y - y_mean[None, :]
            x_m2, y_m2 = tl.load(at + 2 * size, whole, 0.0), tl.load(at + 3 * size, whole, 0.0)
            xx += tl.sum(tl.where(whole, x_m2 + length * (a * a), 0.0), 0)
            yy += tl.sum(tl.where(whole, y_m2 + length * (b * b), 0.0), 0)
            # As `relu_product`.
            xy += tl.sum(tl.where(whole, y_m2 + length * (y * (y - x) + a * b), 0.0), 0)
        to = out + 22 * channels + channel
        tl.store(to, pairs * length, here)
        tl.store(to + channels, x_mean, here)
        tl.store(to + 2 * channels, y_mean, here)
        tl.store(to + 3 * channels, xx, here)
        tl.store(to + 4 * channels, yy, here)
        tl.store(to + 5 * channels, xy, here)


def fold(rows: Tensor, length: int) -> Tensor:
    """Sum moments of rows up into those of channels.

    Args:
        rows: what :func:`read` gave.
        length: of the rows.

    Returns:
        Float64, ``[28, C]``: 16 of `dc`, 6 of `sums` and 6 of `joint`, as
        :func:`spectroscope.dsp.kernels.native.fold` has them.
    """
    _, samples, channels = rows.shape
    out = rows.new_empty(28, channels)
    of_samples = min(64, triton.next_power_of_2(samples))
    of_channels = min(16, triton.next_power_of_2(channels))
    with torch.cuda.device(rows.device):
        _fold[triton.cdiv(channels, of_channels), 7](
            rows, out, samples, channels, length, of_samples, of_channels
        )
    return out


@triton.jit(do_not_specialize=["channels"])
def _merge(mine, other, out, channels, CHANNELS: tl.constexpr):  # noqa: N803
    """Write two tables as one, of some channels."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < channels
    for row in tl.static_range(0, 16, 4):
        at = row * channels + channel
        one, two = tl.load(mine + at, here, 0.0), tl.load(other + at, here, 0.0)
        weight = one + two
        at += channels
        my_pivot, its_pivot = tl.load(mine + at, here, 0.0), tl.load(other + at, here, 0.0)
        pivot = tl.where(one > 0, my_pivot, its_pivot)
        tl.store(out + at, pivot, here)
        tl.store(out + at - channels, weight, here)
        at += channels
        my_mean = tl.load(mine + at, here, 0.0) + (my_pivot - pivot)
        its_mean = tl.load(other + at, here, 0.0) + (its_pivot - pivot)
        share = two / tl.maximum(weight, 1.0)
        tl.store(out + at, (one * my_mean + two * its_mean) / tl.maximum(weight, 1.0), here)
        at += channels
        apart = its_mean - my_mean
        m2 = tl.load(mine + at, here, 0.0) + tl.load(other + at, here, 0.0)
        tl.store(out + at, m2 + apart * apart * (one * share), here)
    for row in tl.static_range(16, 22):
        at = row * channels + channel
        tl.store(out + at, tl.load(mine + at, here, 0.0) + tl.load(other + at, here, 0.0), here)
    at = 22 * channels + channel
    one, two = tl.load(mine + at, here, 0.0), tl.load(other + at, here, 0.0)
    tl.store(out + at, one + two, here)
    share = two / tl.maximum(one + two, 1.0)
    at += channels
    x_mean = tl.load(mine + at, here, 0.0)
    x = tl.load(other + at, here, 0.0) - x_mean
    tl.store(out + at, x_mean + x * share, here)
    at += channels
    y_mean = tl.load(mine + at, here, 0.0)
    y = tl.load(other + at, here, 0.0) - y_mean
    tl.store(out + at, y_mean + y * share, here)
    at += channels
    m2 = tl.load(mine + at, here, 0.0) + tl.load(other + at, here, 0.0)
    tl.store(out + at, m2 + x * x * (one * share), here)
    at += channels
    m2 = tl.load(mine + at, here, 0.0) + tl.load(other + at, here, 0.0)
    tl.store(out + at, m2 + y * y * (one * share), here)
    at += channels
    m2 = tl.load(mine + at, here, 0.0) + tl.load(other + at, here, 0.0)
    tl.store(out + at, m2 + x * y * (one * share), here)


def merge(mine: Tensor, other: Tensor) -> Tensor:
    """Two tables of :func:`fold` as one, see :meth:`spectroscope.dsp.moments.Moments.merge`."""
    out = torch.empty_like(mine)
    with torch.cuda.device(mine.device):
        _merge[(triton.cdiv(mine.shape[1], 128),)](mine, other, out, mine.shape[1], 128)
    return out
