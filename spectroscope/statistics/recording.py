"""The state of every site of a recording, and how two recordings become one. Plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from spectroscope.capture.sites import CoverageRow, Downsampling, Shape, Site
from spectroscope.dsp.moments import ChannelMoments
from spectroscope.dsp.spectra import Window
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays, IncompatibleError, Statistic, without_columns
from spectroscope.statistics.harmonics import HarmonicAmplitudes, HarmonicSums
from spectroscope.statistics.moments import DCMoments, SideMoments
from spectroscope.statistics.parts import Part, merged
from spectroscope.statistics.spectra import Spectra, SpectralSums

# By name of a statistic its arrays; None: it can't be known of all inputs, and is given up.
State = Mapping[str, Arrays | None]


@dataclass(frozen=True)
class SiteRecord:
    """Everything kept of one site, a fixed size that doesn't grow with the batches.

    Attributes:
        site: its name.
        shape: of one input, ``(C, ...)``; None where inputs differed.
        decimation: samples of the model's input to one of the site's, along every axis of time or
            space; NaN where that isn't known, or not the same for every axis and input.
        inputs: number of inputs (batch items) seen.
        state: of each statistic that has something.
    """

    site: Site
    shape: Shape
    decimation: float
    inputs: int
    state: State

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.shape[0] or 0)

    @property
    def moments(self) -> ChannelMoments:
        """DC and AC of both sides, and of the pairs of both."""
        return ChannelMoments(**self._arrays(DCMoments.name))

    @property
    def input(self) -> SideMoments:
        """DC and AC of the activation's input."""
        return SideMoments.of(self.moments, 0)

    @property
    def output(self) -> SideMoments:
        """DC and AC of its output."""
        return SideMoments.of(self.moments, 1)

    @property
    def spectra(self) -> SpectralSums | None:
        """None: they weren't asked for, inputs differ in length, or there is no axis for them."""
        arrays = self._arrays(Spectra.name)
        sums = SpectralSums(**arrays) if arrays else None
        return sums if sums is not None and sums.axes else None

    @property
    def harmonics(self) -> HarmonicSums | None:
        """Of the inputs whose fundamental is known; None: there are none."""
        arrays = self._arrays(HarmonicAmplitudes.name)
        return HarmonicSums(**arrays) if arrays else None

    def _arrays(self, statistic: str) -> dict[str, Any]:
        return dict(self.state.get(statistic) or {})

    def without_columns(self) -> "SiteRecord":
        """The state alone, without the columns that a file has beside it."""
        state = {k: arrays and without_columns(arrays) for k, arrays in self.state.items()}
        return replace(self, state=state)

    def to(self, device: torch.device) -> "SiteRecord":
        """This on `device`."""
        state = {
            name: None if arrays is None else {k: array.to(device) for k, array in arrays.items()}
            for name, arrays in self.state.items()
        }
        return replace(self, state=state)

    def unmergeable(self, other: "SiteRecord") -> str | None:
        """Why `other` can't be merged into this, or None if it can."""
        if self.site.kind != other.site.kind:
            return f"{self.site.kind}, then {other.site.kind}"
        if self.channels != other.channels:
            return f"{self.channels} channels, then {other.channels}"
        if len(self.shape) != len(other.shape):
            return f"{len(self.shape) - 1} axes of time or space, then {len(other.shape) - 1}"
        return None

    def merge(
        self, other: "SiteRecord", statistics: Mapping[str, Statistic]
    ) -> tuple["SiteRecord", list[str]]:
        """Both together, and why a statistic is given up; ask :meth:`unmergeable` first.

        The state moves to where that of `other` is.
        """
        state, reasons = {}, []
        for name, statistic in statistics.items():
            if name not in self.state or name not in other.state:
                if name in self.state or name in other.state:
                    state[name] = self.state.get(name, other.state.get(name))
                continue
            one, two = self.state[name], other.state[name]
            state[name] = None
            if one is not None and two is not None:
                one, two = without_columns(one), without_columns(two)
                one = {k: array.to(two[k].device) for k, array in one.items()}
                try:
                    state[name] = statistic.merged(one, two)
                except IncompatibleError as error:
                    reasons.append(str(error))
        shape = tuple(a if a == b else None for a, b in zip(self.shape, other.shape, strict=True))
        decimation = self.decimation if self.decimation == other.decimation else math.nan
        inputs = self.inputs + other.inputs
        return SiteRecord(self.site, shape, decimation, inputs, state), reasons


@dataclass(frozen=True)
class Recording:
    """The sites that fired, in the order of their first call, and every activation found.

    Attributes:
        fs: samples per second of the model's input, or None: frequencies in cycles per sample.
        window: of the spectra, as ``scipy.signal.get_window`` takes it.
        statistics: what was kept, by name.
        records: by site name, on the CPU.
        coverage: activations of the model, by place.
        downsamplings: what lowers the sampling rate next after a site, by its name.
        about: what was looked at, for people to read: `model`, `recorded`, `versions`, and whatever
            else was given, each with one text or, after a merge, several.
        part: of which run it is, and which shards of it; None: of none that knows.
    """

    fs: float | None
    window: Window
    statistics: Mapping[str, Statistic]
    records: Mapping[str, SiteRecord]
    coverage: Mapping[str, CoverageRow]
    downsamplings: Mapping[str, Downsampling]
    about: Mapping[str, tuple[str, ...]]
    part: Part | None = None

    def merge(self, other: "Recording") -> "Recording":
        """Both recordings as one, as if one recorder had seen both data sets.

        A statistic that one of them lacks is given up at the sites that both have.

        Raises:
            RequestError: they differ in `fs`, `window`, or in a site's channels or axes; they are
                shards of different runs, or share one.
        """
        part = merged(self.part, other.part)
        if self.fs != other.fs:
            raise RequestError(f"recordings at fs={self.fs} and fs={other.fs} can't be merged")
        if self.window != other.window:
            raise RequestError(f"windows {self.window!r} and {other.window!r} can't be merged")
        statistics = {
            name: statistic.preferred(other.statistics.get(name, statistic))
            for name, statistic in {**other.statistics, **self.statistics}.items()
        }
        lacking = {*self.statistics} ^ {*other.statistics}
        lost: dict[str, str] = {}
        records = dict(self.records)
        for name, record in other.records.items():
            if name not in records:
                records[name] = record
                continue
            sides = [
                replace(side, state={**side.state, **dict.fromkeys(lacking, None)})
                for side in (records[name], record)
            ]
            if reason := sides[0].unmergeable(sides[1]):
                raise RequestError(f"recordings differ at {name}: {reason}")
            try:
                records[name], reasons = sides[0].merge(sides[1], statistics)
            except RequestError as error:
                raise RequestError(f"recordings differ at {name}: {error}") from error
            if reasons := [*reasons, *(f"no {of}: one recording has none" for of in lacking)]:
                lost[record.site.place] = "; ".join(reasons)
        coverage = dict(self.coverage)
        for name, row in other.coverage.items():
            before = coverage.setdefault(name, replace(row, fired=0))
            coverage[name] = replace(
                before,
                selected=before.selected or row.selected,
                fired=before.fired + row.fired,
                reason=before.reason or row.reason or lost.get(name, ""),
            )
        downsamplings = {**other.downsamplings, **self.downsamplings}
        about = {
            key: tuple(dict.fromkeys((*self.about.get(key, ()), *other.about.get(key, ()))))
            for key in {**self.about, **other.about}
        }
        return Recording(
            self.fs, self.window, statistics, records, coverage, downsamplings, about, part
        )
