"""Power spectra of both sides of an activation: in panels, as lines, or as median and band."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats, Names, Unit
from spectroscope.plots.facets import Facets
from spectroscope.plots.style import MARKERS
from spectroscope.schema import SIDES

SPECTRA = "report.spectra(site)"
DENSITY = 'report.spectra(site, scaling="density")'
KEY = ["channel", "side", "freq"]
_MAX_LINES = 4  # channels; of more, quantiles are plotted
_QUANTILES = (0.1, 0.5, 0.9)
_MAX_NUMBERED, _MAX_MARKED = 12, 24  # harmonics
_PER_NUMBER = 18  # points of the width for each number of a harmonic
_ACROSS = 4  # panels


def spectra(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    f0: ArrayLike | None = None,
    f0_name: str = "f0",
    unit: Unit = None,
    names: Names = None,
    ax: Any = None,
) -> Any:
    """Power spectra of the input and output of one activation.

    Several `channels` have a panel each, with the same limits and one legend below. All channels,
    or those drawn on one Axes, have a line each if there are up to four; more are plotted as their
    median and a band from the 10 % to the 90 % quantile at each frequency.

    Args:
        frame: `Report.spectra()` of one site, with any scaling.
        channels: one or more channels; None: all in one panel.
        f0: fundamental, in the unit of the frame's frequencies: one, or one per input, whose median
            is used and whose range is shaded. The fundamental and its harmonics up to the highest
            frequency are marked, and numbered as far as there is room; folded harmonics are not.
        f0_name: name of `f0` in the legend.
        unit: ``"Hz"`` or ``"BPM"``, of the frequencies that are shown; None: that of the frame.
        names: of channels: a list, or a dictionary by number.
        ax: one Axes for all channels, or an array of Axes with one for each channel, where further
            ones are made invisible and there is no legend: see `Figure.legend`. None: a new figure.

    Returns:
        The Axes; an array of them if there are several channels in panels.

    Raises:
        ValueError: `frame` is not of one site or has no rows, a channel is not in it or has no
            name, `f0` or `unit` does not fit the unit of its frequencies, or `ax` has too few Axes.
    """
    site = checks.check_site(frame, ["channel", "side", "freq", "freq_unit"], SPECTRA)
    value = value_column(frame)
    checks.check_unique(frame, KEY, SPECTRA)
    labels = channel_labels(frame, checks.select_channels(frame, channels, site), value, names)
    scale, shown = checks.frequencies(frame, f0, unit)
    x, y = checks.label("frequency", shown), value_label(value, unit_of(frame))
    nyquist = scale * float(frame["freq"].max())
    title = checks.title(frame, site)
    if isinstance(ax, Axes) or (ax is None and (channels is None or len(labels) == 1)):
        ax = style.new_axes(7, 4.2) if ax is None else ax
        handles = both_sides(ax, frame, labels, value, scale)
        handles += _mark_harmonics(ax, scale, f0, nyquist, f0_name)
        ax.set(xlabel=x, ylabel=y)
        _set_title(ax, title, labels)
        style.legend(ax, handles)
        return ax
    if channels is None:
        labels = dict([*labels.items()][: np.size(np.asarray(ax, dtype=object))])
    across = min(_ACROSS, len(labels))
    facets = Facets(ax, len(labels), across, (2.4, 1.7), sharex=True, sharey=True)
    before = min(map(style.lower_limit, facets.panels))
    for panel, (channel, label) in zip(facets.panels, labels.items(), strict=True):
        handles = both_sides(panel, frame, {channel: label}, value, scale)
        handles += _mark_harmonics(panel, scale, f0, nyquist, f0_name)
        style.set_default_title(panel, label)
    shown_power = frame[frame["channel"].isin(list(labels))][value].to_numpy(np.float64)
    for panel in facets.panels:  # whose limits may be shared
        style.log_scale_power(panel, before, shown_power)
    facets.label(x, y)
    facets.finish(title, handles)
    return facets.panels


def radial(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    names: Names = None,
    ax: Axes | None = None,
) -> Axes:
    """Radial spectra of images, input and output of one activation, with a 1/f² reference.

    1/f² is the typical spectrum of natural images. Axes are logarithmic. Up to four channels have a
    line each, more a median and a band.

    Args:
        frame: ``report.spectra(site, scaling="density")`` of one site.
        channels: one or more channels; None: all.
        names: of channels, as in :func:`spectra`.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has another scaling or is not of images, or as for :func:`spectra`.
    """
    site = checks.check_site(frame, ["channel", "side", "freq", "freq_unit", "density"], DENSITY)
    unit = checks.single_value(frame, "freq_unit", DENSITY)
    if not unit.startswith("cycles/pixel"):
        raise ValueError(f"{site} has frequencies in {unit}: radial spectra need images")
    checks.check_unique(frame, KEY, DENSITY)
    labels = channel_labels(frame, checks.select_channels(frame, channels, site), "density", names)
    ax = style.new_axes(6.4, 4.8) if ax is None else ax
    above_dc = frame[frame["freq"] > 0]  # a logarithmic axis has no 0
    ax.set_xscale("log")
    freq, density = checks.grid(above_dc, list(labels), "in", "density")
    density = np.where(density > 0, density, np.nan)
    reference: list[Any] = []
    if np.isfinite(density).any():
        level = np.nanmean(np.log(density) + 2 * np.log(freq))  # least squares with that slope
        reference = ax.plot(freq, np.exp(level) / freq**2, color=style.ink(ax), lw=1, ls="-.",
                            label="∝ 1/frequency²")  # fmt: skip
    handles = both_sides(ax, above_dc, labels, "density", 1.0) + reference
    ax.set(xlabel=checks.label("radial frequency", unit), ylabel=value_label("density", unit))
    _set_title(ax, checks.title(frame, site), labels)
    style.legend(ax, handles)
    return ax


def unit_of(frame: pd.DataFrame) -> str:
    """Unit of the frame's frequencies."""
    return checks.single_value(frame, "freq_unit", SPECTRA)


