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
    TABLE_ROWS,
    ChannelMoments,
    Moments,
)
from spectroscope.statistics.base import Arrays
from spectroscope.statistics.chunks import BatchMoments, Chunk, ChunkedStatistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall


class DCMoments(ChunkedStatistic):
    """Means, squared deviations and counts of both sides.

    The state is one array, `table`: float64, ``[TABLE_ROWS, C]``, in the layout of
    :class:`spectroscope.dsp.moments.ChannelMoments`.
    """

    name = "moments"
    layout = {"table": (TABLE_ROWS, "C")}
    reads_lines = False
    merge = {"table": lambda first, second: _added(first.clone(), second)}

    def start(self, call: "ActivationCall", chosen: range) -> "MomentsAccumulator":
        """See :class:`ChunkedStatistic`."""
        return MomentsAccumulator()

    def added(self, first: Arrays, second: Arrays) -> Arrays:
        """See :meth:`Statistic.added`."""
        _added(second["table"], first["table"])
        return second

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """See :meth:`Statistic.checked`; compiled loops take the table's memory as it is."""
        table = super().checked(arrays, channels)["table"]
        if table.dtype != torch.float64:
            raise ValueError(f"{table.dtype}")
        return {"table": table.contiguous()}

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


def _added(first: Tensor, second: Tensor) -> Tensor:
    merge_moments(first, second)
    return first


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
    """The table of one batch."""

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""

    def arrays(self, moments: BatchMoments) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        return {"table": moments.table}
