"""What a recorder leaves behind: the statistics of each site, and what was found. Plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from spectroscope.capture.sites import CoverageRow, Downsampling, Shape, Site
from spectroscope.dsp.spectra import Window
from spectroscope.errors import RequestError
from spectroscope.statistics import SiteStatistics
from spectroscope.statistics.parts import Part, merged


@dataclass(frozen=True)
class SiteRecord:
    """Everything kept of one site.

    Attributes:
        site: its name.
        shape: of one input, ``(C, ...)``; None where inputs differed.
        decimation: samples of the model's input to one of the site's, along every axis of time or
            space; NaN where that isn't known, or not the same for every axis and input.
        statistics: its state.
    """

    site: Site
    shape: Shape
    decimation: float
    statistics: SiteStatistics

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.statistics.channels.table.shape[1])

    @property
    def device(self) -> torch.device:
        """Where its state is."""
        return self.statistics.channels.table.device

    def to(self, device: torch.device) -> "SiteRecord":
        """This on `device`."""
        if self.device == device:
            return self
        return replace(self, statistics=self.statistics.to(device))

    def mergeable(self, other: "SiteRecord") -> str | None:
        """Why `other` can't be merged into this, or None if it can."""
        if self.site.kind != other.site.kind:
            return f"{self.site.kind}, then {other.site.kind}"
        if self.channels != other.channels:
            return f"{self.channels} channels, then {other.channels}"
        if len(self.shape) != len(other.shape):
            return f"{len(self.shape) - 1} axes of time or space, then {len(other.shape) - 1}"
        mine, its = self.statistics.harmonics, other.statistics.harmonics
        if mine is not None and its is not None and mine.freq.shape != its.freq.shape:
            return f"{mine.freq.shape[1]} harmonics, then {its.freq.shape[1]}"
        return None

    def loses_spectra(self, merged: "SiteRecord") -> bool:
        """Whether this has spectra, and what it was merged into hasn't."""
        return self.statistics.spectra is not None and merged.statistics.spectra is None

    def merge(self, other: "SiteRecord") -> "SiteRecord":
        """Both together. The caller has asked :meth:`mergeable`."""
        return SiteRecord(
            self.site,
            tuple(a if a == b else None for a, b in zip(self.shape, other.shape, strict=True)),
            self.decimation if self.decimation == other.decimation else math.nan,
            self.statistics.merge(other.statistics),
        )


@dataclass(frozen=True)
class Recording:
    """The sites that fired, in the order of their first call, and every rectifier found.

    Attributes:
        fs: samples per second of the model's input, or None: frequencies in cycles per sample.
        window: of the spectra, as ``scipy.signal.get_window`` takes it.
        records: by site name, on the CPU.
        found: rectifiers of the model, by place.
        downsamplings: what lowers the sampling rate next after a site, by its name.
        about: what was looked at, for people to read: `model`, `recorded`, `versions`, and whatever
            else was given, each with one text or, after a merge, several.
        part: of which run it is, and which shards of it; None: of none that knows.
    """

    fs: float | None
    window: Window
    records: Mapping[str, SiteRecord]
    found: Mapping[str, CoverageRow]
    downsamplings: Mapping[str, Downsampling]
    about: Mapping[str, tuple[str, ...]]
    part: Part | None = None

    def merge(self, other: "Recording") -> "Recording":
        """Both recordings as one, as if one recorder had seen both data sets.

        Raises:
            RequestError: they differ in `fs`, `window`, or in a site's channels or axes; they are
                shards of different runs, or share one.
        """
        part = merged(self.part, other.part)
        if self.fs != other.fs:
            raise RequestError(f"recordings at fs={self.fs} and fs={other.fs} can't be merged")
        if self.window != other.window:
            raise RequestError(f"windows {self.window!r} and {other.window!r} can't be merged")
        lost: dict[str, str] = {}
        records = dict(self.records)
        for name, record in other.records.items():
            if name not in records:
                records[name] = record
                continue
            if reason := records[name].mergeable(record):
                raise RequestError(f"recordings differ at {name}: {reason}")
            records[name] = both = records[name].merge(record)
            if self.records[name].loses_spectra(both) or record.loses_spectra(both):
                lost[record.site.place] = "no spectra: not all of what was merged has the same"
        found = dict(self.found)
        for name, row in other.found.items():
            mine = found.setdefault(name, replace(row, fired=0))
            found[name] = replace(
                mine,
                selected=mine.selected or row.selected,
                fired=mine.fired + row.fired,
                reason=mine.reason or row.reason or lost.get(name, ""),
            )
        downsamplings = {**other.downsamplings, **self.downsamplings}
        about = {
            key: tuple(dict.fromkeys((*self.about.get(key, ()), *other.about.get(key, ()))))
            for key in {**self.about, **other.about}
        }
        return Recording(self.fs, self.window, records, found, downsamplings, about, part)
