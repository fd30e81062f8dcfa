"""Which code reduces an activation: compiled loops, GPU kernels, or torch's own operations.

numba and Triton are imported at first use. Without them everything works, more slowly.
"""

import math
import warnings
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.parallel import GRAIN_SIZE, parallel_for
from spectroscope.dsp.moments import (
    ROW_FIELDS,
    TABLE_ROWS,
    X_COMPENSATION,
    X_FINITE,
    X_M2,
    X_MEAN,
    Y_COMPENSATION,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
    ChannelMoments,
    RowMoments,
)
from spectroscope.errors import first_line

# Components whose sums stay in the level-1 cache while products are added to them.
_CHUNK = 1024


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
        gpu.reduce_batch(gpu.row_moments(torch.zeros(1, device=device), (1, 1, 1), (1, 1, 1)), 1)
    except Exception as error:
        warnings.warn(
            f"recording on {device} goes without compiled kernels, several times slower: "
            f"{type(error).__name__}: {first_line(error)}",
            stacklevel=2,
        )
        return None
    return gpu


class ReluMoments(NamedTuple):
    """Moments of the rows of x and of y = ReLU(x).

    Attributes:
        rows: float64, ``[ROW_FIELDS, N, C]``, in the layout of `spectroscope.dsp.moments`.
        one_pass: every row was reduced in one pass. Then all values are finite, the compensations
            are negligible, and neither they nor the numbers of finite values are written.
        length: of the rows.
    """

    rows: Tensor
    one_pass: bool
    length: int

    def finite_rows(self) -> Tensor | None:
        """``[N, C]``, which rows are finite on both sides; None: all are."""
        if self.one_pass:
            return None
        return (self.rows[X_FINITE : Y_FINITE + 1] == self.length).all(0)

    def sides(self, n: slice, c: slice) -> tuple[RowMoments, RowMoments]:
        """Moments of the rows of samples `n` and channels `c`; of x without `positive`."""
        rows = self.rows[:, n, c]
        if self.one_pass:
            return (
                RowMoments(rows[X_MEAN], rows[X_M2], None, None, None),
                RowMoments(rows[Y_MEAN], rows[Y_M2], rows[Y_POSITIVE], None, None),
            )
        return (
            RowMoments(rows[X_MEAN], rows[X_M2], None, rows[X_COMPENSATION], rows[X_FINITE]),
            RowMoments(*(rows[k] for k in (Y_MEAN, Y_M2, Y_POSITIVE, Y_COMPENSATION, Y_FINITE))),
        )

    def reduce_batch(self) -> ChannelMoments:
        """Moments of the channels, over all samples."""
        if self.rows.is_cuda:
            gpu = gpu_kernels(self.rows.device)
            assert gpu is not None  # they have made `rows`
            return ChannelMoments(gpu.reduce_batch(self.rows, self.length))
        cpu = cpu_kernels()
        assert cpu is not None
        table = self.rows.new_empty(TABLE_ROWS, self.rows.shape[2])
        reduce_batch = cpu.reduce_batch if self.one_pass else cpu.reduce_batch_finite
        reduce_batch(self.rows.numpy(), self.length, table.numpy())
        return ChannelMoments(table)


