"""Example inputs at an activation: waveforms, and feature maps before and after."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from numpy.typing import ArrayLike, NDArray

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats, Names
from spectroscope.plots.facets import Facets
from spectroscope.schema import SIDES

_EXAMPLES = "report.examples(site)"
_COLUMNS = ["input", "channel", "side", "position_unit", "value", "dc"]
# White is 0, which a ReLU makes of everything that is blue.
_MAP = "RdBu_r"


def waveforms(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    names: Names = None,
    ax: ArrayLike | None = None,
) -> NDArray[Any]:
    """Input and output of one activation over time, and the DC of the output.

    A row of panels for each channel, a column for each input.

    Args:
        frame: `Report.examples()` of one site, of signals; of some inputs after
            ``frame[frame["input"] == 0]``.
        channels: one or more channels; None: all of the frame.
        names: of channels, as in :func:`spectroscope.plots.spectra`.
        ax: array of Axes, one per channel and input; further ones are made invisible, and there is
            no legend. None: a new figure.

    Returns:
        The Axes, ``[channels × inputs]``.

    Raises:
        ValueError: `frame` is not of one site, has no rows or is of images; a channel is not in it;
            or `ax` has too few Axes.
    """
    site = checks.check_site(frame, [*_COLUMNS, "position"], _EXAMPLES)
    if frame["position"].isna().any():
        raise ValueError(f"{site} has images: plots.feature_maps draws them")
    checks.check_unique(frame, ["input", "channel", "side", "position"], _EXAMPLES)
    panels = _panels(frame, channels, site)
    across = frame["input"].nunique()
    facets = Facets(ax, len(panels), across, (5.0 if across == 1 else 3.4, 1.3),
                    sharex=True, sharey="row")  # fmt: skip
    for panel, (channel, number, rows) in zip(facets.panels, panels, strict=True):
        handles = []
        for side, words in SIDES.items():
            line = rows[rows["side"] == side].sort_values("position")
            # The input over the output, which a ReLU makes equal in part.
            look = {"zorder": 2.2 if side == "in" else 2.1, "marker": "." if len(line) == 1 else ""}
            handles += panel.plot(line["position"], line["value"], label=words, **look,
                                  **style.side_line(side))  # fmt: skip
        dc = float(rows[rows["side"] == "out"]["dc"].iloc[0])
        handles.append(panel.axhline(dc, color=style.ink(panel), lw=1, ls="-.",
                                     label="DC of the output"))  # fmt: skip
        panel.margins(x=0)
        panel.locator_params(axis="y", nbins=4)  # panels are low
        style.set_default_title(panel, _name(channel, number, across, names))
    unit = checks.single_value(frame, "position_unit", _EXAMPLES)
    words = "time" if unit == "s" else "position"
    facets.label(checks.label(words, unit), checks.label("value", "activation"))
    facets.finish(checks.title(frame, site), handles)
    return facets.panels


def feature_maps(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    names: Names = None,
    ax: ArrayLike | None = None,
) -> NDArray[Any]:
    """Channels of images before and after one activation, with their DC.

    A column of two panels for each channel and input: the activation's input above its output. Both
    have the same colours, white at 0.

    Args:
        frame: `Report.examples()` of one site, of images; of some inputs after
            ``frame[frame["input"] == 0]``.
        channels: one or more channels; None: all of the frame.
        names: of channels, as in :func:`spectroscope.plots.spectra`.
        ax: array of Axes ``[2, channels × inputs]``; further ones are made invisible. None: a new
            figure.

    Returns:
        The Axes, ``[2, channels × inputs]``.

    Raises:
        ValueError: `frame` is not of one site, has no rows or is of signals; a channel is not in
            it; or `ax` has too few Axes.
    """
    site = checks.check_site(frame, [*_COLUMNS, "row", "column"], _EXAMPLES)
    if frame["row"].isna().any():
        raise ValueError(f"{site} has signals: plots.waveforms draws them")
    checks.check_unique(frame, ["input", "channel", "side", "row", "column"], _EXAMPLES)
    columns = _panels(frame, channels, site)
    inputs = frame["input"].nunique()
    facets = Facets(ax, 2 * len(columns), len(columns), (1.7, 2.1), sharex="col", sharey=True)
    grid = facets.panels.reshape(2, len(columns))
    for panels, (channel, number, rows) in zip(grid.T, columns, strict=True):
        largest = float(np.nanmax(np.abs(rows["value"]), initial=0.0)) or 1.0
        for panel, side in zip(panels, SIDES, strict=True):
            of_side = rows[rows["side"] == side]
            table = of_side.pivot(index="row", columns="column", values="value")
            extent = [*_edges(table.columns), *_edges(table.index)[::-1]]
            norm = CenteredNorm(0, largest)
            panel.grid(visible=False)
            image = panel.imshow(table.to_numpy(np.float64), cmap=_MAP, norm=norm, extent=extent,
                                 interpolation="nearest")  # fmt: skip
            name = f"{_name(channel, number, inputs, names)}\n" if side == "in" else ""
            panel.set_title(f"{name}DC {float(of_side['dc'].iloc[0]):.2g}", fontsize="small")
        bar = panel.figure.colorbar(image, ax=list(panels), orientation="horizontal", pad=0.02)
        bar.ax.tick_params(labelsize="small")
        bar.ax.locator_params(nbins=3)
        bar.set_label(checks.label("value", "activation"), fontsize="small")
    unit = checks.single_value(frame, "position_unit", _EXAMPLES)
    for panel, where in zip(grid[:, 0], ("before", "after"), strict=True):
        panel.set_ylabel(f"{where}\n{checks.label('row', unit)}")
    grid[1, 0].set_xlabel(checks.label("column", unit))
    facets.finish(checks.title(frame, site), [])
    return grid


def _panels(
    frame: pd.DataFrame, channels: int | Iterable[int] | None, site: str
) -> list[tuple[int, int, pd.DataFrame]]:
    """Channel, input and rows of each panel; by default the channels in the frame's order."""
    in_order = frame["channel"].unique().tolist() if channels is None else channels
    selected = checks.select_channels(frame, in_order, site)
    of_panel = dict(list(frame.groupby(["channel", "input"])))
    numbers = frame["input"].unique().tolist()
    return [
        (channel, number, of_panel[channel, number])
        for channel in selected
        for number in numbers
        if (channel, number) in of_panel
    ]


def _name(channel: int, number: int, inputs: int, names: Names) -> str:
    name = checks.channel_name(channel, names)
    return f"{name}, input {number}" if inputs > 1 else name


def _edges(centres: "pd.Index[Any]") -> list[float]:
    """Both ends of equally wide cells."""
    values: Floats = centres.to_numpy(np.float64)
    half = (values[-1] - values[0]) / (len(values) - 1) / 2 if len(values) > 1 else 0.5
    return [values[0] - half, values[-1] + half]
