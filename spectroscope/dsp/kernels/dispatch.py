"""Which code reduces an activation: compiled loops, GPU kernels, or torch's own operations.

numba and Triton are imported at first use. Without them everything works, more slowly.
"""

import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spectroscope.dsp.kernels.parallel import workspace
from spectroscope.dsp.moments import (
    LINE_FIELDS,
    MEAN_ROWS,
    MEANS_XX,
    MEANS_XY,
    MEANS_YY,
    TABLE_ROWS,
    X_MEAN,
    Y_MEAN,
    ChannelMoments,
    LineMoments,
)
from spectroscope.dsp.spectra import Transform
from spectroscope.errors import first_line


@lru_cache(maxsize=1)
def cpu_kernels() -> ModuleType | None:
    """The loops compiled by numba; None: numba is missing, or has nowhere to keep compiled code."""
    try:
        from spectroscope.dsp.kernels import cpu
    except (ImportError, RuntimeError):
        return None
    return cpu


@lru_cache
def gpu_kernels(device: torch.device) -> ModuleType | None:
    """Triton's kernels for a GPU; None: this torch has no Triton, or it fails on this device.

    A failure raises a warning, because recording is then several times slower. Triton may lack a C
    compiler, or not know this GPU, and raises exceptions of any type.
    """
    try:
        from spectroscope.dsp.kernels import gpu
    except ImportError:
        return None
    try:
        x = torch.zeros(1, 1, 1, device=device)
        table = x.new_zeros(TABLE_ROWS, 1, dtype=torch.float64)
        gpu.add_moments(gpu.center_lines(x, None, 1, None), 0, table)
    except Exception as error:
        warnings.warn(
            f"recording on {device} goes without compiled kernels, several times slower: "
            f"{type(error).__name__}: {first_line(error)}",
            stacklevel=2,
        )
        return None
    return gpu


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The precision in which values of type `dtype` are transformed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def read_lines(
    x: Tensor,
    y: Tensor | None,
    lines: int,
    chosen: range,
    channel: int,
    table: Tensor,
    means: Tensor | None,
    fields: Tensor | None,
    out: Tensor | None,
) -> None:
    """Add moments of some inputs to a table, and write the lines of some without their means.

    Args:
        x: the input, ``[n, c, ...]``, real.
        y: the output, of the same shape; None: ReLU(x).
        lines: of each input and channel, which are of the same length T.
        chosen: numbers of the m inputs that are in `means`, `fields` and `out`.
        channel: the first of the c channels among C.
        table: float64, ``[TABLE_ROWS, C]``, contiguous, added to.
        means: float64, ``[MEAN_ROWS, C]``, likewise; None: not needed.
        fields: float64, ``[LINE_FIELDS, c, m, lines]``, contiguous, written to; None: not needed.
        out: the lines of both sides without their means, ``[2, m, c, lines, T]``, contiguous and of
            the type :func:`computed_in`, written to: 0 in inputs that aren't finite on both sides.
            None: not needed.
    """
    cpu = cpu_kernels() if x.is_cpu else None
    gpu = gpu_kernels(x.device) if x.is_cuda else None
    if cpu is not None:
        samples, channels = x.shape[:2]
        x_flat, x_strides = _memory(x, "input")
        y_flat, y_strides = (None, x_strides) if y is None else _memory(y, "output")
        sides = x_flat, x_strides, y_flat, y_strides, (samples, channels, lines)
        length, of_chosen = x.numel() // (samples * channels * lines), (chosen.start, chosen.step)
        no_means, nothing = _nothing(computed_in(x.dtype))
        x_out, y_out = (nothing, nothing) if out is None else (t.view(-1).numpy() for t in out)
        cpu.read_lines(
            *sides, length, of_chosen, channel, table.numpy(),
            no_means if means is None else means.numpy(), x_out, y_out,
        )  # fmt: skip
        if fields is not None:
            of_lines = fields.view(LINE_FIELDS, -1).numpy()
            cpu.write_line_moments(*sides, length, of_chosen, of_lines)
        return
    if gpu is not None:
        x = _readable(x, "input")
        y = None if y is None else _readable(y, "output")
    center_lines = _center_lines if gpu is None else gpu.center_lines
    all_chosen = len(chosen) == len(x)
    moments = center_lines(x, y, lines, out if all_chosen else None)
    c = slice(channel, channel + x.shape[1])
    if gpu is not None:
        gpu.add_moments(moments, channel, table)
    else:
        batch = moments.of_inputs().of_channels()
        table[:, c] = ChannelMoments(table[:, c]).merge(batch).table
    if not chosen or (means is None and fields is None and out is None):
        return
    if not all_chosen:
        part = slice(chosen.start, chosen.stop, chosen.step)
        moments = center_lines(x[part], None if y is None else y[part], lines, out)
    if means is not None and gpu is not None:
        gpu.add_means(moments, channel, means)
    elif means is not None:
        means[:, c] += moments.mean_products()
    if fields is not None:
        fields.copy_(moments.fields)


def _readable(x: Tensor, side: str) -> Tensor:
    """``[N, C, values]`` whose values are contiguous and of a type that loops read: x or a copy."""
    if x.dtype in (_CPU_TYPES if x.is_cpu else _GPU_TYPES) and not x.is_neg():
        try:
            rows = x.view(*x.shape[:2], -1)
        except RuntimeError:  # time or space isn't one axis
            rows = None
        if rows is not None and (rows.stride(2) == 1 or rows.shape[2] == 1):
            return rows
    copy = workspace(f"copy of {side}", tuple(x.shape), computed_in(x.dtype), x.device)
    return copy.copy_(x).view(*x.shape[:2], -1)


