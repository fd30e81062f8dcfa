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
        moments = x.new_empty(LINE_FIELDS, 1, 1, 1, dtype=torch.float64)
        gpu.center_lines(x, None, moments, 0, None)
        gpu.reduce_batch(moments.squeeze(-1), 1)
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


def center_lines(
    x: Tensor, y: Tensor | None, moments: Tensor, first: int, out: tuple[Tensor, Tensor] | None
) -> bool:
    """Moments of the lines of both sides of an activation, and the lines without their means.

    Args:
        x: the input, ``[n, c, ...]``, real, of which each input and channel are `lines` of T.
        y: the output, of the same shape; None: ReLU(x).
        moments: ``[LINE_FIELDS, c, N, lines]``, float64, contiguous; of the n inputs from `first`
            on, written to.
        first: number of the first input.
        out: the lines of both sides without their means, each ``[n, c, lines, T]``, contiguous and
            of the type :func:`computed_in`, written to: 0 in inputs that aren't finite on both
            sides. None: moments alone.

    Returns:
        Whether all values are known to be finite.
    """
    lines = moments.shape[3]
    gpu = gpu_kernels(x.device) if x.is_cuda else None
    cpu = cpu_kernels() if x.is_cpu else None
    if gpu is None and cpu is None:
        _center_lines(x, y, moments[:, :, first : first + len(x)], out)
        return False
    x = _readable(x, "input")
    if y is not None:
        y = _readable(y, "output")
    if gpu is not None:
        gpu.center_lines(x, y, moments, first, out)
        return False  # to ask whether they are would wait for the GPU
    assert cpu is not None
    x_flat, x_strides = _memory(x)
    y_flat, y_strides = (x_flat, x_strides) if y is None else _memory(y)
    kept = [side.view(-1).numpy() for side in out or (x.new_empty(0),) * 2]
    shape = *x.shape[:2], lines
    incomplete = cpu.center_lines(
        x_flat, x_strides, y_flat, y_strides, y is None, shape, x.shape[2] // lines,
        moments.view(LINE_FIELDS, -1).numpy(), moments.shape[2], first, *kept,
    )  # fmt: skip
    return bool(incomplete == 0)


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


def _center_lines(
    x: Tensor, y: Tensor | None, moments: Tensor, out: tuple[Tensor, Tensor] | None
) -> None:
    """:func:`center_lines` by torch's own operations."""
    y = x.clamp_min(0) if y is None else y
    x, y = (side.double().transpose(0, 1).reshape(*moments.shape[1:], -1) for side in (x, y))
    lines = LineMoments.of(x, y)
    moments.copy_(lines.fields)
    if out is None:
        return
    finite = lines.finite[..., None, None]
    for side, mean, to in zip((x, y), (X_MEAN, Y_MEAN), out, strict=True):
        left = (side - moments[mean].unsqueeze(-1)).where(finite, 0)
        to.copy_(left.transpose(0, 1))


def reduce_batch(moments: LineMoments) -> ChannelMoments:
    """As :meth:`LineMoments.of_channels`, of any number of lines."""
    inputs = moments.of_inputs()
    fields = inputs.fields.squeeze(-1)
    cpu = cpu_kernels() if fields.is_cpu and inputs.complete else None
    if cpu is not None:
        table = fields.new_empty(TABLE_ROWS, fields.shape[1])
        cpu.reduce_batch(fields.view(LINE_FIELDS, -1).numpy(), inputs.length, table.numpy())
        return ChannelMoments(table)
    if fields.is_cuda and (gpu := gpu_kernels(fields.device)) is not None:
        return ChannelMoments(gpu.reduce_batch(fields, inputs.length))
    return inputs.of_channels()


def merge_moments(first: ChannelMoments, second: ChannelMoments) -> ChannelMoments:
    """As :meth:`ChannelMoments.merge`, in one call instead of many (benchmarks/merge.py)."""
    table = first.table
    if table.is_cuda and (gpu := gpu_kernels(table.device)) is not None:
        return ChannelMoments(gpu.merge(table, second.table))
    if table.is_cpu and (cpu := cpu_kernels()) is not None:
        out = torch.empty_like(table)
        cpu.merge(table.numpy(), second.table.numpy(), out.numpy())
        return ChannelMoments(out)
    return first.merge(second)


def add_products(
    x: Tensor,
    y: Tensor,
    transform: Transform,
    channel: int,
    sums: Tensor,
    imaginary: Tensor,
    max_norm: Tensor,
) -> None:
    """Add |X|², |Y|² and conj(X)·Y over spectra and over the components of each bin, in float64.

    Args:
        x: complex, ``[n, c, lines, F]``, X of n inputs.
        y: likewise, Y.
        transform: whose components and bins these are.
        channel: the first of the c channels among C.
        sums: float64, ``[3, C, B]``, added to: |X|², |Y|² and the real part of conj(X)·Y.
        imaginary: float64, ``[C, B]``, added to: its imaginary part; ``[0, B]``: not needed.
        max_norm: float64, ``[C, S]``, added to: |Y|² in max-norm bins, if there are any.
    """
    if x.is_cpu and (cpu := cpu_kernels()) is not None:
        sides = (torch.view_as_real(side).flatten(3).numpy() for side in (x, y))
        indices = transform.weights, transform.bin, transform.max_norm_bin
        cpu.add_products(
            *sides, *(index.numpy() for index in indices), channel,
            sums.numpy(), imaginary.numpy(), max_norm.numpy(),
        )  # fmt: skip
        return
    components = sums.new_empty(4, x.shape[1], x.shape[3])
    if x.is_cuda and (gpu := gpu_kernels(x.device)) is not None:
        gpu.products(torch.view_as_real(x), torch.view_as_real(y), components)
    else:
        x, y = x.to(torch.complex128), y.to(torch.complex128)
        cross = (x.conj() * y).sum((0, 2))
        squares = ((side.conj() * side).real.sum((0, 2)) for side in (x, y))
        torch.stack([*squares, cross.real, cross.imag], out=components)
    components *= transform.weights
    c = slice(channel, channel + x.shape[1])
    sums[:, c].index_add_(2, transform.bin, components[:3])
    if len(imaginary):
        imaginary[c].index_add_(1, transform.bin, components[3])
    if max_norm.shape[1]:
        max_norm[c].index_add_(1, transform.max_norm_bin, components[1])


def mean_products(moments: LineMoments, channel: int, out: Tensor) -> None:
    """Products of the means of lines, summed over the inputs that are finite on both sides.

    Args:
        moments: of c channels.
        channel: the first of them among C.
        out: float64, ``[4, C]``, written to: the number of those inputs, and the sums of squares of
            the input's means, of the output's means, and of their products.
    """
    if out.is_cpu and (cpu := cpu_kernels()) is not None:
        cpu.mean_products(moments.fields.numpy(), moments.length, channel, out.numpy())
        return
    x, y = moments.means
    c = slice(channel, channel + x.shape[0])
    out[0, c] = moments.finite.sum(1)
    out[1:, c] = torch.stack([x * x, y * y, x * y]).sum((2, 3))


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16


def _memory(x: Tensor) -> tuple[Any, tuple[int, int]]:
    """The memory of ``[N, C, values]`` from the first value on, and strides of N and C."""
    samples, channels = x.shape[:2]
    strides = x.stride(0), x.stride(1)
    span = (samples - 1) * strides[0] + (channels - 1) * strides[1] + x.shape[2]
    return x.as_strided((span,), (1,)).numpy(), strides
