"""Text that the commands print: tables that fit a terminal, labels and scores."""

from itertools import chain

import pandas as pd

from spectroscope.report.comparison import Comparison
from spectroscope.run.loop import Inspection
from spectroscope.specimens.specimen import Specimen

# Of `Report.sites()` and `Comparison.sites()`, the columns that fit a terminal.
SITE_COLUMNS = ["site", "shape", "fs", "dc_in", "dc_out", "dc_out_std", "dc_gaussian", "ac_rms_in",
                "ac_rms_out", "active_fraction", "dc_fraction", "above_next_nyquist"]  # fmt: skip
COMPARISON_COLUMNS = ["site", "channels", "dc_out_a", "dc_out_b", "effect_rms", "effect_max",
                      "channel_max", "active_fraction_a", "active_fraction_b", "died",
                      "revived"]  # fmt: skip


def of_specimen(specimen: Specimen) -> str:
    """Name, description and licence."""
    return f"{specimen.name}: {specimen.description} ({specimen.license})\n"


def of_inspection(inspection: Inspection) -> str:
    """A line per site; the labels of the first inputs; the scores."""
    sites = inspection.report.sites()
    lines = [_of_table(sites[SITE_COLUMNS].dropna(axis=1, how="all")), "", *inspection.labels]
    n_more = sites["n_samples"].max() - len(inspection.labels)
    if inspection.labels and n_more > 0:
        lines.append(f"… and {n_more} more")
    lines += [f"{name}: {value:.2f}" for name, value in inspection.scores.items()]
    return "\n".join(lines)


def of_ablation(table: pd.DataFrame) -> str:
    """The metric, and a line per site with its value for each operation."""
    wide = table.pivot(index="site", columns="operation", values="value")
    wide = wide.loc[table["site"].unique(), table["operation"].unique()].rename_axis(columns=None)
    first = table.iloc[0]
    return (
        f"{first['metric']}, {table['n_samples'].max()} inputs, one ReLU changed at a time; "
        f"{first['baseline']:.4g} with none changed\n{_of_table(wide.reset_index())}"
    )


def of_comparison(comparison: Comparison) -> str:
    """A line per site that both reports have, then the sites that can't be compared, and why."""
    sites = comparison.sites()
    table = "no site is in both" if sites.empty else _of_table(sites[COMPARISON_COLUMNS])
    unmatched = (f"{row.site}: {row.why}" for row in comparison.unmatched().itertuples())
    return "\n".join(chain([table], unmatched))


def _of_table(table: pd.DataFrame) -> str:
    text: str = table.to_string(index=False, float_format="{:.4g}".format)
    return text