def relu_moments(x: Tensor) -> ReluMoments | None:
    """Moments of the rows of `x` and of those of ReLU(x), in one pass over x.

    Args:
        x: real, ``[N, C, ...]`` of at least one value, dense, on any device.

    Returns:
        None: no kernel for this machine, or for x's type or memory layout.
    """
    memory = _Memory.of(x)
    if memory is None:
        return None
    if x.is_cuda:
        gpu = gpu_kernels(x.device)
        if gpu is None:
            return None
        return ReluMoments(gpu.row_moments(*memory), False, memory.shape[2])
    cpu = cpu_kernels()
    if cpu is None:
        return None
    samples, channels, length = memory.shape
    rows = torch.empty(ROW_FIELDS, samples, channels, dtype=torch.float64)
    out: Any = rows.view(ROW_FIELDS, -1).numpy()
    if memory.strides[2] == 1:
        loop, count = cpu.row_moments_contiguous, samples * channels
    else:
        loop, count = cpu.row_moments_channels_last, samples
    step = max(1, GRAIN_SIZE * count // math.prod(memory.shape))
    ill_conditioned = parallel_for(lambda begin, end: loop(*memory, begin, end, out), count, step)
    if ill_conditioned:
        parallel_for(
            lambda begin, end: cpu.row_moments_two_pass(*memory, begin, end, out),
            samples * channels,
            max(1, GRAIN_SIZE // length),
        )
    return ReluMoments(rows, not ill_conditioned, length)


def merge_moments(first: ChannelMoments, second: ChannelMoments) -> ChannelMoments:
    """As :meth:`ChannelMoments.merge`, in one call instead of 36 (benchmarks/merge.py)."""
    table = first.table
    if table.is_cuda and (gpu := gpu_kernels(table.device)) is not None:
        return ChannelMoments(gpu.merge(table, second.table))
    if table.is_cpu and (cpu := cpu_kernels()) is not None:
        out = torch.empty_like(table)
        cpu.merge(table.numpy(), second.table.numpy(), out.numpy())
        return ChannelMoments(out)
    return first.merge(second)


def to_float64(block: Tensor, x: Tensor, y: Tensor, finite: Tensor | None) -> None:
    """Write `block` to `x` and its ReLU to `y`, both float64, contiguous and of its shape.

    Args:
        block: ``[N, C, ...]``.
        x: written to.
        y: likewise.
        finite: ``[N, C]``, which rows to write; the others become 0. None: all.
    """
    memory = _Memory.of(block)
    gpu = gpu_kernels(block.device) if block.is_cuda else None
    cpu = cpu_kernels() if block.is_cpu else None
    if memory is not None and gpu is not None and finite is not None:
        gpu.to_float64(*memory, finite, x, y)
        return
    if memory is not None and cpu is not None and memory.strides[2] == 1:
        rows = memory.shape[0] * memory.shape[1]
        x_rows, y_rows = (side.view(rows, -1).numpy() for side in (x, y))
        step = max(1, GRAIN_SIZE * rows // block.numel())
        parallel_for(
            lambda begin, end: cpu.to_float64(*memory, begin, end, x_rows, y_rows), rows, step
        )
    else:
        x.copy_(block)
        torch.clamp_min(x, 0, out=y)
    if finite is not None:
        zero_nonfinite_rows(x, finite)
        zero_nonfinite_rows(y, finite)


def add_products(x: Tensor, y: Tensor, sums: Tensor, imaginary: Tensor) -> None:
    """Add |X|², |Y|² and conj(X)·Y, summed over inputs and frames.

    Args:
        x: float64, ``[n, c, frames, F, 2]``, real and imaginary parts of X.
        y: those of Y.
        sums: ``[3, c, F]``, updated in place: |X|², |Y|² and the real part of conj(X)·Y.
        imaginary: ``[c, F]``, updated in place: the imaginary part of conj(X)·Y; ``[0, F]``: not
            needed.
    """
    if x.is_cuda and (kernels := gpu_kernels(x.device)) is not None:
        kernels.add_products(x, y, sums, imaginary)
        return
    compiled = cpu_kernels() if x.is_cpu else None
    if compiled is None:
        for total, a, b in zip(sums, (x, y, x), (x, y, y), strict=True):
            _add_product(total, a[..., 0], b[..., 0], 1)
            _add_product(total, a[..., 1], b[..., 1], 1)
        if len(imaginary):
            _add_product(imaginary, x[..., 0], y[..., 1], 1)
            _add_product(imaginary, x[..., 1], y[..., 0], -1)
        return
    components = x.shape[3]
    count = x.shape[1] * -(-components // _CHUNK)
    sides = [side.flatten(3).numpy() for side in (x, y)]
    results = sums.numpy(), imaginary.numpy()
    parallel_for(
        lambda a, b: compiled.add_products(*sides, components, _CHUNK, a, b, *results),
        count,
        max(1, GRAIN_SIZE * count // x.numel()),
    )


def _add_product(total: Tensor, a: Tensor, b: Tensor, sign: int) -> None:
    if a.shape[0] * a.shape[2] == 1:
        total.addcmul_(a[0, :, 0], b[0, :, 0], value=sign)
    else:
        total.add_((a * b).sum((0, 2)), alpha=sign)


def zero_nonfinite_rows(x: Tensor, finite: Tensor) -> None:
    """Set the rows of x ``[N, C, ...]`` that aren't `finite`, ``[N, C]``, to 0."""
    x.masked_fill_(~finite.view(*finite.shape, *[1] * (x.dim() - 2)), 0)


_CPU_TYPES = torch.float32, torch.float64
_GPU_TYPES = *_CPU_TYPES, torch.float16, torch.bfloat16


class _Memory(NamedTuple):
    """Memory layout of a tensor ``[N, C, ...]`` whose axes of time or space make one axis T.

    Attributes:
        flat: the memory, from the first value on; on the CPU a NumPy array.
        shape: N, C, T.
        strides: of N, C and T in `flat`; that of C or of T is 1.
    """

    flat: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "_Memory | None":
        """None: no kernel reads this layout, type or device."""
        if x.dtype not in (_CPU_TYPES if x.is_cpu else _GPU_TYPES if x.is_cuda else ()):
            return None
        if x.is_neg():
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
