"""`Recording`: the state of every site as plain data, and the merge of two recordings."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from spectroscope.capture import network, pooling
from spectroscope.capture.axes import Layout
from spectroscope.capture.channel_sources import Sources
from spectroscope.capture.network import Network
from spectroscope.capture.pooling import OnlyMean
from spectroscope.capture.sites import CoverageRow, Downsampling, Shape, Site
from spectroscope.dsp.moments import ChannelMoments
from spectroscope.dsp.spectra import Window
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays, IncompatibleError, Statistic, without_columns
from spectroscope.statistics.harmonics import HarmonicAmplitudes, HarmonicSums
from spectroscope.statistics.moments import DCMoments, SideMoments
from spectroscope.statistics.run_shard import RunShard, merge_run_shards
from spectroscope.statistics.spectra import Spectra, SpectralSums
from spectroscope.statistics.weights import check_weights
from spectroscope.wrappers import unwrapped

# The arrays of each statistic, by its name; None: dropped, because some inputs don't have it.
State = Mapping[str, Arrays | None]


@dataclass(frozen=True)
class SiteRecord:
    """State of one site, of a size that does not grow with the number of batches.

    Attributes:
        site: the activation call.
        shape: of one input, ``(C, ...)``; None along axes where inputs differ.
        layout: of the axes of the activation in the model.
        decimation: samples of the model's input per sample of the site, along each axis of time or
            space; NaN where unknown, or different between axes or inputs.
        inputs: number of inputs (batch items) recorded.
        state: of each statistic that has any.
        tracked: False: no forward with this site was tracked, so that layout and decimation aren't
            known.
    """

    site: Site
    shape: Shape
    layout: Layout
    decimation: float
    inputs: int
    state: State
    tracked: bool = True

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.shape[0] or 0)

    @property
    def moments(self) -> ChannelMoments:
        """DC and AC of both sides, and their joint moments."""
        return ChannelMoments(**self._arrays(DCMoments.name))

    @property
    def input(self) -> SideMoments:
        """DC and AC of the activation's input."""
        return SideMoments.of(self.moments, 0)

    @property
    def output(self) -> SideMoments:
        """DC and AC of the activation's output."""
        return SideMoments.of(self.moments, 1)

    @property
    def spectra(self) -> SpectralSums | None:
        """Sums of spectra; None: switched off, inputs differ in length, or no axis to transform."""
        arrays = self._arrays(Spectra.name)
        sums = SpectralSums(**arrays) if arrays else None
        return sums if sums is not None and sums.axes else None

    @property
    def harmonics(self) -> HarmonicSums | None:
        """Sums over the inputs whose fundamental is known; None: there are none."""
        arrays = self._arrays(HarmonicAmplitudes.name)
        return HarmonicSums(**arrays) if arrays else None

    def _arrays(self, statistic: str) -> dict[str, Any]:
        return dict(self.state.get(statistic) or {})

    def without_columns(self) -> "SiteRecord":
        """The state alone, without the columns that a file has beside it."""
        state = {k: arrays and without_columns(arrays) for k, arrays in self.state.items()}
        return replace(self, state=state)

    def to(self, device: torch.device) -> "SiteRecord":
        """A copy with its state on `device`."""
        state = {
            name: arrays and {k: array.to(device, copy=True) for k, array in arrays.items()}
            for name, arrays in self.state.items()
        }
        return replace(self, state=state)

    def mismatch(self, other: "SiteRecord") -> str | None:
        """Why `other` can't be merged with this record, or None if it can."""
        if (self.site, self.shape, self.layout) == (other.site, other.shape, other.layout):
            return None
        if self.site.kind != other.site.kind:
            return f"{self.site.kind}, then {other.site.kind}"
        if self.channels != other.channels:
            return f"{self.channels} channels, then {other.channels}"
        if len(self.shape) != len(other.shape):
            return f"{len(self.shape) - 1} axes of time or space, then {len(other.shape) - 1}"
        if self.layout.leading != other.layout.leading:
            axes = f"{self.layout.channel}, then {other.layout.channel}"
            return f"channels at axis {axes}"
        return None

    def merge(
        self, other: "SiteRecord", statistics: Mapping[str, Statistic], *, in_place: bool = False
    ) -> tuple["SiteRecord", list[str]]:
        """The record of both data sets, and the reasons for dropped statistics.

        The records must have no :meth:`mismatch`. The result is on the device of `other`.

        Args:
            other: the second record.
            statistics: of both, by name.
            in_place: the arrays of `other` may be written to. Both records have no columns.
        """
        state: dict[str, Arrays | None] = {}
        reasons = []
        for name, statistic in statistics.items():
            if name not in self.state or name not in other.state:
                if name in self.state or name in other.state:
                    state[name] = self.state.get(name, other.state.get(name))
                continue
            first, second = self.state[name], other.state[name]
            state[name] = None
            if first is not None and second is not None:
                if not in_place:
                    first, second = without_columns(first), without_columns(second)
                if any(array.device != second[k].device for k, array in first.items()):
                    first = {k: array.to(second[k].device) for k, array in first.items()}
                try:
                    merge = statistic.added if in_place else statistic.merged
                    state[name] = merge(first, second)
                except IncompatibleError as error:
                    reasons.append(str(error))
        shape, layout, decimation = self.shape, self.layout, self.decimation
        if shape != other.shape:
            shape = tuple(a if a == b else None for a, b in zip(shape, other.shape, strict=True))
        if self.shape == other.shape and self.tracked != other.tracked:
            # Tensors of the same shape, of which those that weren't tracked have no say.
            if other.tracked:
                layout, decimation = other.layout, other.decimation
        else:
            if layout.is_time and not other.layout.is_time:
                layout = layout._replace(is_time=False)
            decimation = decimation if decimation == other.decimation else math.nan
        inputs = self.inputs + other.inputs
        tracked = self.tracked or other.tracked
        return SiteRecord(self.site, shape, layout, decimation, inputs, state, tracked), reasons


