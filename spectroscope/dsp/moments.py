"""Counts, means and second moments that merge, in float64.

Sums of squares would lose everything at mean 1e4 and standard deviation 1; a count, a mean and
the sum of squared deviations from it (M2) don't, and merge exactly whatever way a stream was
split: Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979.
"""

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


class RowMoments(NamedTuple):
    """What :func:`row_moments` finds in each row, all float64 and of the rows' shape.

    Attributes:
        finite: number of finite values.
        mean: their mean; 0 where there are none.
        rest: what rounding left out of `mean`, by which the mean of `centered` isn't 0.
        m2: sum of their squared deviations from that mean.
        positive: number of them that are > 0.
        centered: ``[..., T]``, the values less their mean, 0 where a value isn't finite.
    """

    finite: Tensor
    mean: Tensor
    rest: Tensor
    m2: Tensor
    positive: Tensor
    centered: Tensor


def row_moments(rows: Tensor) -> RowMoments:
    """Moments of the finite values along the last axis, in two passes and a correction.

    The correction is that of Chan, Golub & LeVeque, "Algorithms for computing the sample variance",
    1983: the mean of what is left after the mean was taken out.

    Args:
        rows: float64, ``[..., T]`` with T ≥ 1. It is not changed.

    >>> row_moments(torch.tensor([[1.0, 3.0, torch.inf]], dtype=torch.float64)).mean
    tensor([2.], dtype=torch.float64)
    """
    mean = rows.mean(-1)
    # A row with NaN or Inf in it has no finite mean. To look is cheap on the CPU and makes the
    # masked passes the exception; on a GPU it would be a synchronisation, so there they always run.
    if rows.is_cpu and bool(mean.isfinite().all()):
        count = torch.full_like(mean, rows.shape[-1])
        centered = rows - mean.unsqueeze(-1)
    else:
        finite = rows.isfinite()
        rows = rows.where(finite, 0)
        count = finite.sum(-1, dtype=torch.float64)
        mean = rows.sum(-1) / count.clamp(min=1)
        centered = (rows - mean.unsqueeze(-1)).where(finite, 0)
    positive = (rows > 0).sum(-1, dtype=torch.float64)
    if rows.shape[-1] == 1:
        rest, m2 = torch.zeros_like(mean), torch.zeros_like(mean)
    else:
        rest = centered.sum(-1) / count.clamp(min=1)
        m2 = centered.square().sum(-1) - count * rest.square()
    return RowMoments(count, mean, rest, m2, positive, centered)
