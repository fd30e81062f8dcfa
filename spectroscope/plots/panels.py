"""One filter a picture: small panels of spectra, and the plane of an image's frequencies."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import ArrayLike, NDArray

from spectroscope.plots import checks, style
from spectroscope.plots.spectra import frequencies
from spectroscope.plots.style import SIDE_COLORS, SIDE_LINES, SIDES

_FIRST = 16


def filters(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    f0: ArrayLike | None = None,
    f0_name: str = "f0",
    per_minute: bool = False,
    ax: ArrayLike | None = None,
) -> NDArray[Any]:
    """Power spectra on both sides of one rectifier, a panel for each of some channels.

    Args:
        frame: `Report.spectra()` of one site.
        channels: which, one or several; None: the first 16, or as many as there are, or as `ax`
            has room for.
        f0: fundamental of each input, in the unit of the frame's frequencies, to be marked: a line
            at the median, a band over the range.
        f0_name: what that is, for the legend.
        per_minute: show frequencies in BPM instead of Hz. Takes `freq_unit` Hz.
        ax: an array of Axes, a channel each; those left over are made invisible. None: a new
            figure, with the site's name and a legend.

    Returns:
        The Axes drawn on, ``[len(channels)]``.

    Raises:
        ValueError: `ax` has too few Axes, or as in :func:`spectroscope.plots.spectra`.
    """
    columns = ["channel", "side", "freq", "freq_unit", "power"]
    site = checks.one_site(frame, columns, "report.spectra(site)")
    checks.once(frame, ["channel", "side", "freq"], "report.spectra(site)")
    given: list[Any] = [] if ax is None else list(np.ravel(np.asarray(ax, dtype=object)))
    most = len(given) if ax is not None else _FIRST
    shown = checks.chosen(frame, channels, site)[: most if channels is None else None]
    scale, unit = frequencies(frame, f0, per_minute)
    if ax is None:
        across = min(4, len(shown))
        down = math.ceil(len(shown) / across)
        given = list(style.new(1.2 + 2.6 * across, 1.2 + 1.6 * down, nrows=down, ncols=across,
                                sharex=True, sharey=True, squeeze=False).flat)  # fmt: skip
    if len(given) < len(shown):
        raise ValueError(f"{len(shown)} channels take as many Axes, and ax has {len(given)}")
    panels = given[: len(shown)]
    for panel in given[len(shown) :]:
        panel.set_visible(False)
    sides = {side: checks.grid(frame, shown, side, "power") for side in SIDES}
    before = [style.lowest(panel) for panel in panels]
    for number, (panel, channel) in enumerate(zip(panels, shown, strict=True)):
        for side, (freq, power) in sides.items():
            line = np.where(power[number] > 0, power[number], np.nan)
            panel.plot(freq * scale, line, color=SIDE_COLORS[side], label=SIDES[side],
                       **SIDE_LINES[side])  # fmt: skip
            style.across(panel, freq * scale)
        _mark(panel, f0, scale, f0_name)
        panel.margins(x=0.03)
        style.titled(panel, f"channel {channel}")
        place = panel.get_subplotspec()
        if place is None or place.is_first_col():
            panel.set_ylabel(f"power per bin\n({checks.unit('power')})")
        if place is None or number + (place.get_gridspec().ncols) >= len(shown):
            panel.set_xlabel(checks.label("frequency", unit))
            panel.tick_params(labelbottom=True)  # the last of its column, though not of the grid
    for panel, low in zip(panels, before, strict=True):
        style.log_power(panel, low, *(power for _, power in sides.values()))
    if ax is None:
        figure = panels[0].figure
        figure.suptitle(checks.short([site])[0])
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
    found = np.empty(len(panels), dtype=object)
    found[:] = panels
    return found


def planes(frame: pd.DataFrame, *, channel: int, side: str = "out", ax: Axes | None = None) -> Axes:
    """Power of one channel over the plane of an image's frequencies, with a colour bar.

    Args:
        frame: `Report.planes()` of one site.
        channel: which.
        side: ``"in"`` or ``"out"`` of the rectifier.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes of the plane. Power below 10⁻⁶ of the greatest has the colour of that.

    Raises:
        ValueError: `frame` isn't of one site or has no rows, or there is no such channel or side.
    """
    columns = ["channel", "side", "freq_y", "freq_x", "freq_unit", "power"]
    site = checks.one_site(frame, columns, "report.planes(site)")
    checks.once(frame, ["channel", "side", "freq_y", "freq_x"], "report.planes(site)")
    checks.chosen(frame, [channel], site)
    if side not in SIDES:
        raise ValueError(f"{side=} must be 'in' or 'out'")
    rows = frame[(frame["channel"] == channel) & (frame["side"] == side)]
    table = rows.pivot(index="freq_y", columns="freq_x", values="power")
    power = table.to_numpy(np.float64)
    ax = style.new(4.4, 5.6) if ax is None else ax
    greatest = np.nanmax(power, initial=0.0)
    norm = LogNorm(1e-6 * greatest, greatest, clip=True) if greatest > 0 else None
    drawn = ax.pcolormesh(table.columns, table.index, power, norm=norm, cmap="cividis",
                          shading="nearest", rasterized=True)  # fmt: skip
    unit = checks.only(rows, "freq_unit", "report.planes(site)")
    ax.set(aspect="equal", xlabel=checks.label("along the width", unit),
           ylabel=checks.label("along the height", unit))  # fmt: skip
    style.titled(ax, f"{checks.short([site])[0]}\nchannel {channel}, {SIDES[side]}")
    ax.figure.colorbar(drawn, ax=ax, label=checks.label("power", checks.unit("power")))
    return ax


def _mark(panel: Axes, f0: ArrayLike | None, scale: float, name: str) -> None:
    values = checks.fundamentals(f0)
    if len(values):
        low, middle, high = np.quantile(values, [0, 0.5, 1]) * scale
        ink, label = style.ink(panel), f"median and range of {checks.escaped(name)}"
        panel.axvspan(low, high, color=ink, alpha=0.15, lw=0)
        panel.axvline(middle, color=ink, lw=1, ls=":", label=label)
