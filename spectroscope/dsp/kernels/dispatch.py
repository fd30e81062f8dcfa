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
) -> None:
    """Moments of the lines of both sides of an activation, and the lines without their means.

    Args:
        x: the input, ``[n, c, ...]``, real, of which each input and channel are `lines` of T.
        y: the output, of the same shape; None: ReLU(x).
        moments: ``[LINE_FIELDS, c, N, lines]``, float64, contiguous; of the n inputs from `first`
            on, written to.
        first: number of the first input.
        out: the lines of both sides without their means, each ``[c, n, lines, T]``, contiguous and
            of the type :func:`computed_in`, written to: 0 in inputs that aren't finite on both
            sides. None: moments alone.
    """
    lines = moments.shape[3]
    gpu = gpu_kernels(x.device) if x.is_cuda else None
    cpu = cpu_kernels() if x.is_cpu else None
    if gpu is None and cpu is None:
        _center_lines(x, y, moments[:, :, first : first + len(x)], out)
        return
    x = _readable(x, "input")
    if y is not None:
        y = _readable(y, "output")
    if gpu is not None:
        gpu.center_lines(x, y, moments, first, out)
    elif cpu is not None:
        x_flat, x_strides = _memory(x)
        y_flat, y_strides = (x_flat, x_strides) if y is None else _memory(y)
        kept = [side.numpy() for side in out or (x.new_empty(0, 0, 0, 0),) * 2]
        length = x.shape[2] // lines
        cpu.center_lines(
            x_flat, x_strides, y_flat, y_strides, y is None, len(x), length,
            moments.numpy(), first, *kept,
        )  # fmt: skip


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
        to.copy_((side - moments[mean].unsqueeze(-1)).where(finite, 0))


def reduce_batch(moments: LineMoments) -> ChannelMoments:
    """As :meth:`LineMoments.of_channels`, of any number of lines."""
    inputs = moments.of_inputs()
    fields = inputs.fields.squeeze(-1)
    if fields.is_cuda and (gpu := gpu_kernels(fields.device)) is not None:
        return ChannelMoments(gpu.reduce_batch(fields, inputs.length))
    if fields.is_cpu and (cpu := cpu_kernels()) is not None:
        table = fields.new_empty(TABLE_ROWS, fields.shape[1])
        cpu.reduce_batch(fields.numpy(), inputs.length, table.numpy())
        return ChannelMoments(table)
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


def add_products(x: Tensor, y: Tensor, sums: Tensor, imaginary: Tensor) -> None:
    """Add |X|², |Y|² and conj(X)·Y over spectra, in float64.

    Args:
        x: complex, ``[c, m, F]``, X of m spectra of each channel.
        y: likewise, Y.
        sums: float64, ``[3, c, F]``, updated in place: |X|², |Y|² and the real part of conj(X)·Y.
        imaginary: float64, ``[c, F]``, updated in place: the imaginary part of conj(X)·Y;
            ``[0, F]``: not needed.
    """
    if x.is_cuda and (gpu := gpu_kernels(x.device)) is not None:
        gpu.add_products(torch.view_as_real(x), torch.view_as_real(y), sums, imaginary)
    elif x.is_cpu and (cpu := cpu_kernels()) is not None:
        sides = (torch.view_as_real(side).flatten(2).numpy() for side in (x, y))
        cpu.add_products(*sides, sums.numpy(), imaginary.numpy())
    else:
        x, y = x.to(torch.complex128), y.to(torch.complex128)
        cross = (x.conj() * y).sum(1)
        sums += torch.stack([(x.conj() * x).sum(1).real, (y.conj() * y).sum(1).real, cross.real])
        imaginary += cross.imag[: len(imaginary)]


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16


def _memory(x: Tensor) -> tuple[Any, tuple[int, int]]:
    """The memory of ``[N, C, values]`` from the first value on, and strides of N and C."""
    samples, channels = x.shape[:2]
    strides = x.stride(0), x.stride(1)
    span = (samples - 1) * strides[0] + (channels - 1) * strides[1] + x.shape[2]
    return x.as_strided((span,), (1,)).numpy(), strides
