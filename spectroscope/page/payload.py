"""What a page has of a report: rows for its tables, and the numbers that its script draws.

Numbers are embedded with four significant digits, power in tenths of a decibel: finer than a screen
shows. Spectra of all channels would be too much; the band that most lie in, and some channels'.
"""

import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.errors import RequestError
from spectroscope.page.findings import counted

if TYPE_CHECKING:
    from spectroscope.report import Report

# Spectral values that are embedded of single channels, some four bytes each; shared by all sites.
BUDGET = 250_000
FEWEST = 8  # channels of a site of which spectra are embedded, however many sites there are
MOST_BINS = 300  # of a spectrum; a chart has no more room
QUANTILES = (0.1, 0.5, 0.9)
DIGITS = 4

# Of `Report.sites`, in the order in which they are read; what is missing here comes at the end.
_FIRST = ["site", "kind", "channels", "shape", "dc_fraction", "active_fraction", "dead_fraction",
          "always_on_fraction", "introduced_fraction", "above_next_nyquist", "dc_out", "dc_out_std",
          "dc_gaussian", "ac_rms_out", "dc_in", "ac_rms_in", "fs", "nyquist",
          "decimation"]  # fmt: skip
# The name of the site says them.
_LEFT_OUT = {"module", "function", "call"}
_PER_SITE = ["site", "module", "function", "call", "kind", "n_samples", "channel"]

DEPTH = {
    "dc_fraction": "the DC’s part of the output’s power",
    "active_fraction": "part of the output values above 0",
    "introduced_fraction": "power of ½|x| (what is new) over the output’s",
}
NO_SPECTRA = "No spectra here: that takes spectra=True, and inputs of one length, longer than 1."

IN_SUMMARY = ["site", "channels", "shape", "dc_out", "ac_rms_out", "active_fraction"]
ROWS_IN_SUMMARY = 6

Floats = NDArray[np.float64]


def site_table(sites: pd.DataFrame) -> pd.DataFrame:
    """`Report.sites()` in the order of the page, without columns in which there is nothing."""
    columns = [*_FIRST, *(name for name in sites if name not in _FIRST)]
    return _shown(sites[[name for name in columns if name not in _LEFT_OUT]])


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that are all NaN, or say nothing new.

    Counts of nonfinite values, if there are none: that they were looked for is among the findings.
    Of a ReLU as much is preserved as introduced.
    """
    if table.empty:
        return table
    empty = [name for name in table if table[name].isna().all()]
    zero = [c for c in ("nonfinite", "nonfinite_out") if c in table and not table[c].any()]
    same = ["preserved_fraction"] if (table["kind"] == "ReLU").all() else []
    return table.drop(columns={*empty, *zero, *same})


def embedded(report: "Report", sites: pd.DataFrame, dc: pd.DataFrame) -> dict[str, Any]:
    """What the script draws, ready for JSON.

    Args:
        report: the report.
        sites: its `sites()`.
        dc: its `dc()`.
    """
    harmonics = _by_site(report, "harmonics")
    predictions = _by_site(report, "predictions")
    of_site = dict(iter(dc.groupby("site", sort=False)))
    found = {site: spectra for site in sites["site"] if (spectra := _spectra_of(report, site))}
    keep = _channels_kept([spectra.power["out"].shape for spectra in found.values()])
    layers = []
    for site in sites["site"]:
        channels = of_site[site]
        layer: dict[str, Any] = {"site": site, "channels": _columns(channels)}
        if site in found:
            layer["spectra"] = found[site].embedded(_most_telling(channels, keep))
        else:
            layer["note"] = NO_SPECTRA
        if site in harmonics:
            layer["harmonics"] = _rows(_harmonics(harmonics[site]))
        if site in predictions:
            layer["predictions"] = _rows(_predictions(predictions[site]))
        layers.append(layer)
    return {"layers": layers, "depth": depth(sites, DEPTH)}


def depth(sites: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, Any]:
    """Curves over the layers: columns of `sites`, and what each is called."""
    return {
        name: {"title": title, "values": rounded(sites[name])} for name, title in titles.items()
    }


class Spectra:
    """Both sides of one site.

    Attributes:
        freq: ``[F]``.
        unit: of it.
        power: ``[C, F]`` of each side.
        bins: how many of the report's bins are one here; of those the greatest power is kept.
    """

    def __init__(self, frame: pd.DataFrame):
        self.unit = str(frame["freq_unit"].iloc[0])
        channels = frame["channel"].nunique()
        sides = {side: rows for side, rows in frame.groupby("side", sort=False)}
        freq = sides["out"]["freq"].to_numpy().reshape(channels, -1)[0]
        self.bins = math.ceil((len(freq) - 1) / MOST_BINS) if len(freq) > 1 else 1
        self.freq = _grouped(freq[np.newaxis], self.bins, np.mean)[0]
        self.power = {
            str(side): _grouped(rows["power"].to_numpy().reshape(channels, -1), self.bins, np.max)
            for side, rows in sides.items()
        }

    def embedded(self, channels: Sequence[int]) -> dict[str, Any]:
        """For JSON: the band over all channels, and lines of some, the first of them chosen."""
        sides: dict[str, Any] = {}
        for side, power in self.power.items():
            known = power[~np.isnan(power).any(1)]
            band = np.quantile(known, QUANTILES, axis=0) if len(known) else np.empty((0, 0))
            sides[side] = {
                "band": [decibels(row) for row in band],
                "lines": {str(channel): decibels(power[channel]) for channel in channels},
            }
        first = next(iter(channels), None)
        return {
            "freq": rounded(self.freq),
            "unit": self.unit,
            "bins": self.bins,
            "first": first,
            **sides,
        }


def _grouped(rows: Floats, size: int, reduce: Any) -> Floats:
    """``[C, F]``, `size` neighbours at a time as one; but the DC bin stays alone."""
    if size == 1:
        return rows
    rest = rows[:, 1:]
    missing = -rest.shape[1] % size
    rest = np.concatenate([rest, np.repeat(rest[:, -1:], missing, axis=1)], axis=1)
    grouped = reduce(rest.reshape(len(rows), -1, size), axis=2)
    whole: Floats = np.concatenate([rows[:, :1], grouped], axis=1)
    return whole


def _spectra_of(report: "Report", site: str) -> Spectra | None:
    with suppress(RequestError):
        frame = report.spectra(glob.escape(site))
        # A module may be called what another site is.
        return Spectra(frame[frame["site"] == site])
    return None


def _channels_kept(shapes: list[tuple[int, ...]]) -> int:
    """Of how many channels a site spectra are embedded, so that all fit the budget together."""
    keep = FEWEST
    while keep < 65_536 and sum(2 * min(c, 2 * keep) * f for c, f in shapes) <= BUDGET:
        keep *= 2
    return keep


def _most_telling(channels: pd.DataFrame, keep: int) -> list[int]:
    """Those whose DC differs most from input to input; of one input, those with most of it."""
    by = ["dc_out_std", "dc_out"]
    return [int(c) for c in channels.sort_values(by, ascending=False, kind="stable").channel[:keep]]


def _columns(channels: pd.DataFrame) -> dict[str, Any]:
    table = _shown(channels).drop(columns=_PER_SITE)
    return {str(name): rounded(column) for name, column in table.items()}


def _harmonics(frame: pd.DataFrame) -> pd.DataFrame:
    """Medians over the channels; folded ones apart."""
    wanted = ["freq", "amplitude_in", "amplitude_out"]
    return frame.groupby(["harmonic", "folded"])[wanted].median().reset_index()


def _predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the channels, and the root of the mean square of what is left."""
    of = frame.groupby("assumption", sort=False)
    table = of[["dc_out", "dc_predicted"]].mean()
    squares = frame.assign(square=frame["dc_residual"] ** 2).groupby("assumption", sort=False)
    return table.assign(rms_residual=np.sqrt(squares["square"].mean())).reset_index()


