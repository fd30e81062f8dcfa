"""What the page embeds of a report: rows of its tables, and the numbers that its script draws.

Numbers have four significant digits and power a resolution of 0.1 dB, finer than a screen shows.
Spectra of all channels would be too large: each layer has the quantiles over all channels, and
the spectra of some of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.page.findings import quantity
from spectroscope.schema import COLUMNS

# Spectral values embedded for single channels, about four bytes each, over all sites.
BUDGET = 250_000
MIN_LINES = 8  # channels of a site with a spectrum, however many sites there are
MAX_BINS = 300  # of a spectrum; a chart is not wider
QUANTILES = (0.1, 0.5, 0.9)
DIGITS = 4

# The first columns of the table of layers. The other columns of `Report.sites()` follow.
_FIRST = ["site", "source", "kind", "channels", "shape", "dc_fraction", "active_fraction",
          "dead_fraction", "always_on_fraction", "introduced_fraction", "above_next_nyquist",
          "dc_out", "dc_out_std", "dc_gaussian", "ac_rms_out", "dc_in", "ac_rms_in", "fs",
          "nyquist", "decimation"]  # fmt: skip
# Parts of the site's name.
_IN_SITE_NAME = ["module", "function", "call"]
# The same for all channels of a site, or the number of the row.
_NOT_OF_CHANNELS = ["site", *_IN_SITE_NAME, "kind", "n_samples", "channel"]

DEPTH = {
    "dc_fraction": "DC power over output power",
    "active_fraction": "fraction of output values above 0",
    "introduced_fraction": "introduced power over the output's AC power",
}
NO_SPECTRA = "No spectra: they need spectra=True and inputs of one length greater than 1."

SUMMARY_ROWS = 6

Floats = NDArray[np.float64]
SpectraOf = Callable[[str], pd.DataFrame | None]


def site_table(sites: pd.DataFrame) -> pd.DataFrame:
    """`Report.sites()` with the columns in the order of the page, without uninformative ones."""
    columns = [*_FIRST, *(name for name in sites if name not in _FIRST)]
    return _informative(sites[columns].drop(columns=_IN_SITE_NAME))


def _informative(table: pd.DataFrame) -> pd.DataFrame:
    """`table` without uninformative columns; those that the schema doesn't know come last.

    Uninformative are: columns that are all NaN; counts of non-finite values that are all 0, which
    the findings report; and `preserved_fraction`, which is 1 − `introduced_fraction`.
    """
    if table.empty:
        return table
    empty = [name for name in table if table[name].isna().all()]
    zero = [c for c in ("nonfinite", "nonfinite_out") if c in table and not table[c].any()]
    table = table.drop(columns={*empty, *zero, "preserved_fraction"}, errors="ignore")
    return table[sorted(table, key=lambda name: name not in COLUMNS)]


def embedded(
    sites: pd.DataFrame,
    dc: pd.DataFrame,
    *,
    spectra: SpectraOf,
    harmonics: pd.DataFrame | None,
    predictions: pd.DataFrame | None,
) -> dict[str, Any]:
    """Data for the script, ready for JSON; arguments as of `render_report`."""
    channels_of, harmonics_of, predictions_of = map(_by_site, (dc, harmonics, predictions))
    spectra_of = {}
    for site in sites["site"]:
        if (frame := spectra(site)) is not None:
            spectra_of[site] = Spectra(frame[frame["site"] == site])
    lines = _lines_per_site([spectra.power["out"].shape for spectra in spectra_of.values()])
    layers = []
    for site, source in zip(sites["site"], sites["source"], strict=True):
        channels = channels_of[site]
        values = _informative(channels).drop(columns=_NOT_OF_CHANNELS)
        layer: dict[str, Any] = {"site": site, "channels": _columns(values)}
        if isinstance(source, str):
            layer["source"] = source
        if site in spectra_of:
            layer["spectra"] = spectra_of[site].embedded(_most_variable(channels, lines))
        else:
            layer["note"] = NO_SPECTRA
        if site in harmonics_of:
            layer["harmonics"] = _columns(_harmonics(harmonics_of[site]))
        if site in predictions_of:
            layer["predictions"] = _columns(_predictions(predictions_of[site]))
        layers.append(layer)
    return {"layers": layers, "depth": depth(sites, DEPTH)}


def depth(sites: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, Any]:
    """Curves over the layers: columns of `sites` with their titles."""
    return {
        name: {"title": title, "values": rounded(sites[name])} for name, title in titles.items()
    }


class Spectra:
    """Spectra of both sides of one site.

    Attributes:
        freq: ``[F]``.
        unit: of `freq`.
        power: ``[C, F]`` of each side.
        bins: number of adjacent bins of the report that make one bin of `power`, their maximum.
    """

    def __init__(self, frame: pd.DataFrame):
        self.unit = str(frame["freq_unit"].iloc[0])
        channels = frame["channel"].nunique()
        sides = {side: rows for side, rows in frame.groupby("side", sort=False)}
        freq = sides["out"]["freq"].to_numpy().reshape(channels, -1)[0]
        self.bins = math.ceil((len(freq) - 1) / MAX_BINS) if len(freq) > 1 else 1
        self.freq = _merge_bins(freq[np.newaxis], self.bins, np.mean)[0]
        self.power = {
            str(side): _merge_bins(
                rows["power"].to_numpy().reshape(channels, -1), self.bins, np.max
            )
            for side, rows in sides.items()
        }

    def embedded(self, channels: Sequence[int]) -> dict[str, Any]:
        """For JSON: quantiles over all channels, and the spectra of `channels`."""
        sides: dict[str, Any] = {}
        for side, power in self.power.items():
            known = power[~np.isnan(power).any(1)]
            band = np.quantile(known, QUANTILES, axis=0) if len(known) else np.empty((0, 0))
            sides[side] = {
                "band": [tenths_of_decibel(row) for row in band],
                "lines": {str(channel): tenths_of_decibel(power[channel]) for channel in channels},
            }
        return {
            "freq": rounded(self.freq),
            "unit": self.unit,
            "bins": self.bins,
            "first": next(iter(channels), None),
            **sides,
        }


def _merge_bins(rows: Floats, size: int, reduce: Any) -> Floats:
    """``[C, F]`` with each `size` adjacent bins reduced to one; the DC bin stays alone."""
    if size == 1:
        return rows
    above_dc = rows[:, 1:]
    missing = -above_dc.shape[1] % size
    above_dc = np.concatenate([above_dc, np.repeat(above_dc[:, -1:], missing, axis=1)], axis=1)
    reduced = reduce(above_dc.reshape(len(rows), -1, size), axis=2)
    merged: Floats = np.concatenate([rows[:, :1], reduced], axis=1)
    return merged


def _lines_per_site(shapes: list[tuple[int, ...]]) -> int:
    """Number of channels of a site whose spectra are embedded: all sites fit into `BUDGET`."""
    lines = MIN_LINES
    while lines < 65_536 and sum(2 * min(c, 2 * lines) * f for c, f in shapes) <= BUDGET:
        lines *= 2
    return lines


def _most_variable(channels: pd.DataFrame, number: int) -> list[int]:
    """Channels whose DC varies most over inputs; for one input, those with the largest DC."""
    by = ["dc_out_std", "dc_out"]
    order = channels.sort_values(by, ascending=False, kind="stable")
    return [int(channel) for channel in order["channel"][:number]]


def _harmonics(frame: pd.DataFrame) -> pd.DataFrame:
    """Medians over the channels; folded harmonics in rows of their own."""
    values = ["freq", "amplitude_in", "noise_floor_in", "amplitude_out", "noise_floor_out"]
    return frame.groupby(["harmonic", "folded"])[values].median().reset_index()


def _predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over the channels, and the RMS residual."""
    by_assumption = frame.groupby("assumption", sort=False)
    table = by_assumption[["dc_out", "dc_predicted"]].mean()
    squares = frame.assign(square=frame["dc_residual"] ** 2).groupby("assumption", sort=False)
    return table.assign(rms_residual=np.sqrt(squares["square"].mean())).reset_index()


