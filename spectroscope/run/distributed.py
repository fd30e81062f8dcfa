"""A run in the processes that torchrun starts: each runs one shard, rank 0 merges the recordings.

The group uses gloo on every device, because only finished recordings are sent, and these are on the
CPU. Gloo reports a dead process as soon as its connection closes, and a hanging one after the
timeout of the group.
"""

import io
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from spectroscope.errors import RequestError, UnfinishedError
from spectroscope.run.shards import Shard
from spectroscope.statistics import storage
from spectroscope.statistics.recording import Recording

TIMEOUT = timedelta(hours=1)


def is_distributed() -> bool:
    """Whether torchrun's environment variables say that this process is one of several."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def process_group(
    device: str | None = None, *, timeout: timedelta = TIMEOUT
) -> Iterator["ProcessGroup"]:
    """Join the process group of torchrun's environment variables.

    Leaving the block waits until every rank has reached its end, so that the shards on disk stay
    until rank 0 has written the report.

    Args:
        device: as in :func:`spectroscope.run.inspect`; ``"cuda"`` becomes one GPU per process.
        timeout: how long a rank waits for another one that neither answers nor dies. Ranks that
            finish earlier wait so long for slower ones.

    Raises:
        RequestError: this machine has fewer GPUs than processes.
        UnfinishedError: another rank is gone or hangs, or this one got SIGTERM.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    if device == "cuda" and torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise RequestError(
                f"this machine has {gpus} GPU and at least {local_rank + 1} processes: start one "
                f"process per GPU (--nproc-per-node {gpus}), or use --device cpu"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    group = ProcessGroup(rank, world_size, device)
    with _sigterm_as_error(group):
        with group._errors():
            dist.init_process_group("gloo", timeout=timeout)
        yield group
        group._all_gather(0)
        # Not after an error: it would wait for a pending collective. The process ends anyway.
        dist.destroy_process_group()


class ProcessGroup:
    """The ranks of a distributed run.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        device: device of this process, as in :func:`spectroscope.run.inspect`.
    """

    def __init__(self, rank: int, world_size: int, device: str | None) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"

    @property
    def shard(self) -> Shard:
        """The shard that this process runs."""
        return Shard(self.rank + 1, self.world_size)

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which prints and writes the report."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any rank; every rank must call it."""
        return any(self._all_gather(int(value)))

    def gather(self, recording: Recording) -> Recording:
        """On rank 0 the recordings of all ranks, merged in their order; elsewhere `recording`.

        Recordings are sent as the bytes of their npz file: unlike a pickle, it can't run code.

        Raises:
            UnfinishedError: another rank is gone or hangs.
        """
        buffer = io.BytesIO()
        if not self.is_main:
            storage.write(recording, buffer)
        sizes = self._all_gather(buffer.tell())
        if not self.is_main:
            with self._errors():
                dist.send(torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8), 0)
            return recording
        recorded = recording.about["recorded"]
        for rank in range(1, self.world_size):
            content = torch.empty(sizes[rank], dtype=torch.uint8)
            with self._errors():
                dist.recv(content, rank)
            received, _ = storage.read_with_more(io.BytesIO(content.numpy().tobytes()))
            # Ranks start moments apart: the date of the run is that of rank 0.
            about = {**received.about, "recorded": recorded}
            recording = recording.merge(replace(received, about=about))
        return recording

    def _all_gather(self, value: int) -> list[int]:
        """The `value` of each rank."""
        values = [torch.tensor([0]) for _ in range(self.world_size)]
        with self._errors():
            work: Any = dist.all_gather(values, torch.tensor([value]), async_op=True)
            while not work.is_completed():  # a signal handler can't run inside work.wait()
                time.sleep(0.05)
            work.wait()
        return [int(entry) for entry in values]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of torch.distributed, which are RuntimeErrors, into UnfinishedErrors."""
        try:
            yield
        except RuntimeError as error:
            # "[…/pair.cc:561] Connection closed by peer […]. This is …": the first sentence of it.
            reason = re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0]).partition(". ")[0]
            raise UnfinishedError(f"{self}: another rank is gone or hangs ({reason})") from error


class _TerminatedError(BaseException):
    """SIGTERM arrived. Not an `Exception`, so that user code doesn't catch it by accident."""


@contextmanager
def _sigterm_as_error(group: ProcessGroup) -> Iterator[None]:
    """Raise an UnfinishedError at SIGTERM, which torchrun sends to all ranks when one has failed.

    By default the process would end without a message. After an error SIGTERM is ignored.
    """

    def terminated(number: int, frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    previous = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except BaseException as error:
        # A further SIGTERM must not end the process before the caller has printed the message.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, _TerminatedError):
            text = f"{group} was terminated: another rank has probably failed"
            raise UnfinishedError(text) from None
        raise
    signal.signal(signal.SIGTERM, previous)
