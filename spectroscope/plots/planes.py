"""The frequency plane of images: power of one channel over both frequencies."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Names
from spectroscope.schema import SIDES


def planes(
    frame: pd.DataFrame,
    *,
    channel: int,
    side: str = "out",
    names: Names = None,
    ax: Axes | None = None,
) -> Axes:
    """Power of one channel over the frequency plane of images, with a colour bar.

    Args:
        frame: `Report.planes()` of one site.
        channel: the channel to plot.
        side: ``"in"`` or ``"out"``.
        names: of channels, as in :func:`spectroscope.plots.spectra`.
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
    name = checks.channel_name(channel, names)
    style.set_default_title(ax, f"{checks.title(frame, site)}\n{name}, {SIDES[side]}")
    ax.figure.colorbar(mesh, ax=ax, label=checks.label("power", checks.unit("power")))
    return ax
