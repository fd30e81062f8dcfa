"""Counts, means and second moments that merge, in float64.

Sums of squares would lose everything at mean 1e4 and standard deviation 1; a count, a mean and
the sum of squared deviations from it (M2) don't, and merge exactly whatever way a stream was
split: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Weight, mean and M2 of a stream of numbers, per channel.

    The mean is kept as pivot + offset: where numbers near 1e4 differ by 0.1, the differences
    between means, of which M2 is built, would lose five digits to rounding otherwise.

    Attributes:
        weight: ``[C]``, the sum of the weights.
        pivot: ``[C]``, a number near the mean.
        offset: ``[C]``, the mean less the pivot.
        m2: ``[C]``, sum of weight × (number − mean)², in the square of the numbers' unit.
    """

    weight: Tensor
    pivot: Tensor
    offset: Tensor
    m2: Tensor

    @classmethod
    def of(cls, values: Tensor, rests: Tensor, weights: Tensor) -> "Moments":
        """Moments over the first axis of the numbers `values` + `rests`.

        Args:
            values: float64, ``[N, C]``.
            rests: float64, ``[N, C]``, what rounding left out of `values`.
            weights: ``[N, C]``, whole numbers: how often each number counts.
        """
        weight = weights.sum(0)
        pivot = (weights * values).sum(0) / weight.clamp(min=1)
        near = (values - pivot) + rests
        offset = (weights * near).sum(0) / weight.clamp(min=1)
        return cls(weight, pivot, offset, (weights * (near - offset).square()).sum(0))

    @classmethod
    def of_equals(cls, values: Tensor) -> "Moments":
        """Moments over the first axis of float64 `values` ``[N, C]``, each counting once."""
        pivot = values[0]
        near = values - pivot
        offset = near.mean(0)
        m2 = near.sub_(offset).square_().sum(0)
        return cls(torch.full_like(pivot, len(values)), pivot, offset, m2)

    def repeated(self, times: int) -> "Moments":
        """Moments of the same stream, were each of its numbers there `times` times."""
        return Moments(self.weight * times, self.pivot, self.offset, self.m2 * times)

    @property
    def mean(self) -> Tensor:
        """``[C]``, in the unit of the numbers; 0 where `weight` is 0."""
        return self.pivot + self.offset

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        divisor = weight.clamp(min=1)  # a channel that neither has seen stays at 0
        pivot = self.pivot.where(self.weight > 0, other.pivot)
        mine, theirs = (m.offset + (m.pivot - pivot) for m in (self, other))
        between = (theirs - mine).square() * (self.weight * (other.weight / divisor))
        return Moments(
            weight,
            pivot,
            (self.weight * mine + other.weight * theirs) / divisor,
            self.m2 + other.m2 + between,
        )


class CoMoments(NamedTuple):
    """Moments of pairs of numbers, per channel; merged likewise.

    Attributes:
        weight: ``[C]``, number of pairs.
        mean: ``[2, C]``, of either.
        m2: ``[3, C]``, sums of the squared deviations of the first and of the second from their
            means, and of the products of both.
    """

    weight: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, means: Tensor, m2: Tensor, weights: Tensor) -> "CoMoments":
        """Moments of all pairs from those of the rows that they come in.

        Args:
            means: float64, ``[2, N, C]``, of each row.
            m2: ``[3, C]``, summed over the rows, about each row's own means.
            weights: ``[N, C]``, number of pairs in each row; 0: it counts for nothing.
        """
        weight = weights.sum(0)
        mean = (weights * means).sum(1) / weight.clamp(min=1)
        x, y = means - mean.unsqueeze(1)
        between = torch.stack([(weights * a * b).sum(0) for a, b in ((x, x), (y, y), (x, y))])
        return cls(weight, mean, m2 + between)

    def merge(self, other: "CoMoments") -> "CoMoments":
        """Moments of both streams together."""
        weight = self.weight + other.weight
        share = other.weight / weight.clamp(min=1)
        x, y = apart = other.mean - self.mean
        between = torch.stack([x * x, y * y, x * y]) * (self.weight * share)
        return CoMoments(weight, self.mean + apart * share, self.m2 + other.m2 + between)


