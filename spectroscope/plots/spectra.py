"""What stands over frequency in one picture: spectra of several filters, and their responses."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats
from spectroscope.plots.style import COLORS, MARKERS, SIDE_COLORS, SIDE_LINES, SIDES

_SPECTRA = "report.spectra(site)"
_KEY = ["channel", "side", "freq"]
_DENSITY = 'report.spectra(site, scaling="density")'
# More lines than of so many channels can't be told apart: their median and spread are drawn.
_LINES = 4
_SPREAD = (0.1, 0.5, 0.9)
# So many harmonics have a number, so many a mark.
_NUMBERED, _MARKED = 12, 24
_DECIBELS = 80  # further below the greatest is of no interest


def spectra(
    frame: pd.DataFrame,
    *,
    channels: int | Sequence[int] | None = None,
    f0: ArrayLike | None = None,
    f0_name: str = "f0",
    per_minute: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Power spectra on both sides of one rectifier.

    Of up to four channels a line each; of more the median over the channels and a band from the
    10 % to the 90 % quantile, each frequency for itself.

    Args:
        frame: `Report.spectra()` of one site, with any scaling.
        channels: which, one or several; None: all.
        f0: fundamental, in the unit of the frame's frequencies: one, or one for each input, of
            which the median counts. It and its harmonics up to the highest frequency are marked
            and numbered; those that fold are not.
        f0_name: what that is, for the legend.
        per_minute: show frequencies in BPM instead of Hz. Takes `freq_unit` Hz.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` isn't of one site or has no rows, there is no such channel, or `f0` or
            `per_minute` doesn't go with the frame's frequencies.
    """
    site = checks.one_site(frame, ["channel", "side", "freq", "freq_unit"], _SPECTRA)
    value = _value(frame)
    checks.once(frame, _KEY, _SPECTRA)
    shown = checks.chosen(frame, channels, site)
    scale, unit = frequencies(frame, f0, per_minute)
    ax = style.new(7, 4.2) if ax is None else ax
    handles = _both_sides(ax, frame, shown, value, scale)
    if f0 is not None:
        nyquist = scale * float(frame["freq"].max())
        handles += _harmonics(ax, scale * _median(f0), nyquist, f0_name)
    ax.set(xlabel=checks.label("frequency", unit), ylabel=_of_value(value, unit_of(frame)))
    _title(ax, site, shown)
    style.legend(ax, handles)
    return ax


def radial(
    frame: pd.DataFrame, *, channels: int | Sequence[int] | None = None, ax: Axes | None = None
) -> Axes:
    """Radial spectra of images on both sides of one rectifier, log–log, beside 1/f².

    1/f² is what natural images have. Channels as in :func:`spectra`.

    Args:
        frame: ``report.spectra(site, scaling="density")`` of one site.
        channels: which, one or several; None: all.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` is of another scaling or not of images, or as in :func:`spectra`.
    """
    site = checks.one_site(frame, ["channel", "side", "freq", "freq_unit", "density"], _DENSITY)
    unit = checks.only(frame, "freq_unit", _DENSITY)
    if not unit.startswith("cycles/pixel"):
        raise ValueError(f"{site} has frequencies in {unit}: radial spectra are of images")
    checks.once(frame, _KEY, _DENSITY)
    shown = checks.chosen(frame, channels, site)
    ax = style.new(6.4, 4.8) if ax is None else ax
    rings = frame[frame["freq"] > 0]  # DC has no place on a logarithmic axis
    ax.set_xscale("log")
    freq, density = checks.grid(rings, shown, "in", "density")
    density = np.where(density > 0, density, np.nan)
    reference: list[Any] = []
    if np.isfinite(density).any():
        level = np.nanmean(np.log(density) + 2 * np.log(freq))  # the best line of that slope
        reference = ax.plot(freq, np.exp(level) / freq**2, color=style.ink(ax), lw=1, ls="-.",
                            label="∝ 1/frequency²")  # fmt: skip
    handles = _both_sides(ax, rings, shown, "density", 1.0) + reference
    ax.set(xlabel=checks.label("radial frequency", unit), ylabel=_of_value("density", unit))
    _title(ax, site, shown)
    style.legend(ax, handles)
    return ax


