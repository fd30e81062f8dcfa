"""`assert_close`: a test that the channels are what they were."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.report.comparison import unmatched
from spectroscope.report.report import Report, load

_MOST = 10  # lines of a message
_LABELS = {"site", "module", "function", "call", "kind", "channel"}


def assert_close(
    report: Report,
    baseline: Report | str | os.PathLike[str],
    *,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    effect: float = 0.0,
    columns: Sequence[str] = ("dc_in", "dc_out", "ac_rms_in", "ac_rms_out", "active_fraction",
                              "nonfinite", "nonfinite_out"),
) -> None:  # fmt: skip
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
            channels or is of another kind. The message has a line for each channel, the one
            that is furthest off first.
        RequestError: the baseline can't be read, there is no such column, or a tolerance is
            negative.
    """
    __tracebackhide__ = True  # pytest: it failed where it was called
    then = baseline if isinstance(baseline, Report) else load(baseline)
    names = [columns] if isinstance(columns, str) else list(columns)
    before, after = then.dc(), report.dc()
    if unknown := [name for name in names if name not in set(before.columns) - _LABELS]:
        raise RequestError(f"columns={unknown} are no numbers of report.dc()")
    if not min(rtol, atol, effect) >= 0:
        raise RequestError(f"{rtol=}, {atol=} and {effect=} must be 0 or more")
    apart = unmatched(then.sites(), report.sites(), "in the baseline", "now")
    table = before.merge(after, on=["site", "channel"], suffixes=("_then", "_now"))
    table = table[~table["site"].isin(apart["site"])].reset_index(drop=True)
    tolerances = rtol, atol, effect
    off = pd.DataFrame({name: _off(table, name, *tolerances) for name in names}, index=table.index)
    worst = off.max(axis=1)
    far = worst[worst > 1].sort_values(ascending=False, kind="stable").index
    if apart.empty and far.empty:
        return
    channels = [_line(table.loc[row], off.loc[row]) for row in far]
    sites = [f"{site}: {why}" for site, why in apart.itertuples(index=False)]
    head = f"{len(far)} of {len(table)} channels are not close to the baseline"
    raise AssertionError(
        "\n  ".join([f"{head} ({rtol=}, {atol=}, {effect=})", *_some(sites), *_some(channels)])
    )


def _off(table: pd.DataFrame, name: str, rtol: float, atol: float, effect: float) -> pd.Series:
    """How far each number is off, in units of what is allowed."""
    now, then = (table[f"{name}_{when}"].astype(float) for when in ("now", "then"))
    allowed = atol + rtol * then.abs()
    if name == "dc_out":
        allowed = allowed + effect * table["dc_out_std_then"].astype(float)
    apart = (now - then).abs()
    ratio = (apart / allowed).mask(apart == 0, 0.0)  # nothing is allowed, and there is nothing
    return ratio.mask(now.isna() & then.isna(), 0.0).mask(now.isna() != then.isna(), np.inf)


def _line(row: pd.Series, off: pd.Series) -> str:
    # The DC, if it is off: it is what the network reads.
    name, *others = sorted(off[off > 1].index, key=lambda n: (n != "dc_out", -off[n]))
    now, then, spread = row[f"{name}_now"], row[f"{name}_then"], row["dc_out_std_then"]
    line = f"{row['site']}, channel {row['channel']}: {name} {now:.6g}, baseline {then:.6g}"
    if name == "dc_out" and spread > 0 and np.isfinite(now):
        line += f" ({(now - then) / spread:+.2g} dc_out_std)"
    return line + (f"; {', '.join(others)} too" if others else "")


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"… and {len(lines) - _MOST} more"]
