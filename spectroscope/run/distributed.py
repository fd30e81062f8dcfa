"""The processes that torchrun starts: who is there, who has died, and how their states meet.

Each runs its share by itself. In the end the states go to the first, one after the other. Who is
alive, and who is ready, is in the store by which the processes found each other.
"""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

# Seconds. A rank that hasn't been heard of for so long is gone; torchrun itself sees most sooner.
SILENCE = 60.0
BEAT = 1.0
START = timedelta(minutes=10)  # till all have come
TRANSFER = timedelta(minutes=10)  # of one state, once both sides are ready for it
FAREWELL = 10.0


def launched() -> bool:
    """Whether this process is one of several, as torchrun's environment says."""
    told = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return told and os.environ["WORLD_SIZE"] != "1"


@contextmanager
def joined(device: str | None = None) -> Iterator["Group"]:
    """The group of the processes that torchrun started; leaving it, each waits for the first.

    The first is to have written the report by then.

    Args:
        device: as :func:`spectroscope.run.inspect` takes it; ``"cuda"`` is one for each process.

    Raises:
        RequestError: there are fewer GPUs than processes here.
        UnfinishedError: another process has died, or has failed.
    """
    # Deferred: not every build of torch has them.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_RANK", rank))
    backend, at = "gloo", torch.device("cpu")
    if device == "cuda" and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise RequestError(
                f"{local + 1} processes or more on one machine, and it has "
                f"{torch.cuda.device_count()} GPU: --nproc-per-node takes as many, or --device cpu"
            )
        device = f"cuda:{local}"
        backend, at = "nccl", torch.device(device)
        torch.cuda.set_device(at)
    with _terminated_as_error(rank, world):
        store, _, _ = next(rendezvous("env://", timeout=START))
        store = PrefixStore("spectroscope", store)
        asked = _Bounded(store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world,
                                timeout=TRANSFER)  # fmt: skip
        group = Group(rank, world, asked, device, at)
        beating = threading.Thread(target=group._beat, daemon=True)
        beating.start()
        try:
            yield group
            group._leave()
        except BaseException as error:
            with suppress(RuntimeError, TimeoutError):
                said = str(error).partition("\n")[0] or type(error).__name__
                if not isinstance(error, UnfinishedError | _TerminatedError):
                    asked.set("failed", f"rank {rank} of {world} has failed: {said}")
            if rank == 0 and isinstance(error, Exception):
                time.sleep(2 * BEAT)  # the store may go with this process: let the others read it
            raise
        finally:
            group._stop.set()
            beating.join(BEAT)
            with suppress(RuntimeError):
                dist.destroy_process_group()