@dataclass(frozen=True)
class Recording:
    """The sites that fired, in the order of their first call, and the coverage of the model.

    Attributes:
        fs: samples per second of the model's input; None: frequencies in cycles per sample.
        window: of the spectra, as for ``scipy.signal.get_window``.
        statistics: by name.
        records: by site name, on the CPU.
        coverage: activations of the model, by place.
        only_mean: whether nothing but the mean over time or space goes on from a site, by site
            name; None: unknown.
        downsamplings: next function that lowers the sampling rate after a site, by site name.
        sources: layers whose filters the channels of a site are, by site name.
        about: run details for the reader: `model`, `recorded`, `versions` and the user's own, each
            with one text or, after a merge, several.
        run_shard: which shards of which run; None: not from a sharded run.
        network: what feeds what; empty if unknown, as in a file of an earlier version.
    """

    fs: float | None
    window: Window
    statistics: Mapping[str, Statistic]
    records: Mapping[str, SiteRecord]
    coverage: Mapping[str, CoverageRow]
    downsamplings: Mapping[str, Downsampling]
    only_mean: Mapping[str, OnlyMean]
    sources: Mapping[str, Sources]
    about: Mapping[str, tuple[str, ...]]
    run_shard: RunShard | None = None
    network: Network = field(default_factory=dict)

    def merge(self, other: "Recording") -> "Recording":
        """The recording of both data sets, as if one recorder had recorded them.

        A statistic that only one recording has is dropped at the sites that both have.

        Raises:
            RequestError: the recordings differ in weights, `fs`, `window`, or in a site's channels;
                or they are shards of different runs, or have a shard in common.
        """
        run_shard = merge_run_shards(self.run_shard, other.run_shard)
        if self.fs != other.fs:
            raise RequestError(f"recordings at fs={self.fs} and fs={other.fs} can't be merged")
        if self.window != other.window:
            raise RequestError(f"windows {self.window!r} and {other.window!r} can't be merged")
        statistics = {
            name: statistic.preferred(other.statistics.get(name, statistic))
            for name, statistic in {**other.statistics, **self.statistics}.items()
        }
        unshared = {*self.statistics} ^ {*other.statistics}
        dropped: dict[str, str] = {}  # reasons by place
        records = dict(self.records)
        for name, record in other.records.items():
            if name not in records:
                records[name] = record
                continue
            first, second = (
                replace(side, state={**side.state, **dict.fromkeys(unshared, None)})
                for side in (records[name], record)
            )
            if reason := first.mismatch(second):
                raise RequestError(f"recordings differ at {name}: {reason}")
            try:
                records[name], reasons = first.merge(second, statistics)
            except RequestError as error:
                raise RequestError(f"recordings differ at {name}: {error}") from error
            reasons += [f"no {statistic}: one recording has none" for statistic in unshared]
            if reasons:
                dropped[record.site.place] = "; ".join(reasons)
        check_weights(self.about, other.about)  # what differs in the sites says more
        coverage = dict(self.coverage)
        for name, row in other.coverage.items():
            own = coverage.setdefault(name, replace(row, fired=0))
            coverage[name] = replace(
                own,
                selected=own.selected or row.selected,
                fired=own.fired + row.fired,
                reason=own.reason or row.reason or dropped.get(name, ""),
                asked=own.asked or row.asked,
                remark=own.remark or row.remark,
            )
        downsamplings = {**other.downsamplings, **self.downsamplings}
        only_mean = {**other.only_mean, **self.only_mean}
        for name in self.only_mean.keys() & other.only_mean.keys():
            only_mean[name] = pooling.merged(self.only_mean[name], other.only_mean[name])
        sources = {**other.sources, **self.sources}
        about = {
            key: tuple(dict.fromkeys((*self.about.get(key, ()), *other.about.get(key, ()))))
            for key in {**self.about, **other.about}
        }
        return Recording(
            self.fs,
            self.window,
            statistics,
            records,
            coverage,
            downsamplings,
            only_mean,
            sources,
            about,
            run_shard,
            network.merged(self.network, other.network),
        )


def run_details(model: nn.Module) -> dict[str, str]:
    """`model`, `recorded` (now) and `versions` of a recording's `about`."""
    parameters = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    versions = {
        "spectroscope": version("relu-spectroscope"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    return {
        "model": f"{type(unwrapped(model)).__name__}, {parameters:,} parameters",
        "recorded": datetime.now(UTC).isoformat(" ", "seconds"),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
