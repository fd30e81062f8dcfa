"""The batches of a specimen in order, and their division into shards.

Shard i of n is every n-th batch, from the i-th. Rounding inside a model depends on the batch that
an input is in; whole batches keep it the same, so that merged shards equal one run to float64
rounding. No input is in two shards.
"""

import re
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    default_collate,
)

from spectroscope.errors import RequestError
from spectroscope.specimens.batches import as_targets, count
from spectroscope.specimens.specimen import Specimen

BATCH_SIZE = 64  # for a data set without a DataLoader


class Shard(NamedTuple):
    """One of `of` equal parts of a run.

    Attributes:
        number: number of the shard, from 1.
        of: number of shards.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse text such as ``"2/4"``.

        Raises:
            RequestError: `text` isn't a shard.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        shard = cls(*map(int, match.groups())) if match else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise RequestError(f"{text!r} is no shard: the shards of 4 are 1/4, 2/4, 3/4 and 4/4")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def filename(self) -> str:
        """The shard as part of a file name."""
        return f"{self.number}-of-{self.of}"

    def includes(self, batch: int, after: int = 0) -> bool:
        """Whether batch number `batch` is in the shard, beyond the shard's first `after`."""
        return batch % self.of == self.number - 1 and batch // self.of >= after


WHOLE = Shard()


class Batch(NamedTuple):
    """Inputs that go through the model together.

    Attributes:
        number: number of the batch among all batches, from 0.
        first: number of its first input among all inputs, from 0.
        indices: indices of its inputs in an array with one entry per input.
        arguments: arguments of the model.
        targets: targets that the data set gives with the inputs, if any.
    """

    number: int
    first: int
    indices: slice | list[int]
    arguments: tuple[Any, ...]
    targets: Tensor | None

    @property
    def size(self) -> int:
        """Number of inputs in the batch."""
        return count(self.arguments[0])

    def select(self, values: Any, name: str) -> Any:
        """The entries of this batch in `values`, an array with one entry per input.

        Raises:
            RequestError: `values` is too short; the message calls it `name`.
        """
        indices = self.indices
        last = indices.stop if isinstance(indices, slice) else 1 + max(map(int, indices))
        if len(values) < last:  # a slice would silently be shorter, and might broadcast
            raise RequestError(f"{len(values)} {name} for {last} inputs or more")
        return values[indices]

    def targets_of(self, specimen: Specimen) -> Any:
        """The targets that came with the batch, else the specimen's; None if there are none."""
        if self.targets is None and specimen.targets is not None:
            return self.select(specimen.targets, "targets")
        return self.targets


def batches(
    specimen: Specimen, shard: Shard = WHOLE, *, after: int = 0, workers: int | None = None
) -> Iterator[Batch]:
    """Yield batch 0, even where it isn't in the shard, and then the batches of the shard.

    Batch 0 identifies the data set, :func:`spectroscope.run.fingerprint.fingerprint`. Of a
    `DataLoader` or a map-style data set only these batches are loaded; any other iterable is read
    through. Batches end at `n_inputs` inputs, and the last batch is cut. Torch's random generator
    is seeded with the number of each batch before it is loaded, so that shuffling and augmentation
    are the same in every process and after a resume. The caller restores the generator's state.

    Args:
        specimen: source of the inputs.
        shard: which batches.
        after: number of batches of the shard to skip, which have been run already.
        workers: processes that load data; None: as in the `DataLoader`.

    Raises:
        RequestError: `workers` is negative, or the `DataLoader` has a `DistributedSampler`.
    """
    if workers is not None and workers < 0:
        raise RequestError(f"{workers=} must be a number of processes, 0 or more")
    inputs: Any = specimen.inputs
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        inputs = DataLoader(inputs, BATCH_SIZE)
    if type(inputs) is DataLoader and not isinstance(inputs.dataset, IterableDataset):
        if isinstance(inputs.sampler, DistributedSampler):
            raise RequestError(
                f"the inputs of {specimen.name} have a DistributedSampler, and would be divided "
                "twice: give a DataLoader without one"
            )
        if inputs.batch_sampler is not None:
            yield from _from_loader(specimen, inputs, shard, after, workers)
            return
    if workers is not None:
        warnings.warn(
            f"{workers=} is ignored: the inputs of {specimen.name} are neither a DataLoader nor a "
            "map-style data set",
            stacklevel=2,
        )
    yield from _from_iterable(specimen, inputs, shard, after)


