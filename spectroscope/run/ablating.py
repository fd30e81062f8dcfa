"""`ablate`: a specimen without its DC, or with nothing else, at one activation after the other."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from spectroscope.experiments.ablation import importance
from spectroscope.experiments.operations import mean_dc, only_dc, remove_dc
from spectroscope.run.loop import inspect
from spectroscope.run.shards import Batch, batches
from spectroscope.specimens.specimen import Specimen


def ablate(
    specimen: Specimen, *, metric: str | None = None, progress: bool = False
) -> pd.DataFrame:
    """Take the DC away, or what it tells, or all else, at one activation after the other.

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
    with torch.random.fork_rng([]):  # batches() seeds them
        table = importance(
            specimen.model,
            ((batch.arguments, _targets(specimen, batch)) for batch in batches(specimen)),
            judged,
            operations=(remove_dc, mean_dc(means), only_dc),
            progress=progress,
            fs=specimen.fs,
            channel_axis=specimen.channel_axis,
        )
    return table.assign(metric=specimen.error_name) if judged is specimen.error else table


def _targets(specimen: Specimen, batch: Batch) -> Tensor | None:
    targets = batch.targets
    if targets is None and specimen.targets is not None:
        targets = batch.its(specimen.targets, "targets")
    return targets
