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
    means: Tensor,
    fields: Tensor | None,
    out: tuple[Tensor, Tensor] | None,
) -> None:
    """Add moments of some inputs to a table, and write the lines of some without their means.

    Args:
        x: the input, ``[n, c, ...]``, real.
        y: the output, of the same shape; None: ReLU(x).
        lines: of each input and channel, which are of the same length T.
        chosen: numbers of the m inputs that are in `means`, `fields` and `out`.
        channel: the first of the c channels among C.
        table: float64, ``[TABLE_ROWS, C]``, contiguous, added to.
        means: float64, ``[MEAN_ROWS, C]``, likewise; or of no channels.
        fields: float64, ``[LINE_FIELDS, c, m, lines]``, contiguous, written to; None: not needed.
        out: the lines of both sides without their means, each ``[m, c, lines, T]``, contiguous and
            of the type :func:`computed_in`, written to: 0 in inputs that aren't finite on both
            sides. None: not needed.
    """
    cpu = cpu_kernels() if x.is_cpu else None
    gpu = gpu_kernels(x.device) if x.is_cuda else None
    if cpu is not None or gpu is not None:
        x = _readable(x, "input")
        y = None if y is None else _readable(y, "output")
    if cpu is not None:
        x_flat, x_strides = _memory(x)
        y_flat, y_strides = (None, x_strides) if y is None else _memory(y)
        no_fields, nothing = _nothing(x.dtype)
        samples, channels, values = x.shape
        cpu.read_lines(
            x_flat, x_strides, y_flat, y_strides, (samples, channels, lines), values // lines,
            (chosen.start, chosen.step), channel, table.numpy(), means.numpy(),
            no_fields if fields is None else fields.view(LINE_FIELDS, -1).numpy(),
            *((nothing, nothing) if out is None else (side.view(-1).numpy() for side in out)),
        )  # fmt: skip
        return
    center_lines = _center_lines if gpu is None else gpu.center_lines
    all_chosen = len(chosen) == len(x)
    moments = center_lines(x, y, lines, out if all_chosen else None)
    if gpu is None:
        c = slice(channel, channel + x.shape[1])
        batch = moments.of_inputs().of_channels()
        table[:, c] = ChannelMoments(table[:, c]).merge(batch).table
    else:
        gpu.add_moments(moments, channel, table)
    if not chosen or (not means.shape[1] and fields is None and out is None):
        return
    if not all_chosen:
        part = slice(chosen.start, chosen.stop, chosen.step)
        moments = center_lines(x[part], None if y is None else y[part], lines, out)
    if means.shape[1]:
        c = slice(channel, channel + x.shape[1])
        means[:, c] += moments.mean_products()
    if fields is not None:
        fields.copy_(moments.fields)


def _readable(x: Tensor, side: str) -> Tensor:
    """``[N, C, values]`` whose values are contiguous and of a type that loops read: x or a copy."""
    if x.dtype in (_CPU_TYPES if x.is_cpu else _GPU_TYPES) and not x.is_neg():
        if x.dim() == 3 and x.stride(2) == 1:
            return x
        try:
            rows = x.view(*x.shape[:2], -1)
        except RuntimeError:  # time or space isn't one axis
            rows = None
        if rows is not None and (rows.stride(2) == 1 or rows.shape[2] == 1):
            return rows
    copy = workspace(f"copy of {side}", tuple(x.shape), computed_in(x.dtype), x.device)
    return copy.copy_(x).view(*x.shape[:2], -1)


def _center_lines(
    x: Tensor, y: Tensor | None, lines: int, out: tuple[Tensor, Tensor] | None
) -> LineMoments:
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


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16


def _memory(x: Tensor) -> tuple[Any, tuple[int, int]]:
    """The memory of ``[N, C, values]`` from the first value on, and strides of N and C."""
    samples, channels, values = x.shape
    x_sample, x_channel, _ = x.stride()
    if x_channel == values and (x_sample == channels * values or samples == 1):
        return x.numpy().reshape(-1), (x_sample, x_channel)
    span = (samples - 1) * x_sample + (channels - 1) * x_channel + values
    return x.as_strided((span,), (1,)).numpy(), (x_sample, x_channel)


@lru_cache
def _nothing(dtype: torch.dtype) -> tuple[Any, Any]:
    """Empty arrays for fields, and for values of type `dtype`."""
    return torch.empty(LINE_FIELDS, 0, dtype=torch.float64).numpy(), torch.empty(
        0, dtype=dtype
    ).numpy()
