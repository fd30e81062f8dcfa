"""The page's figures: Bokeh models in JSON, drawn in the browser by Bokeh's own script.

The overview has its numbers. The others are templates, one of each kind in a page: page.js draws
them for the layer that is opened and fills their data sources, which it finds by name.

Colours depend on light and dark: the tag ``[property, variable]`` of a model says which variable of
page.css its colour is. Names of layers come from models: here they are text of axes, in which Bokeh
would typeset what is between two dollar signs, with a library from the network.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from bokeh.core.properties import value
from bokeh.embed import json_item
from bokeh.layouts import row
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Image,
    LinearColorMapper,
    Model,
    Range1d,
)
from bokeh.models.annotations.legends import ColorBar
from bokeh.palettes import RdBu11, interp_palette
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.transform import transform

RANGE = 60  # dB of a colour scale
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_CLEAR = "#00000000"
_ROW = 16  # pixels of a layer's row, of few layers
_MIN_ROW = 11  # with a name
_WIDE = 8  # times the lowest Nyquist frequency: the axis is logarithmic beyond
_LAYER = 340  # pixels
_AXES = 62  # pixels below and above the frame, more than any axis needs
_HEIGHT = 250, 560  # of the overview without its axes, in pixels
_NAME = 24  # characters
Item = dict[str, Any]


@cache
def script() -> str:
    """Bokeh's script, without widgets, WebGL and MathJax."""
    return str(Resources(mode="inline", components=["bokeh"]).js_raw[0])


class Scale(NamedTuple):
    """Colours of a spectrogram's values in dB."""

    title: str
    palette: Any
    low: float
    high: float


POWER = Scale("dB of the layer's output power", "Viridis256", -RANGE, 0)


def change_scale(frame: pd.DataFrame) -> Scale:
    """Colours of changes from A to B, symmetric about 0, for most of the values of `frame`."""
    sizes = frame["power"].abs().dropna()
    limit = max(1.0, math.ceil(sizes.quantile(0.98))) if len(sizes) else 1.0
    palette = interp_palette(RdBu11, 255)
    return Scale("change from A to B (dB)", palette, -limit, limit)


def overview(
    frame: pd.DataFrame, scale: Scale, panels: Mapping[str, Sequence[float]]
) -> dict[str, Item]:
    """A spectrogram through depth, and bars beside it: one row for each layer.

    Args:
        frame: columns `site`, `freq`, `freq_unit` and `nyquist` as in `Report.spectrogram()`;
            `power` of a cell and `dc` of a layer in dB. Layers whose frequencies have another unit
            than those of most layers have their DC alone.
        scale: of the colours.
        panels: titles, and a value for each layer.
    """
    first = frame.drop_duplicates("site").set_index("site")
    names = [str(name) for name in first.index]
    rows = {name: len(names) - 1 - number for number, name in enumerate(names)}
    height = int(np.clip(_ROW * len(names), *_HEIGHT))
    mapper = LinearColorMapper(palette=scale.palette, low=scale.low, high=scale.high)
    dc = _rows_figure(len(names), height, "dc", sizing_mode="fixed")
    dc.x_range = Range1d(start=0, end=1)
    dc.width = 42 + _name_rows(dc, names, height)
    _cells(dc, mapper, left=[0] * len(names), right=[1] * len(names), row=list(rows.values()),
           power=first["dc"])  # fmt: skip
    dc.xaxis.ticker = FixedTicker(ticks=[0.5])
    dc.xaxis.major_label_overrides = {0.5: " "}
    _label(dc.xaxis, "DC")
    figures = [dc]
    known = frame[frame["freq"].notna()]
    if not known.empty:
        unit = str(known.drop_duplicates("site")["freq_unit"].mode().iloc[0])
        figures.append(_map(known[known["freq_unit"] == unit], unit, rows, height, scale, mapper))
    bars = []
    for number, (title, values) in enumerate(panels.items()):
        plot = _rows_figure(len(names), height, f"bars{number}")
        most = max([1.0, *filter(math.isfinite, values)])
        plot.x_range = Range1d(start=0, end=1.02 * most)
        right = np.minimum(values, most)
        drawn = plot.hbar(y=list(rows.values()), right=right, left=0, height=0.72, line_color=None)
        themed(drawn.glyph, fill_color="--bar")
        plot.xaxis.ticker = BasicTicker(desired_num_ticks=2, num_minor_ticks=0)
        _label(plot.xaxis, title)
        bars.append(plot)
    for plot in bars + figures:
        _separate_blocks(plot, names)
        cursor = plot.hspan(y="y", source=ColumnDataSource({"y": []}, name="cursor"), line_width=2)
        themed(cursor.glyph, line_color="--accent")
    layouts = {"overview": figures, "bars": bars}
    return {
        name: _item(row(*plots, sizing_mode="stretch_width")) for name, plots in layouts.items()
    }