def filter_response(
    response: pd.DataFrame, spectra: pd.DataFrame, *, channel: int, ax: Axes | None = None
) -> Axes:
    """What a filter lets through beside what is in the activation that it makes, in dB.

    Args:
        response: :func:`spectroscope.filter_response`'s; of several input channels the RMS gain.
        spectra: `Report.spectra()` of the site behind the filter; of images with
            ``scaling="density"``: power is summed over rings, of which the gain is a mean.
        channel: which.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes. Each line is relative to its own maximum; what is further below than 80 dB is
        out of view.

    Raises:
        ValueError: the frames' frequencies are in different units, of images `spectra` has no
            density, or as in :func:`spectra`.
    """
    maker = "spectroscope.filter_response(layer, fs=…)"
    checks.check(response, ["channel", "in_channel", "freq", "freq_unit", "gain"], maker)
    checks.one_site(spectra, ["freq_unit"], _SPECTRA)
    units = [checks.only(response, "freq_unit", maker), unit_of(spectra)]
    images = units[1].startswith("cycles/pixel")
    value = "density" if images or "density" in spectra else "power"
    wanted = _DENSITY if images else _SPECTRA
    site = checks.one_site(spectra, ["channel", "side", "freq", value], wanted)
    if units[0] != units[1]:
        raise ValueError(
            f"the response is in {units[0]} and the spectra in {units[1]}: the same is wanted, "
            "by fs=… of filter_response"
        )
    checks.once(response, ["channel", "in_channel", "freq"], maker)
    checks.once(spectra, _KEY, wanted)
    checks.chosen(response, [channel], "the response")
    checks.chosen(spectra, [channel], site)
    ax = style.new(7, 4.2) if ax is None else ax
    before = style.lowest(ax)
    gain = response[response["channel"] == channel].groupby("freq")["gain"]
    squares = gain.apply(lambda some: float(np.mean(np.square(some))))
    lines = [ax.plot(squares.index, _decibels(squares.to_numpy()), color=style.ink(ax), lw=1.2,
                     ls="-.", label="filter's gain")[0]]  # fmt: skip
    for side, words in SIDES.items():
        freq, power = checks.grid(spectra, [channel], side, value)
        lines += ax.plot(freq, _decibels(power[0]), color=SIDE_COLORS[side], label=words,
                         **SIDE_LINES[side])  # fmt: skip
        style.across(ax, freq)
    low = min((np.nanmin(y) for line in lines if np.isfinite(y := _ydata(line)).any()), default=0)
    ax.set_ylim(min(max(low, -_DECIBELS) - 2, before), 2)
    ax.set(xlabel=checks.label("frequency", units[0]), ylabel="relative to its maximum (dB)")
    style.titled(ax, f"{checks.short([site])[0]}, channel {channel}")
    style.legend(ax, lines)
    return ax


def frequencies(frame: pd.DataFrame, f0: ArrayLike | None, per_minute: bool) -> tuple[float, str]:
    """What the frame's frequencies are to be multiplied by, and the unit they have then."""
    unit = unit_of(frame)
    if per_minute and unit != "Hz":
        raise ValueError(f"BPM needs frequencies in Hz, and these are in {unit}")
    checks.fundamentals(f0)  # which must be numbers
    if f0 is not None and unit not in ("Hz", "cycles/sample"):
        raise ValueError(f"f0 needs frequencies in Hz or cycles/sample, and these are in {unit}")
    return (60.0, "BPM") if per_minute else (1.0, unit)


def unit_of(frame: pd.DataFrame) -> str:
    """Unit of the frame's frequencies."""
    return checks.only(frame, "freq_unit", _SPECTRA)


def _title(ax: Axes, site: str, shown: list[int]) -> None:
    many = f", {len(shown)} channels" if len(shown) > _LINES else ""
    style.titled(ax, checks.short([site])[0] + many)


