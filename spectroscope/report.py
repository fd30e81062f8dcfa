"""`Report`: what was measured, as tidy pandas frames with units."""

import difflib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from spectroscope import storage
from spectroscope.dsp import theory
from spectroscope.errors import RequestError
from spectroscope.files import output_folder
from spectroscope.recording import Recording, SiteRecord
from spectroscope.statistics import SideStatistics

FILE = "report.npz"

Floats = NDArray[np.float64]


class Column(NamedTuple):
    """Unit and definition of a column."""

    unit: str
    definition: str


# "activation" is the unit of the tensor at the site, whatever that is in this network.
COLUMNS = {
    "site": Column("", "one rectifier call: module#call or module/function#call"),
    "place": Column("", "the site without its call: module or module/function"),
    "module": Column("", "qualified name of the rectifier module, or of the module that called the "
                         "function"),
    "function": Column("", "the function called; empty if the module is the rectifier"),
    "call": Column("", "which call of the module in one forward of the model, from 0"),
    "kind": Column("", "kind of rectifier: ReLU, ReLU6, Hardtanh, …"),
    "channel": Column("", "channel of the activation, from 0"),
    "channels": Column("", "number of channels"),
    "shape": Column("", "of one input's activation, (C, ...); None where inputs differ"),
    "fs": Column("Hz", "sampling rate at the site: fs over decimation (samples of the site per "
                       "sample of the model's input if fs isn't given)"),
    "nyquist": Column("Hz", "fs / 2 (cycles/sample of the model's input if fs isn't given)"),
    "decimation": Column("1", "samples of the model's input to one of the site's, on each axis of "
                              "time or space; NaN where unknown, or there is none"),
    "n_samples": Column("1", "inputs (batch items) seen"),
    "dc_in": Column("activation", "mean of the rectifier's input, over time or space and inputs"),
    "dc_out": Column("activation", "mean of its output, likewise"),
    "dc_out_std": Column("activation", "standard deviation over inputs (of the population) of each "
                                       "input's own output DC: what can carry information"),
    "ac_rms_in": Column("activation", "RMS of the rectifier's input less each input's own DC"),
    "ac_rms_out": Column("activation", "RMS of its output less each input's own DC"),
    "active_fraction": Column("1", "fraction of output values > 0"),
    "dc_fraction": Column("1", "DC power over total power of the output: mean squared DC over mean "
                               "square; NaN where the output is all zero"),
    "dc_gaussian": Column("activation", "output DC, were the input Gaussian with the mean and "
                                        "standard deviation measured: σφ(μ/σ) + μΦ(μ/σ); NaN for "
        "other kinds than ReLU and ReLU6"),
    "nonfinite": Column("1", "input values that are NaN or ±Inf, kept out of all the others"),
    "nonfinite_out": Column("1", "output values that are NaN or ±Inf, likewise"),
    "side": Column("", "in or out of the rectifier"),
    "freq": Column("see freq_unit", "frequency of the bin"),
    "freq_unit": Column("", "Hz if fs was given and the decimation is known, else cycles/sample "
                            "of the site"),
    "power": Column("activation²", "one-sided power spectrum, averaged over inputs: a tone A·cos "
                                   "reads A²/2, the DC bin mean squared DC; their sum is the mean "
                                   "square (scipy.signal.periodogram, scaling='spectrum')"),
    "status": Column("", "fired, never fired, incomplete (not all of its calls are recorded) or "
                         "cannot be seen"),
    "selected": Column("", "whether the recorder was asked to record it"),
    "fired": Column("1", "calls seen"),
    "reason": Column("", "why it can't be seen, or isn't recorded in full"),
}  # fmt: skip

_SITE = ["site", "module", "function", "call", "kind"]
_MEANS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
          "dc_fraction", "dc_gaussian"]  # fmt: skip
_COUNTS = ["nonfinite", "nonfinite_out"]


