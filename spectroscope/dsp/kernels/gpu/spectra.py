"""What spectra take: both sides as float64, and the products of their transforms."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp.kernels.gpu.memory import TILE, rows_of, tile, values


@triton.jit(do_not_specialize=["channels", "length", "of_sample", "of_channel", "of_mask"])
def _widen(
    x,
    mask,
    wide,
    rectified,
    channels,
    length,
    of_sample,
    of_channel,
    of_time,
    of_mask,
    ROWS: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
):
    """Write some values of some rows as float64, and their ReLU; of rows that are masked, 0."""
    sample, channel, here, begin = rows_of(x, channels, of_sample, of_channel, ROWS)
    fine = tl.load(mask + sample * of_mask + channel, here, 0) > 0
    first = tl.program_id(1) * TIMES
    value, _, _ = values(begin, first, length, of_time, here, TIMES)
    value = tl.where(fine[:, None], value, 0.0)
    time = (first + tl.arange(0, TIMES))[None, :]
    at = (sample * channels + channel)[:, None] * length + time
    inside = here[:, None] & (time < length)
    tl.store(wide + at, value, inside)
    tl.store(rectified + at, tl.where(value > 0, value, 0.0), inside)


def widen(
    flat: Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    mask: Tensor,
    x: Tensor,
    y: Tensor,
) -> None:
    """Write rows as float64 to `x`, and their ReLU to `y`, both contiguous.

    Args:
        flat: see :func:`read`, as are `shape` and `strides`.
        shape: likewise.
        strides: likewise.
        mask: ``[N, C]``, side by side in C: which rows are written; of the others, 0.
        x: float64, ``[N, C, …]``.
        y: likewise.
    """
    samples, channels, length = shape
    rows, times = tile(shape, strides)
    grid = samples * triton.cdiv(channels, rows), triton.cdiv(length, times)
    with torch.cuda.device(flat.device):
        _widen[grid](
            flat,
            mask.view(torch.uint8),
            x,
            y,
            channels,
            length,
            *strides,
            mask.stride(0),
            rows,
            times,
        )


@triton.jit(do_not_specialize=["channels", "frames", "whole", "lines"])
def _products(
    x,
    y,
    sums,
    imaginary,
    channels,
    frames,
    whole,
    lines,
    TURNED: tl.constexpr,  # noqa: N803
    LINES: tl.constexpr,  # noqa: N803
    COMPONENTS: tl.constexpr,  # noqa: N803
):
    """Products of some components of one channel, summed over `lines`, inputs times frames."""
    shares = tl.cdiv(whole, COMPONENTS)
    channel = (tl.program_id(0) // shares).to(tl.int64)
    component = (tl.program_id(0) % shares) * COMPONENTS + tl.arange(0, COMPONENTS)
    here = component < whole
    xx = tl.zeros((LINES, COMPONENTS), tl.float64)
    yy = tl.zeros((LINES, COMPONENTS), tl.float64)
    xy = tl.zeros((LINES, COMPONENTS), tl.float64)
    turned = tl.zeros((LINES, COMPONENTS), tl.float64)
    for first in range(0, lines, LINES):
        line = first + tl.arange(0, LINES)
        inside = (line < lines)[:, None] & here[None, :]
        row = ((line // frames) * channels + channel) * frames + line % frames
        at = 2 * (row[:, None] * whole + component[None, :])
        a, b = tl.load(x + at, inside, 0.0), tl.load(x + at + 1, inside, 0.0)
        c, d = tl.load(y + at, inside, 0.0), tl.load(y + at + 1, inside, 0.0)
        xx += a * a + b * b
        yy += c * c + d * d
        xy += a * c + b * d
        if TURNED:
            turned += a * d - b * c
    at = channel * whole + component
    size = channels.to(tl.int64) * whole
    tl.store(sums + at, tl.load(sums + at, here, 0.0) + tl.sum(xx, 0), here)
    at += size
    tl.store(sums + at, tl.load(sums + at, here, 0.0) + tl.sum(yy, 0), here)
    at += size
    tl.store(sums + at, tl.load(sums + at, here, 0.0) + tl.sum(xy, 0), here)
    if TURNED:
        at -= 2 * size
        tl.store(imaginary + at, tl.load(imaginary + at, here, 0.0) + tl.sum(turned, 0), here)


def products(x: Tensor, y: Tensor, sums: Tensor, imaginary: Tensor) -> None:
    """Add |X|², |Y|², Re conj(X)·Y and, if there is room for it, Im conj(X)·Y to sums over inputs.

    Args:
        x: ``[n, c, f, F, 2]``, real and imaginary parts, float64.
        y: likewise.
        sums: ``[3, c, F]``.
        imaginary: ``[c, F]``, or with c = 0.
    """
    samples, channels, frames, whole, _ = x.shape
    of_lines = min(32, triton.next_power_of_2(samples * frames))
    components = min(256, TILE // of_lines)
    with torch.cuda.device(x.device):
        _products[(channels * triton.cdiv(whole, components),)](
            x.contiguous(), y.contiguous(), sums, imaginary, channels, frames, whole,
            samples * frames, len(imaginary) > 0, of_lines, components,
        )  # fmt: skip
