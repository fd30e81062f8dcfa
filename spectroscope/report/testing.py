"""`assert_close`: a regression test of a report against a baseline."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.report.comparison import unmatched
from spectroscope.report.report import Report, load

_MAX_LINES = 10  # of each list in a message
_COLUMNS = ["dc_in", "dc_out", "ac_rms_in", "ac_rms_out", "active_fraction", "nonfinite",
            "nonfinite_out"]  # fmt: skip
_LABELS = {"site", "module", "function", "call", "kind", "channel"}


def assert_close(
    report: Report,
    baseline: Report | str | os.PathLike[str],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    effect: float | None = None,
    floor: float = 0.1,
    share: float | None = None,
    columns: Sequence[str] | None = None,
) -> None:
    """Raise unless all channels of a report are close to a baseline; for a test suite.

    A value may differ from the baseline's by `atol` + `rtol` times the baseline's value. NaN is
    close to NaN.

    Retrained or quantised models differ everywhere. For those give `effect`: only `dc_out` is
    compared, and may differ by `effect` times the greater of the baseline's `dc_out_std` and
    `floor` times the RMS of the layer's output over all its channels.

    Args:
        report: the report under test.
        baseline: the report to compare with, or the folder where :meth:`Report.save` wrote it.
        rtol: tolerance relative to the baseline's value.
        atol: tolerance in the unit of the column.
        effect: tolerance of `dc_out` in standard deviations over the baseline's inputs; None:
            `columns` are compared.
        floor: least standard deviation that counts, relative to the layer's RMS: the DC of some
            channels hardly varies between inputs.
        share: fraction of all channels that need not be close; None: 0.01 with `effect`, else 0.
        columns: of :meth:`Report.dc`; None: DC, AC and active fraction, and counts of values that
            aren't finite; with `effect`, `dc_out`.

    Raises:
        AssertionError: a value is not close, or a site is in one report only or differs in kind or
            number of channels. The message has a line for each such channel, the largest change
            first: in standard deviations with `effect`, otherwise in multiples of the tolerance.
        RequestError: the baseline cannot be read, a column does not exist or is not numeric, or a
            tolerance is negative, or `effect` is given with other columns than `dc_out`.
    """
    __tracebackhide__ = True  # pytest shows the caller instead
    expected = baseline if isinstance(baseline, Report) else load(baseline)
    if share is None:
        share = 0.0 if effect is None else 0.01
    if columns is None:
        columns = _COLUMNS if effect is None else ["dc_out"]
    names = [columns] if isinstance(columns, str) else list(columns)
    if effect is not None and names != ["dc_out"]:
        raise RequestError(f"effect compares dc_out, not columns={names}: leave one of them out")
    before, after = expected.dc(), report.dc()
    if unknown := [name for name in names if name not in set(before.columns) - _LABELS]:
        raise RequestError(f"columns={unknown} must be numeric columns of report.dc()")
    if not min(rtol, atol, effect or 0.0, floor, share) >= 0:
        raise RequestError(f"{rtol=}, {atol=}, {effect=}, {floor=} and {share=} must be 0 or more")
    if effect is not None:
        power = np.square(before[["dc_out", "dc_out_std", "ac_rms_out"]].astype(float)).sum(axis=1)
        rms = np.sqrt(power.groupby(before["site"]).transform("mean"))
        before["spread"] = np.maximum(before["dc_out_std"].astype(float), floor * rms)
    missing = unmatched(expected.sites(), report.sites(), "in the baseline", "in the report")
    table = before.merge(after, on=["site", "channel"], suffixes=("_baseline", "_report"))
    table = table[~table["site"].isin(missing["site"])].reset_index(drop=True)
    errors = pd.DataFrame(
        {name: _relative_error(table, name, rtol, atol, effect) for name in names},
        index=table.index,
    )
    worst = errors.max(axis=1)
    order = worst
    if effect is not None:  # what the lines say, without the part of rtol and atol
        change = (table["dc_out_report"] - table["dc_out_baseline"]).astype(float).abs()
        order = (change / table["spread"]).fillna(np.inf)
    failed = order[worst > 1].sort_values(ascending=False, kind="stable").index
    if missing.empty and len(failed) <= share * len(table):
        return
    channels = [_line(table.loc[row], errors.loc[row]) for row in failed]
    sites = [f"{site}: {why}" for site, why in missing.itertuples(index=False)]
    head = f"{len(failed)} of {len(table)} channels are not close to the baseline"
    limits = f"{rtol=}, {atol=}" if effect is None else f"{effect=}, {floor=}"
    raise AssertionError(
        "\n  ".join([f"{head} ({limits}, {share=})", *_first(sites), *_first(channels)])
    )


def _relative_error(
    table: pd.DataFrame, name: str, rtol: float, atol: float, effect: float | None
) -> pd.Series:
    """Differences of the column `name` over their tolerance: above 1 is not close."""
    actual, expected = (table[f"{name}_{of}"].astype(float) for of in ("report", "baseline"))
    tolerance = atol + rtol * expected.abs()
    if effect is not None:
        tolerance = tolerance + effect * table["spread"]
    difference = (actual - expected).abs()
    error = (difference / tolerance).mask(difference == 0, 0.0)  # the tolerance may be 0
    nan = actual.isna(), expected.isna()
    return error.mask(nan[0] & nan[1], 0.0).mask(nan[0] != nan[1], np.inf)


def _line(row: pd.Series, errors: pd.Series) -> str:
    # The DC first: it is what the following layers read.
    name, *others = sorted(errors[errors > 1].index, key=lambda n: (n != "dc_out", -errors[n]))
    actual, expected = row[f"{name}_report"], row[f"{name}_baseline"]
    line = f"{row['site']}, channel {row['channel']}: {name} {actual:.6g}, baseline {expected:.6g}"
    # What the lines are ordered by.
    if "spread" in row and row["spread"] > 0 and np.isfinite(actual):
        line += f" ({(actual - expected) / row['spread']:+.2g} standard deviations)"
    elif "spread" not in row and np.isfinite(errors.max()):
        line += f" ({errors.max():.2g} × the tolerance)"
    return line + (f"; also {', '.join(others)}" if others else "")


def _first(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LINES
    return lines if more <= 0 else [*lines[:_MAX_LINES], f"… and {more} more"]
