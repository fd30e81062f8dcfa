"""Spectrogram through depth: output power of every layer over frequency, with its DC."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats, Unit

_SOURCE = "report.spectrogram()"
_DYNAMIC_RANGE = 80.0  # dB
_DC_WIDTH, _GAP = 0.045, 0.015  # of the DC's column, and beside it: of the highest frequency


def spectrogram(frame: pd.DataFrame, *, unit: Unit = None, ax: Axes | None = None) -> Axes:
    """Output power of every layer over frequency, in dB: one row per site from the top.

    The DC is a column of its own at the left, on the same scale of colours. A line marks the
    Nyquist frequency of each layer; radial frequencies of images go beyond it, up to the corners.

    Args:
        frame: `Report.spectrogram()`.
        unit: ``"Hz"`` or ``"BPM"``, of the frequencies that are shown; None: that of the frame.
        ax: Axes to plot on; None: a new figure, as tall as the sites need.

    Returns:
        The Axes, with a colour bar. Power more than 80 dB below the greatest is clipped.

    Raises:
        ValueError: `frame` has no rows, lacks a column or has frequencies of several units; or
            `unit` does not fit.
    """
    columns = ["site", "freq", "freq_unit", "power_db", "dc_db", "nyquist"]
    checks.check(frame, columns, _SOURCE)
    checks.check_unique(frame, ["site", "freq"], _SOURCE)
    scale, shown = checks.frequencies(frame, None, unit)
    sites = list(frame["site"].unique())
    of_site = frame.groupby("site", sort=False, observed=True).first().loc[sites]
    table = frame.dropna(subset="freq").pivot(index="site", columns="freq", values="power_db")
    table = table.reindex(sites)
    names = checks.titles(frame, sites)
    ax = style.new_axes_for_rows(names) if ax is None else ax
    dc, nyquist = (of_site[name].to_numpy(np.float64) for name in ("dc_db", "nyquist"))
    nyquist = np.where(table.notna().any(axis=1), scale * nyquist, np.nan)
    power = table.to_numpy(np.float64)
    known = np.append(power.ravel(), dc)
    known = known[np.isfinite(known)] if np.isfinite(known).any() else np.zeros(1)
    high = float(known.max())
    low = max(float(known.min()), high - _DYNAMIC_RANGE)
    colors: dict[str, Any] = {"vmin": low, "vmax": max(high, low + 1), "cmap": "cividis"}
    colors |= {"rasterized": True}
    rows = np.arange(len(sites) + 1) - 0.5
    freq = scale * table.columns.to_numpy(np.float64)
    end = float(np.nanmax(nyquist, initial=freq[-1])) if len(freq) else 1.0
    strip = -end * np.array([_DC_WIDTH + _GAP, _GAP])
    mesh = ax.pcolormesh(strip, rows, _clipped(dc[:, None], low), **colors)
    if len(freq):
        ax.pcolormesh(_edges(freq), rows, _clipped(power, low), **colors)
        ax.plot(np.repeat(nyquist, 2), np.repeat(rows, 2)[1:-1], color=style.ink(ax), lw=1.2,
                label="Nyquist frequency of the layer")  # fmt: skip
    style.label_rows(ax, names)
    ax.set_ylim(rows[-1], rows[0])
    ax.set_xlim(strip[0], end * 1.02)
    ticks = [tick for tick in ax.get_xticks() if 0 < tick <= end]
    ax.set_xticks([strip.mean(), *ticks], ["DC", *(f"{tick:g}" for tick in ticks)])
    ax.grid(visible=False)
    ax.set_xlabel(checks.label("frequency", shown))
    bar = ax.figure.colorbar(mesh, ax=ax)
    bar.set_label(f"output power\n({checks.unit('power_db')})")
    return ax


def _clipped(power: Floats, low: float) -> Floats:
    """No power is the lowest colour; NaN stays without one."""
    result: Floats = np.where(np.isnan(power), np.nan, np.maximum(power, low))
    return result


def _edges(centres: Floats) -> Floats:
    """Edges of equally wide cells; of a single one from 0."""
    half = (centres[1] - centres[0]) / 2 if len(centres) > 1 else centres[0]
    edges: Floats = np.append(centres - half, centres[-1] + half)
    return edges
