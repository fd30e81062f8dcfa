"""One row per site, in the order of the data flow: DC, depth profiles, aliasing, importance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from spectroscope.plots import checks, style
from spectroscope.plots.style import MARKERS

# Labels of operations.
_OPERATIONS = {
    "remove_dc": "DC removed",
    "mean_dc": "DC replaced by its mean",
    "only_dc": "only DC kept",
}


def dc(frame: pd.DataFrame, *, column: str = "dc_out", ax: Axes | None = None) -> Axes:
    """DC, or another column, of every channel: one row per site from the top.

    A frame of one site is plotted over its channels, with the standard deviation over inputs as
    error bars. If typical values span decades, the axis is symmetric-logarithmic.

    Args:
        frame: `Report.dc()`.
        column: the column to plot.
        ax: Axes to plot on; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows or no such column, or the column is not numeric.
    """
    checks.check(frame, ["site", "channel", column], "report.dc()")
    values = checks.numbers(frame, column)
    sites = list(frame["site"].unique())
    words = checks.label(column, checks.unit(column))
    if len(sites) == 1:
        return _over_channels(frame, column, words, ax)
    ax = style.new_axes_for_rows(checks.titles(frame, sites)) if ax is None else ax
    row = frame["site"].map({site: row for row, site in enumerate(sites)}).to_numpy(np.float64)
    offset = 0.6 * style.jitter(frame["channel"].to_numpy(np.int64))
    crowded = len(frame) > 100 * len(sites)
    ax.plot(values, row + offset, ls="", marker="o", ms=2 if crowded else 3, mew=0,
            alpha=0.5 if crowded else 0.7, color=style.color(0), rasterized=True,
            label="one channel")  # fmt: skip
    medians = frame.groupby("site", sort=False, observed=True)[column].median().reindex(sites)
    ax.plot(medians, range(len(sites)), ls="", marker="D", ms=5, color=style.color(1),
            mec=style.ink(ax), mew=0.7, label="median over channels")  # fmt: skip
    style.symlog_if_wide(ax, values)
    ax.set_xlabel(words)
    style.label_rows(ax, checks.titles(frame, sites))
    style.legend(ax)
    return ax


def depth(
    frame: pd.DataFrame,
    *,
    columns: str | Sequence[str] = ("dc_fraction", "active_fraction", "introduced_fraction"),
    ax: Axes | None = None,
) -> Axes:
    """Depth profile of one or more columns: one row per site from the top.

    Args:
        frame: `Report.sites()`.
        columns: one or more columns of the same unit.
        ax: Axes to plot on; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows, lacks a column or has several rows of a site, or the
            columns are not numeric or differ in unit.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    if not columns:
        raise ValueError("columns is empty: give at least one, such as 'dc_fraction'")
    checks.check(frame, ["site", *columns], "report.sites()")
    if "channel" in frame:
        raise ValueError("the frame has one row per channel: expected report.sites()")
    checks.check_unique(frame, ["site"], "report.sites()")
    values = [checks.numbers(frame, column) for column in columns]
    units = {checks.unit(column) for column in columns}
    if len(units) != 1:
        raise ValueError(f"{columns=} must have the same unit, not {sorted(units)}")
    sites = list(frame["site"])
    ax = style.new_axes_for_rows(checks.titles(frame, sites)) if ax is None else ax
    for number, (column, profile) in enumerate(zip(columns, values, strict=True)):
        ax.plot(profile, range(len(sites)), lw=1, ms=4.5,
                color=style.color(number), marker=MARKERS[number % len(MARKERS)],
                ls=("-", "--", "-.", ":")[number % 4], label=checks.escape(column))  # fmt: skip
    fractions = all(column.endswith("_fraction") for column in columns)
    words = columns[0] if len(columns) == 1 else "fraction" if fractions else "value"
    ax.set_xlabel(checks.label(words, *units))
    style.label_rows(ax, checks.titles(frame, sites))
    style.legend(ax)
    return ax


