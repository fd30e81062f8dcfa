"""The map of the network: a figure, the numbers that its script draws, and a table."""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d
from bokeh.transform import transform

from spectroscope.layout import Map, network_map
from spectroscope.page.figures import (
    FONT,
    Item,
    as_item,
    as_text,
    color_bar,
    new_figure,
    themed,
)
from spectroscope.page.numbers import rounded
from spectroscope.schema import ALIASED

_STEP = 20, 32  # pixels from node to node: at least, and of few nodes
_WIDTH = 1120  # pixels that are filled if there are enough nodes
_SIZE = 0.55  # of a node, in steps
_RATES = 3.4  # steps at the left, for the sampling rates
_BAR = 90  # pixels of the colour bar, with its numbers
_CLEAR = "#00000000"


class _Marker(NamedTuple):
    """How nodes of an operation are drawn, and the same as a character."""

    shape: str
    angle: float
    character: str


_MARKERS = {
    "input": _Marker("triangle", -math.pi / 2, "▷"),
    "convolution": _Marker("square", 0, "□"),
    "linear": _Marker("diamond", 0, "◇"),
    "embedding": _Marker("hex", 0, "⬡"),
    "recurrent": _Marker("hex", 0, "⬡"),
    "attention": _Marker("hex", 0, "⬡"),
    "activation": _Marker("circle", 0, "○"),
    "pooling": _Marker("inverted_triangle", 0, "▽"),
    "resampling": _Marker("triangle", 0, "△"),
    "join": _Marker("plus", 0, "✚"),
    "module": _Marker("square_dot", 0, "⊡"),
    "output": _Marker("triangle", math.pi / 2, "◁"),
    "unknown": _Marker("star", 0, "★"),
}
# Columns of `Report.sites()` that activations may be coloured by, with their titles.
_COLUMNS = {
    "dc_fraction": "DC fraction",
    "dc_out": "DC",
    "active_fraction": "active fraction",
    "introduced_fraction": "introduced fraction",
    "dead_fraction": "dead channels",
    "above_next_nyquist": "above next Nyquist",
}


def figure_of(network: pd.DataFrame, sites: pd.DataFrame) -> Item:
    """The map; activations are coloured by the first of the columns, until another is chosen.

    Args:
        network: `Report.network()`.
        sites: `Report.sites()`.
    """
    placed = network_map(network)
    left = placed.left - _RATES
    right = max([placed.width + 1, *(text.x + 0.35 * len(text.text) for text in placed.blocks)])
    top, bottom = -1.2, placed.height + 1.2
    step = float(np.clip((_WIDTH - _BAR) / (right - left), *_STEP))
    plot = new_figure(
        round(step * (bottom - top)),
        sizing_mode="fixed",
        width=round(step * (right - left)) + _BAR,
        toolbar_location=None,
        x_range=Range1d(start=left, end=right),
        y_range=Range1d(start=bottom, end=top),
    )
    plot.name = "map"
    plot.axis.visible = False
    plot.grid.visible = False
    # As lists, which are shorter than arrays of a few numbers: a step has 32 pixels at most.
    lines = [np.round(edge.points, 2).T.tolist() for edge in placed.edges]
    edges = ColumnDataSource({"xs": [x for x, _ in lines], "ys": [y for _, y in lines]})
    themed(plot.multi_line("xs", "ys", source=edges).glyph, line_color="--edge")
    cursor = plot.scatter("x", "y", size=step, line_width=2.5, fill_color=None,
                          source=ColumnDataSource({"x": [], "y": []}, name="cursor"))  # fmt: skip
    themed(cursor.glyph, line_color="--accent")
    _draw_nodes(plot, network, placed, _SIZE * step)
    _mark(plot, network, sites, placed, step)
    _write(plot, placed)
    return as_item(plot)


def _draw_nodes(plot: Any, network: pd.DataFrame, placed: Map, size: float) -> None:
    for operation, nodes in network.groupby("operation", sort=False)["node"]:
        x, y = zip(*(placed.nodes[node] for node in nodes), strict=True)
        shape, angle, _ = _MARKERS[str(operation)]
        source = ColumnDataSource({"x": x, "y": y, "value": [math.nan] * len(x)})
        glyphs = [plot.scatter("x", "y", source=source, marker=shape, angle=angle, size=size)]
        themed(glyphs[0].glyph, fill_color="--paper", line_color="--ink")
        if operation == "activation":  # over the paper, so that one without a value hides the edge
            source.name = "activations"
            mapper = LinearColorMapper(palette="Viridis256", low=0, high=1, nan_color=_CLEAR,
                                       name="colors")  # fmt: skip
            glyphs.append(plot.scatter("x", "y", source=source, size=size,
                                       fill_color=transform("value", mapper)))  # fmt: skip
            themed(glyphs[1].glyph, line_color="--ink")
            bar = color_bar(mapper, "", "--paper")
            bar.update(name="scale", height=min(160, max(60, plot.height - 60)))
            plot.add_layout(bar, "right")


