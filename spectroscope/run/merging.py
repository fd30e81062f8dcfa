"""`merge`: saved reports as one, the shards of a run among them."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from spectroscope.errors import RequestError
from spectroscope.run.checkpoint import FINISHED
from spectroscope.run.loop import Inspection
from spectroscope.statistics import storage


def merge(folders: Sequence[str | os.PathLike[str]]) -> Inspection:
    """What the shards of a run, or other saved reports, are together.

    Shards that are missing are named in a warning.

    Args:
        folders: of the reports; the order of shards doesn't matter.

    Raises:
        RequestError: a report can't be read; a shard is there twice; they are shards of different
            runs, or recordings that don't fit together.
    """
    if not folders:
        raise RequestError("there is nothing to merge: give two folders or more")
    recordings = [storage.read(_report_in(folder)) for folder in folders]
    recordings.sort(key=lambda recording: recording.run_shard.shards if recording.run_shard else ())
    together = recordings[0]
    for recording in recordings[1:]:
        together = together.merge(recording)
    part = together.run_shard
    if part is not None and part.missing:
        missing = ", ".join(f"{number}/{part.of}" for number in part.missing)
        warnings.warn(f"shard {missing} is missing: the report is of the others", stacklevel=2)
    return Inspection.of(together)


def _report_in(folder: str | os.PathLike[str]) -> Path:
    return Path(folder) / FINISHED if os.path.isdir(folder) else Path(folder)