def _from_loader(
    specimen: Specimen, loader: Any, shard: Shard, after: int, workers: int | None
) -> Iterator[Batch]:
    """The batches of :func:`batches`, by a copy of `loader` that samples only these."""
    sampled: deque[tuple[int, int, list[int]]] = deque()

    def batch_indices() -> Iterator[list[int]]:
        first = number = 0
        sampler = iter(loader.batch_sampler)
        # A sampler that draws lazily gets a random state of its own, whatever is drawn in between.
        sampler_state = torch.get_rng_state()
        while first < specimen.n_inputs:
            torch.set_rng_state(sampler_state)
            indices = next(sampler, None)
            sampler_state = torch.get_rng_state()
            if indices is None:
                return
            indices = list(indices)[: specimen.n_inputs - first]
            if not indices:
                continue
            if number == 0 or shard.includes(number, after):
                sampled.append((number, first, indices))
                torch.manual_seed(number)
                yield indices
            first += len(indices)
            number += 1

    num_workers = loader.num_workers if workers is None else workers
    torch.manual_seed(0)
    sharded = DataLoader(
        loader.dataset,
        batch_sampler=_SinglePass(batch_indices()),
        num_workers=num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout if num_workers else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if num_workers else None,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if num_workers else None,
    )
    for content in sharded:
        number, first, indices = sampled.popleft()
        yield _batch(specimen, number, first, indices, content)


class _SinglePass:
    """A batch sampler that can be iterated once."""

    def __init__(self, indices: Iterator[list[int]]):
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return self._indices


def _from_iterable(specimen: Specimen, inputs: Any, shard: Shard, after: int) -> Iterator[Batch]:
    first = 0
    torch.manual_seed(0)
    for number, content in enumerate(inputs):
        batch = _batch(specimen, number, first, None, content)
        if number == 0 or shard.includes(number, after):
            yield batch
        first += batch.size
        if first >= specimen.n_inputs:
            return
        torch.manual_seed(number + 1)


def _batch(
    specimen: Specimen, number: int, first: int, indices: list[int] | None, content: Any
) -> Batch:
    """Split `content` into arguments and targets, and cut it to `n_inputs` of the specimen."""
    loader = specimen.inputs
    # default_collate turns the tuples of a data set into lists.
    collated = getattr(loader, "collate_fn", default_collate) is default_collate
    if isinstance(content, list) and isinstance(loader, DataLoader | Dataset) and collated:
        content = tuple(content)
    targets = None
    if specimen.with_targets:
        if not isinstance(content, list | tuple) or len(content) != 2:
            got = f"{len(content)} objects" if isinstance(content, Sequence) else "one object"
            raise RequestError(
                f"a batch of {specimen.name} must be (inputs, targets), but is {got}"
            )
        content, targets = content
        targets = None if targets is None else as_targets(targets)
        if isinstance(content, list) and collated:
            content = tuple(content)
    arguments = content if isinstance(content, tuple) else (content,)
    size, remaining = count(arguments[0]), specimen.n_inputs - first
    if size > remaining:
        arguments = tuple(_cut(argument, remaining) for argument in arguments)
        targets = None if targets is None else targets[:remaining]
    selected = slice(first, first + min(size, remaining)) if indices is None else indices
    return Batch(number, first, selected, arguments, targets)


def _cut(argument: Any, size: int) -> Any:
    if isinstance(argument, Mapping):
        return {key: value[:size] for key, value in argument.items()}
    return argument[:size]
