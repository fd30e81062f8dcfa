"""Plots over frequency: spectra, responses of filters, and amplitudes of harmonics."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats
from spectroscope.plots.style import COLORS, MARKERS, SIDE_COLORS, SIDE_LINES, SIDES

_SPECTRA = "report.spectra(site)"
_KEY = ["channel", "side", "freq"]
_DENSITY = 'report.spectra(site, scaling="density")'
_HARMONICS = "report.harmonics(site)"
_MAX_LINES = 4  # channels; of more, quantiles are plotted
_QUANTILES = (0.1, 0.5, 0.9)
_MAX_NUMBERED, _MAX_MARKED = 12, 24  # harmonics
_DYNAMIC_RANGE = 80  # dB
_BAR = 0.38  # width


def spectra(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    f0: ArrayLike | None = None,
    f0_name: str = "f0",
    per_minute: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Power spectra of the input and output of one activation.

    Up to four channels have a line each. More are plotted as their median and a band from the 10 %
    to the 90 % quantile at each frequency.

    Args:
        frame: `Report.spectra()` of one site, with any scaling.
        channels: one or more channels; None: all.
        f0: fundamental, in the unit of the frame's frequencies: one, or one per input, whose
            median is used. The fundamental and its harmonics up to the highest frequency are
            marked and numbered; folded harmonics are not.
        f0_name: name of `f0` in the legend.
        per_minute: show frequencies in BPM instead of Hz; requires `freq_unit` Hz.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` is not of one site or has no rows, a channel is not in it, or `f0` or
            `per_minute` does not fit the unit of its frequencies.
    """
    site = checks.check_site(frame, ["channel", "side", "freq", "freq_unit"], _SPECTRA)
    value = _value_column(frame)
    checks.check_unique(frame, _KEY, _SPECTRA)
    selected = checks.select_channels(frame, channels, site)
    scale, unit = frequencies(frame, f0, per_minute)
    ax = style.new_axes(7, 4.2) if ax is None else ax
    handles = _both_sides(ax, frame, selected, value, scale)
    if f0 is not None:
        nyquist = scale * float(frame["freq"].max())
        handles += _mark_harmonics(ax, scale * _median_f0(f0), nyquist, f0_name)
    ax.set(xlabel=checks.label("frequency", unit), ylabel=_value_label(value, unit_of(frame)))
    _set_title(ax, frame, site, selected)
    style.legend(ax, handles)
    return ax


