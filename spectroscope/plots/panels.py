"""Plots of single channels: panels of power spectra, and the frequency plane of images."""

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

_MAX_PANELS = 16


def filters(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    f0: ArrayLike | None = None,
    f0_name: str = "f0",
    per_minute: bool = False,
    ax: ArrayLike | None = None,
) -> NDArray[Any]:
    """Power spectra of the input and output of one activation, one panel per channel.

    Args:
        frame: `Report.spectra()` of one site.
        channels: one or more channels; None: the first 16, or as many as `ax` has Axes.
        f0: fundamental of each input, in the unit of the frame's frequencies; marked by a line at
            the median and a band over the range.
        f0_name: name of `f0` in the legend.
        per_minute: show frequencies in BPM instead of Hz; requires `freq_unit` Hz.
        ax: array of Axes, one per channel; unused ones are made invisible. None: a new figure,
            with the site's name and a legend.

    Returns:
        The Axes used, ``[len(channels)]``.

    Raises:
        ValueError: `ax` has too few Axes, or as for :func:`spectroscope.plots.spectra`.
    """
    columns = ["channel", "side", "freq", "freq_unit", "power"]
    site = checks.check_site(frame, columns, "report.spectra(site)")
    checks.check_unique(frame, ["channel", "side", "freq"], "report.spectra(site)")
    axes: list[Any] = [] if ax is None else list(np.ravel(np.asarray(ax, dtype=object)))
    selected = checks.select_channels(frame, channels, site)
    if channels is None:
        selected = selected[: _MAX_PANELS if ax is None else len(axes)]
    scale, unit = frequencies(frame, f0, per_minute)
    if ax is None:
        across = min(4, len(selected))
        down = math.ceil(len(selected) / across)
        axes = list(style.new_axes(1.2 + 2.6 * across, 1.2 + 1.6 * down, nrows=down, ncols=across,
                                sharex=True, sharey=True, squeeze=False).flat)  # fmt: skip
    if len(axes) < len(selected):
        raise ValueError(f"{len(selected)} channels need as many Axes, but ax has {len(axes)}")
    panels = axes[: len(selected)]
    for panel in axes[len(selected) :]:
        panel.set_visible(False)
    sides = {side: checks.grid(frame, selected, side, "power") for side in SIDES}
    before = [style.lower_limit(panel) for panel in panels]
    for number, (panel, channel) in enumerate(zip(panels, selected, strict=True)):
        for side, (freq, power) in sides.items():
            line = np.where(power[number] > 0, power[number], np.nan)
            panel.plot(freq * scale, line, color=SIDE_COLORS[side], label=SIDES[side],
                       **SIDE_LINES[side])  # fmt: skip
            style.include_x(panel, freq * scale)
        _mark_f0(panel, f0, scale, f0_name)
        panel.margins(x=0.03)
        style.set_default_title(panel, f"channel {channel}")
        cell = panel.get_subplotspec()
        if cell is None or cell.is_first_col():
            panel.set_ylabel(f"power per bin\n({checks.unit('power')})")
        if cell is None or number + cell.get_gridspec().ncols >= len(selected):
            panel.set_xlabel(checks.label("frequency", unit))
            panel.tick_params(labelbottom=True)  # last of its column, if not of the grid
    for panel, low in zip(panels, before, strict=True):
        style.log_scale_power(panel, low, *(power for _, power in sides.values()))
    if ax is None:
        figure = panels[0].figure
        figure.suptitle(checks.title(frame, site))
        handles = panels[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
    result = np.empty(len(panels), dtype=object)
    result[:] = panels
    return result


def planes(frame: pd.DataFrame, *, channel: int, side: str = "out", ax: Axes | None = None) -> Axes:
    """Power of one channel over the frequency plane of images, with a colour bar.

    Args:
        frame: `Report.planes()` of one site.
        channel: the channel to plot.
        side: ``"in"`` or ``"out"``.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes of the plane. Power below 10⁻⁶ of the maximum is clipped.

    Raises:
        ValueError: `frame` is not of one site or has no rows, or the channel or side is not in it.
    """
    columns = ["channel", "side", "freq_y", "freq_x", "freq_unit", "power"]
    site = checks.check_site(frame, columns, "report.planes(site)")
    checks.check_unique(frame, ["channel", "side", "freq_y", "freq_x"], "report.planes(site)")
    checks.select_channels(frame, [channel], site)
    if side not in SIDES:
        raise ValueError(f"{side=} must be 'in' or 'out'")
    rows = frame[(frame["channel"] == channel) & (frame["side"] == side)]
    table = rows.pivot(index="freq_y", columns="freq_x", values="power")
    power = table.to_numpy(np.float64)
    ax = style.new_axes(4.4, 5.6) if ax is None else ax
    greatest = np.nanmax(power, initial=0.0)
    norm = LogNorm(1e-6 * greatest, greatest, clip=True) if greatest > 0 else None
    mesh = ax.pcolormesh(table.columns, table.index, power, norm=norm, cmap="cividis",
                          shading="nearest", rasterized=True)  # fmt: skip
    unit = checks.single_value(rows, "freq_unit", "report.planes(site)")
    ax.set(aspect="equal", xlabel=checks.label("horizontal frequency", unit),
           ylabel=checks.label("vertical frequency", unit))  # fmt: skip
    style.set_default_title(ax, f"{checks.title(frame, site)}\nchannel {channel}, {SIDES[side]}")
    ax.figure.colorbar(mesh, ax=ax, label=checks.label("power", checks.unit("power")))
    return ax


def _mark_f0(panel: Axes, f0: ArrayLike | None, scale: float, name: str) -> None:
    values = checks.fundamentals(f0)
    if len(values):
        low, middle, high = np.quantile(values, [0, 0.5, 1]) * scale
        ink, label = style.ink(panel), f"median and range of {checks.escape(name)}"
        panel.axvspan(low, high, color=ink, alpha=0.15, lw=0)
        panel.axvline(middle, color=ink, lw=1, ls=":", label=label)
