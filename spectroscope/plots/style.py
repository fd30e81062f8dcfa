"""Axes to draw on: new ones, colours that can be told apart, and legends that cover nothing."""

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

from spectroscope.plots.checks import short

SIDES = {"in": "rectifier's input", "out": "rectifier's output"}
# Colours stay apart for the colour-blind, and on a white as on a black face. Nothing is told by
# them alone.
COLORS = sns.color_palette("colorblind")
SIDE_COLORS = dict(zip(SIDES, COLORS, strict=False))
# The input thin and dashed, the output solid, in every picture.
SIDE_LINES: dict[str, dict[str, Any]] = {
    "in": {"ls": (0, (4, 1.5)), "lw": 1.0},
    "out": {"ls": "-", "lw": 1.5},
}
MARKERS = "os^Dv<>"

# Below this part of the greatest power there is nothing but the rounding of float32.
_FLOOR = 1e-12
_ROW = 0.22  # inches that one site takes
_GOLDEN = (math.sqrt(5) - 1) / 2
_LABELS = 10.0  # points, Matplotlib's default
_TALLEST = 100.0  # inches; pixels are limited


def new(width: float, height: float, **options: Any) -> Any:
    """Axes of a new pyplot figure: one, or of a grid an array; `options` as of `subplots`.

    `width` and `height` are inches at Matplotlib's own size of labels; with greater text, as
    seaborn's themes have, the figure grows.
    """
    from matplotlib import pyplot  # Deferred: those who give Axes may have no use for its state.

    scale = max(1.0, _points(mpl.rcParams["axes.labelsize"]) / _LABELS)
    size = width * scale, min(height * scale, _TALLEST)
    figure, axes = pyplot.subplots(figsize=size, layout="constrained", **options)
    opaque(figure)
    return axes


def opaque(figure: Figure) -> None:
    """Give a transparent figure a face that its text can be read on."""
    if to_rgba(figure.get_facecolor())[3] < 1:
        bright = np.mean(to_rgb(mpl.rcParams["text.color"])) > 0.5
        figure.set_facecolor("black" if bright else "white")


def new_rows(sites: Sequence[str]) -> Axes:
    """New Axes with room for a row for each site, and for its name."""
    longest = max(map(len, short(sites)))
    axes: Axes = new(5 + 0.075 * longest, 1.6 + _ROW * len(sites))
    return axes


def rows(ax: Axes, sites: Sequence[str]) -> None:
    """Make a row of each site, from above, named as far as there is room for the names."""
    size = _points(mpl.rcParams["ytick.labelsize"])
    room = ax.get_window_extent().height / dpi(ax) * 72
    step = math.ceil(1.1 * size * len(sites) / room)
    ax.set_yticks(range(0, len(sites), step), short(sites)[::step])
    ax.set_yticks([], minor=True)
    ax.set_ylim(len(sites) - 0.4, -0.6)


def _points(size: float | str) -> float:
    """A size of text, which may be a word such as ``"medium"``, in points."""
    return float(FontProperties(size=size).get_size_in_points())


def dpi(ax: Axes) -> float:
    """Pixels per inch of the figure that `ax` is in."""
    return float(ax.figure.dpi)


def ink(ax: Axes) -> Any:
    """Colour of what is neither one side nor the other: that of the text of these Axes."""
    return ax.xaxis.label.get_color()


def jitter(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Places from −½ to ½, spread evenly and always the same: multiples of the golden ratio."""
    places: NDArray[np.float64] = np.asarray(numbers * _GOLDEN % 1 - 0.5, np.float64)
    return places


def titled(ax: Axes, text: str) -> None:
    """Give `ax` a title, if it has none: what else is drawn on it may be of something else."""
    if not ax.get_title():
        ax.set_title(text, fontsize="medium")


def across(ax: Axes, x: NDArray[np.float64]) -> None:
    """Let the x axis go from the least to the greatest `x`, even if nothing is drawn there."""
    ax.update_datalim(np.column_stack([x, np.zeros_like(x)]), updatey=False)
    ax.autoscale_view(scaley=False)


def lowest(ax: Axes) -> float:
    """Where the y axis begins if something is drawn there already; else infinity."""
    return ax.get_ylim()[0] if ax.has_data() else math.inf


def log_power(ax: Axes, before: float, *values: NDArray[np.float64]) -> None:
    """Logarithmic y, no lower than what isn't rounding; linear if nothing is greater than 0.

    `before` is what :func:`lowest` was before `values` were drawn: no less is in view than then.
    """
    greatest = max(
        (float(some[np.isfinite(some)].max(initial=0.0)) for some in values), default=0.0
    )
    if greatest > 0:
        ax.set_yscale("log")
        ax.autoscale_view()
        low, high = ax.get_ylim()
        # By auto=None, here and below, what is drawn here later will be in view too.
        ax.set_ylim(max(low, min(greatest * _FLOOR, before)), high, auto=None)


def decades(ax: Axes, values: NDArray[np.float64], axes: str = "x") -> None:
    """Make `axes` logarithmic on both sides of 0 where typical `values` are decades apart."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if len(sizes) and np.quantile(sizes, 0.95) > 30 * np.quantile(sizes, 0.05):
        linear = 10 ** math.ceil(math.log10(np.quantile(sizes, 0.05)))
        for name in axes:
            set_scale = ax.set_xscale if name == "x" else ax.set_yscale
            set_scale("symlog", linthresh=linear, linscale=0.5)


def legend(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Add a legend at the top, inside, and make room for it: it covers nothing that is drawn."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return
    figure = ax.figure.canvas.figure
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)  # only then it is known how wide the Axes will be
    room = ax.get_window_extent()
    for columns in range(len(handles), 0, -1):
        found = ax.legend(handles=handles, loc="upper center", ncols=columns, fontsize="small")
        box = found.get_window_extent()
        if box.width < 0.97 * room.width:
            break
    for handle in found.legend_handles:
        if isinstance(handle, Line2D):  # points of thousands are too small and pale to know again
            handle.set(alpha=1, markersize=max(handle.get_markersize(), 5))
    margin = 0.06 * dpi(ax)
    share = min((box.height + 2 * margin) / room.height, 0.5)
    scale = ax.yaxis.get_transform()
    bottom, top = scale.transform(np.array(ax.get_ylim()))
    above = bottom + (top - bottom) / (1 - share)
    ax.set_ylim(*scale.inverted().transform(np.array([bottom, above])), auto=None)
