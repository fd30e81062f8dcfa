"""Around the transform of both sides: their values as float64, and products of their spectra."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp.kernels.gpu.memory import TILE, load_tile, tile_rows, tile_shape


@triton.jit(
    do_not_specialize=["channels", "length", "sample_stride", "channel_stride", "finite_stride"]
)
def _to_float64(
    values,
    finite,
    x,
    y,
    channels,
    length,
    sample_stride,
    channel_stride,
    time_stride,
    finite_stride,
    ROWS: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
):
    """Write some values of some rows as float64, and their ReLU; 0 where a row isn't finite."""
    sample, channel, valid, row = tile_rows(values, channels, sample_stride, channel_stride, ROWS)
    is_finite = tl.load(finite + sample * finite_stride + channel, valid, 0) > 0
    first = tl.program_id(1) * TIMES
    value, _, _ = load_tile(row, first, length, time_stride, valid, TIMES)
    value = tl.where(is_finite[:, None], value, 0.0)
    time = (first + tl.arange(0, TIMES))[None, :]
    at = (sample * channels + channel)[:, None] * length + time
    inside = valid[:, None] & (time < length)
    tl.store(x + at, value, inside)
    tl.store(y + at, tl.where(value > 0, value, 0.0), inside)


def to_float64(
    flat: Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    finite: Tensor,
    x: Tensor,
    y: Tensor,
) -> None:
    """Write rows as float64 to `x`, and their ReLU to `y`, both contiguous.

    Args:
        flat: as of :func:`..moments.row_moments`.
        shape: likewise.
        strides: likewise.
        finite: bool, ``[N, C]``, contiguous in C: which rows to write; the others become 0.
        x: float64, ``[N, C, ...]``.
        y: likewise.
    """
    samples, channels, length = shape
    rows, times = tile_shape(shape, strides)
    grid = samples * triton.cdiv(channels, rows), triton.cdiv(length, times)
    with torch.cuda.device(flat.device):
        _to_float64[grid](
            flat,
            finite.view(torch.uint8),
            x,
            y,
            channels,
            length,
            *strides,
            finite.stride(0),
            rows,
            times,
        )


@triton.jit(do_not_specialize=["channels", "frames", "components", "spectra"])
def _add_products(
    x,
    y,
    sums,
    imag,
    channels,
    frames,
    components,
    spectra,
    IMAG: tl.constexpr,  # noqa: N803
    SPECTRA: tl.constexpr,  # noqa: N803
    COMPONENTS: tl.constexpr,  # noqa: N803
):
    """Products of some components of one channel, summed over `spectra` = inputs · frames."""
    blocks = tl.cdiv(components, COMPONENTS)
    channel = (tl.program_id(0) // blocks).to(tl.int64)
    component = (tl.program_id(0) % blocks) * COMPONENTS + tl.arange(0, COMPONENTS)
    valid = component < components
    xx = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    yy = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    xy = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    xy_imag = tl.zeros((SPECTRA, COMPONENTS), tl.float64)
    for first in range(0, spectra, SPECTRA):
        spectrum = first + tl.arange(0, SPECTRA)
        inside = (spectrum < spectra)[:, None] & valid[None, :]
        row = ((spectrum // frames) * channels + channel) * frames + spectrum % frames
        at = 2 * (row[:, None] * components + component[None, :])
        a, b = tl.load(x + at, inside, 0.0), tl.load(x + at + 1, inside, 0.0)
        c, d = tl.load(y + at, inside, 0.0), tl.load(y + at + 1, inside, 0.0)
        xx += a * a + b * b
        yy += c * c + d * d
        xy += a * c + b * d
        if IMAG:
            xy_imag += a * d - b * c
    at = channel * components + component
    size = channels.to(tl.int64) * components
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(xx, 0), valid)
    at += size
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(yy, 0), valid)
    at += size
    tl.store(sums + at, tl.load(sums + at, valid, 0.0) + tl.sum(xy, 0), valid)
    if IMAG:
        at -= 2 * size
        tl.store(imag + at, tl.load(imag + at, valid, 0.0) + tl.sum(xy_imag, 0), valid)


def add_products(x: Tensor, y: Tensor, sums: Tensor, imag: Tensor) -> None:
    """Add |X|², |Y|², Re conj(X)·Y and, unless `imag` is empty, Im conj(X)·Y, summed over inputs.

    Args:
        x: ``[n, c, f, F, 2]``, real and imaginary parts, float64, of f frames.
        y: likewise.
        sums: ``[3, c, F]``, added to.
        imag: ``[c, F]``, added to, or of no channels.
    """
    samples, channels, frames, components, _ = x.shape
    spectrum_block = min(32, triton.next_power_of_2(samples * frames))
    component_block = min(256, TILE // spectrum_block)
    with torch.cuda.device(x.device):
        _add_products[(channels * triton.cdiv(components, component_block),)](
            x.contiguous(), y.contiguous(), sums, imag, channels, frames, components,
            samples * frames, len(imag) > 0, spectrum_block, component_block,
        )  # fmt: skip
