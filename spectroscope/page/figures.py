"""The page's figures: Bokeh models in JSON, drawn in the browser by Bokeh's own script.

Colours depend on light and dark: the tag ``[property, variable]`` of a model says which variable of
page.css its colour is. Names of layers come from models: here they are text of axes, in which Bokeh
would typeset what is between two dollar signs, with a library from the network.
"""

import re
from functools import cache
from typing import Any

from bokeh.embed import json_item
from bokeh.models import Model
from bokeh.models.annotations.legends import ColorBar
from bokeh.plotting import figure
from bokeh.resources import Resources

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
Item = dict[str, Any]


@cache
def script() -> str:
    """Bokeh's script, without widgets, WebGL and MathJax."""
    return str(Resources(mode="inline", components=["bokeh"]).js_raw[0])


def new_figure(height: int, **options: Any) -> figure:
    """An empty figure in the style of the page."""
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
        axis.update(axis_label_text_font=FONT, major_label_text_font=FONT,
                    axis_label_text_font_style="normal", axis_label_text_font_size="13px",
                    major_label_text_font_size="12px", minor_tick_line_color=None,
                    name="x" if axis in plot.xaxis else "y")  # fmt: skip
        themed(axis, axis_label_text_color="--ink", major_label_text_color="--quiet",
               axis_line_color="--rule", major_tick_line_color="--rule")  # fmt: skip
    for grid in plot.grid:
        themed(grid, grid_line_color="--rule")
    return plot


def themed(model: Model, **variables: str) -> None:
    """Give the model's properties the colours of variables of page.css."""
    model.tags = [*model.tags, *([name, variable] for name, variable in variables.items())]


def set_label(axes: Any, text: str) -> None:
    """Label the first of `axes`."""
    axes[0].axis_label = text


def color_bar(mapper: Any, title: str, background: str) -> ColorBar:
    """The scale of colours; `background` is a variable of page.css."""
    bar = ColorBar(color_mapper=mapper, width=10, padding=6, title=title, title_text_font=FONT,
                   title_text_font_size="12px", title_text_font_style="normal",
                   major_label_text_font=FONT)  # fmt: skip
    themed(bar, major_label_text_color="--quiet", title_text_color="--quiet",
           background_fill_color=background)  # fmt: skip
    return bar


def as_text(name: str) -> str:
    """A name in which Bokeh finds no mathematics: a word joiner stands within its delimiters."""
    return re.sub(r"\$(?=\$)|\\(?=[\[\]()])", lambda match: match[0] + "\u2060", name)


def as_item(model: Model) -> Item:
    """A figure with its models, for JSON."""
    item: Item = json_item(model)  # type: ignore[assignment]
    return item
