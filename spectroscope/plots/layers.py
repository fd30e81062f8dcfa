"""What becomes of the sites, one below the other as the data flows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from spectroscope.plots import checks, style
from spectroscope.plots.style import COLORS, MARKERS
from spectroscope.schema import METRICS

_FAR_ABOVE = 10.0  # of a fraction: on a linear axis 1 would be less than a tenth of it

# As operations say them, and as people do.
_OPERATIONS = {
    "remove_dc": "DC removed",
    "mean_dc": "DC the same for all inputs",
    "only_dc": "only the DC left",
}


def dc(frame: pd.DataFrame, *, column: str = "dc_out", ax: Axes | None = None) -> Axes:
    """DC, or another column, of every channel of every site: a row for each site, from above.

    Of one site: over its channels, with the standard deviation over inputs as bars. Where typical
    values are decades apart the axis is logarithmic, and linear around 0.

    Args:
        frame: `Report.dc()`.
        column: which.
        ax: where to draw; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows, not that column, or no numbers in it.
    """
    checks.check(frame, ["site", "channel", column], "report.dc()")
    values = checks.numbers(frame, column)
    sites = list(frame["site"].unique())
    words = checks.label(column, checks.unit(column))
    if len(sites) == 1:
        return _of_channels(frame, column, words, ax)
    ax = style.new_rows(sites) if ax is None else ax
    place = frame["site"].map({site: row for row, site in enumerate(sites)}).to_numpy(np.float64)
    spread = 0.6 * style.jitter(frame["channel"].to_numpy(np.int64))
    crowded = len(frame) > 100 * len(sites)
    ax.plot(values, place + spread, ls="", marker="o", ms=2 if crowded else 3, mew=0,
            alpha=0.5 if crowded else 0.7, color=COLORS[0], rasterized=True,
            label="a channel")  # fmt: skip
    medians = frame.groupby("site", sort=False, observed=True)[column].median().reindex(sites)
    ax.plot(medians, range(len(sites)), ls="", marker="D", ms=5, color=COLORS[1],
            mec=style.ink(ax), mew=0.7, label="median of the channels")  # fmt: skip
    style.decades(ax, values)
    ax.set_xlabel(words)
    style.rows(ax, sites)
    style.legend(ax)
    return ax


def depth(
    frame: pd.DataFrame,
    *,
    columns: str | Sequence[str] = ("dc_fraction", "active_fraction", "introduced_fraction"),
    ax: Axes | None = None,
) -> Axes:
    """How some figures go through the depth of the network: a row for each site, from above.

    Where a fraction is far above 1, as that introduced may be, the axis is logarithmic from 1 on.

    Args:
        frame: `Report.sites()`.
        columns: which, one or several, all of one unit.
        ax: where to draw; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows or not those columns, they have no numbers or their units
            differ, or there are several rows of a site.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    if not columns:
        raise ValueError("columns is empty: name one or more, such as 'dc_fraction'")
    checks.check(frame, ["site", *columns], "report.sites()")
    if "channel" in frame:
        raise ValueError("the frame has a row for each channel: report.sites() is wanted")
    checks.once(frame, ["site"], "report.sites()")
    values = [checks.numbers(frame, column) for column in columns]
    units = {checks.unit(column) for column in columns}
    if len(units) != 1:
        raise ValueError(f"columns must be of one unit, not of {sorted(units)}: {columns}")
    sites = list(frame["site"])
    ax = style.new_rows(sites) if ax is None else ax
    for number, (column, figures) in enumerate(zip(columns, values, strict=True)):
        ax.plot(figures, range(len(sites)), lw=1, ms=4.5,
                color=COLORS[number % len(COLORS)], marker=MARKERS[number % len(MARKERS)],
                ls=("-", "--", "-.", ":")[number % 4], label=checks.escaped(column))  # fmt: skip
    fractions = all(column.endswith("_fraction") for column in columns)
    words = columns[0] if len(columns) == 1 else "fraction" if fractions else "value"
    if fractions:
        _beyond_one(ax, np.concatenate(values))
    ax.set_xlabel(checks.label(words, *units))
    style.rows(ax, sites)
    style.legend(ax)
    return ax


