"""DC and AC of either side of a rectifier.

A batch is reduced where it is seen (:class:`SideOfBatch`) and merged into what
was there. The state is replaced whole, so that an interrupt between two
batches, or in the middle of one, can't leave half of a batch in it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.moments import Moments, RowMoments


class SideStatistics(NamedTuple):
    """One side (`in` or `out`) of one site. Every tensor is float64.

    Attributes:
        inputs: number of inputs (batch items) seen.
        dc: moments, each ``[2, C]``, of the inputs' own DCs: in the first row each input counts
            once, in the second as often as it has finite values, so that the mean is that of all
            values.
        sums: ``[3, C]``, see the properties.
    """

    inputs: int
    dc: Moments
    sums: Tensor

    @property
    def ac_power(self) -> Tensor:
        """``[C]``, sum over all values of (value − its input's DC)²."""
        return self.sums[0]

    @property
    def active(self) -> Tensor:
        """``[C]``, number of finite values > 0; of an output."""
        return self.sums[1]

    @property
    def nonfinite(self) -> Tensor:
        """``[C]``, number of NaN and ±Inf values, which are in nothing else."""
        return self.sums[2]


class SideOfBatch:
    """One side of one batch, put together from the pieces that it is reduced in.

    Args:
        x: ``[N, C, ...]``, the batch, of which only shape and device matter.
    """

    def __init__(self, x: Tensor):
        self._mean = x.new_empty(x.shape[:2], dtype=torch.float64)
        self._sums = x.new_zeros(3, x.shape[1], dtype=torch.float64)
        self._length = x[0, 0].numel()
        # Until a piece has them; mostly none does.
        self._rest: Tensor | None = None
        self._finite: Tensor | None = None

    def add(self, n: slice, c: slice, found: RowMoments) -> None:
        """Take in the piece of the samples `n` and the channels `c`."""
        self._mean[n, c] = found.mean
        self._sums[0, c] += found.m2.sum(0)
        if found.positive is not None:
            self._sums[1, c] += found.positive.sum(0)
        if found.finite is not None and found.compensation is not None:
            if self._rest is None or self._finite is None:
                self._rest = torch.zeros_like(self._mean)
                self._finite = torch.full_like(self._mean, self._length)
            self._rest[n, c], self._finite[n, c] = found.compensation, found.finite

    def moments(self) -> tuple[Moments, Tensor]:
        """Of the whole, once all pieces are in: `dc` and `sums` of :class:`SideStatistics`."""
        if self._rest is None or self._finite is None:
            once = Moments.unweighted(self._mean)
            by_value = once.repeated(self._length)
        else:
            once = Moments.of(self._mean, self._rest, (self._finite > 0).double())
            by_value = Moments.of(self._mean, self._rest, self._finite)
            self._sums[2] = (self._length - self._finite).sum(0)
        return Moments(*map(torch.stack, zip(once, by_value, strict=True))), self._sums