def _map(
    known: pd.DataFrame, unit: str, rows: dict[str, int], height: int, scale: Scale, mapper: Any
) -> figure:
    """The cells of the layers whose frequencies have this unit, and their Nyquist frequencies."""
    layers = known.drop_duplicates("site")
    nyquist, middle = layers["nyquist"].to_numpy(), layers["site"].map(rows).to_numpy()
    freq = np.unique(known["freq"])
    half = (freq[1] - freq[0]) / 2 if len(freq) > 1 else freq[0] / 2
    octaves = nyquist.max() > _WIDE * nyquist.min()
    axis = "log" if octaves else "linear"
    limits = Range1d(start=freq[0] - half if octaves else 0, end=freq[-1] + half)
    plot = _rows_figure(len(rows), height, "spectrogram", x_axis_type=axis, x_range=limits)
    _cells(plot, mapper, left=known["freq"] - half, right=known["freq"] + half,
           row=known["site"].map(rows), power=known["power"])  # fmt: skip
    for color, width in (("#000", 4), ("#fff", 2)):
        plot.segment(nyquist, middle - 0.5, nyquist, middle + 0.5, line_color=color,
                     line_width=width)  # fmt: skip
    _label(plot.xaxis, f"frequency ({unit}); white line: the layer's Nyquist frequency")
    plot.add_layout(_color_bar(mapper, scale.title, "--paper"), "right")
    return plot


def _color_bar(mapper: Any, title: str, background: str) -> ColorBar:
    bar = ColorBar(color_mapper=mapper, width=10, padding=6, title=title, title_text_font=_FONT,
                   title_text_font_size="12px", title_text_font_style="normal",
                   major_label_text_font=_FONT)  # fmt: skip
    themed(bar, major_label_text_color="--quiet", title_text_color="--quiet",
           background_fill_color=background)  # fmt: skip
    return bar


def templates(first: str = "in", second: str = "out") -> dict[str, Item]:
    """Figures of a layer, and the small one of a finding.

    Args:
        first: label of the spectra that the payload has as side "in".
        second: label of those that it has as side "out".
    """
    labels = {"in": first, "out": second}
    return {
        "spectrum": _item(_spectrum("linear", labels)),
        "spectrum_log": _item(_spectrum("log", labels)),
        "channels": _item(_channels()),
        "scatter": _item(_scatter()),
        "thumbnail": _item(_thumbnail()),
    }


def themed(model: Model, **variables: str) -> None:
    """Give the model's properties the colours of variables of page.css."""
    model.tags = [*model.tags, *([name, variable] for name, variable in variables.items())]