def predictions(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Measured against predicted DC, a point a channel; on the line they are the same.

    Args:
        frame: `Report.predictions()`.
        ax: where to draw; None: a new figure.

    Returns:
        The Axes. Where typical values are decades apart both axes are logarithmic, and linear
        around 0.

    Raises:
        ValueError: `frame` has no rows, or lacks columns.
    """
    columns = ["site", "assumption", "dc_out", "dc_predicted"]
    checks.check(frame, columns, "report.predictions()")
    ax = style.new(6.4, 5.6) if ax is None else ax
    both = frame[["dc_predicted", "dc_out"]].to_numpy(np.float64)
    crowded = len(frame) > 1000
    for number, assumption in enumerate(frame["assumption"].unique()):
        some = both[(frame["assumption"] == assumption).to_numpy()]
        ax.plot(*some.T, ls="", marker=MARKERS[number % len(MARKERS)], ms=3.5 if crowded else 4.5,
                mfc="none", mew=0.8, alpha=0.6 if crowded else 0.8, rasterized=True,
                color=COLORS[number % len(COLORS)],
                label=checks.escaped(str(assumption)))  # fmt: skip
    style.decades(ax, both, "xy")
    finite = both[np.isfinite(both)]
    if len(finite):
        ends = [min(finite.min(), 0.0), finite.max()]
        ax.plot(ends, ends, color=style.ink(ax), lw=1, ls="--", label="measured = predicted")
    ax.set_xlabel(checks.label("predicted DC, dc_predicted", checks.unit("dc_predicted")))
    ax.set_ylabel(checks.label("measured DC, dc_out", checks.unit("dc_out")))
    _titled(ax, frame)
    style.legend(ax)
    return ax


def aliasing(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """How much of each site's output the next downsampling folds or removes.

    A row for each site in the order of the frame, `Report.aliasing()`'s the worst first: the
    median over the channels, and a bar from the least to the greatest. Global pooling, of which
    the DC alone is left and nothing folds, stands apart, below.

    Args:
        frame: `Report.aliasing()`.
        ax: where to draw; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows, or lacks columns.
    """
    value = "above_next_nyquist"
    checks.check(frame, ["site", value, "global_pooling"], "report.aliasing()")
    pooled = frame.groupby("site", sort=False, observed=True)["global_pooling"].any()
    spread = frame.groupby("site", sort=False, observed=True)[value]
    spread = spread.agg(["min", "median", "max"]).astype(np.float64)
    order = [*pooled.index[~pooled], *pooled.index[pooled]]
    ax = style.new_rows(order) if ax is None else ax
    what = "median and range of the channels"
    same = what if pooled.all() else "the same"
    for here, number, label, face in (
        (~pooled, 0, what, COLORS[0]),
        (pooled, 1, f"{same}, removed by global pooling", "none"),
    ):
        sites = [site for site in order if here[site]]
        if not sites:
            continue
        low, middle, high = spread.loc[sites].to_numpy().T
        place = [order.index(site) for site in sites]
        ax.errorbar(middle, place, xerr=[middle - low, high - middle], ls="", lw=1, ms=5,
                    marker=MARKERS[number], color=COLORS[number], mfc=face,
                    label=label)  # fmt: skip
    style.rows(ax, order)
    if pooled.any() and not pooled.all():
        ax.axhline((~pooled).sum() - 0.5, color=style.ink(ax), lw=0.8, ls=":")
    ax.set_xlim(left=0, auto=None)
    unit = checks.unit(value)
    ax.set_xlabel(checks.label("part of the output's power above the next Nyquist frequency", unit))
    style.legend(ax)
    return ax


def importance(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What becomes of a model's outputs when one ReLU is changed: a row for each, from above.

    Args:
        frame: :func:`spectroscope.importance`'s; the unit is that of
            its `metric`, which those of the user's own have in their names.
        ax: where to draw; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows or lacks columns, or is of several metrics.
    """
    maker = "spectroscope.importance(model, batches, metric)"
    columns = ["site", "operation", "metric", "baseline", "value", "change", "change_low"]
    checks.check(frame, [*columns, "change_high"], maker)
    metric = checks.only(frame, "metric", maker)
    sites, operations = list(frame["site"].unique()), list(frame["operation"].unique())
    ax = style.new_rows(sites) if ax is None else ax
    row_of = {site: row for row, site in enumerate(sites)}
    ax.axvline(frame["baseline"].mean(), color=style.ink(ax), ls="--", lw=1,
               label="nothing changed")  # fmt: skip
    for number, operation in enumerate(operations):
        some = frame[frame["operation"] == operation]
        place = some["site"].map(row_of).to_numpy(np.float64)
        place = place + 0.6 * ((number + 0.5) / len(operations) - 0.5)
        ends = some[["change_low", "change_high"]].sub(some["change"], axis=0).abs().T
        ax.errorbar(some["value"], place, xerr=ends.fillna(0).to_numpy(), ms=4, lw=1, ls="",
                    color=COLORS[number % len(COLORS)], marker=MARKERS[number % len(MARKERS)],
                    label=checks.escaped(_OPERATIONS.get(operation, str(operation))))  # fmt: skip
    unit = METRICS[metric].unit if metric in METRICS else ""  # of others their name has it
    ax.set_xlabel(checks.label(metric, unit))
    style.rows(ax, sites)
    style.legend(ax)
    return ax


def _of_channels(frame: pd.DataFrame, column: str, words: str, ax: Axes | None) -> Axes:
    """One site: `column` over the channels."""
    some = frame.sort_values("channel")
    many = len(some) > 100
    ax = style.new(10 if many else 7, 4.2) if ax is None else ax
    values, channel = some[column].to_numpy(np.float64), some["channel"].to_numpy()
    dots: dict[str, Any] = {"ls": "", "marker": "o", "ms": 2.5 if many else 4.5}
    if column == "dc_out" and "dc_out_std" in frame:
        deviation = some["dc_out_std"].to_numpy(np.float64)
        ax.errorbar(channel, values, yerr=deviation, color=COLORS[0], lw=0.5 if many else 1,
                    rasterized=len(some) > 1000, label="mean ± standard deviation over the inputs",
                    **dots)  # fmt: skip
        style.legend(ax)
    else:
        ax.plot(channel, values, color=COLORS[0], **dots)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set(xlabel="channel", ylabel=words)
    _titled(ax, frame)
    return ax


def _beyond_one(ax: Axes, fractions: NDArray[np.float64]) -> None:
    """Linear up to 1, and decades beyond, where fractions are so great that 1 would be nothing."""
    greatest = fractions[np.isfinite(fractions)].max(initial=0.0)
    if greatest > _FAR_ABOVE:
        decades = math.ceil(math.log10(greatest))
        ax.set_xscale("symlog", linthresh=1, linscale=decades)  # as much room below 1 as above
        powers = range(0, decades + 1, math.ceil(decades / 4))
        marks = {0.0: "0", 0.5: "0.5"} | {10.0**p: f"$10^{{{p}}}$" if p > 3 else f"{10**p}"
                                          for p in powers}  # fmt: skip
        ax.set_xticks(list(marks), list(marks.values()))
        ax.set_xticks([], minor=True)
        ax.autoscale_view(scaley=False)
        ax.set_xlim(left=min(-0.03, ax.get_xlim()[0]), auto=None)


def _titled(ax: Axes, frame: pd.DataFrame) -> None:
    sites = frame["site"].unique()
    title = checks.short(sites)[0] if len(sites) == 1 else f"{len(sites)} sites"
    style.titled(ax, title)
