"""Text that the commands print: findings, tables that fit the terminal, labels and scores."""

import pandas as pd

from spectroscope.experiments.conclusion import conclusion, metric_with_unit
from spectroscope.report import text
from spectroscope.run.loop import Inspection
from spectroscope.specimens.specimen import Specimen


def of_specimen(specimen: Specimen) -> str:
    """Name, description and licence."""
    return text.filled(f"{specimen.name}: {specimen.description} ({specimen.license})")


def of_inspection(inspection: Inspection) -> str:
    """Scores and labels of the first inputs; what stands out; a line per site."""
    report = inspection.report
    sites = report.sites()
    lines = [f"{text.totals(sites)}"]
    lines += [f"{name}: {value:.2f}" for name, value in inspection.scores.items()]
    lines += inspection.labels
    n_more = sites["n_samples"].max() - len(inspection.labels)
    if inspection.labels and n_more > 0:
        lines.append(f"… and {n_more} more")
    if not sites.empty:
        lines += ["", *map(text.filled, report.findings()), *text.gaps(report.coverage())]
        lines += ["", text.sites_table(sites), f"{text.LEGEND}."]
    return "\n".join(lines)


def of_ablation(table: pd.DataFrame) -> str:
    """The metric, and a line per site with its value for each operation."""
    wide = table.pivot(index="site", columns="operation", values="value")
    wide = wide.loc[table["site"].unique(), table["operation"].unique()].rename_axis(columns=None)
    wide = wide.reset_index()
    first = table.iloc[0]
    return "\n".join(
        [
            text.filled(
                f"{metric_with_unit(table)}, {table['n_samples'].max()} inputs, one ReLU changed "
                f"at a time; {first['baseline']:.4g} with none changed"
            ),
            "",
            text.fitted(wide, list(wide.columns), {}),
            "",
            text.filled(conclusion(table)),
        ]
    )
