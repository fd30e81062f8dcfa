"""Amplitudes at the multiples of the fundamental."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from spectroscope.plots import checks, style
from spectroscope.plots.style import SIDE_COLORS, SIDES

_WIDTH = 0.38


def harmonics(
    frame: pd.DataFrame, *, channels: int | Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Amplitude of every harmonic on both sides of one rectifier, RMS over channels.

    A harmonic that is above the Nyquist frequency is hatched, and the frequency named that it folds
    to. One that is in some inputs only stands there twice.

    Args:
        frame: `Report.harmonics()` of one site.
        channels: which, one or several; None: all. Those of which nothing is known don't count.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes; bars in pairs, input and output.

    Raises:
        ValueError: `frame` isn't of one site or has no rows, or there is no such channel.
    """
    values = {side: f"amplitude_{side}" for side in SIDES}
    columns = ["channel", "harmonic", "freq", "freq_unit", "folded", *values.values()]
    site = checks.one_site(frame, columns, "report.harmonics(site)")
    checks.once(frame, ["channel", "harmonic", "folded"], "report.harmonics(site)")
    shown = checks.chosen(frame, channels, site)
    unit = checks.only(frame, "freq_unit", "report.harmonics(site)")
    some = frame[frame["channel"].isin(shown)]
    of_channel = some[list(values.values())].notna().any(axis=1).groupby(some["channel"]).any()
    shown = [channel for channel in shown if of_channel[channel]] or shown
    squares = some.assign(**{side: some[name] ** 2 for side, name in values.items()})
    table = squares.groupby(["harmonic", "folded"])[[*SIDES, "freq"]].mean()  # NaN left out
    if (known := table[list(SIDES)].notna().any(axis=1)).any():
        table = table[known]  # what can't be told from other harmonics takes no place
    ax = style.new(max(6.4, 2 + 0.55 * len(table)), 4.2) if ax is None else ax
    place, folded = np.arange(len(table)), table.index.get_level_values("folded").to_numpy(bool)
    for side, shift in zip(SIDES, (-_WIDTH / 2, _WIDTH / 2), strict=True):
        bars = ax.bar(place + shift, np.sqrt(table[side]), _WIDTH, color=SIDE_COLORS[side],
                      edgecolor=style.ink(ax), lw=0.7, label=SIDES[side])  # fmt: skip
        for bar in np.array(bars, dtype=object)[folded]:
            bar.set_hatch("////")
    names = [
        f"{order}\n→{freq:.3g}" if fold else str(order)
        for (order, fold), freq in zip(table.index, table["freq"], strict=True)
    ]
    ax.set_xticks(place, names)
    handles = list(ax.get_legend_handles_labels()[0])
    if folded.any():
        handles.append(Patch(facecolor="none", edgecolor=style.ink(ax), hatch="////",
                             label=f"folded, to → ({unit})"))  # fmt: skip
    ax.set_xlabel("harmonic (multiple of f0)")
    many = f", RMS of {len(shown)} channels" if len(shown) > 1 else ""
    ax.set_ylabel(checks.label(f"amplitude{many}", checks.unit("amplitude_out")))
    one = f", channel {shown[0]}" if len(shown) == 1 else ""
    style.titled(ax, checks.short([site])[0] + one)
    style.legend(ax, handles)
    return ax