def _spectrum(scale: str, labels: dict[str, str]) -> figure:
    """Two spectra of a layer: quantiles over its channels, single channels, marks."""
    plot = _figure(
        _LAYER,
        x_axis_type=scale,
        x_range=Range1d(start=0.1, end=1),
        y_range=Range1d(start=0, end=1),
    )
    columns = ["freq", *(f"{side}_{quantile}" for side in ("in", "out") for quantile in range(3))]
    bands = ColumnDataSource({name: [] for name in columns}, name="bands")
    lines = ColumnDataSource(
        {name: [] for name in ("xs", "ys", "color", "dash", "label")}, name="lines"
    )
    marks = ColumnDataSource({"x": [], "y": [], "text": []}, name="marks")
    following = ColumnDataSource({"x": []}, name="next_nyquist")
    spans = plot.vspan(x="x", source=marks, line_dash="dotted")
    themed(spans.glyph, line_color="--quiet")
    numbers = plot.text("x", "y", "text", source=marks, x_offset=2, y_offset=12,
                        text_font_size="11px", text_font=value(_FONT))  # fmt: skip
    themed(numbers.glyph, text_color="--quiet")
    limit = plot.vspan(x="x", source=following, line_width=2, line_dash="dashed",
                       legend_label="next Nyquist")  # fmt: skip
    themed(limit.glyph, line_color="--warn")
    for side, dash, color in (("in", "dashed", "--c0"), ("out", "solid", "--c1")):
        band = plot.varea("freq", f"{side}_0", f"{side}_2", source=bands, fill_alpha=0.16)
        themed(band.glyph, fill_color=color)
        curve = plot.line("freq", f"{side}_1", source=bands, line_width=2, line_dash=dash,
                          legend_label=labels[side], name=side)  # fmt: skip
        themed(curve.glyph, line_color=color)
    single = plot.multi_line("xs", "ys", source=lines, line_color="color", line_dash="dash",
                             line_width=1.5, name="single")  # fmt: skip
    plot.add_tools(
        HoverTool(renderers=[curve], mode="vline", point_policy="none",
                  tooltips=[("frequency", "@freq{0.0000}"), (labels["in"], "@in_1{0.00a}"),
                            (labels["out"], "@out_1{0.00a}")]),
        HoverTool(renderers=[single], line_policy="nearest",
                  tooltips=[("", "@label"), ("", "$x, $y")]),
    )  # fmt: skip
    _legend(plot)
    return plot


def _channels() -> figure:
    """Spectra of all channels of a layer, a row each."""
    plot = _figure(_LAYER, x_range=Range1d(start=0, end=1), y_range=Range1d(start=1, end=0))
    mapper = LinearColorMapper(palette="Viridis256", low=0, high=1, nan_color=_CLEAR, name="colors")
    source = ColumnDataSource(
        {name: [] for name in ("image", "x", "y", "dw", "dh")}, name="cells_of_channels"
    )
    image = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper)
    plot.add_glyph(source, image)
    plot.add_layout(_color_bar(mapper, "dB", "--raised"), "right")
    picked = ColumnDataSource({"y": []}, name="picked")
    plot.hspan(y="y", source=picked, line_color="#fff", line_width=1.5)
    plot.grid.visible = False
    _label(plot.yaxis, "channels, sorted")
    return plot