def value_column(frame: pd.DataFrame) -> str:
    """The column with the spectra, whatever their scaling."""
    for name in ("power", "density", "amplitude"):
        if name in frame:
            return name
    raise ValueError(f"the frame has no column 'power': expected one from {SPECTRA}")


def value_label(value: str, unit: str) -> str:
    """Label of the axis of that column."""
    words = {"power": "power per bin", "density": "power density\n"}.get(value, value)
    return checks.label(words, checks.unit(value, unit))


def channel_labels(
    frame: pd.DataFrame, selected: list[int], value: str, names: Names
) -> dict[int, str]:
    """Names of channels by number; one whose output is 0 has no line on a logarithmic axis."""
    labels = {channel: checks.channel_name(channel, names) for channel in selected}
    for channel, power in zip(selected, checks.grid(frame, selected, "out", value)[1], strict=True):
        labels[channel] += " (output is 0)" * bool((power == 0).all())
    return labels


def both_sides(
    ax: Axes, frame: pd.DataFrame, labels: Mapping[int, str], value: str, scale: float
) -> list[Any]:
    """Plot both sides of the channels, as lines or quantiles; returns the legend's handles."""
    plotted, before, handles = [], style.lower_limit(ax), []
    selected = list(labels)
    for side in SIDES:
        freq, values = checks.grid(frame, selected, side, value)
        values = np.where(values > 0, values, np.nan)  # a logarithmic axis has no 0
        plotted.append(values)
        if len(selected) == 1:
            handles += ax.plot(freq * scale, values[0], label=SIDES[side], **style.side_line(side))
        elif len(selected) <= _MAX_LINES:
            _lines(ax, side, freq * scale, values, selected)
        else:
            handles += _band(ax, side, freq * scale, values)
        style.include_x(ax, freq * scale)
    ax.margins(x=0.02)
    style.log_scale_power(ax, before, *plotted)
    if handles:
        return handles
    ink = {"color": style.ink(ax)}
    return [
        *(
            Line2D([], [], color=style.color(number), marker=MARKERS[number], ms=4, label=label)
            for number, label in enumerate(labels.values())
        ),
        *(Line2D([], [], label=SIDES[side], **style.side_line(side) | ink) for side in SIDES),
    ]


