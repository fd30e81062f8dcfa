"""Moments of both sides of a ReLU, row by row, in one reading of its input where that can be."""

import math
import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.threads import SHARE, compiled, shared
from spectroscope.dsp.moments import ChannelMoments, RowMoments


class ReluMoments(NamedTuple):
    """Moments of the rows of `x` and of those of ReLU(x).

    Attributes:
        rows: float64, ``[9, N, C]``: mean of the finite values of either side, sum of their squared
            deviations from that, number of finite values > 0; what rounding left out of the means,
            and number of finite values on either side.
        plain: all values are finite, the rests don't matter, and neither is written.
        length: of the rows.
    """

    rows: Tensor
    plain: bool
    length: int

    def finite(self) -> Tensor | None:
        """``[N, C]``, which rows are finite throughout on both sides; None: all are."""
        return None if self.plain else (self.rows[7:] == self.length).all(0)

    def sides(self, n: slice, c: slice) -> tuple[RowMoments, RowMoments]:
        """Those of some rows, side by side; of the first without `positive`."""
        x_mean, y_mean, x_m2, y_m2, positive, *more = self.rows[:, n, c]
        x_rest, y_rest, x_finite, y_finite = [None] * 4 if self.plain else more
        return (
            RowMoments(x_mean, x_m2, None, x_rest, x_finite),
            RowMoments(y_mean, y_m2, positive, y_rest, y_finite),
        )

    def channels(self) -> ChannelMoments:
        """Summed up over N."""
        if self.rows.is_cuda:
            kernels = on_gpu(self.rows.device)
            assert kernels is not None  # they have made these
            return ChannelMoments(kernels.fold(self.rows, self.length))
        native = compiled()
        assert native is not None
        found = ChannelMoments(self.rows.new_empty(28, self.rows.shape[2]))
        dc, joint = found.table[:16].view(2, 2, 4, -1), found.table[22:]
        rows, results = self.rows.numpy(), (dc.numpy(), found.sums.numpy(), joint.numpy())
        given = rows[:2], rows[2:4], rows[4]
        if self.plain:
            native.fold(*given, self.length, *results)
        else:
            native.fold_finite(*given, rows[5:7], rows[7:], self.length, *results)
        return found


def merge(mine: ChannelMoments, other: ChannelMoments) -> ChannelMoments:
    """As :meth:`ChannelMoments.merge`, in one call where that can be."""
    table = mine.table
    if table.is_cuda and (kernels := on_gpu(table.device)) is not None:
        return ChannelMoments(kernels.merge(table, other.table))
    if table.is_cpu and (native := compiled()) is not None:
        out = torch.empty_like(table)
        native.merge(table.numpy(), other.table.numpy(), out.numpy())
        return ChannelMoments(out)
    return mine.merge(other)


_ON_CPU = torch.float32, torch.float64
_ON_GPU = *_ON_CPU, torch.float16, torch.bfloat16


class _Memory(NamedTuple):
    """How a tensor ``[N, C, ...]`` lies in memory, time or space being one axis there.

    Attributes:
        flat: the memory, from the first value on; of the CPU as an array.
        shape: N, C, T.
        strides: of those in `flat`; that of C or of T is 1.
    """

    flat: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "_Memory | None":
        """None: it lies otherwise, or elsewhere, or is of a type that can't be read as it is."""
        if x.dtype not in (_ON_CPU if x.is_cpu else _ON_GPU if x.is_cuda else ()) or x.is_neg():
            return None
        try:
            x = x.view(*x.shape[:2], -1)
        except RuntimeError:  # time or space isn't one axis
            return None
        shape, strides = tuple(x.shape), x.stride()
        if 1 not in strides[1:]:
            return None
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        flat = x.as_strided((span,), (1,))
        return cls(flat.numpy() if x.is_cpu else flat, shape, strides)


def both_sides(block: Tensor, x: Tensor, y: Tensor, finite: Tensor | None) -> None:
    """Write `block` to `x` and its ReLU to `y`, both float64, contiguous and of its shape.

    Args:
        block: ``[N, C, ...]``.
        x: written to.
        y: likewise.
        finite: ``[N, C]``, which rows to write; the others are 0. None: all.
    """
    memory = _Memory.of(block)
    kernels = on_gpu(block.device) if block.is_cuda else None
    native = compiled() if block.is_cpu else None
    if memory is not None and kernels is not None and finite is not None:
        kernels.widen(*memory, finite, x, y)
        return
    if memory is not None and native is not None and memory.strides[2] == 1:
        rows = memory.shape[0] * memory.shape[1]
        wide, rectified = (side.view(rows, -1).numpy() for side in (x, y))
        step = max(1, SHARE * rows // block.numel())
        shared(lambda a, b: native.widen(*memory, a, b, wide, rectified), rows, step)
    else:
        x.copy_(block)
        torch.clamp_min(x, 0, out=y)
    if finite is not None:
        blank_rows(x, finite)
        blank_rows(y, finite)


def blank_rows(x: Tensor, finite: Tensor) -> None:
    """Set the rows of ``[N, C, ...]`` that aren't `finite`, ``[N, C]``, to 0."""
    x.masked_fill_(~finite.view(*finite.shape, *[1] * (x.dim() - 2)), 0)


def relu_moments(x: Tensor) -> ReluMoments | None:
    """Moments of the rows of `x`, and of those of ReLU(x), in one reading of x.

    Args:
        x: real, ``[N, C, ...]`` of at least one value, dense, on any device.

    Returns:
        None: not of such a tensor, or not on this machine.
    """
    memory = _Memory.of(x)
    if memory is None:
        return None
    if x.is_cuda:
        kernels = on_gpu(x.device)
        if kernels is None:
            return None
        return ReluMoments(kernels.read(*memory), False, memory.shape[2])
    native = compiled()
    if native is None:
        return None
    flat, shape, strides = memory
    samples, channels, length = shape
    rows = torch.empty(9, samples, channels, dtype=torch.float64)
    found: Any = rows.view(9, -1).numpy()
    if strides[2] == 1:
        work, count = native.lines, samples * channels
    else:
        work, count = native.columns, samples
    step = max(1, SHARE * count // math.prod(shape))
    doubtful = shared(lambda a, b: work(flat, shape, strides, a, b, found[:5]), count, step)
    if doubtful:
        shared(
            lambda a, b: native.again(flat, shape, strides, a, b, found[:5], found[5:]),
            samples * channels,
            max(1, SHARE // length),
        )
    return ReluMoments(rows, not doubtful, length)


@lru_cache
def on_gpu(device: torch.device) -> ModuleType | None:
    """The kernels for a GPU, or None where they can't be had: everything goes without them too.

    Where there is Triton and it fails, that is said: what goes without it takes several times as
    long. It may be for want of a C compiler, or not know this GPU, and raise what it likes.
    """
    try:
        from spectroscope.dsp.kernels import gpu
    except ImportError:  # this torch has none
        return None
    try:
        gpu.fold(gpu.read(torch.zeros(1, device=device), (1, 1, 1), (1, 1, 1)), 1)
    except Exception as error:
        first = str(error).partition("\n")[0]
        warnings.warn(
            f"recording on {device} goes without compiled kernels, several times slower: "
            f"{type(error).__name__}: {first}",
            stacklevel=2,
        )
        return None
    return gpu