def _value(frame: pd.DataFrame) -> str:
    for name in ("power", "density", "amplitude"):
        if name in frame:
            return name
    raise ValueError(f"the frame has no column 'power': one of {_SPECTRA} is wanted")


def _of_value(value: str, unit: str) -> str:
    words = {"power": "power per bin", "density": "power density"}.get(value, value)
    return checks.label(words, checks.unit(value, unit))


def _both_sides(
    ax: Axes, frame: pd.DataFrame, shown: list[int], value: str, scale: float
) -> list[Any]:
    """Draw both sides, lines or bands; what is to be in the legend."""
    draw = _lines if len(shown) <= _LINES else _bands
    everything, before, others = [], style.lowest(ax), len(ax.lines)
    for side in SIDES:
        freq, values = checks.grid(frame, shown, side, value)
        values = np.where(values > 0, values, np.nan)  # a dead channel has no place on a log axis
        everything.append(values)
        draw(ax, side, freq * scale, values, shown)
        style.across(ax, freq * scale)
    ax.margins(x=0.02)
    style.log_power(ax, before, *everything)
    if draw is _bands:
        return [line for line in ax.lines[others:] if line.get_label() in _OF_MANY.values()]
    ink = style.ink(ax)
    sides = [Line2D([], [], color=ink, label=SIDES[side], **SIDE_LINES[side]) for side in SIDES]
    return [
        *(
            Line2D([], [], color=COLORS[number], marker=MARKERS[number], label=f"channel {channel}")
            for number, channel in enumerate(shown)
        ),
        *sides,
    ]


_OF_MANY = {side: f"{words}: median, 10–90 %" for side, words in SIDES.items()}


def _lines(ax: Axes, side: str, freq: Floats, values: Floats, shown: list[int]) -> None:
    for number, (line, channel) in enumerate(zip(values, shown, strict=True)):
        # A marker now and then, each channel's at another place.
        every = max(1, len(freq) // 10)
        ax.plot(freq, line, color=COLORS[number], marker=MARKERS[number], ms=4,
                markevery=(number * every // _LINES, every), label=f"channel {channel}, {side}",
                **SIDE_LINES[side])  # fmt: skip


def _bands(ax: Axes, side: str, freq: Floats, values: Floats, shown: list[int]) -> None:
    seen = values[np.isfinite(values).any(axis=1)]
    if not len(seen):
        return
    with np.errstate(all="ignore"):
        # Where a channel has no power it counts as the least, and isn't left out.
        low, middle, high = np.quantile(np.nan_to_num(seen), _SPREAD, axis=0)
    low = np.maximum(low, np.nanmin(seen))
    ax.fill_between(freq, low, np.maximum(high, low), color=SIDE_COLORS[side], alpha=0.25, lw=0)
    ax.plot(freq, middle, color=SIDE_COLORS[side], label=_OF_MANY[side], **SIDE_LINES[side])


def _harmonics(ax: Axes, f0: float, nyquist: float, name: str) -> list[Any]:
    """Mark the multiples of `f0` up to `nyquist`, with their numbers."""
    if not (math.isfinite(f0) and 0 < f0 <= nyquist):
        return []
    count = int(nyquist / f0 * (1 + 1e-9))
    step = math.ceil(count / _NUMBERED)
    ink, top = style.ink(ax), ax.get_xaxis_transform()
    numbers = [k for k in range(1, count + 1) if k == 1 or k % step == 0]
    marks = range(1, count + 1) if count <= _MARKED else numbers
    for k in marks:
        ax.axvline(k * f0, color=ink, lw=0.7, ls=":", alpha=0.8, zorder=0.5)
    # Of a fundamental that is all but DC the numbers would stand on each other.
    for k in numbers:
        ax.annotate(str(k), (k * f0, 0), xycoords=top, xytext=(1.5, 1.5), color=ink,
                    textcoords="offset points", fontsize="x-small", clip_on=True)  # fmt: skip
    label = f"{checks.escaped(name)} and its harmonics" if count > 1 else checks.escaped(name)
    return [Line2D([], [], color=ink, lw=0.7, ls=":", label=label)]


def _median(f0: ArrayLike) -> float:
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
