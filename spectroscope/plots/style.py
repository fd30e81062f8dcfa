"""New Axes, colours, scales, and legends that cover no data: the user's style, or else ours."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from spectroscope.schema import SIDES

# seaborn is a dependency for this palette, and for the themes of the figures that `run` and the
# examples write. Its plot functions do not fit: stripplot's jitter is random, heatmap has
# categorical axes, and lineplot ignores NaN, which here means no power.
# The colours are distinct for the colour-blind, on white and on black. Nothing is distinguished by
# colour alone.
_COLORS = sns.color_palette("colorblind")
MARKERS = "os^Dv<>"

_FLOOR = 1e-12  # of the greatest power: below is rounding error of float32
_ROW = 0.22  # inches per site
_GOLDEN = (math.sqrt(5) - 1) / 2
_LABEL_SIZE = 10.0  # points, Matplotlib's default
_MAX_HEIGHT = 100.0  # inches; Matplotlib limits the number of pixels


def color(number: int) -> Any:
    """Colour of a series: of the user's cycle of colours, or of ours if that is the default."""
    cycle = mpl.rcParams["axes.prop_cycle"]
    changed = cycle != mpl.rcParamsDefault["axes.prop_cycle"]
    colors: Any = (changed and cycle.by_key().get("color")) or _COLORS
    return colors[number % len(colors)]


def side_line(side: str) -> dict[str, Any]:
    """Style of the lines of a side, in every plot: the input thin and dashed, the output solid."""
    width = mpl.rcParams["lines.linewidth"]
    dashed = {"ls": (0, (4, 1.5)), "lw": width * 2 / 3}
    return {"color": side_color(side)} | (dashed if side == "in" else {"ls": "-", "lw": width})


def side_color(side: str) -> Any:
    """Colour of a side, in every plot."""
    return color(list(SIDES).index(side))


def new_axes(width: float, height: float, **options: Any) -> Any:
    """Axes of a new pyplot figure, or an array of them; `options` as of `pyplot.subplots`.

    `width` and `height` are inches at Matplotlib's default label size; the figure grows with
    larger labels, as in seaborn's themes. A size in the user's rcParams has precedence.
    """
    from matplotlib import pyplot  # deferred: with ax=… no pyplot state is needed

    scale = max(1.0, points(mpl.rcParams["axes.labelsize"]) / _LABEL_SIZE)
    size: Any = width * scale, min(height * scale, _MAX_HEIGHT)
    if mpl.rcParams["figure.figsize"] != mpl.rcParamsDefault["figure.figsize"]:
        size = mpl.rcParams["figure.figsize"]
    figure, axes = pyplot.subplots(figsize=size, layout="constrained", **options)
    make_opaque(figure)
    return axes


def make_opaque(figure: Figure) -> None:
    """Give a transparent figure a background that contrasts with its text."""
    if to_rgba(figure.get_facecolor())[3] < 1:
        bright = np.mean(to_rgb(mpl.rcParams["text.color"])) > 0.5
        figure.set_facecolor("black" if bright else "white")


def new_axes_for_rows(names: Sequence[str]) -> Axes:
    """New Axes with room for one row per site, and for its name."""
    longest = max(map(len, names))
    axes: Axes = new_axes(5 + 0.075 * longest, 1.6 + _ROW * len(names))
    return axes


def label_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row per site from the top, with as many names as fit."""
    size = points(mpl.rcParams["ytick.labelsize"])
    room = ax.get_window_extent().height / dpi(ax) * 72
    step = math.ceil(1.1 * size * len(names) / room)
    ax.set_yticks(range(0, len(names), step), names[::step])
    ax.set_yticks([], minor=True)
    ax.set_ylim(len(names) - 0.4, -0.6)


def points(size: float | str) -> float:
    """A font size, which may be a word such as ``"medium"``, in points."""
    return float(FontProperties(size=size).get_size_in_points())


def dpi(ax: Axes) -> float:
    """Pixels per inch of the figure that `ax` is in."""
    return float(ax.figure.dpi)


def ink(ax: Axes) -> Any:
    """Colour of text on these Axes, for marks that belong to neither side."""
    return ax.xaxis.label.get_color()


def jitter(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Offsets from −½ to ½, evenly spread and reproducible: multiples of the golden ratio."""
    offsets: NDArray[np.float64] = np.asarray(numbers * _GOLDEN % 1 - 0.5, np.float64)
    return offsets


def set_default_title(ax: Axes, text: str) -> None:
    """Set the title unless there is one: an earlier plot on `ax` may be of another site."""
    if not ax.get_title():
        ax.set_title(text, fontsize="medium")


def include_x(ax: Axes, x: NDArray[np.float64]) -> None:
    """Extend the x limits to all of `x`, even where the plotted values are NaN."""
    ax.update_datalim(np.column_stack([x, np.zeros_like(x)]), updatey=False)
    ax.autoscale_view(scaley=False)


def lower_limit(ax: Axes) -> float:
    """Lower y limit if `ax` has data already; otherwise infinity."""
    return ax.get_ylim()[0] if ax.has_data() else math.inf


def log_scale_power(ax: Axes, before: float, *values: NDArray[np.float64]) -> None:
    """Make y logarithmic, and cut off rounding errors; keep it linear if no value is above 0.

    Args:
        ax: with `values` plotted.
        before: :func:`lower_limit` before `values` were plotted; what was in view stays in view.
        values: power.
    """
    greatest = max(
        (float(array[np.isfinite(array)].max(initial=0.0)) for array in values), default=0.0
    )
    if greatest > 0:
        ax.set_yscale("log")
        ax.autoscale_view()
        low, high = ax.get_ylim()
        # auto=None, here and below: later plots on these Axes still extend the limits.
        ax.set_ylim(max(low, min(greatest * _FLOOR, before)), high, auto=None)


def symlog_if_wide(ax: Axes, values: NDArray[np.float64], axes: str = "x") -> None:
    """Make `axes` symmetric-logarithmic if typical `values` span decades."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if len(sizes) and np.quantile(sizes, 0.95) > 30 * np.quantile(sizes, 0.05):
        linear = 10 ** math.ceil(math.log10(np.quantile(sizes, 0.05)))
        for name in axes:
            set_scale = ax.set_xscale if name == "x" else ax.set_yscale
            set_scale("symlog", linthresh=linear, linscale=0.5)


def legend(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Add a legend inside, at the top, and extend the y limits so that it covers no data."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    figure = ax.figure.canvas.figure
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)  # the width of the Axes is unknown before
    room = ax.get_window_extent()
    for columns in range(len(handles), 0, -1):
        legend = ax.legend(handles=handles, loc="upper center", ncols=columns, fontsize="small")
        box = legend.get_window_extent()
        if box.width < 0.97 * room.width:
            break
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D):  # points of large plots are too small and pale
            handle.set(alpha=1, markersize=max(handle.get_markersize(), 5))
    margin = 0.06 * dpi(ax)
    share = min((box.height + 2 * margin) / room.height, 0.5)
    scale = ax.yaxis.get_transform()
    bottom, top = scale.transform(np.array(ax.get_ylim()))
    above = bottom + (top - bottom) / (1 - share)
    ax.set_ylim(*scale.inverted().transform(np.array([bottom, above])), auto=None)
