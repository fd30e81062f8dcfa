"""DC and AC of both sides of an activation, and their joint moments."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import merge_moments
from spectroscope.dsp.moments import (
    SUM_M2,
    SUM_NONFINITE,
    SUM_POSITIVE,
    SUMS_SIDE,
    TABLE_ROWS,
    ChannelMoments,
    CoMoments,
    Moments,
    RowMoments,
)
from spectroscope.statistics.base import Arrays
from spectroscope.statistics.chunks import Chunk, ChunkedStatistic, compiled_moments

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall


class DCMoments(ChunkedStatistic):
    """Means, squared deviations and counts of both sides.

    The state is one array, `table`: float64, ``[TABLE_ROWS, C]``, in the layout of
    :class:`spectroscope.dsp.moments.ChannelMoments`.
    """

    name = "moments"
    layout = {"table": (TABLE_ROWS, "C")}
    merge = {"table": lambda a, b: merge_moments(ChannelMoments(a), ChannelMoments(b)).table}

    def start(self, call: "ActivationCall") -> "Arrays | MomentsAccumulator":
        """See :class:`ChunkedStatistic`. For a ReLU, compiled loops reduce the whole batch."""
        compiled = call.shared(compiled_moments)
        if compiled is not None:
            return {"table": compiled.reduce_batch().table}
        return MomentsAccumulator(call.input)

    def compute(self, table: Tensor) -> Arrays:
        """See :meth:`Statistic.compute`; `spectroscope.schema` defines the columns."""
        x, y = (SideMoments.of(ChannelMoments(table), side) for side in (0, 1))
        return {
            "dc_in": x.mean_dc,
            "dc_out": y.mean_dc,
            "dc_out_std": _sqrt(y.dc.m2[0] / y.dc.weight[0]),
            "ac_rms_in": _sqrt(x.ac),
            "ac_rms_out": _sqrt(y.ac),
            "active_fraction": y.active / y.dc.weight[1],
            "dc_fraction": y.dc_power / (y.dc_power + y.ac),
            "nonfinite": x.nonfinite.long(),
            "nonfinite_out": y.nonfinite.long(),
        }


def _sqrt(x: Tensor) -> Tensor:
    return torch.from_numpy(np.sqrt(x.numpy()))  # correctly rounded, unlike torch's


class SideMoments(NamedTuple):
    """Moments of one side of a site, float64.

    Attributes:
        dc: moments, each ``[2, C]``, of the inputs' own DCs. In row 0 each input counts once; in
            row 1 as often as it has finite values, so that the mean is that of all values.
        sums: ``[SUMS_SIDE, C]``, rows `SUM_M2`, `SUM_POSITIVE` and `SUM_NONFINITE`.
    """

    dc: Moments
    sums: Tensor

    @classmethod
    def of(cls, table: ChannelMoments, side: int) -> "SideMoments":
        """The input (0) or the output (1) of a site."""
        return cls(Moments(*(tensor[side] for tensor in table.dc)), table.sums[side])

    @property
    def values(self) -> Tensor:
        """``[C]``, number of finite values; NaN for 0."""
        return self.dc.weight[1].where(self.dc.weight[1] > 0, torch.nan)

    @property
    def mean(self) -> Tensor:
        """``[C]``, of all values."""
        return self.dc.mean[1] * self.values / self.values

    @property
    def mean_dc(self) -> Tensor:
        """``[C]``, of the inputs' DCs, each counted once."""
        return self.dc.mean[0].where(self.dc.weight[0] > 0, torch.nan)

    @property
    def dc_variance(self) -> Tensor:
        """``[C]``, of the inputs' DCs, each weighted by its number of values."""
        return self.dc.m2[1] / self.values

    @property
    def dc_power(self) -> Tensor:
        """``[C]``, mean squared DC."""
        return self.dc_variance + self.mean.square()

    @property
    def ac(self) -> Tensor:
        """``[C]``, AC power: mean of (value − DC of its input)²."""
        return self.sums[SUM_M2] / self.values

    @property
    def variance(self) -> Tensor:
        """``[C]``, of all values."""
        return self.dc_variance + self.ac

    @property
    def active(self) -> Tensor:
        """``[C]``, number of finite values > 0, of an output."""
        return self.sums[SUM_POSITIVE]

    @property
    def nonfinite(self) -> Tensor:
        """``[C]``, number of NaN and ±Inf values; all other moments exclude them."""
        return self.sums[SUM_NONFINITE]


class MomentsAccumulator:
    """The table of one batch, without compiled loops.

    Args:
        x: ``[N, C, ...]``, for shape and device.
    """

    def __init__(self, x: Tensor):
        self._sides = _SideAccumulator(x), _SideAccumulator(x)
        self._length = x[0, 0].numel()
        self._means = x.new_empty(2, *x.shape[:2], dtype=torch.float64)
        self._weights = torch.full_like(self._means[0], self._length)
        self._m2 = x.new_zeros(3, x.shape[1], dtype=torch.float64)

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        n, c, finite = chunk.inputs, chunk.channels, chunk.finite
        x, y = chunk.moments
        for total, row in zip(self._m2, (x.m2, y.m2, chunk.product), strict=True):
            total[c] += (row if finite is None else row.where(finite, 0)).sum(0)
        for side, means, rows in zip(self._sides, self._means, (x, y), strict=True):
            side.add(n, c, rows)
            means[n, c] = rows.mean
        if finite is not None:
            self._weights[n, c] *= finite

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        (x_dc, x_sums), (y_dc, y_sums) = (side.moments() for side in self._sides)
        dc = Moments(*map(torch.stack, zip(x_dc, y_dc, strict=True)))
        joint = CoMoments.of(self._means, self._m2, self._weights)
        return {"table": ChannelMoments.of(dc, torch.stack([x_sums, y_sums]), joint).table}


class _SideAccumulator:
    """One side of one batch.

    Args:
        x: ``[N, C, ...]``, for shape and device.
    """

    def __init__(self, x: Tensor):
        self._mean = x.new_empty(x.shape[:2], dtype=torch.float64)
        self._sums = x.new_zeros(SUMS_SIDE, x.shape[1], dtype=torch.float64)
        self._length = x[0, 0].numel()
        # Allocated for the first chunk that has them; most have none.
        self._compensation: Tensor | None = None
        self._finite: Tensor | None = None

    def add(self, n: slice, c: slice, rows: RowMoments) -> None:
        """Add the rows of the inputs `n` and the channels `c`."""
        self._mean[n, c] = rows.mean
        self._sums[SUM_M2, c] += rows.m2.sum(0)
        if rows.positive is not None:
            self._sums[SUM_POSITIVE, c] += rows.positive.sum(0)
        if rows.finite is not None and rows.compensation is not None:
            if self._compensation is None or self._finite is None:
                self._compensation = torch.zeros_like(self._mean)
                self._finite = torch.full_like(self._mean, self._length)
            self._compensation[n, c], self._finite[n, c] = rows.compensation, rows.finite

    def moments(self) -> tuple[Moments, Tensor]:
        """`dc` and `sums` of :class:`SideMoments`."""
        if self._compensation is None or self._finite is None:
            by_row = Moments.unweighted(self._mean)
            by_value = by_row.repeated(self._length)
        else:
            by_row = Moments.of(self._mean, self._compensation, (self._finite > 0).double())
            by_value = Moments.of(self._mean, self._compensation, self._finite)
            self._sums[SUM_NONFINITE] = (self._length - self._finite).sum(0)
        return Moments(*map(torch.stack, zip(by_row, by_value, strict=True))), self._sums
