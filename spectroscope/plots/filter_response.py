"""Gain of a filter beside the spectra behind it."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spectroscope.plots import checks, style
from spectroscope.plots.checks import Floats, Names, Unit
from spectroscope.plots.spectra import DENSITY, KEY, SPECTRA, channel_labels, unit_of
from spectroscope.schema import SIDES

_DYNAMIC_RANGE = 80  # dB


def filter_response(
    response: pd.DataFrame,
    spectra: pd.DataFrame,
    *,
    channel: int,
    unit: Unit = None,
    names: Names = None,
    ax: Axes | None = None,
) -> Axes:
    """Gain of a filter and spectra of the activation behind it, in dB.

    Args:
        response: :func:`spectroscope.filter_response`; the RMS gain over its input channels is
            plotted.
        spectra: `Report.spectra()` of the site behind the filter. For images with
            ``scaling="density"``, because power is a sum over a radial bin and the gain a mean.
        channel: the channel to plot.
        unit: as in :func:`spectra`.
        names: of channels, as in :func:`spectra`.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes. Each line is relative to its own maximum; 80 dB are in view.

    Raises:
        ValueError: the frames differ in the unit of their frequencies, `spectra` of images has no
            density, or as for :func:`spectra`.
    """
    source = "spectroscope.filter_response(layer, fs=…)"
    checks.check(response, ["channel", "in_channel", "freq", "freq_unit", "gain"], source)
    checks.check_site(spectra, ["freq_unit"], SPECTRA)
    units = [checks.single_value(response, "freq_unit", source), unit_of(spectra)]
    images = units[1].startswith("cycles/pixel")
    value = "density" if images or "density" in spectra else "power"
    expected = DENSITY if images else SPECTRA
    site = checks.check_site(spectra, ["channel", "side", "freq", value], expected)
    if units[0] != units[1]:
        raise ValueError(
            f"the response is in {units[0]} and the spectra are in {units[1]}: "
            "call filter_response with fs=… of the report"
        )
    checks.check_unique(response, ["channel", "in_channel", "freq"], source)
    checks.check_unique(spectra, KEY, expected)
    checks.select_channels(response, [channel], "the response")
    checks.select_channels(spectra, [channel], site)
    scale, shown = checks.frequencies(spectra, None, unit)
    ax = style.new_axes(7, 4.2) if ax is None else ax
    before = style.lower_limit(ax)
    gain = response[response["channel"] == channel].groupby("freq")["gain"]
    squares = gain.apply(lambda values: float(np.mean(np.square(values))))
    gains = _decibels(squares.to_numpy())
    lines = ax.plot(scale * squares.index, gains, color=style.ink(ax), ls="-.", label="filter gain")
    for side, words in SIDES.items():
        freq, power = checks.grid(spectra, [channel], side, value)
        lines += ax.plot(scale * freq, _decibels(power[0]), label=words, **style.side_line(side))
        style.include_x(ax, scale * freq)
    low = min((np.nanmin(y) for line in lines if np.isfinite(y := _ydata(line)).any()), default=0)
    ax.set_ylim(min(max(low, -_DYNAMIC_RANGE) - 2, before), 2)
    ax.set(xlabel=checks.label("frequency", shown), ylabel="relative to the maximum (dB)")
    name = channel_labels(spectra, [channel], value, names)[channel]
    title = f"{checks.title(spectra, site)}, {name}"
    style.set_default_title(ax, title)
    style.legend(ax, lines)
    return ax


def _decibels(power: Floats) -> Floats:
    power = np.where(power > 0, power, np.nan)
    if np.isnan(power).all():
        return power
    decibels: Floats = 10 * np.log10(power / np.nanmax(power))
    return decibels


def _ydata(line: Line2D) -> Floats:
    return np.asarray(line.get_ydata(), dtype=np.float64)
