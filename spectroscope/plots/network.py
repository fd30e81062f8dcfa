"""Map of a network: what feeds what, coloured by a column of its layers."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from spectroscope import layout
from spectroscope.plots import checks, style
from spectroscope.schema import ALIASED

_STEP = 0.2  # inches from node to node
_NODE = 0.55  # width of a node, in steps
_ARROW = r"$\curvearrowright$"
# Marker and size of each operation; activations are filled.
_MARKERS = {
    "input": (">", 1.0),
    "convolution": ("s", 0.8),
    "linear": ("D", 0.75),
    "embedding": ("h", 1.0),
    "recurrent": ("p", 1.0),
    "attention": ("H", 1.0),
    "activation": ("o", 1.0),
    "pooling": ("v", 1.0),
    "resampling": ("d", 1.0),
    "join": ("P", 0.8),
    "module": ("8", 1.0),
    "output": ("<", 1.0),
    "unknown": ("$?$", 1.0),
}


def network(
    frame: pd.DataFrame,
    *,
    sites: pd.DataFrame | None = None,
    column: str = "dc_fraction",
    columns: int = 48,
    ax: Axes | None = None,
) -> Axes:
    """Map of the network: depth from left to right, a new line where the sampling rate changes.

    At the left of a line is its sampling rate, in Hz or as a part of the input's; a line that is
    too long goes on in the next one. Branches run below each other, and an arc is a connection
    that skips nodes. Activations with channels that never were > 0 are crossed, and poolings and
    strides have an arrow where more than 5 % of the power directly before them is above their
    Nyquist frequency.

    Args:
        frame: `Report.network()`.
        sites: `Report.sites()`, or any frame with one row per `site`; None: activations are not
            coloured, and dead channels not marked.
        column: of `sites`, for the colours.
        columns: nodes in a line, at most about.
        ax: Axes to plot on; None: a new figure, as large as the network needs.

    Returns:
        The Axes, with a colour bar if there are `sites`, and a legend below.

    Raises:
        ValueError: a frame has no rows, lacks a column or has several rows of a node or a site; or
            the column isn't numeric.
    """
    source = "report.network(), of a report that this version recorded"
    checks.check(frame, ["node", "operation", "place", "site", "inputs", "shape", "decimation",
                         "fs", "above_nyquist"], source)  # fmt: skip
    checks.check_unique(frame, ["node"], source)
    if sites is not None:
        checks.check(sites, ["site", column], "report.sites()")
        checks.check_unique(sites, ["site"], "report.sites()")
        checks.numbers(sites, column)
    placed = layout.network_map(frame, columns)
    x_range = placed.left - 3.5, placed.width + 1.0
    y_range = placed.height + 1.2, -1.2
    if ax is None:
        width, height = (_STEP * abs(stop - start) for start, stop in (x_range, y_range))
        ax = style.new_axes(max(4.5, width + 1.0), height + 0.9)
    # The legend hangs at the lower left corner. A layout reserves room for it as if that were the
    # corner of the Axes' place, so it has to be, where equal scales leave some of the place empty.
    ax.set(xlim=x_range, ylim=y_range, aspect="equal", anchor="SW", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    step = _points_of_a_step(ax)
    # Opaque, because edges lie over each other.
    pale = tuple((np.array(to_rgb(style.ink(ax))) + to_rgb(_background(ax))) / 2)
    ax.add_collection(LineCollection([edge.points for edge in placed.edges], colors=[pale],
                                     linewidths=0.06 * step, zorder=1))  # fmt: skip
    xy = np.array([placed.nodes[name] for name in frame["node"]])
    handles, mesh = _draw_nodes(ax, frame, xy, step, sites, column)
    handles += _mark(ax, frame, xy, step, sites)
    _write(ax, placed, step)
    _add_legend(ax, handles)
    if mesh is not None:
        inches = ax.get_window_extent().width / style.dpi(ax)
        bar = ax.figure.colorbar(mesh, ax=ax, fraction=min(0.15, 0.9 / inches), shrink=0.7,
                                 panchor=False)  # fmt: skip
        bar.set_label(checks.label(column, checks.unit(column)))
    return ax


def _draw_nodes(
    ax: Axes,
    frame: pd.DataFrame,
    xy: "checks.Floats",
    step: float,
    sites: pd.DataFrame | None,
    column: str,
) -> tuple[list[Line2D], PathCollection | None]:
    """Draw the nodes; entries of the legend, and what the colour bar is of."""
    values = np.full(len(frame), np.nan)
    limits = 0.0, 1.0
    if sites is not None:
        values = sites.set_index("site")[column].reindex(frame["site"]).to_numpy(np.float64)
        limits = _limits(column, values)
    face, ink = _background(ax), style.ink(ax)
    handles, mesh = [], None
    for operation in dict.fromkeys(frame["operation"]):
        marker, size = _MARKERS[operation]
        look: dict[str, Any] = {"marker": marker, "s": (size * _NODE * step) ** 2, "zorder": 2}
        look |= {"linewidths": 0.05 * step, "edgecolors": ink}
        rows = (frame["operation"] == operation).to_numpy()
        known = rows & np.isfinite(values)
        ax.scatter(*xy[rows & ~known].T, facecolors=[face], **look)
        if known.any():
            look |= {"c": values[known], "cmap": "cividis", "vmin": limits[0], "vmax": limits[1]}
            mesh = ax.scatter(*xy[known].T, **look)
        handles.append(_handle(marker, operation, ink))
    return handles, mesh


def _mark(
    ax: Axes, frame: pd.DataFrame, xy: "checks.Floats", step: float, sites: pd.DataFrame | None
) -> list[Line2D]:
    """Mark dead channels and aliasing; entries of the legend."""
    dead = np.zeros(len(frame), bool)
    if sites is not None and "dead_fraction" in sites:
        dead = frame["site"].isin(sites.loc[sites["dead_fraction"] > 0, "site"]).to_numpy()
    aliasing = (frame["above_nyquist"] > ALIASED).to_numpy()
    color = style.color(3)
    around = [withStroke(linewidth=0.2 * step, foreground=_background(ax))]
    handles = []
    for rows, marker, size, width, above, words in (
        (dead, "x", 0.6, 0.09 * step, 0.0, "has dead channels"),
        (aliasing, _ARROW, 0.95, 0.2, 0.55, f"> {ALIASED:.0%} above Nyquist before it"),
    ):
        if rows.any():
            ax.scatter(xy[rows, 0], xy[rows, 1] - above, marker=marker, color=color, zorder=3,
                       s=(size * _NODE * step) ** 2, linewidths=width,
                       path_effects=around)  # fmt: skip
            handles.append(_handle(marker, words, color))
    return handles


def _write(ax: Axes, placed: layout.Map, step: float) -> None:
    """Sampling rates at the left of lines, and names of blocks below them, where they fit."""
    color = style.ink(ax)
    for text, _, y in placed.rates:
        ax.text(placed.left - 0.5, y, text, ha="right", va="center", color=color,
                fontsize=0.6 * step)  # fmt: skip
    for text, x, y in placed.blocks:
        ax.text(x - _NODE / 2, y + 0.4, checks.escape(text), va="top", color=color,
                fontsize=0.45 * step)  # fmt: skip


def _add_legend(ax: Axes, handles: list[Line2D]) -> None:
    """Below the Axes, in as many columns as the figure has room for."""
    place, right = ax.get_window_extent(), ax.figure.bbox.x1
    for columns in range(max(2, int(place.width / style.dpi(ax) / 1.6)), 0, -1):
        legend = ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0),
                           fontsize="small", frameon=False, ncols=columns, borderaxespad=0,
                           columnspacing=1)  # fmt: skip
        if legend.get_window_extent().width < right - place.x0:
            break


def _points_of_a_step(ax: Axes) -> float:
    """Distance between nodes, in points."""
    ax.apply_aspect()
    start, end = ax.transData.transform([(0, 0), (1, 0)])
    return float((end[0] - start[0]) / style.dpi(ax) * 72)


def _background(ax: Axes) -> Any:
    """What nodes without a value are filled with, to cover the edges behind them."""
    face = to_rgba(ax.get_facecolor())
    return face if face[3] > 0 else ax.figure.get_facecolor()


def _limits(column: str, values: "checks.Floats") -> tuple[float, float]:
    """Of the colours: all of a fraction, otherwise those of the values."""
    finite = values[np.isfinite(values)]
    if column.endswith("_fraction") or not len(finite):
        return 0.0, max(1.0, float(finite.max(initial=1.0)))
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1


def _handle(marker: str, words: str, color: Any) -> Line2D:
    face = color if marker in ("x", _ARROW, "$?$") else "none"
    return Line2D([], [], ls="", marker=marker, color=color, mfc=face, label=words)
