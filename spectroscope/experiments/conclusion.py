"""`conclusion`: one sentence on what a model needs of its DC."""

import pandas as pd

from spectroscope.errors import RequestError

_WORDS = {
    "remove_dc": "without the DC",
    "mean_dc": "with the same DC for all inputs",
    "only_dc": "with the DC alone",
}


def conclusion(table: pd.DataFrame) -> str:
    """What :func:`spectroscope.importance` has found, in one sentence.

    For each operation, the largest effect first: the median over the sites of the change of the
    metric, and the number of sites where the confidence interval of the change excludes 0. Sites
    where nothing but the DC is read by construction are left out and named: there the result says
    nothing about the model.

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
    sites = judged["site"].nunique()
    excludes = (judged["change_low"] > 0) | (judged["change_high"] < 0)
    found = pd.DataFrame(
        {
            "change": judged.groupby("operation", sort=False)["change"].median(),
            "sure": excludes.groupby(judged["operation"], sort=False).sum(),
        }
    ).sort_values("change", key=abs, ascending=False, kind="stable")
    parts = [
        f"{_WORDS.get(str(row.Index), f'with {row.Index}')} ({row.change:+.3g} in the median; 95 % "
        f"interval without 0 at {row.sure} of {sites} site{'s' * (sites != 1)})"
        for row in found.itertuples()
    ]
    rest = f", less {', then '.join(parts[1:])}" if len(parts) > 1 else ""
    return (
        f"{metric_with_unit(table)} changes most {parts[0]}{rest}{f'; {because}' if apart else ''}."
    )


def metric_with_unit(table: pd.DataFrame) -> str:
    """Name of the metric of :func:`spectroscope.importance`, with its unit if that is known."""
    metric, unit = table[["metric", "unit"]].iloc[0]
    return f"{metric} ({unit})" if unit not in ("", "1") else str(metric)