def radial(
    frame: pd.DataFrame, *, channels: int | Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Radial spectra of images, input and output of one activation, with a 1/f² reference.

    1/f² is the typical spectrum of natural images. Axes are logarithmic; channels as in
    :func:`spectra`.

    Args:
        frame: ``report.spectra(site, scaling="density")`` of one site.
        channels: one or more channels; None: all.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has another scaling or is not of images, or as for :func:`spectra`.
    """
    site = checks.check_site(frame, ["channel", "side", "freq", "freq_unit", "density"], _DENSITY)
    unit = checks.single_value(frame, "freq_unit", _DENSITY)
    if not unit.startswith("cycles/pixel"):
        raise ValueError(f"{site} has frequencies in {unit}: radial spectra need images")
    checks.check_unique(frame, _KEY, _DENSITY)
    selected = checks.select_channels(frame, channels, site)
    ax = style.new_axes(6.4, 4.8) if ax is None else ax
    above_dc = frame[frame["freq"] > 0]  # a logarithmic axis has no 0
    ax.set_xscale("log")
    freq, density = checks.grid(above_dc, selected, "in", "density")
    density = np.where(density > 0, density, np.nan)
    reference: list[Any] = []
    if np.isfinite(density).any():
        level = np.nanmean(np.log(density) + 2 * np.log(freq))  # least squares with that slope
        reference = ax.plot(freq, np.exp(level) / freq**2, color=style.ink(ax), lw=1, ls="-.",
                            label="∝ 1/frequency²")  # fmt: skip
    handles = _both_sides(ax, above_dc, selected, "density", 1.0) + reference
    ax.set(xlabel=checks.label("radial frequency", unit), ylabel=_value_label("density", unit))
    _set_title(ax, frame, site, selected)
    style.legend(ax, handles)
    return ax


def filter_response(
    response: pd.DataFrame, spectra: pd.DataFrame, *, channel: int, ax: Axes | None = None
) -> Axes:
    """Gain of a filter and spectra of the activation behind it, in dB.

    Args:
        response: :func:`spectroscope.filter_response`; the RMS gain over its input channels is
            plotted.
        spectra: `Report.spectra()` of the site behind the filter. For images with
            ``scaling="density"``, because power is a sum over a radial bin and the gain a mean.
        channel: the channel to plot.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes. Each line is relative to its own maximum; 80 dB are in view.

    Raises:
        ValueError: the frames differ in the unit of their frequencies, `spectra` of images has no
            density, or as for :func:`spectra`.
    """
    source = "spectroscope.filter_response(layer, fs=…)"
    checks.check(response, ["channel", "in_channel", "freq", "freq_unit", "gain"], source)
    checks.check_site(spectra, ["freq_unit"], _SPECTRA)
    units = [checks.single_value(response, "freq_unit", source), unit_of(spectra)]
    images = units[1].startswith("cycles/pixel")
    value = "density" if images or "density" in spectra else "power"
    expected = _DENSITY if images else _SPECTRA
    site = checks.check_site(spectra, ["channel", "side", "freq", value], expected)
    if units[0] != units[1]:
        raise ValueError(
            f"the response is in {units[0]} and the spectra are in {units[1]}: "
            "call filter_response with fs=… of the report"
        )
    checks.check_unique(response, ["channel", "in_channel", "freq"], source)
    checks.check_unique(spectra, _KEY, expected)
    checks.select_channels(response, [channel], "the response")
    checks.select_channels(spectra, [channel], site)
    ax = style.new_axes(7, 4.2) if ax is None else ax
    before = style.lower_limit(ax)
    gain = response[response["channel"] == channel].groupby("freq")["gain"]
    squares = gain.apply(lambda values: float(np.mean(np.square(values))))
    lines = [ax.plot(squares.index, _decibels(squares.to_numpy()), color=style.ink(ax), lw=1.2,
                     ls="-.", label="filter gain")[0]]  # fmt: skip
    for side, words in SIDES.items():
        freq, power = checks.grid(spectra, [channel], side, value)
        lines += ax.plot(freq, _decibels(power[0]), color=SIDE_COLORS[side], label=words,
                         **SIDE_LINES[side])  # fmt: skip
        style.include_x(ax, freq)
    low = min((np.nanmin(y) for line in lines if np.isfinite(y := _ydata(line)).any()), default=0)
    ax.set_ylim(min(max(low, -_DYNAMIC_RANGE) - 2, before), 2)
    ax.set(xlabel=checks.label("frequency", units[0]), ylabel="relative to the maximum (dB)")
    style.set_default_title(ax, f"{checks.title(spectra, site)}, channel {channel}")
    style.legend(ax, lines)
    return ax


def harmonics(
    frame: pd.DataFrame, *, channels: int | Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Amplitude of every harmonic, input and output of one activation, RMS over channels.

    Harmonics above the Nyquist frequency are hatched and labelled with the frequency that they fold
    to. A harmonic that folds in some inputs only has two pairs of bars.

    Args:
        frame: `Report.harmonics()` of one site.
        channels: one or more channels; None: all. Channels with NaN only are left out.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes, with pairs of bars for input and output.

    Raises:
        ValueError: `frame` is not of one site or has no rows, or a channel is not in it.
    """
    values = {side: f"amplitude_{side}" for side in SIDES}
    columns = ["channel", "harmonic", "freq", "freq_unit", "folded", *values.values()]
    site = checks.check_site(frame, columns, _HARMONICS)
    checks.check_unique(frame, ["channel", "harmonic", "folded"], _HARMONICS)
    selected = checks.select_channels(frame, channels, site)
    unit = checks.single_value(frame, "freq_unit", _HARMONICS)
    rows = frame[frame["channel"].isin(selected)]
    known = rows[list(values.values())].notna().any(axis=1).groupby(rows["channel"]).any()
    selected = [channel for channel in selected if known[channel]] or selected
    squares = rows.assign(**{side: rows[name] ** 2 for side, name in values.items()})
    table = squares.groupby(["harmonic", "folded"])[[*SIDES, "freq"]].mean()  # NaN left out
    if (known := table[list(SIDES)].notna().any(axis=1)).any():
        table = table[known]  # harmonics that cannot be separated from others are NaN
    ax = style.new_axes(max(6.4, 2 + 0.55 * len(table)), 4.2) if ax is None else ax
    x, folded = np.arange(len(table)), table.index.get_level_values("folded").to_numpy(bool)
    for side, shift in zip(SIDES, (-_BAR / 2, _BAR / 2), strict=True):
        bars = ax.bar(x + shift, np.sqrt(table[side]), _BAR, color=SIDE_COLORS[side],
                      edgecolor=style.ink(ax), lw=0.7, label=SIDES[side])  # fmt: skip
        for bar in np.array(bars, dtype=object)[folded]:
            bar.set_hatch("////")
    ticks = [
        f"{order}\n→{freq:.3g}" if fold else str(order)
        for (order, fold), freq in zip(table.index, table["freq"], strict=True)
    ]
    ax.set_xticks(x, ticks)
    handles = list(ax.get_legend_handles_labels()[0])
    if folded.any():
        handles.append(Patch(facecolor="none", edgecolor=style.ink(ax), hatch="////",
                             label=f"folded to → ({unit})"))  # fmt: skip
    ax.set_xlabel("harmonic (multiple of f0)")
    rms = f", RMS of {len(selected)} channels" if len(selected) > 1 else ""
    ax.set_ylabel(checks.label(f"amplitude{rms}", checks.unit("amplitude_out")))
    channel = f", channel {selected[0]}" if len(selected) == 1 else ""
    style.set_default_title(ax, checks.title(frame, site) + channel)
    style.legend(ax, handles)
    return ax


def frequencies(frame: pd.DataFrame, f0: ArrayLike | None, per_minute: bool) -> tuple[float, str]:
    """Factor for the frame's frequencies, and the unit of the product."""
    unit = unit_of(frame)
    if per_minute and unit != "Hz":
        raise ValueError(f"BPM needs frequencies in Hz, but the frame's are in {unit}")
    checks.fundamentals(f0)  # raises unless numeric
    if f0 is not None and unit not in ("Hz", "cycles/sample"):
        raise ValueError(
            f"f0 needs frequencies in Hz or cycles/sample, but the frame's are in {unit}"
        )
    return (60.0, "BPM") if per_minute else (1.0, unit)


def unit_of(frame: pd.DataFrame) -> str:
    """Unit of the frame's frequencies."""
    return checks.single_value(frame, "freq_unit", _SPECTRA)


def _set_title(ax: Axes, frame: pd.DataFrame, site: str, selected: list[int]) -> None:
    number = f", {len(selected)} channels" if len(selected) > _MAX_LINES else ""
    style.set_default_title(ax, checks.title(frame, site) + number)


def _value_column(frame: pd.DataFrame) -> str:
    for name in ("power", "density", "amplitude"):
        if name in frame:
            return name
    raise ValueError(f"the frame has no column 'power': expected one from {_SPECTRA}")


def _value_label(value: str, unit: str) -> str:
    words = {"power": "power per bin", "density": "power density"}.get(value, value)
    return checks.label(words, checks.unit(value, unit))


def _both_sides(
    ax: Axes, frame: pd.DataFrame, selected: list[int], value: str, scale: float
) -> list[Any]:
    """Plot both sides, as lines or quantiles; returns the handles of the legend."""
    draw = _lines if len(selected) <= _MAX_LINES else _bands
    plotted, before, earlier = [], style.lower_limit(ax), len(ax.lines)
    for side in SIDES:
        freq, values = checks.grid(frame, selected, side, value)
        values = np.where(values > 0, values, np.nan)  # a logarithmic axis has no 0
        plotted.append(values)
        draw(ax, side, freq * scale, values, selected)
        style.include_x(ax, freq * scale)
    ax.margins(x=0.02)
    style.log_scale_power(ax, before, *plotted)
    if draw is _bands:
        return [line for line in ax.lines[earlier:] if line.get_label() in _BAND_LABELS.values()]
    ink = style.ink(ax)
    sides = [Line2D([], [], color=ink, label=SIDES[side], **SIDE_LINES[side]) for side in SIDES]
    return [
        *(
            Line2D([], [], color=COLORS[number], marker=MARKERS[number], label=f"channel {channel}")
            for number, channel in enumerate(selected)
        ),
        *sides,
    ]


_BAND_LABELS = {side: f"{words}: median, 10–90 %" for side, words in SIDES.items()}


def _lines(ax: Axes, side: str, freq: Floats, values: Floats, selected: list[int]) -> None:
    for number, (line, channel) in enumerate(zip(values, selected, strict=True)):
        # About ten markers per line, shifted from channel to channel.
        every = max(1, len(freq) // 10)
        ax.plot(freq, line, color=COLORS[number], marker=MARKERS[number], ms=4,
                markevery=(number * every // _MAX_LINES, every), label=f"channel {channel}, {side}",
                **SIDE_LINES[side])  # fmt: skip


def _bands(ax: Axes, side: str, freq: Floats, values: Floats, selected: list[int]) -> None:
    known = values[np.isfinite(values).any(axis=1)]
    if not len(known):
        return
    with np.errstate(all="ignore"):
        # A bin without power counts as 0 instead of being ignored.
        low, middle, high = np.quantile(np.nan_to_num(known), _QUANTILES, axis=0)
    low = np.maximum(low, np.nanmin(known))
    ax.fill_between(freq, low, np.maximum(high, low), color=SIDE_COLORS[side], alpha=0.25, lw=0)
    ax.plot(freq, middle, color=SIDE_COLORS[side], label=_BAND_LABELS[side], **SIDE_LINES[side])


def _mark_harmonics(ax: Axes, f0: float, nyquist: float, name: str) -> list[Any]:
    """Mark the multiples of `f0` up to `nyquist`, with their numbers."""
    if not (math.isfinite(f0) and 0 < f0 <= nyquist):
        return []
    count = int(nyquist / f0 * (1 + 1e-9))
    step = math.ceil(count / _MAX_NUMBERED)
    ink, top = style.ink(ax), ax.get_xaxis_transform()
    numbers = [k for k in range(1, count + 1) if k == 1 or k % step == 0]
    marks = range(1, count + 1) if count <= _MAX_MARKED else numbers
    for k in marks:
        ax.axvline(k * f0, color=ink, lw=0.7, ls=":", alpha=0.8, zorder=0.5)
    for k in numbers:
        ax.annotate(str(k), (k * f0, 0), xycoords=top, xytext=(1.5, 1.5), color=ink,
                    textcoords="offset points", fontsize="x-small", clip_on=True)  # fmt: skip
    label = f"{checks.escape(name)} and its harmonics" if count > 1 else checks.escape(name)
    return [Line2D([], [], color=ink, lw=0.7, ls=":", label=label)]


def _median_f0(f0: ArrayLike) -> float:
    values = checks.fundamentals(f0)
    return float(np.median(values)) if len(values) else math.nan


def _decibels(power: Floats) -> Floats:
    power = np.where(power > 0, power, np.nan)
    if np.isnan(power).all():
        return power
    decibels: Floats = 10 * np.log10(power / np.nanmax(power))
    return decibels


def _ydata(line: Line2D) -> Floats:
    return np.asarray(line.get_ydata(), dtype=np.float64)
