"""What the page embeds of a report: rows of its tables, and the numbers that its script draws.

Numbers have four significant digits, finer than a screen shows. Spectra have a byte for each
channel, side and bin, in steps of half a decibel; quantiles over channels a tenth of a decibel.
"""

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.page.findings import percent, quantity, three_digits
from spectroscope.schema import COLUMNS

# Bytes of spectra, over all sites: more are avoided by merging bins.
BUDGET = 1_500_000
MAX_BINS = 300  # of a spectrum; a chart is not wider
MIN_BINS = 16  # however many channels there are
STEP = 0.5  # dB, of a byte
SILENT, UNKNOWN = 0, 255  # bytes: no power, or less than 127 dB below the greatest; NaN
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
_PANELS = {"dc_fraction": "DC", "active_fraction": "active", "introduced_fraction": "introduced"}
NO_POWER = -200.0  # dB of the total, beyond any colour
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
    aliasing: pd.DataFrame | None,
    harmonics: pd.DataFrame | None,
    predictions: pd.DataFrame | None,
) -> dict[str, Any]:
    """Data for the script, ready for JSON; arguments as of `render_report`."""
    frames = (dc, aliasing, harmonics, predictions)
    channels_of, aliasing_of, harmonics_of, predictions_of = map(_by_site, frames)
    spectra_of = {}
    for site in sites["site"]:
        if (frame := spectra(site)) is not None:
            spectra_of[site] = Spectra.of(frame[frame["site"] == site])
    bins = bins_within_budget([spectra.power["out"].shape for spectra in spectra_of.values()])
    layers = []
    columns = (sites[name] for name in ("site", "source", "nyquist"))
    for site, source, nyquist in zip(*columns, strict=True):
        channels = channels_of[site]
        values = _informative(channels).drop(columns=_NOT_OF_CHANNELS)
        layer: dict[str, Any] = {"site": site, "channels": _columns(values)}
        if isinstance(source, str):
            layer["source"] = source
        if site in spectra_of:
            layer["spectra"] = spectra_of[site].merged(bins).embedded()
            layer["first"] = _most_variable(channels)
        else:
            layer["note"] = NO_SPECTRA
        if site in harmonics_of:
            table = _harmonics(harmonics_of[site])
            layer["harmonics"] = _columns(table)
            layer["marks"] = _marks(table, nyquist)
        if site in predictions_of:
            layer["predictions"] = _columns(_predictions(predictions_of[site]))
        if site in aliasing_of:
            layer |= _aliasing(aliasing_of[site])
        layers.append(layer)
    titles = {"spectrum": "Spectra of input and output", "in": "input", "out": "output"}
    return {"layers": layers, "depth": depth(sites, DEPTH), "titles": titles}


def depth(sites: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, Any]:
    """Curves over the layers: columns of `sites` with their titles."""
    return {
        name: {"title": title, "values": rounded(sites[name])} for name, title in titles.items()
    }


@dataclass(frozen=True)
class Spectra:
    """Spectra of both sides of one site.

    Attributes:
        freq: ``[F]``.
        unit: of `freq`.
        power: ``[C, F]`` of each side.
        bins: number of adjacent bins of the report that make one bin of `power`, their maximum.
    """

    freq: Floats
    unit: str
    power: dict[str, Floats]
    bins: int = 1

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Spectra":
        """From rows of `Report.spectra()`, with at most `MAX_BINS` bins beside DC."""
        channels = frame["channel"].nunique()
        sides = {str(side): rows for side, rows in frame.groupby("side", sort=False)}
        power = {s: rows["power"].to_numpy().reshape(channels, -1) for s, rows in sides.items()}
        freq = sides["out"]["freq"].to_numpy().reshape(channels, -1)[0]
        return cls(freq, str(frame["freq_unit"].iloc[0]), power).merged(MAX_BINS)

    def merged(self, limit: int) -> "Spectra":
        """With at most `limit` bins beside DC."""
        size = max(1, math.ceil((len(self.freq) - 1) / limit))
        return Spectra(
            _merge_bins(self.freq[np.newaxis], size, np.mean)[0],
            self.unit,
            {side: _merge_bins(power, size, np.max) for side, power in self.power.items()},
            self.bins * size,
        )

    def embedded(self) -> dict[str, Any]:
        """For JSON: quantiles over all channels, and all channels in bytes."""
        with np.errstate(divide="ignore"):
            both = 10 * np.log10(np.stack([self.power["in"], self.power["out"]]))
        finite = both[np.isfinite(both)]
        top = float(np.ceil(finite.max() / STEP) * STEP) if len(finite) else 0.0
        sides: dict[str, Any] = {}
        least = top
        for side, power in self.power.items():
            known = power[~np.isnan(power).any(1)]
            band = np.quantile(known, QUANTILES, axis=0) if len(known) else np.empty((0, 0))
            sides[side] = {"band": [tenths_of_decibel(row) for row in band]}
            values = [level for row in sides[side]["band"] for level in row if level is not None]
            least = min([least, *(level / 10 for level in values)])
        return {
            "freq": rounded(self.freq),
            "unit": self.unit,
            "bins": self.bins,
            "top": top,
            "least": least,
            "step": STEP,
            "cells": base64.b64encode(_in_bytes(both, top).tobytes()).decode(),
            **sides,
        }


