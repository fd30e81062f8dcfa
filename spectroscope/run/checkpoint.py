"""`Checkpoint`: the state of a run in a file, so that a killed one can go on where it was."""

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
    """Where a run was.

    Attributes:
        recording: what was recorded, with the part that it is.
        batches: of the shard, that were run.
        every: batches between two checkpoints.
        seen: what its recorder had seen beside that.
    """

    recording: Recording
    batches: int
    every: int
    seen: Mapping[str, Any]


class Checkpoint:
    """The checkpoint of one shard of a run, in the folder that its report is going to be in.

    Args:
        folder: is made if it isn't there.
        shard: which share of the run.
        every: batches between two checkpoints; None: as before, if there is one, or none are
            written.
        resume: go on from what is there. Otherwise nothing may be.
        keep: write the recording of the finished shard too, into a folder of its own in `folder`.

    Raises:
        RequestError: `every` is less than 1, the folder can't be written to, there is a checkpoint
            and `resume` isn't asked for, or the folder has the report on another shard.
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
        # Two processes may write at a time, if two runs were begun in one folder.
        self._unfinished = self.folder / f".{name}-{os.getpid()}.writing"
        self._kept = self.folder / f"shard-{shard.filename}" if keep else None
        self.every = every
        if self.there and not resume:
            file = self.path if self.path.exists() else self.finished_file
            raise RequestError(
                f"there is a checkpoint of an unfinished run, {file}: --resume goes on from it; "
                "to begin anew, delete it"
            )
        there = self._finished_beside() if shard.of > 1 and not keep else None
        if there is not None and there.of > 1 and there.shards != (shard.number,):
            raise RequestError(
                f"{self.folder} has the report on shard {_listed(there)}, which would be lost: "
                f"{shard} takes a folder of its own"
            )

    def _finished_beside(self) -> RunShard | None:
        """Of which run the report in the folder is; None: there is none that can be read."""
        try:
            return storage.read(self.folder / FINISHED).run_shard
        except RequestError:
            return None

    @property
    def there(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.exists() or self.finished_file is not None

    @property
    def finished_file(self) -> Path | None:
        """The kept recording of the finished shard, if there is one."""
        file = None if self._kept is None else self._kept / FINISHED
        return file if file is not None and file.exists() else None

    def due(self, batches: int) -> bool:
        """Whether it is to be written after so many batches of the shard."""
        return self.every is not None and batches % self.every == 0

    def read(self) -> State | None:
        """The state that was written last; None if there is none.

        Raises:
            RequestError: it can't be read, or isn't one.
        """
        if not self.path.exists():
            return None
        recording, more = storage.read_with_more(self.path)
        if recording.run_shard is None or not {"batches", "every", "seen"} <= more.keys():
            raise RequestError(f"{self.path} is a report, not a checkpoint")
        state = State(recording, int(more["batches"]), int(more["every"]), more["seen"])
        self.every = self.every or state.every
        return state

    def read_finished(self) -> Recording | None:
        """The kept recording of the finished shard, if there is one.

        Raises:
            RequestError: it can't be read.
        """
        file = self.finished_file
        return None if file is None else storage.read(file)

    def check(self, part: RunShard | None, identity: Mapping[str, str]) -> None:
        """See that what was read is of this run.

        Raises:
            RequestError: it is of another; the message says what differs.
        """
        found = {} if part is None else part.fingerprint
        where = self.finished_file or self.path
        if apart := differences(found, identity):
            apart = apart.replace(" in one and ", " there and ").replace(" in the other", " here")
            raise RequestError(f"{where} is of another run: {apart}")
        if part is not None and (part.shards, part.of) != ((self.shard.number,), self.shard.of):
            raise RequestError(f"{where} is of shard {_listed(part)}, and not of {self.shard}")

    def write(self, recording: Recording, batches: int, seen: Mapping[str, Any]) -> None:
        """Write the state: whoever kills us, and whenever, leaves this one or the one before.

        Raises:
            RequestError: the folder can't be written to.
        """
        more = {"batches": batches, "every": self.every, "seen": seen}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._unfinished.open("wb") as file:
                storage.write(recording, file, more=more)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the name without the content
            os.replace(self._unfinished, self.path)
        except OSError as error:
            raise RequestError(f"cannot write {self.path}: {error.strerror or error}") from error
        finally:  # an interrupt, too, leaves nothing torn
            with suppress(OSError):
                self._unfinished.unlink()

    def keep_finished(self, recording: Recording) -> None:
        """Write the recording of the finished shard, if it is to be kept.

        Raises:
            RequestError: the folder can't be written to.
        """
        if self._kept is not None:
            with output_folder(self._kept) as staging:
                storage.write(recording, staging / FINISHED)

    def remove(self) -> None:
        """Remove all that was written; the report has all of it."""
        if self.resume:  # the process before may have been killed while it wrote the report
            for staging in self.folder.glob(f"{STAGING}*"):
                shutil.rmtree(staging, ignore_errors=True)
        if self._kept is not None:
            shutil.rmtree(self._kept, ignore_errors=True)
        # Whoever was killed has left what he was writing. The checkpoint last.
        for file in (*self.folder.glob(f".{self.path.stem}-*.writing"), self.path):
            file.unlink(missing_ok=True)


def _listed(part: RunShard) -> str:
    return ", ".join(f"{number}/{part.of}" for number in part.shards)


def how_to_go_on(folder: str | os.PathLike[str], of: int) -> str:
    """What of a run of so many shards is in `folder`, and what to do with it: for people."""
    shards = [Shard(number, of) for number in range(1, of + 1)]
    finished = [s for s in shards if (Path(folder) / f"shard-{s.filename}" / FINISHED).exists()]
    started = any((Path(folder) / f"checkpoint-{s.filename}.npz").exists() for s in shards)
    if not finished and not started:
        return "no shard was finished"
    missing = [s for s in shards if s not in finished]
    said = f"checkpoints are in {folder}, and no shard is finished"
    if finished:
        said = f"shards {', '.join(map(str, finished))} are finished and kept in {folder}"
    if missing:
        return (
            f"{said}; --resume runs the others ({', '.join(map(str, missing))}), or each with "
            f"--shard i/{of} --out {folder}/shard-i-of-{of}, and then `spectroscope merge "
            f"{folder}/shard-*-of-{of} --out {folder}`"
        )
    return (
        f"{said}: `spectroscope merge {folder}/shard-*-of-{of} --out {folder}` puts them together"
    )