def _by_site(report: "Report", table: str) -> dict[str, pd.DataFrame]:
    with suppress(RequestError):  # no f0, no ReLU
        return dict(iter(getattr(report, table)().groupby("site", sort=False)))
    return {}


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): rounded(column) for name, column in table.items()}


def rounded(values: Iterable[Any]) -> list[Any]:
    """Numbers with four significant digits, integers whole; null for NaN, infinity in words."""
    return [_plain(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # as JavaScript's Number() reads it
    value = float(f"{value:.{DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def decibels(power: Floats) -> list[int | None]:
    """Power in tenths of a decibel re 1 activation²; null where there is none."""
    with np.errstate(divide="ignore"):
        tenths = np.rint(100 * np.log10(power))
    return [int(value) if math.isfinite(value) else None for value in tenths]


class Seen(NamedTuple):
    """What there is to be said of the coverage.

    Attributes:
        missed: rows that ought to be looked at.
        fired: whether anything did.
        headline: how many are missed; empty: none.
        line: one line on the rest.
    """

    missed: pd.DataFrame
    fired: bool
    headline: str
    line: str


def seen(coverage: pd.DataFrame) -> Seen:
    """What was seen, and what wasn't.

    Args:
        coverage: `Report.coverage()`.
    """
    asked = coverage["selected"].astype(bool)
    well = coverage["status"] == "fired"
    missed = coverage[~well & (asked | (coverage["reason"] != ""))]
    fired = coverage[well & asked]
    places, calls = len(fired), counted(int(fired["fired"].sum()), "call")
    headline = ""
    if len(missed) == 1:
        headline = "1 place with rectifiers can't be seen, is incomplete or never fired."
    elif len(missed):
        headline = (
            f"{len(missed):,} places with rectifiers can't be seen, are incomplete or never fired."
        )
    if coverage.empty:
        line = "No rectifier was found: nothing was recorded."
    elif fired.empty:
        line = "No other fired." if len(missed) else "None that was asked for fired."
    elif len(missed):
        line = f"{counted(places, 'other')} fired, {calls} in all."
    elif places == 1:
        line = f"The one place with rectifiers fired, {calls} in all: nothing was missed."
    else:
        line = f"All {places:,} places with rectifiers fired, {calls} in all: nothing was missed."
    others = int((~asked & (coverage["reason"] == "")).sum())
    if others:
        line += f" {others:,} more {'was' if others == 1 else 'were'} not asked for."
    columns = ["place", "kind", "status", "fired", "reason"]
    missed = missed[columns].replace({"place": {"": "the model itself"}})
    return Seen(missed, bool(places), headline, line)
