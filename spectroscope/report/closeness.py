"""`assert_close`: a test that the channels are what they were."""

import os

import numpy as np
import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.report.comparison import unmatched
from spectroscope.report.tables import Report, load

_MOST = 10  # lines of a message


def assert_close(
    report: Report,
    baseline: Report | str | os.PathLike[str],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    effect: float = 0.0,
    columns: tuple[str, ...] = ("dc_in", "dc_out", "ac_rms_in", "ac_rms_out", "active_fraction"),
) -> None:
    """Fail with the names of the channels that aren't as they were; for a test suite.

    A number may be off by `atol` + `rtol` times the baseline's, `dc_out` by `effect` times the
    baseline's `dc_out_std` more. NaN is close to NaN.

    Args:
        report: of now.
        baseline: of then, or the folder where :meth:`Report.save` has put it.
        rtol: share of the baseline's value.
        atol: in the unit of the column.
        effect: in standard deviations over the baseline's inputs, for retrained models.
        columns: of :meth:`Report.dc`.

    Raises:
        AssertionError: a number isn't close, or a site is in one of both only, or has other
            channels or is of another kind.
        RequestError: the baseline can't be read, or there is no such column.
    """
    __tracebackhide__ = True  # pytest: it failed where it was called
    then = baseline if isinstance(baseline, Report) else load(baseline)
    apart = unmatched(then.sites(), report.sites(), "in the baseline", "now")
    table = then.dc().merge(report.dc(), on=["site", "channel"], suffixes=("_then", "_now"))
    table = table[~table["site"].isin(apart["site"])].reset_index(drop=True)
    if unknown := [name for name in columns if f"{name}_now" not in table.select_dtypes("number")]:
        raise RequestError(f"columns={unknown} are no numbers of report.dc()")
    far = pd.DataFrame(
        {name: _far(table, name, rtol, atol, effect) for name in columns}, index=table.index
    )
    if apart.empty and not far.any(axis=None):
        return
    numbers = [
        _line(table.loc[row], name) for row, bad in far.iterrows() for name in columns if bad[name]
    ]
    sites = [f"{site}: {why}" for site, why in apart.itertuples(index=False)]
    head = f"{far.any(axis=1).sum()} of {len(far)} channels are not close to the baseline"
    raise AssertionError(
        "\n  ".join([f"{head} ({rtol=}, {atol=}, {effect=})", *_some(numbers), *_some(sites)])
    )


def _far(table: pd.DataFrame, name: str, rtol: float, atol: float, effect: float) -> pd.Series:
    now, then = table[f"{name}_now"], table[f"{name}_then"]
    allowed = atol + rtol * then.abs()
    if name == "dc_out":
        allowed = allowed + effect * table["dc_out_std_then"]
    close = ((now - then).abs() <= allowed) | (now.isna() & then.isna())
    return ~close


def _line(row: pd.Series, name: str) -> str:
    now, then, spread = row[f"{name}_now"], row[f"{name}_then"], row["dc_out_std_then"]
    line = f"{row['site']}, channel {row['channel']}: {name} {now:.6g}, baseline {then:.6g}"
    if name == "dc_out" and spread > 0 and np.isfinite(now):
        line += f" ({(now - then) / spread:+.2g} dc_out_std)"
    return line


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"… and {len(lines) - _MOST} more"]