def predictions(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Measured against predicted DC, one point per channel, with the line of equality.

    Args:
        frame: `Report.predictions()`.
        ax: Axes to plot on; None: a new figure.

    Returns:
        The Axes. If typical values span decades, both axes are symmetric-logarithmic.

    Raises:
        ValueError: `frame` has no rows or lacks a column.
    """
    columns = ["site", "assumption", "dc_out", "dc_predicted"]
    checks.check(frame, columns, "report.predictions()")
    ax = style.new_axes(6.4, 5.6) if ax is None else ax
    both = frame[["dc_predicted", "dc_out"]].to_numpy(np.float64)
    crowded = len(frame) > 1000
    for number, assumption in enumerate(frame["assumption"].unique()):
        points = both[(frame["assumption"] == assumption).to_numpy()]
        ax.plot(*points.T, ls="", marker=MARKERS[number % len(MARKERS)], ms=3.5 if crowded else 4.5,
                mfc="none", mew=0.8, alpha=0.6 if crowded else 0.8, rasterized=True,
                color=style.color(number),
                label=checks.escape(str(assumption)))  # fmt: skip
    style.symlog_if_wide(ax, both, "xy")
    finite = both[np.isfinite(both)]
    if len(finite):
        ends = [min(finite.min(), 0.0), finite.max()]
        ax.plot(ends, ends, color=style.ink(ax), lw=1, ls="--", label="measured = predicted")
    ax.set_xlabel(checks.label("predicted DC, dc_predicted", checks.unit("dc_predicted")))
    ax.set_ylabel(checks.label("measured DC, dc_out", checks.unit("dc_out")))
    _set_title(ax, frame)
    style.legend(ax)
    return ax


def aliasing(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Fraction of each site's output power that the next downsampling folds or removes.

    One row per site, from the top: sites directly before a stride or pooling, then those with other
    activations in between, then those before global pooling, where nothing folds. In each group the
    order is that of the frame: of `Report.aliasing()`, by the greatest power above the limit that a
    channel has, which is written at the right.

    Args:
        frame: `Report.aliasing()`.
        ax: Axes to plot on; None: a new figure, as tall as the sites need.

    Returns:
        The Axes, with the median and range over the channels.

    Raises:
        ValueError: `frame` has no rows or lacks a column.
    """
    columns = ["site", "above_next_nyquist", "power_above", "activations_between", "global_pooling"]
    checks.check(frame, columns, "report.aliasing()")
    by_site = frame.groupby("site", sort=False, observed=True)
    spread = by_site["above_next_nyquist"].agg(["min", "median", "max"]).astype(np.float64)
    pooled, direct = by_site["global_pooling"].any(), by_site["activations_between"].min() == 0
    groups = {
        "directly before a stride or pooling": direct & ~pooled,
        "other activations in between": ~direct & ~pooled,
        "before global pooling: nothing folds": pooled,
    }
    order = [site for group in groups.values() for site in group.index[group]]
    names = checks.titles(frame, order)
    ax = style.new_axes_for_rows(names) if ax is None else ax
    first = 0
    for number, (label, group) in enumerate(groups.items()):
        low, middle, high = spread[group].to_numpy().T
        rows = np.arange(first, first + len(middle))
        if not len(rows):
            continue
        if first:
            ax.axhline(first - 0.5, color=style.ink(ax), lw=0.8, ls=":")
        ax.errorbar(middle, rows, xerr=[middle - low, high - middle], ls="", lw=1, ms=5,
                    marker=MARKERS[number], color=style.color(number), label=label,
                    mfc="none" if number == 2 else style.color(number))  # fmt: skip
        first += len(rows)
    style.label_rows(ax, names)
    powers = by_site["power_above"].max().loc[order]
    right = ax.secondary_yaxis("right")
    right.set_yticks(ax.get_yticks(), [f"{powers.iloc[int(row)]:.2g}" for row in ax.get_yticks()])
    right.tick_params(length=0)
    ax.set_xlim(left=0, auto=None)
    unit = checks.unit("power_above")
    ax.set_xlabel(
        "fraction of output power above the next Nyquist frequency\n"
        f"(median and range of channels; right: greatest in {unit})"
    )
    style.legend(ax)
    return ax


def importance(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Metric of a model with one activation changed: one row per site from the top.

    Args:
        frame: :func:`spectroscope.importance`, whose argument `unit` gives the unit of a metric of
            your own.
        ax: Axes to plot on; None: a new figure, as tall as the sites need.

    Returns:
        The Axes.

    Raises:
        ValueError: `frame` has no rows, lacks a column or has several metrics.
    """
    source = "spectroscope.importance(model, batches, metric)"
    columns = ["site", "operation", "metric", "unit", "baseline", "value", "change", "change_low"]
    checks.check(frame, [*columns, "change_high"], source)
    metric = checks.single_value(frame, "metric", source)
    sites, operations = list(frame["site"].unique()), list(frame["operation"].unique())
    ax = style.new_axes_for_rows(checks.titles(frame, sites)) if ax is None else ax
    row_of = {site: row for row, site in enumerate(sites)}
    ax.axvline(frame["baseline"].mean(), color=style.ink(ax), ls="--", lw=1,
               label="unchanged model")  # fmt: skip
    for number, operation in enumerate(operations):
        changed = frame[frame["operation"] == operation]
        rows = changed["site"].map(row_of).to_numpy(np.float64)
        rows = rows + 0.6 * ((number + 0.5) / len(operations) - 0.5)
        ends = changed[["change_low", "change_high"]].sub(changed["change"], axis=0).abs().T
        ax.errorbar(changed["value"], rows, xerr=ends.fillna(0).to_numpy(), ms=4, lw=1, ls="",
                    color=style.color(number), marker=MARKERS[number % len(MARKERS)],
                    label=checks.escape(_OPERATIONS.get(operation, str(operation))))  # fmt: skip
    if ax.get_xscale() == "linear":
        ax.locator_params(axis="x", nbins=5)  # small changes have ticks with many digits
    ax.set_xlabel(checks.label(metric, checks.single_value(frame, "unit", source)))
    style.label_rows(ax, checks.titles(frame, sites))
    style.legend(ax)
    return ax


def _over_channels(frame: pd.DataFrame, column: str, words: str, ax: Axes | None) -> Axes:
    """`column` of one site over its channels."""
    rows = frame.sort_values("channel")
    many = len(rows) > 100
    ax = style.new_axes(10 if many else 7, 4.2) if ax is None else ax
    values, channel = rows[column].to_numpy(np.float64), rows["channel"].to_numpy()
    dots: dict[str, Any] = {"ls": "", "marker": "o", "ms": 2.5 if many else 4.5}
    if column == "dc_out" and "dc_out_std" in frame:
        deviation = rows["dc_out_std"].to_numpy(np.float64)
        ax.errorbar(channel, values, yerr=deviation, color=style.color(0), lw=0.5 if many else 1,
                    rasterized=len(rows) > 1000, label="mean ± standard deviation over inputs",
                    **dots)  # fmt: skip
        style.legend(ax)
    else:
        ax.plot(channel, values, color=style.color(0), **dots)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set(xlabel="channel", ylabel=words)
    _set_title(ax, frame)
    return ax


def _set_title(ax: Axes, frame: pd.DataFrame) -> None:
    sites = frame["site"].unique()
    title = checks.title(frame, sites[0]) if len(sites) == 1 else f"{len(sites)} sites"
    style.set_default_title(ax, title)
