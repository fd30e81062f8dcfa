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
    def of(cls, values: Tensor, weights: Tensor) -> "Moments":
        """Moments over the first axis of float64 `values` ``[N, C]`` with `weights` ``[N, C]``.

        Weights are whole numbers: how often each value counts.
        """
        weight = weights.sum(0)
        pivot = (weights * values).sum(0) / weight.clamp(min=1)
        offset = (weights * (values - pivot)).sum(0) / weight.clamp(min=1)
        return cls(weight, pivot, offset, (weights * (values - pivot - offset).square()).sum(0))

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
        m2: sum of their squared deviations from that mean.
        positive: number of them that are > 0.
        centered: ``[..., T]``, the values less their mean, 0 where a value isn't finite.
    """

    finite: Tensor
    mean: Tensor
    m2: Tensor
    positive: Tensor
    centered: Tensor


def row_moments(rows: Tensor) -> RowMoments:
    """Moments of the finite values along the last axis, in two passes.

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
    return RowMoments(count, mean, centered.square().sum(-1), positive, centered)
