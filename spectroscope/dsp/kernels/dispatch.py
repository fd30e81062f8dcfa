"""Which code reduces an activation: compiled loops, GPU kernels, or torch's own operations.

numba and Triton are imported at first use. Without them everything works, more slowly.
"""

import warnings
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from spectroscope.dsp.kernels.parallel import workspace
from spectroscope.dsp.moments import (
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
    """The loops compiled by numba; None: numba is missing."""
    try:
        from spectroscope.dsp.kernels import cpu
    except ImportError:
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


def computed_in(x: Tensor, y: Tensor | None = None) -> torch.dtype:
    """The type in which both sides are computed: float32 unless one of them is float64."""
    has_double = x.dtype == torch.float64 or (y is not None and y.dtype == torch.float64)
    return torch.float64 if has_double else torch.float32


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
        out: the lines of both sides without their means, ``[c, 2, pairs, lines, T]``, contiguous,
            complex and of the precision :func:`computed_in`, written to. Real and imaginary part of
            a pair are two of the chosen inputs: 0 in inputs that aren't finite on both sides, and
            after an odd last one. None: neither `out` nor `means` and `fields` are needed.
    """
    if x.is_cpu and (cpu := cpu_kernels()) is not None:
        dtype = computed_in(x, y)
        x, y = readable(x, "input", dtype), None if y is None else readable(y, "output", dtype)
        cpu.read_lines(x, y, lines, chosen, channel, table, means, fields, out)
        return
    gpu = gpu_kernels(x.device) if x.is_cuda else None
    if gpu is not None:
        rows = *x.shape[:2], -1
        x = readable(x, "input", x.dtype).view(rows)
        y = None if y is None else readable(y, "output", y.dtype).view(rows)
    center_lines = _center_lines if gpu is None else gpu.center_lines
    all_chosen = len(chosen) == len(x)
    moments = center_lines(x, y, lines, out if all_chosen else None)
    c = slice(channel, channel + x.shape[1])
    if gpu is not None:
        gpu.add_moments(moments, channel, table)
    else:
        batch = moments.of_inputs().of_channels()
        table[:, c] = ChannelMoments(table[:, c]).merge(batch).table
    if out is None or not chosen:
        return
    if not all_chosen:
        part = slice(chosen.start, chosen.stop, chosen.step)
        moments = center_lines(x[part], None if y is None else y[part], lines, out)
    if len(chosen) % 2:
        torch.view_as_real(out)[:, :, -1, ..., 1] = 0
    if means is not None and gpu is not None:
        gpu.add_means(moments, channel, means)
    elif means is not None:
        means[:, c] += moments.mean_products()
    if fields is not None:
        fields.copy_(moments.fields)


def is_readable(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether loops can read x ``[N, C, ...]`` where it is, or in a copy of type `dtype` alone."""
    if x.dtype != dtype or x.dtype not in (_CPU_TYPES if x.is_cpu else _GPU_TYPES):
        return False
    if x.is_neg() or not x.data_ptr():  # memory has other values, or a tensor of zeros has none
        return False
    if x.is_contiguous():
        return True
    expected = 1
    for length, stride in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True


def readable(x: Tensor, side: str, dtype: torch.dtype) -> Tensor:
    """x, or a copy of type `dtype` that loops can read."""
    if is_readable(x, dtype):
        return x
    if dtype not in _GPU_TYPES:
        dtype = torch.float32
    return workspace(f"copy of {side}", tuple(x.shape), dtype, x.device).copy_(x)


def _center_lines(x: Tensor, y: Tensor | None, lines: int, out: Tensor | None) -> LineMoments:
    """Moments of lines, and the lines without their means, by torch's own operations."""
    y = x.clamp_min(0) if y is None else y
    shape = x.shape[1], len(x), lines, -1
    x, y = (side.double().transpose(0, 1).reshape(shape) for side in (x, y))
    moments = LineMoments.of(x, y)
    if out is not None:
        finite = moments.finite[..., None, None]
        parts = torch.view_as_real(out)
        for number, (side, mean) in enumerate(((x, X_MEAN), (y, Y_MEAN))):
            left = (side - moments.fields[mean].unsqueeze(-1)).where(finite, 0)
            for part in (0, 1):
                of_part = left[:, part::2]
                parts[:, number, : of_part.shape[1], ..., part] = of_part
    return moments


def merge_moments(first: Tensor, second: Tensor) -> None:
    """Add table `second` to table `first`, both ``[TABLE_ROWS, C]``, contiguous.

    As :meth:`ChannelMoments.merge`, in one call instead of many.
    """
    if first.is_cpu and (cpu := cpu_kernels()) is not None:
        cpu.merge(first, second)
    elif first.is_cuda and (gpu := gpu_kernels(first.device)) is not None:
        gpu.merge(first, second)
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
        both: complex, ``[c, 2, pairs, lines, F]``, contiguous, transforms of pairs of inputs.
        transform: whose components and bins these are.
        channel: the first of the c channels among C.
        power: float64, ``[2, C, B]``, contiguous, added to: |X|² and |Y|².
        cross: complex128, ``[C, B]``, contiguous, added to: conj(X)·Y; in radial bins its real
            part.
        max_norm: float64, ``[C, S]``, contiguous, added to: |Y|² in max-norm bins, if there are
            any.
    """
    sign = None if transform.radial else transform.sign
    max_norm_bin = transform.max_norm_bin if max_norm.shape[1] else None
    if both.is_cpu and (cpu := cpu_kernels()) is not None:
        cpu.add_products(
            both, transform.bin, sign, max_norm_bin, channel, power, cross, max_norm
        )  # fmt: skip
        return
    components = power.new_empty(4, len(both), both.shape[-1])
    if both.is_cuda and (gpu := gpu_kernels(both.device)) is not None:
        gpu.products(torch.view_as_real(both), components)
    else:
        x, y = both.to(torch.complex128).unbind(1)
        product = (x.conj() * y).sum((1, 2))
        squares = ((side.conj() * side).real.sum((1, 2)) for side in (x, y))
        torch.stack([*squares, product.real, product.imag], out=components)
    c = slice(channel, channel + len(both))
    power[:, c].index_add_(2, transform.bin, components[:2])
    parts = torch.view_as_real(cross[c])
    parts[..., 0].index_add_(1, transform.bin, components[2])
    if sign is not None:
        parts[..., 1].index_add_(1, transform.bin, components[3] * sign)
    if max_norm_bin is not None:
        max_norm[c].index_add_(1, max_norm_bin, components[1])


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
        cpu.scale_products(power, cross, max_norm, means, lines, points)
        return
    for sums in (power, cross, max_norm):
        sums *= 1 / (lines * points**2)
    dc = means / lines
    power[:, :, 0] = dc[MEANS_XX : MEANS_YY + 1]
    cross[:, 0] = dc[MEANS_XY]
    if max_norm.shape[1]:
        max_norm[:, 0] = dc[MEANS_YY]


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16
