"""The coverage in words: which activations fired, and which were missed."""

from collections import Counter
from typing import NamedTuple

import pandas as pd

from spectroscope.page.numbers import quantity


class CoverageSummary(NamedTuple):
    """The coverage as a warning, a sentence and a table.

    Attributes:
        missed: rows of activations that were missed or recorded incompletely.
        any_fired: whether any activation was recorded.
        warning: how many were missed, and why; empty if none.
        text: a sentence about the others.
    """

    missed: pd.DataFrame
    any_fired: bool
    warning: str
    text: str


def summarize_coverage(coverage: pd.DataFrame) -> CoverageSummary:
    """Which activations fired, and which were missed.

    Args:
        coverage: `Report.coverage()`.
    """
    others = coverage[coverage["status"] == "not asked for"]
    coverage = coverage.drop(others.index)
    selected = coverage["selected"].astype(bool)
    fired = coverage["status"] == "fired"
    missed = coverage[~fired & (selected | (coverage["reason"] != ""))]
    recorded = coverage[fired & selected]
    unselected = int((~selected & (coverage["reason"] == "")).sum())
    number, calls = len(recorded), quantity(int(recorded["fired"].sum()), "call")
    adjective = "selected " if unselected else ""
    warning = ""
    if len(missed):
        warning = " ".join(filter(None, (_counted(missed), commonest_reason(missed))))
    if coverage.empty:
        text = "No activation was found: nothing was recorded."
    elif recorded.empty:
        text = "No other activation fired." if len(missed) else "No selected activation fired."
    elif len(missed):
        text = f"{quantity(number, 'other activation')} fired, {calls} in total."
    elif number == 1:
        text = f"The only {adjective}activation fired, {calls} in total. None was missed."
    else:
        text = f"All {number:,} {adjective}activations fired, {calls} in total. None was missed."
    if unselected:
        text += f" {unselected:,} more {'was' if unselected == 1 else 'were'} not selected."
    if calls_of_others := int(others["fired"].sum()):
        kinds = ", ".join(others["kind"].unique())
        be = "was" if calls_of_others == 1 else "were"
        text += (
            f" {quantity(calls_of_others, 'call')} of {kinds} {be} seen but not asked for: "
            'kinds="all" records them.'
        )
    columns = ["place", "kind", "status", "fired", "reason"]
    missed = missed[columns].replace({"place": {"": "the model itself"}})
    return CoverageSummary(missed, bool(number), warning, text)


def _counted(missed: pd.DataFrame) -> str:
    """How many activations were missed in each way, in a sentence."""
    texts: list[str] = []
    for status, number in Counter(missed["status"]).items():
        who = str(number) if texts else quantity(number, "activation")
        be = "is" if number == 1 else "are"
        how = f"{be} recorded incompletely" if status == "incomplete" else status
        texts.append(f"{who} {how}")
    return f"{', '.join(texts)}."


def commonest_reason(missed: pd.DataFrame) -> str:
    """The reason of most rows of the coverage, in a sentence; empty if none has one."""
    reasons = missed["reason"].str.replace(r"^call \d+: ", "", regex=True)
    counted = Counter(reasons[reasons != ""]).most_common(1)
    if not counted:
        return ""
    reason, number = counted[0]
    which = f", at {number} of them" if number < len(missed) else ""
    return f"Reason{which}: {reason}."
