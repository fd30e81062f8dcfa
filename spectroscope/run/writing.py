"""Files that the commands leave in a folder: tables, a page, pictures."""

import glob
import math
from contextlib import suppress
from pathlib import Path

import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.io import output_folder
from spectroscope.report import Report
from spectroscope.specimens.specimen import Specimen

SPECTRA = "spectra.png"
ABLATION = "importance.png"
PAGE = "report.html"


def export_ablation(specimen: Specimen, table: pd.DataFrame, folder: Path) -> None:
    """Write the table and its picture into `folder`.

    Raises:
        RequestError: the folder can't be written to.
    """
    import seaborn as sns
    from matplotlib.figure import Figure

    from spectroscope import plots

    with output_folder(folder) as staging:
        table.to_csv(staging / "importance.csv", index=False)
        with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
            figure = Figure((7.5, 1.6 + 0.22 * table["site"].nunique()), layout="constrained")
            ax = plots.importance(table, ax=figure.subplots())
        ax.set_title(f"{specimen.name}: one ReLU changed at a time")
        figure.savefig(staging / ABLATION, dpi=120)


def export(specimen: Specimen, report: Report, folder: Path, *, parquet: bool = False) -> None:
    """Write the report, its tables, its page and a picture of the specimen's featured site.

    Args:
        specimen: what was looked at.
        report: what was found.
        folder: is made if it isn't there.
        parquet: as of :meth:`Report.save`.

    Raises:
        RequestError: the folder can't be written to, or as there.
    """
    with output_folder(folder) as staging:
        report.save(staging, parquet=parquet)
        report.page(staging / PAGE)
        site = specimen.featured_site or _first_with_spectra(report)
        if site is not None:
            _picture(specimen, report.spectra(glob.escape(site)), staging / SPECTRA)


def _picture(specimen: Specimen, spectra: pd.DataFrame, path: Path) -> None:
    # Deferred: a loop on a cluster needs no matplotlib.
    import seaborn as sns
    from matplotlib.figure import Figure

    from spectroscope import plots

    hertz = (spectra["freq_unit"] == "Hz").all()
    panels = min(16, spectra["channel"].nunique())
    columns = min(4, panels)
    rows = math.ceil(panels / columns)
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        # Not pyplot's: it would be kept there.
        figure = Figure((1.2 + 2.6 * columns, 1 + 1.6 * rows), layout="constrained")
        grid = plots.filters(
            spectra,
            f0=specimen.f0 if hertz else None,
            f0_name=specimen.f0_name,
            per_minute=specimen.per_minute and hertz,
            ax=figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False),
        )
        title = f"{specimen.name}: power spectra at {spectra['site'].iloc[0]}"
        figure.suptitle(title, parse_math=False)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    figure.savefig(path, dpi=120)


def export_merged(report: Report, folder: Path) -> None:
    """Write a report on several runs, or shards of one, and its tables into `folder`.

    Raises:
        RequestError: the folder can't be written to.
    """
    with output_folder(folder) as staging:
        report.save(staging)
        report.page(staging / PAGE)


def _first_with_spectra(report: Report) -> str | None:
    for site in report.sites()["site"]:
        with suppress(RequestError):
            report.spectra(glob.escape(site))
            return str(site)
    return None
