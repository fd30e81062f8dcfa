"""What the page embeds of a report: rows of its tables, and the numbers that its script draws."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.page.examples import embedded as embedded_examples
from spectroscope.page.findings import folded_share
from spectroscope.page.numbers import packed, percent, quantity, rounded, three_digits, to_json
from spectroscope.page.spectra import Spectra, bins_within_budget
from spectroscope.schema import COLUMNS, SIDES

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
_PANELS = {
    "dc_fraction": "DC fraction",
    "active_fraction": "active",
    "introduced_fraction": "introduced",
}
NO_POWER = -200.0  # dB of the total, beyond any colour
NO_SPECTRA = "No spectra: they need spectra=True and inputs of one length greater than 1."
SUMMARY_ROWS = 6
FrameOf = Callable[[str], pd.DataFrame | None]


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
    spectra: FrameOf,
    examples: FrameOf,
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
    of_sites = (sites[name] for name in ("site", "source", "nyquist", "above_next_nyquist"))
    for site, source, nyquist, above in zip(*of_sites, strict=True):
        channels = channels_of[site]
        values = _informative(channels).drop(columns=_NOT_OF_CHANNELS)
        columns = {str(name): packed(column) for name, column in values.items()}
        layer: dict[str, Any] = {"site": site, "channels": columns}
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
            layer |= _aliasing(aliasing_of[site], above)
        if (frame := examples(site)) is not None and (panels := embedded_examples(frame)):
            layer["examples"] = panels
        layers.append(layer)
    titles = {"spectrum": "Spectra of input and output", **SIDES}
    return {"layers": layers, "depth": depth(sites, DEPTH), "titles": titles}


def depth(sites: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, Any]:
    """Curves over the layers: columns of `sites` with their titles."""
    return {
        name: {"title": title, "values": rounded(sites[name])} for name, title in titles.items()
    }


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
    return [(to_json(float(freq)), text) for freq, text in marks]


def _aliasing(rows: pd.DataFrame, above: float) -> dict[str, Any]:
    """The next Nyquist frequency of a layer, and sentences on what is above it and what folds."""
    row = rows.iloc[0]
    if row["global_pooling"] or math.isnan(row["next_nyquist"]) or math.isnan(above):
        return {}
    folded = folded_share(rows, above)
    folds = "How much of it folds is not known."
    if not math.isnan(folded):
        folds = f"{percent(folded)} of the output power folds."
    where = f"{three_digits(row['next_nyquist'])} {row['freq_unit']}"
    behind = ""
    if between := int(row["activations_between"]):
        behind = (
            f" Between them {'is' if between == 1 else 'are'} {quantity(between, 'activation')}."
        )
    return {
        "next_nyquist": to_json(float(row["next_nyquist"])),
        "aliasing": f"{percent(above)} of the output power lies above {where}, the Nyquist "
        f"frequency after {row['downsampling']}. {folds}{behind}",
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
