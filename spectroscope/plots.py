"""Pictures of a report's frames, with units. Nothing here opens a window or uses pyplot's state."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

# As operations say them, and as people do.
_OPERATIONS = {
    "remove_dc": "DC removed",
    "mean_dc": "DC the same for all inputs",
    "only_dc": "only the DC left",
}
SIDES = {"in": "input of the ReLU", "out": "output of the ReLU"}


def spectra(
    frame: pd.DataFrame,
    *,
    channels: Sequence[int] = range(16),
    f0: NDArray[np.float64] | None = None,
    f0_name: str = "f0",
    per_minute: bool = False,
    title: str | None = None,
) -> Figure:
    """Power spectra on both sides of one rectifier, a panel for each of some channels.

    Args:
        frame: `Report.spectra()` of one site.
        channels: which channels; those that the site doesn't have are left out.
        f0: fundamental of each input, in Hz, to be marked: a line at the median, a band over
            the range.
        f0_name: what that is, for the legend.
        per_minute: show frequencies in BPM instead of Hz. Takes `freq_unit` Hz.
        title: above the panels; None: the site's name.

    Raises:
        ValueError: `frame` isn't of one site, or has none of the channels, or `f0` or
            `per_minute` is given and the frequencies aren't in Hz.
    """
    sites, units = frame["site"].unique(), frame["freq_unit"].unique()
    if len(sites) != 1:
        raise ValueError(f"frame must be of one site, not {len(sites)}: choose with select")
    if units[0] != "Hz" and (f0 is not None or per_minute):
        raise ValueError(f"f0 and BPM need frequencies in Hz, and these are in {units[0]}")
    shown = [channel for channel in channels if channel in set(frame["channel"])]
    if not shown:
        raise ValueError(f"{sites[0]} has none of the channels {list(channels)}")
    scale, unit = (60.0, "BPM") if per_minute else (1.0, units[0])
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    palette = dict(zip(SIDES, sns.color_palette("colorblind"), strict=False))
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        figure = Figure(figsize=(1 + 2.6 * columns, 1 + 1.6 * rows), layout="constrained")
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, channel in zip(grid.flat, shown, strict=False):
            of_channel = frame[frame["channel"] == channel]
            for side, color in palette.items():
                line = of_channel[of_channel["side"] == side]
                axes.plot(line["freq"] * scale, line["power"], color=color, label=SIDES[side])
            if f0 is not None and np.isfinite(f0).any():
                low, middle, high = np.nanquantile(f0, [0, 0.5, 1]) * scale
                axes.axvspan(low, high, color="0.5", alpha=0.25, lw=0)
                axes.axvline(
                    middle, color="0.3", lw=1, ls="--", label=f"median and range of {f0_name}"
                )
            axes.set(yscale="log", title=f"channel {channel}")
            axes.margins(x=0.03)
        for axes in list(grid.flat)[len(shown) :]:
            axes.remove()
        for axes in grid[-1]:
            axes.set_xlabel(f"frequency ({unit})")
        figure.supylabel("power (activation², per bin)", fontsize="medium")
    figure.suptitle(title if title is not None else f"{sites[0]}: power spectra")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def importance(frame: pd.DataFrame, *, title: str | None = None) -> Figure:
    """What becomes of a model's outputs when one ReLU is changed: a row for each.

    Args:
        frame: :func:`spectroscope.importance`'s; its `metric` has the unit.
        title: above it; None: none.
    """
    sites, operations = list(dict.fromkeys(frame["site"])), list(dict.fromkeys(frame["operation"]))
    (metric,) = frame["metric"].unique()
    rows = {site: row for row, site in enumerate(sites)}
    palette = sns.color_palette("colorblind", len(operations))
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        figure = Figure(figsize=(7.5, 1.6 + 0.22 * len(sites)), layout="constrained")
        axes = figure.subplots()
        for number, (operation, color) in enumerate(zip(operations, palette, strict=True)):
            some = frame[frame["operation"] == operation]
            place = some["site"].map(rows) + 0.3 * ((number + 0.5) / len(operations) - 0.5)
            ends = some[["change_low", "change_high"]].sub(some["change"], axis=0).abs().T
            axes.errorbar(some["value"], place, xerr=ends.fillna(0).to_numpy(), color=color,
                          fmt="os^Dv"[number % 5], ms=4, lw=1,
                          label=_OPERATIONS.get(operation, operation))  # fmt: skip
        axes.axvline(frame["baseline"].mean(), color="0.3", ls="--", lw=1, label="nothing changed")
        axes.set(yticks=range(len(sites)), yticklabels=sites, xlabel=metric)
        axes.set_ylim(len(sites) - 0.4, -0.6)  # as the data flows, from above
        axes.grid(axis="y", visible=False)
        sns.despine(ax=axes, left=True)
    if title is not None:
        figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
