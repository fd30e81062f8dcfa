"""The long loop: every batch of a specimen through its model, recorded, with progress."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from spectroscope.files import output_folder
from spectroscope.recorder import record
from spectroscope.report import Report
from spectroscope.specimens import Specimen

SPECTRA = "spectra.png"


class Inspection(NamedTuple):
    """What :func:`inspect` found: the report, and the specimen's metric (empty if it has none)."""

    report: Report
    scores: Mapping[str, float]


def inspect(specimen: Specimen, *, spectra: bool = True, progress: bool = False) -> Inspection:
    """Run all inputs of `specimen` through its model and record every rectifier.

    Args:
        specimen: what to look at.
        spectra: as in :func:`spectroscope.record`.
        progress: show a bar on standard error.
    """
    outputs = []
    recorder = record(specimen.model, fs=specimen.fs, spectra=spectra)
    first = 0
    bar = tqdm(total=specimen.n_inputs, unit=" inputs", desc=specimen.name, disable=not progress)
    with bar, recorder, torch.inference_mode():
        for batch in specimen.inputs:
            if specimen.f0 is not None:
                recorder.f0 = specimen.f0[first : first + len(batch)]
                first += len(batch)
            output = specimen.model(batch)
            if specimen.metric is not None:
                outputs.append(output)
            bar.update(len(batch))
    scores = specimen.metric(torch.cat(outputs)) if specimen.metric is not None else {}
    return Inspection(recorder.report(), scores)


def export(specimen: Specimen, report: Report, folder: Path) -> None:
    """Write the report, its tables and the picture of the specimen's showpiece into `folder`.

    Raises:
        RequestError: the folder can't be written to.
    """
    # Deferred: a loop on a cluster needs no matplotlib.
    from spectroscope import plots

    with output_folder(folder) as staging:
        report.save(staging)
        if specimen.showpiece is not None:
            figure = plots.spectra(
                report.spectra(specimen.showpiece),
                f0=specimen.f0,
                f0_name=specimen.f0_name,
                per_minute=specimen.per_minute,
                title=f"{specimen.name}: power spectra at {specimen.showpiece}",
            )
            figure.savefig(staging / SPECTRA, dpi=120)
