"""The figure over all layers: a spectrogram through depth, and bars beside it."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from bokeh.layouts import row
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    FixedTicker,
    LinearColorMapper,
    Range1d,
)
from bokeh.palettes import RdBu11, interp_palette
from bokeh.plotting import figure
from bokeh.transform import transform

from spectroscope.page.figures import (
    Item,
    as_item,
    as_text,
    color_bar,
    new_figure,
    set_label,
    themed,
)
from spectroscope.page.numbers import quantity

RANGE = 60  # dB of a colour scale
_ROW = 16  # pixels of a layer's row, of few layers
_MIN_ROW = 11  # with a name
_WIDE = 8  # times the lowest Nyquist frequency: the axis is logarithmic beyond
_AXES = 62  # pixels below and above the frame, more than any axis needs
_HEIGHT = 140, 560  # of the overview without its axes, in pixels
_NAME = 24  # characters


class Scale(NamedTuple):
    """Colours of a spectrogram's values in dB."""

    title: str
    palette: Any
    low: float
    high: float


POWER = Scale("dB re output power", "Viridis256", -RANGE, 0)


def change_scale(frame: pd.DataFrame) -> Scale:
    """Colours of changes from A to B, symmetric about 0, for most of the values of `frame`."""
    sizes = frame["power"].abs().dropna()
    limit = max(1.0, math.ceil(sizes.quantile(0.98))) if len(sizes) else 1.0
    palette = interp_palette(RdBu11, 255)
    return Scale("change (dB)", palette, -limit, limit)


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
    dc.xaxis.major_label_overrides = {0.5: "DC"}
    figures = [dc]
    known = frame[frame["freq"].notna()]
    if not known.empty:
        unit = _unit(known)
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
        set_label(plot.xaxis, title)
        bars.append(plot)
    for plot in bars + figures:
        _separate_blocks(plot, names)
        cursor = plot.hspan(y="y", source=ColumnDataSource({"y": []}, name="cursor"), line_width=2)
        themed(cursor.glyph, line_color="--accent")
    layouts = {"overview": figures, "bars": bars}
    return {
        name: as_item(row(*plots, sizing_mode="stretch_width")) for name, plots in layouts.items()
    }


def caption(frame: pd.DataFrame) -> str:
    """What the overview shows, and of which layers it has the DC alone."""
    known, rows = frame["freq"].notna(), "Each row is a layer, in the order of execution"
    if not known.any():
        return f"{rows}."
    unit = _unit(frame[known])
    layers = frame.assign(known=known).drop_duplicates("site")
    without = int((~layers["known"]).sum())
    others = layers["freq_unit"][layers["known"] & (layers["freq_unit"] != unit)].value_counts()
    parts = [f"{quantity(n, 'layer')} with frequencies in {other}" for other, n in others.items()]
    parts += [f"{quantity(without, 'layer')} without spectra"] if without else []
    alone = f" DC alone is drawn of {' and of '.join(parts)}." if parts else ""
    return f"{rows}; a white line is at its Nyquist frequency.{alone}"


def _unit(known: pd.DataFrame) -> str:
    """Unit of the frequencies of most layers."""
    return str(known.drop_duplicates("site")["freq_unit"].mode().iloc[0])


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
    if octaves:
        ticks = [float(f"{m}e{power}") for power in range(-9, 9) for m in (1, 2, 5)]
        plot.xaxis.ticker = FixedTicker(ticks=ticks)
        plot.xaxis.formatter = BasicTickFormatter()
    set_label(plot.xaxis, f"frequency ({unit})")
    plot.add_layout(color_bar(mapper, scale.title, "--paper"), "right")
    return plot


def _rows_figure(layers: int, height: int, name: str, **options: Any) -> figure:
    """A figure with a row for each layer."""
    plot = new_figure(height + _AXES, toolbar_location=None, **options)
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