class ChannelMoments(NamedTuple):
    """What is summed up of both sides of a rectifier but for spectra, of each channel.

    In one table, so that a batch is merged into what was there in one call.

    Attributes:
        table: float64, ``[28, C]``: 16 rows of `dc`, 6 of `sums` and 6 of `joint`.
    """

    table: Tensor

    @classmethod
    def of(cls, dc: Moments, sums: Tensor, joint: CoMoments) -> "ChannelMoments":
        """The three in one table."""
        parts = [torch.stack(dc, 2).flatten(0, 2), sums.flatten(0, 1)]
        return cls(torch.cat([*parts, joint.weight.unsqueeze(0), joint.mean, joint.m2]))

    @property
    def dc(self) -> Moments:
        """Of the rows' means, each ``[2, 2, C]``.

        Of the input and of the output; each counting once, and as often as it has finite values.
        """
        return Moments(*self.table[:16].view(2, 2, 4, -1).unbind(2))

    @property
    def sums(self) -> Tensor:
        """``[2, 3, C]``, of either side.

        Of M2, of the number of values > 0 (of the output alone), of the number that aren't finite.
        """
        return self.table[16:22].view(2, 3, -1)

    @property
    def joint(self) -> CoMoments:
        """Of the pairs of values, of those rows that are finite on both sides."""
        return CoMoments(self.table[22], self.table[23:25], self.table[25:])

    def merge(self, other: "ChannelMoments") -> "ChannelMoments":
        """Moments of both streams together."""
        return ChannelMoments.of(
            self.dc.merge(other.dc), self.sums + other.sums, self.joint.merge(other.joint)
        )


class RowMoments(NamedTuple):
    """What :func:`row_moments` finds in each row, all float64 and of the rows' shape.

    Attributes:
        mean: mean of the finite values; 0 where there are none.
        m2: sum of their squared deviations from the mean.
        positive: number of them that are > 0; None if it wasn't asked for.
        rest: what rounding left out of `mean`; None if nothing that matters, in any row.
        finite: number of finite values; None if it is all of them, in every row.
    """

    mean: Tensor
    m2: Tensor
    positive: Tensor | None
    rest: Tensor | None
    finite: Tensor | None


def relu_product(before: RowMoments, after: RowMoments, length: int) -> Tensor:
    """Sum of (x - its mean)·(y - its mean) over each row of `length` values, where y = ReLU(x).

    x·y is y²: either both are the same, or y is 0.
    """
    return torch.addcmul(after.m2, after.mean, after.mean - before.mean, value=length)


# m2 = Σx² − n·mean² loses as many digits as Σx² is longer than m2: up to this factor, four of 16.
CANCELLATION = 4096.0
# `vector_norm` adds one by one, which is good enough for so many; `sum` adds in cascades.
_NAIVE = 1024


def row_moments(rows: Tensor, work: Tensor, *, positive: bool = True) -> RowMoments:
    """Moments of the finite values along the last axis.

    On the CPU in one pass, from the sums, and in two for those rows alone in which the sums would
    lose more than four digits or aren't finite. To look which those are would be a synchronisation
    on a GPU; there, all rows take two.

    Args:
        rows: float64, ``[..., T]`` with T ≥ 1.
        work: of the same shape and type, overwritten.
        positive: count the values > 0 as well, which takes a pass of its own.

    >>> rows = torch.tensor([[1.0, 3.0, torch.inf]], dtype=torch.float64)
    >>> row_moments(rows, torch.empty_like(rows)).mean
    tensor([2.], dtype=torch.float64)
    """
    length = rows.shape[-1]
    if not rows.is_cpu or length == 1:
        return _two_pass(rows, positive=positive)
    mean = rows.sum(-1).div_(length)
    square = _sum_of_squares(rows, work)
    m2 = torch.addcmul(square, mean, mean, value=-length)
    # So written that NaN is doubtful too, and a row of zeros isn't.
    doubtful = (square <= m2 * CANCELLATION).logical_not_()
    above = torch.gt(rows, 0, out=work).sum(-1) if positive else None
    if not bool(doubtful.any()):
        return RowMoments(mean, m2, above, None, None)
    finite, rest = torch.full_like(mean, length), torch.zeros_like(mean)
    found = RowMoments(mean, m2, above, rest, finite)
    exact = _two_pass(rows[doubtful], positive=positive)
    for tensor, better in zip(found, exact, strict=True):
        if tensor is not None and better is not None:
            tensor[doubtful] = better
    return found


@lru_cache
def _piece(length: int) -> int:
    """Longest divisor of `length` that isn't longer than `_NAIVE`."""
    return next(d for d in range(min(length, _NAIVE), 0, -1) if length % d == 0)


def _sum_of_squares(rows: Tensor, work: Tensor) -> Tensor:
    """Sum of squares along the last axis, by norms of pieces; `work` is overwritten."""
    piece = _piece(rows.shape[-1])
    if piece < 32 < rows.shape[-1]:  # as of a prime length: a pass more costs less than the pieces
        return torch.mul(rows, rows, out=work).sum(-1)
    norms: Tensor = torch.linalg.vector_norm(rows.view(*rows.shape[:-1], -1, piece), dim=-1)
    return norms.square_().sum(-1)


def _two_pass(rows: Tensor, *, positive: bool) -> RowMoments:
    """Take the mean out first, then square; with the correction of Chan, Golub & LeVeque, 1983.

    That is the mean of what is left after the mean was taken out ("Algorithms for computing the
    sample variance", *The American Statistician* 37).
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
    rest = centered.sum(-1) / finite.clamp(min=1)
    m2 = centered.square().sum(-1)
    above = (rows > 0).sum(-1, dtype=torch.float64) if positive else None
    return RowMoments(mean, m2, above, rest, finite)
