"""`Checkpoint`: the state of a run in a file, from which a killed run resumes bit-equal."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from spectroscope.errors import RequestError
from spectroscope.io import STAGING, output_folder
from spectroscope.run.shards import WHOLE, Shard
from spectroscope.statistics import storage
from spectroscope.statistics.recording import Recording
from spectroscope.statistics.run_shard import RunShard, differences

FINISHED = "report.npz"


class State(NamedTuple):
    """State of an unfinished run.

    Attributes:
        recording: statistics, scores and labels so far.
        batches: number of batches of the shard that were run.
        every: batches between two checkpoints.
        recorder: further state of the recorder.
    """

    recording: Recording
    batches: int
    every: int
    recorder: Mapping[str, Any]


class Checkpoint:
    """The checkpoint of one shard of a run, in the folder of its report.

    Args:
        folder: is made if it doesn't exist.
        shard: share of the run.
        every: batches between two checkpoints; None: as in an existing checkpoint, or else no
            checkpoints are written.
        resume: resume from an existing checkpoint. Without it there must be none.
        keep: write the recording of the finished shard too, into a subfolder of `folder`.

    Raises:
        RequestError: `every` is less than 1, the folder can't be written to, there is a checkpoint
            and `resume` is False, or the folder has the report on another shard.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        shard: Shard = WHOLE,
        *,
        every: int | None = None,
        resume: bool = False,
        keep: bool = False,
    ):
        if every is not None and every < 1:
            raise RequestError(f"checkpoint_every={every} must be a number of batches, 1 or more")
        self.folder = Path(folder)
        self.shard = shard
        self.resume = resume
        name = "checkpoint" if shard.of == 1 else f"checkpoint-{shard.filename}"
        self.path = self.folder / f"{name}.npz"
        # Named by process: two runs started in one folder may write at the same time.
        self._staging = self.folder / f".{name}-{os.getpid()}.writing"
        self._kept = self.folder / f"shard-{shard.filename}" if keep else None
        self.every = every
        if self.exists and not resume:
            file = self.path if self.path.exists() else self.finished_file
            raise RequestError(
                f"{file} is the checkpoint of an unfinished run: --resume continues that run; "
                "delete the file to start anew"
            )
        other = self._reported_part() if shard.of > 1 and not keep else None
        if other is not None and other.of > 1 and other.shards != (shard.number,):
            raise RequestError(
                f"{self.folder} has the report on shard {_listed(other)}, which would be "
                f"overwritten: give shard {shard} a folder of its own"
            )

    def _reported_part(self) -> RunShard | None:
        """The part of a run whose report is in the folder; None: there is no readable report."""
        try:
            return storage.read(self.folder / FINISHED).run_shard
        except RequestError:
            return None

    @property
    def exists(self) -> bool:
        """Whether there is a file to resume from."""
        return self.path.exists() or self.finished_file is not None

    @property
    def finished_file(self) -> Path | None:
        """The kept recording of the finished shard, if there is one."""
        file = None if self._kept is None else self._kept / FINISHED
        return file if file is not None and file.exists() else None

    def due(self, batches: int) -> bool:
        """Whether a checkpoint is due after this number of batches of the shard."""
        return self.every is not None and batches % self.every == 0

    def read(self) -> State | None:
        """The last state written; None if there is none.

        Raises:
            RequestError: the file can't be read, or isn't a checkpoint.
        """
        if not self.path.exists():
            return None
        recording, more = storage.read_with_more(self.path)
        if recording.run_shard is None or not {"batches", "every", "recorder"} <= more.keys():
            raise RequestError(f"{self.path} is a report, not a checkpoint")
        state = State(recording, int(more["batches"]), int(more["every"]), more["recorder"])
        self.every = self.every or state.every
        return state

    def read_finished(self) -> Recording | None:
        """The kept recording of the finished shard, if there is one.

        Raises:
            RequestError: it can't be read.
        """
        file = self.finished_file
        return None if file is None else storage.read(file)

    def check(self, part: RunShard | None, fingerprint: Mapping[str, str]) -> None:
        """Check that the file that was read belongs to this run.

        Raises:
            RequestError: it belongs to another run; the message says what differs.
        """
        saved = {} if part is None else part.fingerprint
        file = self.finished_file or self.path
        if difference := differences(saved, fingerprint):
            difference = difference.replace(" in one and ", " there and ")
            difference = difference.replace(" in the other", " here")
            raise RequestError(f"{file} is of another run: {difference}")
        if part is not None and (part.shards, part.of) != ((self.shard.number,), self.shard.of):
            raise RequestError(f"{file} is of shard {_listed(part)}, not of shard {self.shard}")

    def write(self, recording: Recording, batches: int, recorder: Mapping[str, Any]) -> None:
        """Write the state atomically: a kill at any time leaves this state or the previous one.

        Raises:
            RequestError: the folder can't be written to.
        """
        more = {"batches": batches, "every": self.every, "recorder": recorder}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._staging.open("wb") as file:
                storage.write(recording, file, more=more)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name without the content
            os.replace(self._staging, self.path)
        except OSError as error:
            raise RequestError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:  # after an interrupt too
            with suppress(OSError):
                self._staging.unlink()

    def keep_finished(self, recording: Recording) -> None:
        """Write the recording of the finished shard, if `keep` was given.

        Raises:
            RequestError: the folder can't be written to.
        """
        if self._kept is not None:
            with output_folder(self._kept) as staging:
                storage.write(recording, staging / FINISHED)

    def remove(self) -> None:
        """Remove all files of the checkpoint, once the report is written."""
        if self.resume:  # the process before may have been killed while it wrote the report
            for staging in self.folder.glob(f"{STAGING}*"):
                shutil.rmtree(staging, ignore_errors=True)
        if self._kept is not None:
            shutil.rmtree(self._kept, ignore_errors=True)
        # Also the unfinished files of killed processes. The checkpoint itself comes last.
        for file in (*self.folder.glob(f".{self.path.stem}-*.writing"), self.path):
            file.unlink(missing_ok=True)


def _listed(part: RunShard) -> str:
    return ", ".join(f"{number}/{part.of}" for number in part.shards)


def resume_hint(folder: str | os.PathLike[str], of: int) -> str:
    """Which of the `of` shards in `folder` are finished, and how to run the others."""
    folder = Path(folder)
    shards = [Shard(number, of) for number in range(1, of + 1)]
    finished = [s for s in shards if (folder / f"shard-{s.filename}" / FINISHED).exists()]
    started = any((folder / f"checkpoint-{s.filename}.npz").exists() for s in shards)
    if not finished and not started:
        return "no shard was finished"
    missing = [s for s in shards if s not in finished]
    state = f"checkpoints are in {folder}, and no shard is finished"
    if finished:
        state = f"shards {', '.join(map(str, finished))} are finished and kept in {folder}"
    merge = f"`spectroscope merge {folder}/shard-*-of-{of} --out {folder}`"
    if missing:
        return (
            f"{state}; --resume runs the others ({', '.join(map(str, missing))}), or run each with "
            f"--shard i/{of} --out {folder}/shard-i-of-{of}, and then {merge}"
        )
    return f"{state}: {merge} merges them"
