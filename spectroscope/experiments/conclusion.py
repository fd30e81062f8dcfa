"""`conclusion`: one sentence on what a model needs of its DC."""

import pandas as pd

from spectroscope.errors import RequestError

_WORDS = {
    "remove_dc": "without the DC",
    "mean_dc": "with the same DC for all inputs",
    "only_dc": "with the DC alone",
}
_ROUNDING = 1e-6  # of a metric, through a network in float32


def conclusion(table: pd.DataFrame) -> str:
    """What :func:`spectroscope.importance` has found, in one sentence.

    For each operation, the largest effect first: the median over the sites of the change of the
    metric, and the number of sites where the confidence interval of the change excludes 0 (or the
    scores of all inputs changed by the same amount), or is unknown. Operations with no such site
    have no effect: they are named last. A change of up to a millionth is rounding of float32. Sites
    where nothing but the DC is read by construction are left out and named: there the result
    says nothing about the model.

    Args:
        table: of :func:`spectroscope.importance`.

    Raises:
        RequestError: the table is empty.
    """
    if table.empty:
        raise RequestError("the table has no rows: importance had nothing to change")
    reason = table.set_index("site")["by_construction"].groupby(level=0, sort=False)
    constructed = reason.agg(lambda texts: bool((texts.fillna("") != "").any()))
    apart = list(constructed.index[constructed])
    judged = table[~table["site"].isin(apart)]
    where = f"{', '.join(apart[:2])}{' and others' if len(apart) > 2 else ''}"
    because = f"at {where} nothing but the DC is read, by construction"
    if judged.empty:
        return f"Nothing can be concluded: {because}."
    judged = _judged(judged)
    contains_0 = ~judged["sure"] & ~judged["unknown"] & judged["change_low"].notna()
    can_rank = judged["sure"].any() or (judged["unknown"].any() and not contains_0.any())
    text = _ranking(judged) if can_rank else _no_effect(judged)
    return f"{text}{f'; {because}' if apart else ''}."


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns `sure`, of changes that aren't 0, and `unknown`, if they are."""
    size = table[["baseline", "value"]].abs().max(axis=1)
    # A distance from the unmodified outputs is relative to them: its own baseline is 0.
    size = size.clip(lower=1).where(table["metric"].isin(["relative_l2", "kl"]), size)
    no_rounding = table["change"].abs() > _ROUNDING * size
    same = table["interval"].str.endswith("by the same amount")
    sure = (table["change_low"] > 0) | (table["change_high"] < 0) | same
    unknown = table["change_low"].isna() & ~same
    return table.assign(sure=sure & no_rounding, unknown=unknown & no_rounding)


def _ranking(table: pd.DataFrame) -> str:
    """The operations by their effect, those without one last."""
    sites = table["site"].nunique()
    by_operation = table.groupby("operation", sort=False)
    found = by_operation[["sure", "unknown"]].sum().assign(change=by_operation["change"].median())
    found = found.sort_values("change", key=abs, ascending=False, kind="stable")
    has_effect = (found["sure"] > 0) | (found["unknown"] > 0)
    parts = [
        f"{_words(row.Index)} ({row.change:+.3g} in the median; 95 % interval "
        f"{_counted(row.sure, row.unknown, sites)})"
        for row in found[has_effect].itertuples()
    ]
    rest = f", less {', then '.join(parts[1:])}" if len(parts) > 1 else ""
    none = " or ".join(map(_words, found.index[~has_effect]))
    none = f"; {none} no change is distinguishable from 0" if none else ""
    return f"{metric_with_unit(table)} changes most {parts[0]}{rest}{none}{_why(table)}"


def _counted(sure: int, unknown: int, sites: int) -> str:
    """How many intervals of an operation exclude 0, and how many are unknown."""
    of = f" of {sites} site{'s' * (sites != 1)}"
    texts = [f"without 0 at {sure}"] * (sure > 0) + [f"unknown at {unknown}"] * (unknown > 0)
    return f"{texts[0]}{of}{''.join(f', {text}' for text in texts[1:])}"


def _no_effect(table: pd.DataFrame) -> str:
    """The sentence where no change is distinguishable from 0, with the largest change."""
    largest = table.loc[table["change"].abs().fillna(0).idxmax()]
    return (
        f"No change of {metric_with_unit(table)} is distinguishable from 0; the largest is "
        f"{largest['change']:+.3g}, {_words(largest['operation'])} at {largest['site']}"
        f"{_why(table)}"
    )


def _why(table: pd.DataFrame) -> str:
    """Why intervals are unknown, if some are."""
    reasons = table.loc[table["unknown"], "interval"].str.removeprefix("unknown: ").mode()
    return f"; where an interval is unknown: {reasons[0]}" if len(reasons) else ""


def _words(operation: object) -> str:
    return _WORDS.get(str(operation), f"with {operation}")


def metric_with_unit(table: pd.DataFrame) -> str:
    """Name of the metric of :func:`spectroscope.importance`, with its unit if that is known."""
    metric, unit = table[["metric", "unit"]].iloc[0]
    return f"{metric} ({unit})" if unit not in ("", "1") else str(metric)