class Report:
    """Tables of a recording. The unit and definition of every column is in :meth:`describe`."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self._records = list(recording.records.values())

    def __repr__(self) -> str:
        channels = sum(record.channels for record in self._records)
        return f"Report({len(self._records)} sites, {channels} channels)"

    def dc(self) -> pd.DataFrame:
        """DC and AC on both sides of the rectifiers, one row per site × channel."""
        frames = [
            pd.DataFrame(
                _site_columns(record)
                | {"channel": range(record.channels), "n_samples": record.statistics.output.inputs}
                | _by_channel(record)
            )
            for record in self._records
        ]
        columns = [*_SITE, "channel", "n_samples", *_MEANS, *_COUNTS]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def sites(self) -> pd.DataFrame:
        """One row per site: channel means of :meth:`dc` (NaN left out), counts added up."""
        rows = []
        for record in self._records:
            # Without fs: samples of the model's input, so that decimation 2 has fs = 1/2.
            fs = (self._recording.fs or 1.0) / record.decimation
            rows.append(
                _site_columns(record)
                | {"channels": record.channels, "shape": record.shape, "fs": fs, "nyquist": fs / 2}
                | {"decimation": record.decimation, "n_samples": record.statistics.output.inputs}
            )
        columns = [*_SITE, "channels", "shape", "fs", "nyquist", "decimation", "n_samples"]
        by_site = self.dc().groupby("site", sort=False)
        totals = by_site[_MEANS].mean().join(by_site[_COUNTS].sum())
        return pd.DataFrame(rows, columns=columns).join(totals, on="site")

    def spectra(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Power spectra, one row per site, channel, side and frequency.

        Args:
            select: a glob or globs over module names or sites; None: all sites with a spectrum.

        Raises:
            RequestError: no site fits, or none of those that fit has a spectrum.
        """
        fitting = self._records
        if select is not None:
            globs = [select] if isinstance(select, str) else list(select)
            fitting = [r for r in self._records if any(r.site.matches(glob) for glob in globs)]
            if not fitting:
                names = [record.site.name for record in self._records]
                near = ", ".join(difflib.get_close_matches(str(select), names, n=3, cutoff=0))
                raise RequestError(f"no site fits {select!r}; there are, for example, {near}")
        frames = [frame for record in fitting for frame in self._spectra(record)]
        if not frames:
            raise RequestError(
                f"no spectra were recorded at {', '.join(r.site.name for r in fitting[:3])}: "
                "that takes spectra=True and activations [N, C, T] of one length"
            )
        return pd.concat(frames, ignore_index=True)

    def coverage(self) -> pd.DataFrame:
        """Every place with rectifiers, and what can't be looked into, one row each."""
        columns = ["place", "module", "function", "kind", "status", "selected", "fired", "reason"]
        rows = [
            {**asdict(row), "place": row.place, "status": row.status}
            for row in self._recording.found.values()
        ]
        return pd.DataFrame(rows, columns=columns)

    def describe(self) -> pd.DataFrame:
        """Unit and definition of every column of every table."""
        rows = [(name, *column) for name, column in COLUMNS.items()]
        return pd.DataFrame(rows, columns=["column", "unit", "definition"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the report and its tables (CSV) into `folder`, all of them or none.

        Raises:
            RequestError: the folder can't be written to.
        """
        with output_folder(folder) as staging:
            storage.write(self._recording, staging / FILE)
            for name in ("dc", "sites", "coverage"):
                getattr(self, name)().to_csv(staging / f"{name}.csv", index=False)

    def merge(self, other: "Report") -> "Report":
        """The report on both data sets, as if one recorder had seen them.

        Raises:
            RequestError: the recordings differ in fs, or in a site's channels or axes.
        """
        return Report(self._recording.merge(other._recording))

    def _spectra(self, record: SiteRecord) -> Iterator[pd.DataFrame]:
        fs, unit = 1.0, "cycles/sample"
        if self._recording.fs is not None and not math.isnan(record.decimation):
            fs, unit = self._recording.fs / record.decimation, "Hz"
        for side in ("in", "out"):
            statistics = _side(record, side)
            if statistics.spectrum is None or statistics.length is None:
                continue
            channels, bins = statistics.spectrum.shape
            inputs = _numpy(statistics.spectrum_inputs)
            power = _numpy(statistics.spectrum) / np.where(inputs > 0, inputs, np.nan)[:, None]
            yield pd.DataFrame(
                {
                    "site": record.site.name,
                    "channel": np.repeat(np.arange(channels), bins),
                    "side": side,
                    "freq": np.tile(np.arange(bins) * fs / statistics.length, channels),
                    "freq_unit": unit,
                    "power": power.ravel(),
                }
            )


def load(path: str | os.PathLike[str]) -> Report:
    """The report that :meth:`Report.save` wrote into the folder `path`.

    Raises:
        RequestError: there is none, or it isn't one that this version reads.
    """
    path = Path(path)
    return Report(storage.read(path / FILE if os.path.isdir(path) else path))


def _site_columns(record: SiteRecord) -> dict[str, Any]:
    return {"site": record.site.name, **record.site._asdict()}


def _side(record: SiteRecord, side: str) -> SideStatistics:
    return record.statistics.input if side == "in" else record.statistics.output


def _numpy(tensor: Tensor) -> Floats:
    return tensor.cpu().numpy().astype(np.float64)


class _Powers(NamedTuple):
    """Of one side, each ``[C]``; NaN for a channel of which no finite value was seen."""

    mean: Floats
    dc_variance: Floats  # over inputs, each weighted by its number of values
    ac: Floats

    @classmethod
    def of(cls, state: SideStatistics) -> "_Powers":
        # The second row: each input weighted by its number of values.
        count, mean, m2 = (_numpy(t[1]) for t in (state.dc.weight, state.dc.mean, state.dc.m2))
        count[count == 0] = np.nan
        return cls(mean * count / count, m2 / count, _numpy(state.ac_power) / count)


def _by_channel(record: SiteRecord) -> dict[str, Floats]:
    """The measured columns of :meth:`Report.dc`, each ``[C]``."""
    before, after = record.statistics
    powers_in, powers_out = _Powers.of(before), _Powers.of(after)
    dc_power = powers_out.dc_variance + np.square(powers_out.mean)
    inputs, values = _numpy(after.dc.weight)
    with np.errstate(invalid="ignore"):  # 0/0: no input with a finite value, an all-zero output
        columns = {
            "dc_in": powers_in.mean,
            "dc_out": powers_out.mean,
            "dc_out_std": np.sqrt(_numpy(after.dc.m2)[0] / inputs),
            "ac_rms_in": np.sqrt(powers_in.ac),
            "ac_rms_out": np.sqrt(powers_out.ac),
            "active_fraction": _numpy(after.active) / values,
            "dc_fraction": dc_power / (dc_power + powers_out.ac),
            "dc_gaussian": _gaussian_dc(
                record.site.kind, powers_in.mean, np.sqrt(powers_in.dc_variance + powers_in.ac)
            ),
        }
    counts = {"nonfinite": before.nonfinite, "nonfinite_out": after.nonfinite}
    return columns | {name: _numpy(count).astype(np.int64) for name, count in counts.items()}


def _gaussian_dc(kind: str, mean: Floats, std: Floats) -> Floats:
    if kind == "ReLU":
        return theory.gaussian_dc(mean, std)
    if kind == "ReLU6":  # min(ReLU(x), 6) = ReLU(x) − ReLU(x − 6)
        return theory.gaussian_dc(mean, std) - theory.gaussian_dc(mean - 6, std)
    return np.full_like(mean, np.nan)