class Group:
    """What one process knows of the others.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        device: what it is to run on, as it was asked for.
    """

    def __init__(
        self, rank: int, world: int, store: "_Bounded", device: str | None, at: torch.device
    ) -> None:
        self.rank = rank
        self.world = world
        self.device = device
        self._store = store
        self._at = at  # where what is sent has to be
        self._stop = threading.Event()
        self._listened = 0.0
        self._heard: dict[int, tuple[bytes, float]] = {}

    @property
    def shard(self) -> Shard:
        """The share of this process."""
        return Shard(self.rank + 1, self.world)

    @property
    def reports(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def any(self, mine: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        answer = torch.tensor(int(mine), device=self._at)
        with self._connected():
            dist.all_reduce(answer, dist.ReduceOp.MAX)
            return bool(answer)

    def gathered(self, recording: Recording) -> Recording:
        """In the first process all recordings merged, in the order of the ranks; else its own.

        Raises:
            UnfinishedError: another process has died, or has failed.
        """
        if self.rank:
            buffer = io.BytesIO()
            storage.write(recording, buffer)
            content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
            self._store.set(f"ready/{self.rank}", str(len(content)))
            self._wait(f"go/{self.rank}")
            with self._connected():
                dist.send(content.to(self._at), 0)
            return recording
        recorded = recording.about["recorded"]
        for rank in range(1, self.world):
            self._wait(f"ready/{rank}")
            content = torch.empty(
                int(self._store.get(f"ready/{rank}")), dtype=torch.uint8, device=self._at
            )
            self._store.set(f"go/{rank}", "")
            with self._connected():
                dist.recv(content, rank)
            read, _ = storage.read_with_more(io.BytesIO(content.cpu().numpy().tobytes()))
            # It began a moment earlier or later: that isn't another date.
            about = {**read.about, "recorded": recorded}
            recording = recording.merge(replace(read, about=about))
        return recording

    def _leave(self) -> None:
        """Say that all is done, or wait till it is."""
        if self.rank:
            self._wait("finished")
            with suppress(RuntimeError, TimeoutError):  # it needn't stay for that
                self._store.set(f"left/{self.rank}", "")
            return
        self._store.set("finished", "")
        until = time.monotonic() + FAREWELL
        others = [f"left/{rank}" for rank in range(1, self.world)]
        while not self._store.check(others) and time.monotonic() < until:
            time.sleep(0.05)  # without an agent the store goes when this process does

    def _wait(self, key: str) -> None:
        while True:
            with self._connected():
                if self._store.check([key]):
                    return
                if self._store.check(["failed"]):
                    raise UnfinishedError(self._store.get("failed").decode())
                self._listen()
            time.sleep(0.05)

    def _listen(self) -> None:
        """Raise if a process hasn't been heard of for too long.

        The first listens to all, and the others to it: it says what it has heard.
        """
        now = time.monotonic()
        if now < self._listened + BEAT:
            return
        self._listened = now
        for rank in range(1 if self.rank else self.world):
            key = f"beat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            before, since = self._heard.get(rank, (None, now))
            self._heard[rank] = (beat, since if beat == before else now)
            if now - self._heard[rank][1] > SILENCE:
                said = f"rank {rank} of {self.world} hasn't been heard of for {SILENCE:.0f} s"
                self._store.set("failed", said)
                raise UnfinishedError(said)

    def _beat(self) -> None:
        count = 0
        with suppress(RuntimeError, TimeoutError):  # the store is gone: others will see
            while not self._stop.is_set():
                count += 1
                self._store.set(f"beat/{self.rank}", str(count))
                self._stop.wait(BEAT)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise UnfinishedError(
                f"rank 0, or where the store is, hasn't answered for {SILENCE:.0f} s"
            ) from None
        except RuntimeError as error:  # all that torch.distributed raises is one
            first = str(error).partition("\n")[0]
            raise UnfinishedError(f"a process of the group is gone: {first}") from error


class _Bounded:
    """A store whose questions are answered within `SILENCE`, or raise a `TimeoutError`.

    One whose host is frozen, or cut off from power or network, would keep us for ever.
    """

    def __init__(self, store: Any):
        self._store = store

    def check(self, keys: list[str]) -> bool:
        return bool(self._ask(self._store.check, keys))

    def get(self, key: str) -> bytes:
        return bytes(self._ask(self._store.get, key))

    def set(self, key: str, value: str) -> None:
        self._ask(self._store.set, key, value)

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        answers: list[Any] = []

        def ask() -> None:
            try:
                answers.append((question(*args), None))
            except RuntimeError as error:
                answers.append((None, error))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(SILENCE)
        if not answers:
            raise TimeoutError
        answer, error = answers[0]
        if error is not None:
            raise error
        return answer


class _TerminatedError(BaseException):
    """SIGTERM has come. Like an interrupt it isn't to be caught by what catches an Exception."""


@contextmanager
def _terminated_as_error(rank: int, world: int) -> Iterator[None]:
    """Torchrun terminates the others when one has died: say that, instead of ending in silence."""

    def terminated(number: int, frame: FrameType | None) -> NoReturn:
        raise _TerminatedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except _TerminatedError:
        raise UnfinishedError(
            f"rank {rank} of {world} was told to end: another has probably died or failed"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
