"""Counts, means and second moments that merge, in float64.

A sum of squares loses all its digits at mean 1e4 and standard deviation 1. A count, a mean and the
sum of squared deviations from it (M2) do not, and they merge exactly however a stream was split:
Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979.

The layouts of the two arrays that the kernels fill are declared here, and only here. numba and
Triton compile these numbers in; numba's cache does not notice a change of them, so delete it
(``__pycache__/*.nb?``) after one.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# Moments of the rows of both sides, ``[ROW_FIELDS, N, C]``: x is the input, y the output.
(
    X_MEAN,  # of the finite values
    Y_MEAN,
    X_M2,  # about that mean
    Y_M2,
    Y_POSITIVE,  # number of finite values > 0
    X_COMPENSATION,  # rounding error of the mean: mean + compensation is closer
    Y_COMPENSATION,
    X_FINITE,  # number of finite values
    Y_FINITE,
) = range(9)
ROW_FIELDS = 9

# Moments of channels, ``[TABLE_ROWS, C]``: three blocks, `dc`, `sums` and `joint`. The input's rows
# come before the output's.
# `dc`: of each side's row means, the fields of `Moments`, under two weightings: each row counts
# once (BY_ROW), or as often as it has finite values (BY_VALUE).
WEIGHT, PIVOT, OFFSET, M2 = range(4)
BY_ROW, BY_VALUE = 0, 4
DC, DC_SIDE = 0, 8  # first row of the block, and rows of one side
# `sums`: over all rows of a side.
SUM_M2, SUM_POSITIVE, SUM_NONFINITE = range(3)  # positive of the output alone
SUMS, SUMS_SIDE = 16, 3
# `joint`: the fields of `CoMoments`.
PAIRS, MEAN_X, MEAN_Y, M2_XX, M2_YY, M2_XY = range(6)
JOINT = 22
TABLE_ROWS = 28


class Moments(NamedTuple):
    """Weight, mean and M2 of a stream of numbers, per channel.

    The mean is kept as pivot + offset. Otherwise, where numbers near 1e4 differ by 0.1, the
    differences between means, of which M2 is built, would lose five digits to rounding.

    Attributes:
        weight: ``[C]``, the sum of the weights.
        pivot: ``[C]``, a number near the mean.
        offset: ``[C]``, mean − pivot.
        m2: ``[C]``, sum of weight × (number − mean)², in the square of the numbers' unit.
    """

    weight: Tensor
    pivot: Tensor
    offset: Tensor
    m2: Tensor

    @classmethod
    def of(cls, values: Tensor, compensation: Tensor, weights: Tensor) -> "Moments":
        """Moments over the first axis of the numbers `values` + `compensation`.

        Args:
            values: float64, ``[N, C]``.
            compensation: float64, ``[N, C]``, rounding error of `values`, to be added to them.
            weights: ``[N, C]``, whole numbers: how often each number counts.
        """
        weight = weights.sum(0)
        pivot = (weights * values).sum(0) / weight.clamp(min=1)
        near = (values - pivot) + compensation
        offset = (weights * near).sum(0) / weight.clamp(min=1)
        return cls(weight, pivot, offset, (weights * (near - offset).square()).sum(0))

    @classmethod
    def unweighted(cls, values: Tensor) -> "Moments":
        """Moments over the first axis of float64 `values` ``[N, C]``, each with weight 1."""
        pivot = values[0]
        near = values - pivot
        offset = near.mean(0)
        m2 = near.sub_(offset).square_().sum(0)
        return cls(torch.full_like(pivot, len(values)), pivot, offset, m2)

    def repeated(self, times: int) -> "Moments":
        """Moments of the stream in which each number occurs `times` times."""
        return Moments(self.weight * times, self.pivot, self.offset, self.m2 * times)

    @property
    def mean(self) -> Tensor:
        """``[C]``, in the unit of the numbers; 0 where `weight` is 0."""
        return self.pivot + self.offset

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        divisor = weight.clamp(min=1)  # a channel without values in either stays at 0
        pivot = self.pivot.where(self.weight > 0, other.pivot)
        offset, other_offset = (m.offset + (m.pivot - pivot) for m in (self, other))
        between = (other_offset - offset).square() * (self.weight * (other.weight / divisor))
        return Moments(
            weight,
            pivot,
            (self.weight * offset + other.weight * other_offset) / divisor,
            self.m2 + other.m2 + between,
        )


class CoMoments(NamedTuple):
    """Moments of pairs of numbers (x, y), per channel; merged as :class:`Moments` are.

    Attributes:
        weight: ``[C]``, number of pairs.
        mean: ``[2, C]``, of x and of y.
        m2: ``[3, C]``, sums over the pairs of dx², dy² and dx·dy, the deviations from the means.
    """

    weight: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, means: Tensor, m2: Tensor, weights: Tensor) -> "CoMoments":
        """Moments of all pairs from those of their rows.

        Args:
            means: float64, ``[2, N, C]``, of each row.
            m2: ``[3, C]``, summed over the rows, about each row's own means.
            weights: ``[N, C]``, number of pairs in each row; 0 leaves the row out.
        """
        weight = weights.sum(0)
        mean = (weights * means).sum(1) / weight.clamp(min=1)
        x, y = means - mean.unsqueeze(1)
        between = torch.stack([(weights * a * b).sum(0) for a, b in ((x, x), (y, y), (x, y))])
        return cls(weight, mean, m2 + between)

    def merge(self, other: "CoMoments") -> "CoMoments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        fraction = other.weight / weight.clamp(min=1)
        x, y = difference = other.mean - self.mean
        between = torch.stack([x * x, y * y, x * y]) * (self.weight * fraction)
        return CoMoments(weight, self.mean + difference * fraction, self.m2 + other.m2 + between)


class ChannelMoments(NamedTuple):
    """DC and AC of both sides of an activation, per channel, in one table that merges in one call.

    Attributes:
        table: float64, ``[TABLE_ROWS, C]``, in the layout declared at the top of this module.
    """

    table: Tensor

    @classmethod
    def of(cls, dc: Moments, sums: Tensor, joint: CoMoments) -> "ChannelMoments":
        """The table of these three, each as the property of the same name."""
        blocks = [torch.stack(dc, 2).flatten(0, 2), sums.flatten(0, 1)]
        return cls(torch.cat([*blocks, joint.weight.unsqueeze(0), joint.mean, joint.m2]))

    @property
    def dc(self) -> Moments:
        """Moments of the rows' means, each field ``[2, 2, C]``.

        The first axis is the side, input and output. The second is the weighting: each row counts
        once, or as often as it has finite values.
        """
        return Moments(*self.table[DC:SUMS].view(2, 2, 4, -1).unbind(2))

    @property
    def sums(self) -> Tensor:
        """``[2, 3, C]``, of each side: M2, values > 0 (of the output alone), values not finite."""
        return self.table[SUMS:JOINT].view(2, SUMS_SIDE, -1)

    @property
    def joint(self) -> CoMoments:
        """Moments of the pairs (input, output) in those rows that are finite on both sides."""
        joint = self.table[JOINT:]
        return CoMoments(joint[PAIRS], joint[MEAN_X : MEAN_Y + 1], joint[M2_XX:])

    def merge(self, other: "ChannelMoments") -> "ChannelMoments":
        """Moments of both streams together."""
        return ChannelMoments.of(
            self.dc.merge(other.dc), self.sums + other.sums, self.joint.merge(other.joint)
        )


class RowMoments(NamedTuple):
    """Moments of rows of values, from :func:`row_moments`; all float64, one number per row.

    Attributes:
        mean: mean of the finite values; 0 for a row without any.
        m2: sum of their squared deviations from the mean.
        positive: number of finite values > 0; None: not counted.
        compensation: rounding error of `mean`, to be added to it; None: negligible in every row.
        finite: number of finite values; None: all values of every row are finite.
    """

    mean: Tensor
    m2: Tensor
    positive: Tensor | None
    compensation: Tensor | None
    finite: Tensor | None


def relu_product(x: RowMoments, y: RowMoments, length: int) -> Tensor:
    """Sum of (x − mean of x)·(y − mean of y) over each row of `length` values, where y = ReLU(x).

    It follows from the moments alone, because x·y = y²: either x = y or y = 0.
    """
    return torch.addcmul(y.m2, y.mean, y.mean - x.mean, value=length)


# m2 = Σx² − n·mean² loses as many digits as Σx² is longer than m2. Up to this ratio it loses four
# of 16; beyond it a row is ill-conditioned.
CANCELLATION = 4096.0
# `vector_norm` adds one by one, which loses digits in longer sums; `sum` adds in cascades.
_LONGEST_NORM = 1024


def row_moments(rows: Tensor, workspace: Tensor, *, positive: bool = True) -> RowMoments:
    """Moments of the finite values along the last axis.

    On the CPU in one pass, from the sums. Rows that are ill-conditioned (the sums would lose more
    than four digits, or aren't finite) take a second pass. To select those on a GPU would
    synchronise with it, so there all rows take two passes.

    Args:
        rows: float64, ``[..., T]`` with T ≥ 1.
        workspace: of the same shape and type, overwritten.
        positive: count the values > 0 as well, in another pass.

    >>> rows = torch.tensor([[1.0, 3.0, torch.inf]], dtype=torch.float64)
    >>> row_moments(rows, torch.empty_like(rows)).mean
    tensor([2.], dtype=torch.float64)
    """
    length = rows.shape[-1]
    if not rows.is_cpu or length == 1:
        return _two_pass(rows, positive=positive)
    mean = rows.sum(-1).div_(length)
    square = _sum_of_squares(rows, workspace)
    m2 = torch.addcmul(square, mean, mean, value=-length)
    # Negated, so that a NaN is ill-conditioned too, and a row of zeros is not.
    ill_conditioned = (square <= m2 * CANCELLATION).logical_not_()
    above = torch.gt(rows, 0, out=workspace).sum(-1) if positive else None
    if not bool(ill_conditioned.any()):
        return RowMoments(mean, m2, above, None, None)
    finite, compensation = torch.full_like(mean, length), torch.zeros_like(mean)
    moments = RowMoments(mean, m2, above, compensation, finite)
    exact = _two_pass(rows[ill_conditioned], positive=positive)
    for tensor, better in zip(moments, exact, strict=True):
        if tensor is not None and better is not None:
            tensor[ill_conditioned] = better
    return moments


@lru_cache
def _chunk_length(length: int) -> int:
    """Largest divisor of `length` up to `_LONGEST_NORM`."""
    return next(d for d in range(min(length, _LONGEST_NORM), 0, -1) if length % d == 0)


def _sum_of_squares(rows: Tensor, workspace: Tensor) -> Tensor:
    """Sum of squares along the last axis, by norms of chunks; `workspace` is overwritten."""
    length = rows.shape[-1]
    chunk = _chunk_length(length)
    if chunk < 32 < length:  # a prime length, say: one more pass is cheaper than many short norms
        return torch.mul(rows, rows, out=workspace).sum(-1)
    norms: Tensor = torch.linalg.vector_norm(rows.view(*rows.shape[:-1], -1, chunk), dim=-1)
    return norms.square_().sum(-1)


def _two_pass(rows: Tensor, *, positive: bool) -> RowMoments:
    """Subtract the mean first, then square.

    The mean of what the subtraction leaves is the `compensation`, as in Chan, Golub & LeVeque,
    "Algorithms for computing the sample variance", *The American Statistician* 37, 1983.
    """
    valid = rows.isfinite()
    rows = rows.where(valid, 0)
    if rows.shape[-1] == 1:
        mean, finite = rows.squeeze(-1), valid.squeeze(-1).double()
        zero = torch.zeros_like(mean)
        return RowMoments(mean, zero, (mean > 0).double() if positive else None, zero, finite)
    finite = valid.sum(-1, dtype=torch.float64)
    mean = rows.sum(-1) / finite.clamp(min=1)
    centered = (rows - mean.unsqueeze(-1)).where(valid, 0)
    compensation = centered.sum(-1) / finite.clamp(min=1)
    m2 = centered.square().sum(-1)
    above = (rows > 0).sum(-1, dtype=torch.float64) if positive else None
    return RowMoments(mean, m2, above, compensation, finite)