def _by_site(frame: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    return {} if frame is None else dict(iter(frame.groupby("site", sort=False)))


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    return {str(name): rounded(column) for name, column in table.items()}


def rounded(values: Iterable[Any]) -> list[Any]:
    """Values for JSON: floats with four significant digits, None for NaN, infinity as text."""
    return [_json(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _json(value: Any) -> Any:
    if not isinstance(value, float):
        return None if value is pd.NA else value
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # JavaScript's Number() reads these
    value = float(f"{value:.{DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def tenths_of_decibel(power: Floats) -> list[int | None]:
    """Power in units of 0.1 dB re 1 activation²; None for zero, NaN and infinity."""
    with np.errstate(divide="ignore"):
        tenths = np.rint(100 * np.log10(power))
    return [int(value) if math.isfinite(value) else None for value in tenths]


class CoverageSummary(NamedTuple):
    """The coverage as a warning, a sentence and a table.

    Attributes:
        missed: rows of activations that were missed or recorded incompletely.
        any_fired: whether any activation was recorded.
        warning: how many were missed; empty if none.
        text: a sentence about the others.
    """

    missed: pd.DataFrame
    any_fired: bool
    warning: str
    text: str


def summarize_coverage(coverage: pd.DataFrame) -> CoverageSummary:
    """Which activations fired, and which were missed.

    Args:
        coverage: `Report.coverage()`.
    """
    others = coverage[coverage["status"] == "not asked for"]
    coverage = coverage.drop(others.index)
    selected = coverage["selected"].astype(bool)
    fired = coverage["status"] == "fired"
    missed = coverage[~fired & (selected | (coverage["reason"] != ""))]
    recorded = coverage[fired & selected]
    unselected = int((~selected & (coverage["reason"] == "")).sum())
    number, calls = len(recorded), quantity(int(recorded["fired"].sum()), "call")
    adjective = "selected " if unselected else ""
    warning = ""
    if len(missed):
        be = "is" if len(missed) == 1 else "are"
        warning = (
            f"{quantity(len(missed), 'activation')} cannot be seen, {be} incomplete or never fired."
        )
    if coverage.empty:
        text = "No activation was found: nothing was recorded."
    elif recorded.empty:
        text = "No other activation fired." if len(missed) else "No selected activation fired."
    elif len(missed):
        text = f"{quantity(number, 'other activation')} fired, {calls} in total."
    elif number == 1:
        text = f"The only {adjective}activation fired, {calls} in total. None was missed."
    else:
        text = f"All {number:,} {adjective}activations fired, {calls} in total. None was missed."
    if unselected:
        text += f" {unselected:,} more {'was' if unselected == 1 else 'were'} not selected."
    if calls_of_others := int(others["fired"].sum()):
        kinds = ", ".join(others["kind"].unique())
        be = "was" if calls_of_others == 1 else "were"
        text += (
            f" {quantity(calls_of_others, 'call')} of {kinds} {be} seen but not asked for: "
            'kinds="all" records them.'
        )
    columns = ["place", "kind", "status", "fired", "reason"]
    missed = missed[columns].replace({"place": {"": "the model itself"}})
    return CoverageSummary(missed, bool(number), warning, text)