def _mark(plot: Any, network: pd.DataFrame, sites: pd.DataFrame, placed: Map, step: float) -> None:
    """A cross on activations with dead channels, an arrow over downsamplings that alias."""
    dead = set(sites.loc[sites["dead_fraction"] > 0, "site"])
    places = [placed.nodes[node] for node in network.loc[network["site"].isin(dead), "node"]]
    crosses = ColumnDataSource({"x": [x for x, _ in places], "y": [y for _, y in places]})
    for width, color in ((5, "--paper"), (2, "--warn")):
        cross = plot.scatter(
            "x", "y", source=crosses, marker="x", size=0.4 * step, line_width=width
        )
        themed(cross.glyph, line_color=color)
    places = [placed.nodes[node] for node in network.loc[_aliases(network), "node"]]
    arrows = ColumnDataSource({"x": [x for x, _ in places], "y": [y - 0.22 for _, y in places]})
    size = f"{max(14, 0.5 * step):.0f}px"
    arrow = plot.text("x", "y", {"value": "↷"}, source=arrows, text_align="center",
                      text_font_size=size, text_font_style="bold")  # fmt: skip
    themed(arrow.glyph, text_color="--warn")


def _write(plot: Any, placed: Map) -> None:
    """Sampling rates at the left of lines, and names of blocks below them."""
    for texts, x, y, color, look in (
        (placed.rates, placed.left - 0.4, 0.0, "--ink",
         {"text_align": "right", "text_baseline": "middle", "text_font_size": "12px"}),
        (placed.blocks, None, 0.4, "--quiet",
         {"text_baseline": "top", "text_font_size": "10px"}),
    ):  # fmt: skip
        source = ColumnDataSource({
            "x": [text.x - 0.25 if x is None else x for text in texts],
            "y": [text.y + y for text in texts],
            "text": [as_text(text.text) for text in texts],
        })  # fmt: skip
        drawn = plot.text("x", "y", "text", source=source, text_font={"value": FONT}, **look)
        themed(drawn.glyph, text_color=color)


def _aliases(network: pd.DataFrame) -> "pd.Series[bool]":
    return network["above_nyquist"] > ALIASED


def embedded(network: pd.DataFrame, sites: pd.DataFrame) -> dict[str, Any]:
    """Data for the script, ready for JSON; arguments as of :func:`figure_of`."""
    placed = network_map(network).nodes
    layers = {site: number for number, site in enumerate(sites["site"])}
    return {
        "nodes": [
            {
                "name": node,
                "operation": operation,
                "at": placed[node],
                "layer": layers.get(site),
                "inputs": list(inputs),
                "above": float(above) if above > ALIASED else None,
            }
            for node, operation, site, inputs, above in zip(
                *(network[name] for name in ("node", "operation", "site", "inputs",
                                             "above_nyquist")), strict=True
            )
        ],
        "columns": {
            name: {"title": title, "values": rounded(sites[name])}
            for name, title in _COLUMNS.items()
            if sites[name].notna().any()
        },
    }  # fmt: skip


def legend(network: pd.DataFrame, sites: pd.DataFrame) -> list[tuple[str, str]]:
    """Characters of the map and what they are: of the operations and marks that it has."""
    present = [(_MARKERS[name].character, name) for name in network["operation"].unique()]
    if (sites["dead_fraction"] > 0).any():
        present.append(("×", "has dead channels"))
    if _aliases(network).any():
        present.append(("↷", f"over {ALIASED:.0%} of the power before it is above its Nyquist"))
    return present


def table(network: pd.DataFrame) -> pd.DataFrame:
    """`Report.network()` for readers: names of the nodes before as text."""
    inputs = [", ".join(names) for names in network["inputs"]]
    columns = ["node", "operation", "inputs", "shape", "decimation", "above_nyquist"]
    return network.assign(inputs=inputs)[columns]
