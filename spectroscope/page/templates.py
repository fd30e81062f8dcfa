"""Figures without numbers, one of each kind in a page.

page.js draws them for the layer that is opened, and fills their data sources, found by name.
"""

from functools import cache

from bokeh.core.properties import value
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, Image, LinearColorMapper, Range1d
from bokeh.palettes import RdBu11, interp_palette
from bokeh.plotting import figure

from spectroscope.page.figures import FONT, Item, as_item, color_bar, new_figure, set_label, themed
from spectroscope.schema import SIDES

_CLEAR = "#00000000"
_LAYER = 340  # pixels


@cache
def templates(first: str = SIDES["in"], second: str = SIDES["out"]) -> dict[str, Item]:
    """Figures of a layer, and the small one of a finding: the same dictionary at each call.

    Args:
        first: label of the spectra that the payload has as side "in".
        second: label of those that it has as side "out".
    """
    labels = {"in": first, "out": second}
    return {
        "spectrum": as_item(_spectrum("linear", labels)),
        "spectrum_log": as_item(_spectrum("log", labels)),
        "channels": as_item(_channels()),
        "scatter": as_item(_scatter()),
        "thumbnail": as_item(_thumbnail()),
        "waveform": as_item(_waveform()),
        "feature_map": as_item(_feature_map()),
    }


def _spectrum(scale: str, labels: dict[str, str]) -> figure:
    """Two spectra of a layer: quantiles over its channels, single channels, marks."""
    plot = new_figure(
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
                        text_font_size="11px", text_font=value(FONT))  # fmt: skip
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
    plot = new_figure(_LAYER, x_range=Range1d(start=0, end=1), y_range=Range1d(start=1, end=0))
    mapper = LinearColorMapper(palette="Viridis256", low=0, high=1, nan_color=_CLEAR, name="colors")
    source = ColumnDataSource(
        {name: [] for name in ("image", "x", "y", "dw", "dh")}, name="cells_of_channels"
    )
    image = Image(image="image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper)
    plot.add_glyph(source, image)
    plot.add_layout(color_bar(mapper, "dB", "--raised"), "right")
    picked = ColumnDataSource({"y": []}, name="picked")
    plot.hspan(y="y", source=picked, line_color="#fff", line_width=1.5)
    plot.grid.visible = False
    plot.yaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
    set_label(plot.yaxis, "channels, sorted")
    return plot


def _scatter() -> figure:
    """A measured column against its prediction, a point for each channel."""
    plot = new_figure(_LAYER, x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
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
    set_label(plot.xaxis, "predicted DC (activation)")
    set_label(plot.yaxis, "measured DC (activation)")
    return plot


def _thumbnail() -> figure:
    """A value of each layer, those of a finding."""
    plot = new_figure(72, x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
    bars = plot.vbar(x="x", top="top", width=0.8, bottom=0, line_color=None,
                     source=ColumnDataSource({"x": [], "top": []}, name="bars"))  # fmt: skip
    themed(bars.glyph, fill_color="--warn")
    plot.xaxis.visible = plot.yaxis.visible = False
    plot.toolbar_location = None
    plot.grid.visible = False
    themed(plot, background_fill_color="--raised")
    return plot


def _waveform() -> figure:
    """Both sides of a channel over time, and the DC of its output."""
    plot = new_figure(170, x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
    source = ColumnDataSource({"x": [], "in": [], "out": []}, name="waveform")
    dc = plot.hspan(
        y="y", source=ColumnDataSource({"y": []}, name="dc_of_example"), line_dash="dotdash"
    )
    themed(dc.glyph, line_color="--ink")
    # The input over the output, which a ReLU makes equal in part.
    for side, dash, color in (("out", "solid", "--c1"), ("in", "dashed", "--c0")):
        line = plot.line("x", side, source=source, line_width=1.5, line_dash=dash)
        themed(line.glyph, line_color=color)
    tooltips = [("at", "@x{0.000a}"), *((words, f"@{side}") for side, words in SIDES.items())]
    plot.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=tooltips))
    plot.yaxis.ticker = BasicTicker(desired_num_ticks=3, num_minor_ticks=0)
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
    set_label(plot.yaxis, "activation")
    return plot


def _feature_map() -> figure:
    """One side of a channel of an image; white is 0."""
    plot = new_figure(
        160,
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=1, end=0),
        toolbar_location=None,
        aspect_ratio=1,
    )
    palette = interp_palette(RdBu11, 255)
    mapper = LinearColorMapper(palette=palette, low=-1, high=1, nan_color=_CLEAR, name="colors")
    source = ColumnDataSource({"image": [], "dw": [], "dh": []}, name="feature_map")
    image = Image(image="image", x=0, y=0, dw="dw", dh="dh", color_mapper=mapper)
    drawn = plot.add_glyph(source, image)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@image")]))
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _legend(plot: figure) -> None:
    legend = plot.legend[0]
    plot.add_layout(legend, "above")
    legend.update(location="left", orientation="horizontal", label_text_font=FONT,
                  label_text_font_size="12px", padding=4, margin=4,
                  border_line_color=None, background_fill_alpha=0.8, name="legend")  # fmt: skip
    themed(legend, label_text_color="--ink", background_fill_color="--paper")