def _memory(x: Tensor, side: str) -> tuple[Any, tuple[int, ...]]:
    """The memory of ``[N, C, ...]``, or of a copy, from the first value on; strides of N and C."""
    if not (x.is_contiguous() and x.dtype in _CPU_TYPES and not x.is_neg()):
        x = _readable(x, side)
    samples, channels = x.shape[:2]
    strides = x.stride()[:2]
    if x.is_contiguous():
        return x.numpy().reshape(-1), strides
    span = (samples - 1) * strides[0] + (channels - 1) * strides[1] + x.shape[2]
    return x.as_strided((span,), (1,)).numpy(), strides


def _center_lines(x: Tensor, y: Tensor | None, lines: int, out: Tensor | None) -> LineMoments:
    """Moments of lines, and the lines without their means, by torch's own operations."""
    y = x.clamp_min(0) if y is None else y
    shape = x.shape[1], len(x), lines, -1
    x, y = (side.double().transpose(0, 1).reshape(shape) for side in (x, y))
    moments = LineMoments.of(x, y)
    if out is not None:
        finite = moments.finite[..., None, None]
        for side, mean, to in zip((x, y), (X_MEAN, Y_MEAN), out, strict=True):
            left = (side - moments.fields[mean].unsqueeze(-1)).where(finite, 0)
            to.copy_(left.transpose(0, 1))
    return moments


def merge_moments(first: Tensor, second: Tensor) -> None:
    """Add table `second` to table `first`, both ``[TABLE_ROWS, C]``, contiguous.

    As :meth:`ChannelMoments.merge`, in one call instead of many.
    """
    if first.is_cuda and (gpu := gpu_kernels(first.device)) is not None:
        gpu.merge(first, second)
    elif first.is_cpu and (cpu := cpu_kernels()) is not None:
        cpu.merge(first.numpy(), second.numpy())
    else:
        first.copy_(ChannelMoments(first).merge(ChannelMoments(second)).table)


def add_products(
    both: Tensor,
    transform: Transform,
    channel: int,
    power: Tensor,
    cross: Tensor,
    max_norm: Tensor,
) -> None:
    """Add |X|², |Y|² and conj(X)·Y over spectra and over the components of each bin, in float64.

    Args:
        both: complex, ``[2, n, c, lines, F]``, contiguous, X and Y of n inputs.
        transform: whose components and bins these are.
        channel: the first of the c channels among C.
        power: float64, ``[2, C, B]``, contiguous, added to: |X|² and |Y|².
        cross: complex128, ``[C, B]``, contiguous, added to: conj(X)·Y; in radial bins its real
            part.
        max_norm: float64, ``[C, S]``, contiguous, added to: |Y|² in max-norm bins, if there are
            any.
    """
    if both.is_cpu and (cpu := cpu_kernels()) is not None:
        x, y = torch.view_as_real(both).view(2, -1).numpy()
        shape = (*both.shape[1:4], 2 * both.shape[4])
        indices = transform.weights, transform.bin, transform.max_norm_bin
        cpu.add_products(
            x, y, shape, *(index.numpy() for index in indices), transform.radial, channel,
            power.numpy(), _parts(cross), max_norm.numpy(),
        )  # fmt: skip
        return
    components = power.new_empty(4, both.shape[2], both.shape[4])
    if both.is_cuda and (gpu := gpu_kernels(both.device)) is not None:
        gpu.products(*torch.view_as_real(both), components)
    else:
        x, y = both.to(torch.complex128)
        product = (x.conj() * y).sum((0, 2))
        squares = ((side.conj() * side).real.sum((0, 2)) for side in (x, y))
        torch.stack([*squares, product.real, product.imag], out=components)
    components *= transform.weights
    c = slice(channel, channel + both.shape[2])
    power[:, c].index_add_(2, transform.bin, components[:2])
    parts = torch.view_as_real(cross[c])
    for part in (0,) if transform.radial else (0, 1):
        parts[..., part].index_add_(1, transform.bin, components[2 + part])
    if max_norm.shape[1]:
        max_norm[c].index_add_(1, transform.max_norm_bin, components[1])


def scale_products(
    power: Tensor, cross: Tensor, max_norm: Tensor, means: Tensor, lines: int, points: int
) -> None:
    """Make mean powers of lines of the sums of :func:`add_products`, with the DC in its bin.

    Each line, or frame of a video, contributes 1/lines of its power to that of the input. The lines
    were transformed without their means, which are all of the DC.

    Args:
        power: as in :func:`add_products`; written to, as are `cross` and `max_norm`.
        cross: likewise.
        max_norm: likewise.
        means: float64, ``[MEAN_ROWS, C]``, products of the means of lines.
        lines: number of lines of an input.
        points: of a line.
    """
    if power.is_cpu and (cpu := cpu_kernels()) is not None:
        arrays = power.numpy(), _parts(cross), max_norm.numpy(), means.numpy()
        cpu.scale_products(*arrays, lines, points)
        return
    for sums in (power, cross, max_norm):
        sums *= 1 / (lines * points**2)
    dc = means / lines
    power[:, :, 0] = dc[MEANS_XX : MEANS_YY + 1]
    cross[:, 0] = dc[MEANS_XY]
    if max_norm.shape[1]:
        max_norm[:, 0] = dc[MEANS_YY]


def _parts(cross: Tensor) -> Any:
    """Real and imaginary parts, interleaved."""
    return torch.view_as_real(cross).flatten(1).numpy()


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16


@lru_cache
def _nothing(dtype: torch.dtype) -> tuple[Any, Any]:
    """Empty arrays for products of means, and for values of type `dtype`."""
    means = torch.empty(MEAN_ROWS, 0, dtype=torch.float64)
    return means.numpy(), torch.empty(0, dtype=dtype).numpy()
