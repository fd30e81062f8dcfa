"""The long loop: every batch of a specimen through its model, recorded, with progress."""

import glob
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from spectroscope.ablation import importance
from spectroscope.errors import RequestError
from spectroscope.files import output_folder
from spectroscope.operations import mean_dc, only_dc, remove_dc
from spectroscope.recorder import record
from spectroscope.report import Report
from spectroscope.specimens import Specimen

SPECTRA = "spectra.png"
ABLATION = "importance.png"
PAGE = "report.html"


class Inspection(NamedTuple):
    """What :func:`inspect` found; scores and labels are empty where the specimen has none."""

    report: Report
    scores: Mapping[str, float]
    labels: Sequence[str]


def inspect(
    specimen: Specimen,
    *,
    spectra: bool = True,
    about: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Inspection:
    """Run all inputs of `specimen` through its model and record every rectifier.

    Args:
        specimen: what to look at.
        spectra: as in :func:`spectroscope.record`.
        about: likewise, beside what the specimen says of itself.
        progress: show a bar on standard error.
    """
    outputs = []
    recorder = record(
        specimen.model,
        fs=specimen.fs,
        spectra=spectra,
        channel_axis=specimen.channel_axis,
        about={
            "specimen": f"{specimen.name}: {specimen.description}",
            "license": specimen.license,
            **(about or {}),
        },
    )
    first = 0
    bar = tqdm(total=specimen.n_inputs, unit=" inputs", desc=specimen.name, disable=not progress)
    with bar, recorder, torch.inference_mode():
        for batch in specimen.inputs:
            arguments = batch if isinstance(batch, tuple) else (batch,)
            last = first + len(arguments[0])
            if specimen.f0 is not None:
                recorder.f0 = specimen.f0[first:last]
            output = specimen.model(*arguments)
            if specimen.metric is not None or specimen.labels is not None:
                outputs.append(output)
            bar.update(last - first)
            first = last
    scores = specimen.metric(torch.cat(outputs)) if specimen.metric is not None else {}
    labels = specimen.labels(torch.cat(outputs)) if specimen.labels is not None else []
    return Inspection(recorder.report(), scores, labels)


def ablate(
    specimen: Specimen, *, metric: str | None = None, progress: bool = False
) -> pd.DataFrame:
    """Take the DC away, or what it tells, or all else, at one rectifier after the other.

    Args:
        specimen: what to look at.
        metric: as in :func:`spectroscope.importance`. None: the specimen's own error, or else
            ``"relative_l2"``: how far the outputs are from the untouched model's.
        progress: show a bar on standard error.

    Returns:
        As :func:`spectroscope.importance`.

    Raises:
        RequestError: as there.
    """
    judged: Any = metric or specimen.error or "relative_l2"
    means = inspect(specimen, spectra=False, progress=progress).report
    table = importance(
        specimen.model,
        ((batch, None) for batch in specimen.inputs),
        judged,
        targets=specimen.targets,
        operations=(remove_dc, mean_dc(means), only_dc),
        progress=progress,
        fs=specimen.fs,
        channel_axis=specimen.channel_axis,
    )
    return table.assign(metric=specimen.error_name) if judged is specimen.error else table


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
    """Write the report, its tables, its page and a picture of the specimen's showpiece.

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
        site = specimen.showpiece or _first_with_spectra(report)
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


def _first_with_spectra(report: Report) -> str | None:
    for site in report.sites()["site"]:
        with suppress(RequestError):
            report.spectra(glob.escape(site))
            return str(site)
    return None