def _scatter() -> figure:
    """A measured column against its prediction, a point for each channel."""
    plot = _figure(_LAYER, x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
    source = ColumnDataSource({"x": [], "y": [], "channel": []}, name="points")
    diagonal = plot.line(
        "x", "x", source=ColumnDataSource({"x": []}, name="diagonal"), line_width=1
    )
    themed(diagonal.glyph, line_color="--quiet")
    points = plot.scatter(
        "x", "y", source=source, size=5, fill_alpha=0.6, line_color=None, name="all"
    )
    themed(points.glyph, fill_color="--c1")
    plot.add_tools(
        HoverTool(renderers=[points],
                  tooltips=[("channel", "@channel"), ("predicted", "@x{0.0000}"),
                            ("measured", "@y{0.0000}")]),
    )  # fmt: skip
    _label(plot.xaxis, "DC predicted of Gaussian input (activation)")
    _label(plot.yaxis, "DC measured (activation)")
    return plot


def _thumbnail() -> figure:
    """A value of each layer, those of a finding."""
    plot = _figure(72, x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
    bars = plot.vbar(x="x", top="top", width=0.8, bottom=0, line_color=None,
                     source=ColumnDataSource({"x": [], "top": []}, name="bars"))  # fmt: skip
    themed(bars.glyph, fill_color="--warn")
    plot.xaxis.visible = plot.yaxis.visible = False
    plot.toolbar_location = None
    plot.grid.visible = False
    themed(plot, background_fill_color="--raised")
    return plot


def _figure(height: int, **options: Any) -> figure:
    options = {"sizing_mode": "stretch_width", "toolbar_location": "above", **options}
    plot = figure(
        height=height,
        tools="save,box_zoom,wheel_zoom,reset",
        output_backend="canvas",
        min_border=4,
        **options,
    )
    plot.toolbar.update(logo=None, autohide=False, active_drag=None, active_scroll=None)
    plot.update(outline_line_color=None, border_line_color=None)
    themed(plot, background_fill_color="--paper", border_fill_color="--panel")
    for axis in plot.axis:
        axis.update(axis_label_text_font=_FONT, major_label_text_font=_FONT,
                    axis_label_text_font_style="normal", axis_label_text_font_size="13px",
                    major_label_text_font_size="12px", minor_tick_line_color=None,
                    name="x" if axis in plot.xaxis else "y")  # fmt: skip
        themed(axis, axis_label_text_color="--ink", major_label_text_color="--quiet",
               axis_line_color="--rule", major_tick_line_color="--rule")  # fmt: skip
    for grid in plot.grid:
        themed(grid, grid_line_color="--rule")
    return plot


def _rows_figure(layers: int, height: int, name: str, **options: Any) -> figure:
    """A figure with a row for each layer."""
    plot = _figure(height + _AXES, toolbar_location=None, **options)
    plot.y_range = Range1d(start=-0.5, end=layers - 0.5)
    plot.update(name=name, min_border_left=4, min_border_right=6, min_border_top=4,
                min_border_bottom=_AXES - 4)  # fmt: skip
    plot.yaxis.visible = False
    plot.grid.visible = False
    return plot


def _name_rows(plot: figure, names: list[str], height: int) -> int:
    """Names of the layers on the left, or of their blocks where rows are too low for names.

    Returns:
        Their width in pixels.
    """
    last = len(names) - 1
    if height / len(names) >= _MIN_ROW:
        labels = {float(last - number): _short(name) for number, name in enumerate(names)}
    else:
        labels = {
            last - (start + end - 1) / 2: _short(block)
            for block, start, end in _blocks(names)
            if (end - start) * height / len(names) >= _MIN_ROW
        }
    plot.yaxis.visible = True
    plot.yaxis.ticker = FixedTicker(ticks=list(labels))
    plot.yaxis.major_label_overrides = {row: as_text(label) for row, label in labels.items()}
    plot.yaxis[0].update(major_label_text_font_size="11px", axis_line_color=None)
    plot.yaxis[0].tags = [["major_label_text_color", "--quiet"]]
    plot.yaxis[0].major_tick_line_color = None
    return math.ceil(6.6 * max(map(len, labels.values()), default=0))


def _separate_blocks(plot: figure, names: list[str]) -> None:
    edges = [len(names) - 0.5 - start for _, start, _ in _blocks(names)][1:]
    lines = plot.hspan(y=edges, line_width=1)
    themed(lines.glyph, line_color="--paper")


def _blocks(names: list[str]) -> list[tuple[str, int, int]]:
    """First parts of the names, each with the range of neighbours that have it."""
    blocks, start = [], 0
    for block, members in groupby(re.split(r"[./#]", name)[0] for name in names):
        end = start + len(list(members))
        blocks.append((block, start, end))
        start = end
    return blocks


def _short(name: str) -> str:
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"


def _cells(plot: figure, mapper: Any, **columns: Any) -> None:
    """Cells of a spectrogram, a rectangle each: an image cannot have octaves."""
    arrays = {name: np.asarray(values, np.float32) for name, values in columns.items()}
    known = ~np.isnan(arrays["power"])
    source = {name: values[known] for name, values in arrays.items()}
    source |= {"bottom": source["row"] - 0.5, "top": source["row"] + 0.5}
    color = transform("power", mapper)
    plot.quad("left", "right", "top", "bottom", source=ColumnDataSource(source, name="cells"),
              fill_color=color, line_color=color, line_width=1)  # fmt: skip


def _label(axes: Any, text: str) -> None:
    axes[0].axis_label = text


def _legend(plot: figure) -> None:
    legend = plot.legend[0]
    plot.add_layout(legend, "above")
    legend.update(location="left", orientation="horizontal", label_text_font=_FONT,
                  label_text_font_size="12px", padding=4, margin=4, border_line_color=None,
                  background_fill_alpha=0.8, name="legend")  # fmt: skip
    themed(legend, label_text_color="--ink", background_fill_color="--paper")


def as_text(name: str) -> str:
    """A name in which Bokeh finds no mathematics: a word joiner stands within its delimiters."""
    return re.sub(r"\$(?=\$)|\\(?=[\[\]()])", lambda match: match[0] + "\u2060", name)


def _item(model: Model) -> Item:
    item: Item = json_item(model)  # type: ignore[assignment]
    return item
