"""Tables and findings as text for a terminal."""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spectroscope.schema import COLUMNS, COMPARISON_COLUMNS, HEADLINE

if TYPE_CHECKING:  # the page needs jinja2
    from spectroscope.page.finding import Findings

# Of `Report.sites()`, the most important first: a narrow terminal has fewer.
SITE_COLUMNS = ["site", "dc_out", "dc_out_std", "dc_fraction", "active_fraction", "dead_fraction",
                "shape", "source", "above_next_nyquist", "ac_rms_out", "dc_in",
                "decimation"]  # fmt: skip
# Of `Comparison.sites()`, likewise.
CHANGES = ["site", "dc_out_a", "dc_out_b", "effect_max", "channel_max", "effect_rms", "died",
           "revived", "active_fraction_a", "active_fraction_b", "channels"]  # fmt: skip
LEGEND = "act.: in the unit of the activation"
_FINDINGS = 4  # in a summary of ten sentences
_GAP = "  "
_HEAD = 9  # a longer name has several lines
_NAME = 40  # a longer site name loses its middle where the terminal is narrow


def sites_table(sites: pd.DataFrame, width: int | None = None) -> str:
    """The columns of `Report.sites()` that fit, the headline ones first, and a last line on units.

    Args:
        sites: the table.
        width: in characters; None: that of the terminal.
    """
    names = [*HEADLINE, *(name for name in SITE_COLUMNS if name not in HEADLINE)]
    shown = sites[[name for name in names if name in sites]]
    return fitted(shown, SITE_COLUMNS, {name: column.unit for name, column in COLUMNS.items()},
                  width)  # fmt: skip


def fitted(
    table: pd.DataFrame, columns: Sequence[str], units: Mapping[str, str], width: int | None = None
) -> str:
    """As many columns of `table` as fit, each with its unit under its name.

    Args:
        table: its columns in the order to print.
        columns: their names, the most important first; those without any value are left out.
        units: by name of the column; none: ``""`` or ``"1"``.
        width: in characters; None: that of the terminal.
    """
    width = width or terminal_width()
    cells = {
        name: _column(table[name], units.get(name, ""), width)
        for name in columns
        if table[name].notna().any()
    }
    chosen: list[str] = []
    used = -len(_GAP)
    for name, lines in cells.items():
        needed = len(_GAP) + len(lines[0])
        if used + needed > width and len(chosen) > 1:
            continue
        chosen.append(name)
        used += needed
    blocks = [cells[name] for name in table.columns if name in chosen]
    height = max(len(block) for block in blocks)
    padded = [[" " * len(block[0])] * (height - len(block)) + block for block in blocks]
    lines = [_GAP.join(row).rstrip() for row in zip(*padded, strict=True)]
    return "\n".join(line for line in lines if line)  # perhaps nothing has a unit


def changes_table(sites: pd.DataFrame) -> str:
    """The columns of `Comparison.sites()` that fit the terminal."""
    units = {
        name: (
            COMPARISON_COLUMNS.get(name) or COLUMNS[name.removesuffix("_a").removesuffix("_b")]
        ).unit
        for name in CHANGES
    }
    return fitted(sites[[name for name in sites if name in CHANGES]], CHANGES, units)


def sentences(found: "Findings") -> list[str]:
    """The headline and the first sentence of each finding."""
    return [f"{each.headline}: {_first_sentence(each.text)}" for each in found.present]


def summary(
    about: Mapping[str, str],
    sites: pd.DataFrame,
    coverage: pd.DataFrame,
    findings: Sequence[str],
) -> str:
    """What stands out in a report, in ten sentences at most.

    Args:
        about: `Report.about`.
        sites: `Report.sites()`.
        coverage: `Report.coverage()`.
        findings: `Report.findings()`.
    """
    lines = [f"{subject(about)}: {totals(sites)}."]
    for name, what in (
        ("dc_fraction", "DC is {} of a layer's output power"),
        ("active_fraction", "{} of a layer's output values are above 0"),
    ):
        values = sites.set_index("site")[name].dropna()
        if len(values) > 1:
            low, high = values.idxmin(), values.idxmax()
            lines.append(
                f"{what.format(f'{values.median():.0%}')} in the median, from {values.min():.0%} "
                f"({low}) to {values.max():.0%} ({high})."
            )
    lines += findings[:_FINDINGS] or ["Nothing stands out."] * (not sites.empty)
    if (more := len(findings) - _FINDINGS) > 0:
        lines.append(f"{more} more: report.findings().")
    lines += gaps(coverage)
    if not sites.empty:
        lines.append(
            'Next: report.page("report.html") shows all of it, print(report) the layers, '
            "report.dc() has each channel, report.describe() the definitions."
        )
    return "\n".join(filled(line) for line in lines)


def totals(sites: pd.DataFrame) -> str:
    """The numbers of sites, channels and inputs."""
    inputs = 0 if sites.empty else int(sites["n_samples"].max())
    numbers = {"site": len(sites), "channel": int(sites["channels"].sum()), "input": inputs}
    return ", ".join(f"{n:,} {noun}{'s' * (n != 1)}" for noun, n in numbers.items())


def subject(about: Mapping[str, str]) -> str:
    """Short name of the specimen or the model."""
    return re.split("[:,] ", about.get("specimen") or about.get("model") or "a model")[0]


def gaps(coverage: pd.DataFrame) -> list[str]:
    """A line on places that aren't recorded in full, if there are any."""
    missed = coverage[~coverage["status"].isin(["fired", "not asked for"])]
    if missed.empty:
        return []
    from spectroscope.page.coverage import commonest_reason  # deferred: the page needs jinja2

    count = f"{len(missed)} of {len(coverage)} places not recorded in full: report.coverage()."
    return [filled(f"{count} {commonest_reason(missed)}")]


def filled(text: str, width: int | None = None) -> str:
    """`text` in lines of at most `width` characters, the second and later ones indented."""
    return textwrap.fill(text, width or terminal_width(), subsequent_indent="  ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def terminal_width() -> int:
    """Of the terminal, or of the environment variable COLUMNS, in characters."""
    return shutil.get_terminal_size().columns


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def _column(values: pd.Series, unit: str, width: int) -> list[str]:
    """Head, unit and values, all of one length: text to the left, numbers to the right."""
    texts = [_cell(value) for value in values]
    if values.name == "site" and width < 3 * _NAME:
        texts = [_shortened(text, max(_NAME, width // 2)) for text in texts]
    unit = "" if unit == "1" else unit.replace("activation", "act.")
    room = max(_HEAD, *map(len, (unit, *texts)))
    lines = [*_head(str(values.name), room), unit, *texts]
    length = max(map(len, lines))
    numeric = pd.api.types.is_numeric_dtype(values)
    return [line.rjust(length) if numeric else line.ljust(length) for line in lines]


def _head(name: str, room: int) -> list[str]:
    """`name` in lines of at most `room` characters, where its underscores allow it."""
    lines = [""]
    for part in re.findall("[^_]*_|[^_]+", name):
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("")
        lines[-1] += part
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, tuple):  # a shape
        return "×".join("?" if length is None else str(length) for length in value)
    if isinstance(value, float | np.floating):
        return "NaN" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None or value is pd.NA else str(value)


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"{text[: length // 2 - 1]}…{text[-(length - length // 2) :]}"