def _in_bytes(decibels: Floats, top: float) -> NDArray[np.uint8]:
    """254 is `top`, and each lower number `STEP` less."""
    steps = np.rint((np.nan_to_num(decibels, nan=0.0, neginf=-1e9) - top) / STEP) + UNKNOWN - 1
    levels = np.where(steps < 1, SILENT, steps)
    result: NDArray[np.uint8] = np.where(np.isnan(decibels), UNKNOWN, levels).astype(np.uint8)
    return result


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


def bins_within_budget(shapes: list[tuple[int, ...]]) -> int:
    """Most bins of a spectrum beside DC, so that the spectra of all sites fit into `BUDGET`."""
    limit = MAX_BINS
    while limit > MIN_BINS and sum(2 * c * min(f, limit + 1) for c, f in shapes) > BUDGET:
        limit //= 2
    return limit


def _most_variable(channels: pd.DataFrame) -> int:
    """Channel whose DC varies most over inputs; for one input, that with the largest DC."""
    by = ["dc_out_std", "dc_out"]
    return int(channels.sort_values(by, ascending=False, kind="stable")["channel"].iloc[0])


def _marks(harmonics: pd.DataFrame, nyquist: float) -> list[tuple[float, str]]:
    """Frequency and number of each harmonic; ↷ where those of all inputs are folded."""
    folded = harmonics.set_index(["harmonic", "folded"])["freq"].unstack()
    if False not in folded or math.isnan(f0 := folded[False].get(1, math.nan)):
        return []
    marks = []
    for number, row in folded.iterrows():
        if number * f0 <= nyquist:
            marks.append((number * f0, str(number)))
        elif math.isnan(row[False]) and not math.isnan(row.get(True, math.nan)):
            marks.append((row[True], f"{number}↷"))
    return [(_json(float(freq)), text) for freq, text in marks]


def _aliasing(rows: pd.DataFrame) -> dict[str, Any]:
    """The next Nyquist frequency of a layer, and a sentence on what is above it."""
    row = rows.iloc[0]
    power, total = rows["power_above"], rows["power_above"] / rows["above_next_nyquist"]
    if row["global_pooling"] or math.isnan(row["next_nyquist"]) or not total.sum() > 0:
        return {}
    share = percent(float(power.sum() / total.sum()))
    where = f"{three_digits(row['next_nyquist'])} {row['freq_unit']}"
    behind = ""
    if between := int(row["activations_between"]):
        behind = (
            f" Between them {'is' if between == 1 else 'are'} {quantity(between, 'activation')}."
        )
    return {
        "next_nyquist": _json(float(row["next_nyquist"])),
        "aliasing": f"{share} of the output power lies above {where}, the Nyquist frequency after "
        f"{row['downsampling']}.{behind}",
    }


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


def cells(spectrogram: pd.DataFrame) -> pd.DataFrame:
    """`Report.spectrogram()` for the overview: power and DC in dB of the layer's output power."""
    with np.errstate(invalid="ignore"):
        return spectrogram.assign(
            power=_relative(spectrogram["power_db"], spectrogram["total_db"]),
            dc=_relative(spectrogram["dc_db"], spectrogram["total_db"]),
        )


def _relative(power: "pd.Series[float]", total: "pd.Series[float]") -> "pd.Series[float]":
    return (power - total).mask(np.isneginf(power), NO_POWER)


def panels(sites: pd.DataFrame) -> dict[str, list[float]]:
    """Fractions beside the overview, by title."""
    return {title: sites[name].astype(float).tolist() for name, title in _PANELS.items()}


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
