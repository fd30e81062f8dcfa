"""Commands on specimens and reports: `ablate`, `merge`, and the files that a command writes."""

import glob
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from spectroscope.capture.sites import Select
from spectroscope.errors import RequestError, UnfinishedError
from spectroscope.experiments.ablation import importance
from spectroscope.experiments.operations import mean_dc, only_dc, remove_dc
from spectroscope.io import output_folder
from spectroscope.report import Report
from spectroscope.report.export import write_csv
from spectroscope.run.checkpoint import FINISHED
from spectroscope.run.loop import Inspection, inspect
from spectroscope.run.shards import batches
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics import storage
from spectroscope.statistics.base import Statistic

SPECTRA = "spectra.png"
ABLATION = "importance.png"
PAGE = "report.html"


def ablate(
    specimen: Specimen,
    *,
    metric: str | None = None,
    select: Select = None,
    kinds: Iterable[str | type[nn.Module]] = (),
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how much the model needs the DC of each activation, changing one at a time.

    The operations are `remove_dc`, `mean_dc` (the DC of each input replaced by its mean over
    inputs) and `only_dc`.

    Args:
        specimen: model and inputs.
        metric: as in :func:`spectroscope.importance`. None: the specimen's own error, or else
            ``"relative_l2"``, the distance of the outputs from the unmodified model's.
        select: as in :func:`spectroscope.record`.
        kinds: as in :func:`spectroscope.record`.
        progress: show a progress bar on standard error.

    Returns:
        The table of :func:`spectroscope.importance`.

    Raises:
        RequestError: as in :func:`spectroscope.importance`.
        UnfinishedError: no activation was recorded.
    """
    measure: Any = metric or specimen.error or "relative_l2"
    kinds = (kinds,) if isinstance(kinds, str | type) else tuple(kinds)
    means = inspect(specimen, spectra=False, select=select, kinds=kinds, progress=progress).report
    if means.sites().empty:
        raise UnfinishedError(f"{specimen.name}: no activation was recorded")
    with torch.random.fork_rng([]):  # batches() seeds them
        table = importance(
            specimen.model,
            ((batch.arguments, batch.targets_of(specimen)) for batch in batches(specimen)),
            measure,
            operations=(remove_dc, mean_dc(means), only_dc),
            select=select,
            kinds=kinds,
            block=specimen.block,
            n_inputs=specimen.n_inputs,
            progress=progress,
            fs=specimen.fs,
            channel_axis=specimen.channel_axis,
            time_axis=specimen.time_axis,
        )
    return table.assign(metric=specimen.error_name) if measure is specimen.error else table


def merge(
    folders: Sequence[str | os.PathLike[str]], *, statistics: Iterable[Statistic] = ()
) -> Inspection:
    """Merge the shards of a run, or other saved reports.

    Missing shards are named in a warning.

    Args:
        folders: folders of the reports, or report files; shards may come in any order.
        statistics: your own that were recorded, as in :func:`spectroscope.load`.

    Raises:
        RequestError: a report can't be read; a shard is given twice; the shards are of different
            runs, or the recordings don't fit together.
    """
    if not folders:
        raise RequestError("nothing to merge: give two folders or more")
    own = tuple(statistics)
    recordings = [storage.read(_report_in(folder), own) for folder in folders]
    recordings.sort(key=lambda recording: recording.run_shard.shards if recording.run_shard else ())
    merged = recordings[0]
    for recording in recordings[1:]:
        merged = merged.merge(recording)
    part = merged.run_shard
    if part is not None and part.missing:
        missing = ", ".join(f"{number}/{part.of}" for number in part.missing)
        warnings.warn(f"shard {missing} is missing: the report is on the others", stacklevel=2)
    return Inspection.from_recording(merged)


def _report_in(folder: str | os.PathLike[str]) -> Path:
    return Path(folder) / FINISHED if os.path.isdir(folder) else Path(folder)


def export_ablation(specimen: Specimen, table: pd.DataFrame, folder: Path) -> None:
    """Write the table of :func:`ablate` and its plot into `folder`.

    Raises:
        RequestError: the folder can't be written to.
    """
    import seaborn as sns
    from matplotlib.figure import Figure

    from spectroscope import plots

    with output_folder(folder) as staging:
        write_csv(table, staging / "importance.csv")
        with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
            figure = Figure((7.5, 1.6 + 0.22 * table["site"].nunique()), layout="constrained")
            ax = plots.importance(table, ax=figure.subplots())
        ax.set_title(f"{specimen.name}: one ReLU changed at a time")
        figure.savefig(staging / ABLATION, dpi=120)


def export(specimen: Specimen, report: Report, folder: Path, *, parquet: bool = False) -> None:
    """Write the report, its tables, its page and a plot of the specimen's featured site.

    Args:
        specimen: the specimen of the report.
        report: result of :func:`inspect`.
        folder: is made if it doesn't exist.
        parquet: as in :meth:`Report.save`.

    Raises:
        RequestError: the folder can't be written to, or as in :meth:`Report.save`.
    """
    with output_folder(folder) as staging:
        report.save(staging, parquet=parquet)
        report.page(staging / PAGE)
        site = specimen.featured_site or _first_with_spectra(report)
        if site is not None:
            _plot_spectra(specimen, report.spectra(glob.escape(site)), staging / SPECTRA)


def _plot_spectra(specimen: Specimen, spectra: pd.DataFrame, path: Path) -> None:
    # Imported late: other ranks of a distributed run need no matplotlib.
    import matplotlib as mpl
    import seaborn as sns
    from matplotlib.figure import Figure

    from spectroscope import plots

    hertz = (spectra["freq_unit"] == "Hz").all()
    panels = min(16, spectra["channel"].nunique())
    columns = min(4, panels)
    rows = math.ceil(panels / columns)
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        # Not pyplot, which would keep the figure open.
        figure = Figure((1.2 + 2.6 * columns, 1 + 1.6 * rows), layout="constrained")
        grid = plots.spectra(
            spectra,
            f0=specimen.f0 if hertz else None,
            f0_name=specimen.f0_name,
            unit="BPM" if specimen.per_minute and hertz else None,
            ax=figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False),
        )
        title = f"{specimen.name}: power spectra at {spectra['site'].iloc[0]}"
        figure.suptitle(title, parse_math=False)
        figure.supylabel(grid[0].get_ylabel(), fontsize=mpl.rcParams["axes.labelsize"])
        for panel in grid:  # a row is lower than its label is long
            panel.set_ylabel("")
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
