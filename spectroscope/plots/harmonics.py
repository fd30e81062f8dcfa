"""Amplitudes of harmonics on both sides of an activation."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Names, Unit
from spectroscope.schema import SIDES

_HARMONICS = "report.harmonics(site)"
_BAR = 0.38  # width


def harmonics(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    unit: Unit = None,
    names: Names = None,
    ax: Axes | None = None,
) -> Axes:
    """Amplitude of every harmonic, input and output of one activation, RMS over channels.

    Harmonics above the Nyquist frequency are hatched and labelled with the frequency that they fold
    to. A harmonic that folds in some inputs only has two pairs of bars.

    Args:
        frame: `Report.harmonics()` of one site.
        channels: one or more channels; None: all. Channels with NaN only are left out.
        unit: ``"Hz"`` or ``"BPM"``, of the frequencies of folded harmonics; None: the frame's.
        names: of channels, as in :func:`spectroscope.plots.spectra`.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes, with pairs of bars for input and output.

    Raises:
        ValueError: `frame` is not of one site or has no rows, or a channel is not in it.
    """
    values = {side: f"amplitude_{side}" for side in SIDES}
    columns = ["channel", "harmonic", "freq", "freq_unit", "folded", *values.values()]
    site = checks.check_site(frame, columns, _HARMONICS)
    checks.check_unique(frame, ["channel", "harmonic", "folded"], _HARMONICS)
    selected = checks.select_channels(frame, channels, site)
    scale, shown = checks.frequencies(frame, None, unit)
    rows = frame[frame["channel"].isin(selected)]
    known = rows[list(values.values())].notna().any(axis=1).groupby(rows["channel"]).any()
    selected = [channel for channel in selected if known[channel]] or selected
    squares = rows.assign(**{side: rows[name] ** 2 for side, name in values.items()})
    table = squares.groupby(["harmonic", "folded"])[[*SIDES, "freq"]].mean()  # NaN left out
    if (known := table[list(SIDES)].notna().any(axis=1)).any():
        table = table[known]  # harmonics that cannot be separated from others are NaN
    ax = style.new_axes(max(6.4, 2 + 0.55 * len(table)), 4.2) if ax is None else ax
    x, folded = np.arange(len(table)), table.index.get_level_values("folded").to_numpy(bool)
    for side, shift in zip(SIDES, (-_BAR / 2, _BAR / 2), strict=True):
        bars = ax.bar(x + shift, np.sqrt(table[side]), _BAR, color=style.side_color(side),
                      edgecolor=style.ink(ax), lw=0.7, label=SIDES[side])  # fmt: skip
        for bar in np.array(bars, dtype=object)[folded]:
            bar.set_hatch("////")
    ticks = [
        f"{order}\n→{scale * freq:.3g}" if fold else str(order)
        for (order, fold), freq in zip(table.index, table["freq"], strict=True)
    ]
    ax.set_xticks(x, ticks)
    longest = max(len(line) for tick in ticks for line in tick.split("\n"))
    width = 0.8 * style.points(mpl.rcParams["xtick.labelsize"]) * longest * len(ticks)
    if width > ax.get_window_extent().width / style.dpi(ax) * 72:
        ax.tick_params("x", labelrotation=90)
    handles = list(ax.get_legend_handles_labels()[0])
    if folded.any():
        handles.append(Patch(facecolor="none", edgecolor=style.ink(ax), hatch="////",
                             label=f"folded to → ({shown})"))  # fmt: skip
    ax.set_xlabel("harmonic (multiple of f0)")
    several = len(selected) > 1
    amplitude = "RMS amplitude" if several else "amplitude"
    ax.set_ylabel(checks.label(amplitude, checks.unit("amplitude_out")))
    of = f"{len(selected)} channels" if several else checks.channel_name(selected[0], names)
    style.set_default_title(ax, f"{checks.title(frame, site)}, {of}")
    style.legend(ax, handles)
    return ax
