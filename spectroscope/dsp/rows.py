"""Moments of both sides of a ReLU, row by row, in one reading of its input where that can be."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.moments import CoMoments, Moments, RowMoments
from spectroscope.dsp.threads import SHARE, compiled, shared


class ReluMoments(NamedTuple):
    """Moments of the rows of `x` and of those of ReLU(x).

    Attributes:
        means: float64, ``[2, N, C]``: of the finite values of either side.
        m2: likewise, the sum of their squared deviations from that.
        positive: ``[N, C]``, number of finite values > 0.
        rests: as `means`, what rounding left out of them; None: nothing that matters.
        finite: likewise, number of finite values; None: all are, in every row.
        length: of the rows.
    """

    means: Tensor
    m2: Tensor
    positive: Tensor
    rests: Tensor | None
    finite: Tensor | None
    length: int

    def sides(self, n: slice, c: slice) -> tuple[RowMoments, RowMoments]:
        """Those of some rows, side by side; of the first without `positive`."""
        counts = None, self.positive[n, c]
        if self.rests is None or self.finite is None:
            x, y = (
                RowMoments(self.means[i, n, c], self.m2[i, n, c], counts[i], None, None)
                for i in range(2)
            )
        else:
            x, y = (
                RowMoments(
                    self.means[i, n, c],
                    self.m2[i, n, c],
                    counts[i],
                    self.rests[i, n, c],
                    self.finite[i, n, c],
                )
                for i in range(2)
            )
        return x, y

    def channels(self) -> "ChannelMoments":
        """Summed up over N."""
        native = compiled()
        assert native is not None  # it has made these
        count = self.means.shape[2]
        dc = torch.empty(2, 2, 4, count, dtype=torch.float64)
        sums = torch.empty(2, 3, count, dtype=torch.float64)
        joint = torch.empty(6, count, dtype=torch.float64)
        given = [tensor.numpy() for tensor in (self.means, self.m2, self.positive)]
        results = dc.numpy(), sums.numpy(), joint.numpy()
        if self.rests is None or self.finite is None:
            native.fold(*given, self.length, *results)
        else:
            more = self.rests.numpy(), self.finite.numpy()
            native.fold_finite(*given, *more, self.length, *results)
        return ChannelMoments(
            Moments(*dc.unbind(2)), sums, CoMoments(joint[0], joint[1:3], joint[3:])
        )


class ChannelMoments(NamedTuple):
    """What :meth:`ReluMoments.channels` sums up.

    Attributes:
        dc: of the rows' means, each ``[2, 2, C]``: of the input and of the output; each counting
            once, and as often as it has finite values.
        sums: ``[2, 3, C]``, of either side: of M2, of `positive`, of the number of values that
            aren't finite.
        joint: of the pairs of values, of those rows that are finite on both sides.
    """

    dc: Moments
    sums: Tensor
    joint: CoMoments


class _Memory(NamedTuple):
    """How a tensor ``[N, C, ...]`` lies in memory, time or space being one axis there.

    Attributes:
        flat: the memory, from the first value on.
        shape: N, C, T.
        strides: of those in `flat`; that of C or of T is 1.
    """

    flat: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor) -> "_Memory | None":
        """None: it lies otherwise, elsewhere than on the CPU, or isn't float32 or float64."""
        if not x.is_cpu or x.dtype not in (torch.float32, torch.float64) or x.is_neg():
            return None
        try:
            x = x.view(*x.shape[:2], -1)
        except RuntimeError:  # time or space isn't one axis
            return None
        shape, strides = tuple(x.shape), x.stride()
        if 1 not in strides[1:]:
            return None
        span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        return cls(x.as_strided((span,), (1,)).numpy(), shape, strides)


def both_sides(block: Tensor, x: Tensor, y: Tensor) -> None:
    """Write `block` to `x` and its ReLU to `y`, both float64, contiguous and of its shape."""
    memory, native = _Memory.of(block), compiled()
    if native is None or memory is None or memory.strides[2] != 1:
        x.copy_(block)
        torch.clamp_min(x, 0, out=y)
        return
    rows = memory.shape[0] * memory.shape[1]
    wide, rectified = (side.view(rows, -1).numpy() for side in (x, y))
    step = max(1, SHARE * rows // block.numel())
    shared(lambda a, b: native.widen(*memory, a, b, wide, rectified), rows, step)


def relu_moments(x: Tensor) -> ReluMoments | None:
    """Moments of the rows of `x`, and of those of ReLU(x), in one reading of x.

    Args:
        x: real, ``[N, C, ...]`` of at least one value, dense, on any device.

    Returns:
        None: not of such a tensor, or not on this machine.
    """
    if math.prod(x.shape[2:]) == 1:
        return None
    memory = _Memory.of(x)
    native = compiled()
    if native is None or memory is None:
        return None
    flat, shape, strides = memory
    samples, channels, length = shape
    out = torch.empty(5, samples, channels, dtype=torch.float64)
    found: Any = out.view(5, -1).numpy()
    if strides[2] == 1:
        work, count = native.lines, samples * channels
    else:
        work, count = native.columns, samples
    step = max(1, SHARE * count // math.prod(shape))
    doubtful = shared(lambda a, b: work(flat, shape, strides, a, b, found), count, step)
    rests = finite = None
    if doubtful:
        more = torch.empty(4, samples, channels, dtype=torch.float64)
        extra: Any = more.view(4, -1).numpy()
        shared(
            lambda a, b: native.again(flat, shape, strides, a, b, found, extra),
            samples * channels,
            max(1, SHARE // length),
        )
        rests, finite = more[:2], more[2:]
    return ReluMoments(out[:2], out[2:4], out[4], rests, finite, length)