def _lines(ax: Axes, side: str, freq: Floats, values: Floats, selected: list[int]) -> None:
    for number, (line, channel) in enumerate(zip(values, selected, strict=True)):
        # About ten markers per line, shifted from channel to channel.
        every = max(1, len(freq) // 10)
        look = style.side_line(side) | {"color": style.color(number)}
        ax.plot(freq, line, marker=MARKERS[number], ms=4, label=f"channel {channel}, {side}",
                markevery=(number * every // _MAX_LINES, every), **look)  # fmt: skip


def _band(ax: Axes, side: str, freq: Floats, values: Floats) -> list[Line2D]:
    known = values[np.isfinite(values).any(axis=1)]
    look, label = style.side_line(side), SIDES[side]
    if not len(known):
        return [Line2D([], [], label=f"{label}: no power", **look)]
    with np.errstate(all="ignore"):
        # A bin without power counts as 0 instead of being ignored.
        low, middle, high = np.quantile(np.nan_to_num(known), _QUANTILES, axis=0)
    low = np.maximum(low, np.nanmin(known))
    ax.fill_between(freq, low, np.maximum(high, low), color=style.side_color(side), alpha=0.25,
                    lw=0)  # fmt: skip
    label += ": median, 10–90 %"
    if without := len(values) - len(known):
        label += f" ({without} of {len(values)} channels without power)"
    return ax.plot(freq, middle, label=label, **look)


def _mark_harmonics(
    ax: Axes, scale: float, f0: ArrayLike | None, nyquist: float, name: str
) -> list[Any]:
    """Mark the median of `f0`, its multiples up to `nyquist`, and its range."""
    values = scale * checks.fundamentals(f0)
    low, middle, high = np.quantile(values, [0, 0.5, 1]) if len(values) else 3 * [math.nan]
    if not (math.isfinite(middle) and 0 < middle <= nyquist):
        return []
    count = int(nyquist / middle * (1 + 1e-9))
    room = ax.get_window_extent().width / style.dpi(ax) * 72 / _PER_NUMBER
    step = math.ceil(count / min(max(1, room), _MAX_NUMBERED))
    ink, top = style.ink(ax), ax.get_xaxis_transform()
    numbers = [k for k in range(1, count + 1) if k == 1 or k % step == 0]
    handles: list[Any] = [
        ax.axvline(k * middle, color=ink, lw=0.7, ls=":", alpha=0.8, zorder=0.5)
        for k in (range(1, count + 1) if count <= _MAX_MARKED else numbers)
    ][:1]
    for k in numbers:
        ax.annotate(str(k), (k * middle, 0), xycoords=top, xytext=(1.5, 1.5), color=ink,
                    textcoords="offset points", fontsize="x-small", clip_on=True)  # fmt: skip
    label = checks.escape(name)
    # On the drawn artists, so that a legend of one's own has them too.
    handles[0].set_label(f"{label} and its harmonics" if count > 1 else label)
    if high > low:
        handles[0].set_label(f"median {handles[0].get_label()}")
        handles.append(
            ax.axvspan(low, high, color=ink, alpha=0.15, lw=0, label=f"range of {label}")
        )
    return handles


def _set_title(ax: Axes, title: str, labels: Mapping[int, str]) -> None:
    if len(labels) == 1:
        title += f", {next(iter(labels.values()))}"
    elif len(labels) > _MAX_LINES:
        title += f", {len(labels)} channels"
    style.set_default_title(ax, title)
