"""What a finding is: sentences with numbers, and references to the sites concerned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from spectroscope.page.numbers import out_of, percent, quantity

_MAX_REFERENCES = 5


class Reference(NamedTuple):
    """A site that a finding is about.

    Attributes:
        site: its name.
        note: the value at the site; may be empty.
        channel: one channel of the site; None: the whole site.
    """

    site: str
    note: str
    channel: int | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        headline: a few words.
        number: the one number of it, with its unit.
        text: one sentence.
        detail: further sentences; may be empty.
        advice: what one might do; may be empty.
        severity: what is worse is greater; a share of all channels or layers, or of power.
        references: the worst sites, the worst first.
        more: number of further sites concerned.
        measure: what `values` are, in a few words.
        values: one number by site, those concerned, for a picture.
    """

    headline: str
    number: str
    text: str
    detail: str = ""
    advice: str = ""
    severity: float = 0.0
    references: tuple[Reference, ...] = ()
    more: int = 0
    measure: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Results of all checks.

    Attributes:
        present: findings, the worst first.
        absent: what was checked and not found, a few words each. Checks that could not be made
            are in neither.
    """

    present: tuple[Finding, ...] = ()
    absent: tuple[str, ...] = ()

    @classmethod
    def of(cls, results: Sequence[Finding | str]) -> "Findings":
        """Sort the results of checks: a finding, the words for its absence, or an empty string."""
        present = [result for result in results if isinstance(result, Finding)]
        return cls(
            tuple(sorted(present, key=lambda finding: -finding.severity)),
            tuple(result for result in results if isinstance(result, str) and result),
        )


def channel_finding(
    dc: pd.DataFrame,
    which: "pd.Series[bool]",
    headline: str,
    absent: str,
    sentence: Callable[[str, str], str],
    references: tuple[Reference, ...] = (),
    detail: str = "",
    advice: str = "",
) -> Finding | str:
    """A finding about channels; sites with the largest share of such channels come first.

    Args:
        dc: one row per channel.
        which: the rows of `dc` that the finding is about.
        headline: of the finding.
        absent: returned if there are no such rows.
        sentence: makes the text of how many channels these are, and in which layers.
        references: put before those to the sites.
        detail: of the finding.
        advice: of the finding.
    """
    if not which.any():
        return absent
    table = pd.DataFrame(
        {
            "number": which.groupby(dc["site"], sort=False).sum(),
            "channels": dc.groupby("site", sort=False).size(),
        }
    )
    table = table[table["number"] > 0]
    share = table["number"] / table["channels"]
    table = table.loc[share.sort_values(ascending=False, kind="stable").index]
    notes = [f"{n:,} of {c:,}" for n, c in zip(table["number"], table["channels"], strict=True)]
    number, total = int(which.sum()), len(dc)
    where = f"{'all ' if number > 1 else ''}in {table.index[0]}"
    if len(table) > 1:
        layers = out_of(len(table), dc["site"].nunique(), "layer")
        where = f"in {layers} (largest share: {notes[0]} in {table.index[0]})"
    share_text = f"{number:,} of {quantity(total, 'channel')} ({percent(number / total)})"
    of_sites, more = references_to(table.reset_index(), notes)
    return Finding(
        headline,
        f"{number:,} of {quantity(total, 'channel')}",
        sentence(share_text, where),
        detail,
        advice,
        number / total,
        references + of_sites,
        more,
        "fraction of channels",
        share.loc[table.index].to_dict(),
    )


def if_known(values: "pd.Series[float]", absent: str) -> str:
    """`absent`; empty if there are no `values`, or one is NaN and therefore wasn't checked."""
    return absent if len(values) and values.notna().all() else ""


def by_name(sites: pd.DataFrame, values: "pd.Series[float]") -> dict[str, float]:
    """`values` by the names of the `sites`, which are in the same order."""
    return dict(zip(sites["site"], map(float, values), strict=True))


def references_to(rows: pd.DataFrame, notes: Sequence[str]) -> tuple[tuple[Reference, ...], int]:
    """References to the first sites in `rows` that have a note, and the number of the others."""
    pairs = list(zip(rows["site"], notes, strict=False))
    references = tuple(Reference(*pair) for pair in pairs[:_MAX_REFERENCES])
    return references, len(pairs) - len(references)
