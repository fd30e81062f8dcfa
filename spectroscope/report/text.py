"""A report as text for a terminal."""

import shutil

import pandas as pd

from spectroscope.schema import headline


def summary(name: str, sites: pd.DataFrame, coverage: pd.DataFrame) -> str:
    """`name`, the headline columns of the sites, and what isn't recorded in full.

    Args:
        name: a first line.
        sites: `Report.sites()`.
        coverage: `Report.coverage()`.
    """
    lines = [name]
    if not sites.empty:
        lines.append(fitted(sites[headline(sites.columns)], shutil.get_terminal_size().columns))
        lines.append("All columns: report.sites(), report.dc(). Definitions: report.describe().")
    if gaps := int((~coverage["status"].isin(["fired", "not asked for"])).sum()):
        lines.append(f"{gaps} of {len(coverage)} places not recorded in full: report.coverage().")
    return "\n".join(lines)


def fitted(table: pd.DataFrame, width: int) -> str:
    """`table` as text, with as many of its first columns as fit in `width` characters."""
    text = ""
    for count in range(len(table.columns), 0, -1):
        text = table.iloc[:, :count].to_string(index=False, float_format="{:.4g}".format)
        if max(map(len, text.splitlines())) <= width:
            break
    return text
