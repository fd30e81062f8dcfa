"""The batches of a specimen in their order, and which of them are one process's share.

Shards are of whole batches, every n-th: what a model's own arithmetic makes of an input depends a
little on the batch that it comes in, and so all shards together are the same as one run to float64
rounding. No input is in two of them.
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
from spectroscope.specimens.batches import as_targets
from spectroscope.specimens.batches import count as inputs_in
from spectroscope.specimens.specimen import Specimen

BATCH = 64  # of a data set that isn't in batches


class Shard(NamedTuple):
    """One of the equal shares of a run.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard ``"2/4"``.

        Raises:
            RequestError: it isn't one.
        """
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        shard = cls(*map(int, found.groups())) if found else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise RequestError(f"there is no shard {text!r}: of four they are 1/4, 2/4, 3/4, 4/4")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def filename(self) -> str:
        """As part of the name of a file."""
        return f"{self.number}-of-{self.of}"

    def has(self, batch: int, after: int = 0) -> bool:
        """Whether it has the batch of that number, and it isn't among its first `after`."""
        return batch % self.of == self.number - 1 and batch // self.of >= after


WHOLE = Shard()


class Batch(NamedTuple):
    """Inputs that go through the model together.

    Attributes:
        number: among all batches, from 0.
        first: number of its first input among those of all batches, from 0.
        members: what picks its inputs out of an array with an entry for each.
        arguments: of the model.
        targets: that came with it, if any did.
    """

    number: int
    first: int
    members: slice | list[int]
    arguments: tuple[Any, ...]
    targets: Tensor | None

    @property
    def size(self) -> int:
        """Number of its inputs."""
        return inputs_in(self.arguments[0])

    def its(self, values: Any, what: str) -> Any:
        """Its own of `values`, an array with an entry for each input.

        Raises:
            RequestError: there are too few; `what` says of which.
        """
        members = self.members
        last = members.stop if isinstance(members, slice) else 1 + max(map(int, members))
        if len(values) < last:  # a slice would be shorter, and might yet fit what it meets
            raise RequestError(f"{len(values)} {what} for {last} inputs or more")
        return values[members]


def batches(
    specimen: Specimen, shard: Shard = WHOLE, *, after: int = 0, workers: int | None = None
) -> Iterator[Batch]:
    """The very first batch, whosever it is, and then those of the shard.

    The first tells one data set from another. Of a `DataLoader` or a map-style data set nothing
    else is loaded that the shard doesn't have; other inputs are gone through. No more come than
    `n_inputs` in all; the last batch is cut to that. Torch's random numbers are seeded before each
    batch, by its number: what is drawn then (to shuffle, to augment) doesn't depend on what ran
    before, and is the same in every process. The caller keeps the generators' state, if it matters.

    Args:
        specimen: whose inputs.
        shard: which share.
        after: so many batches of the shard have been run already.
        workers: processes that load data; None: as the `DataLoader` has it.

    Raises:
        RequestError: `workers` is negative, or the `DataLoader` has a `DistributedSampler`.
    """
    if workers is not None and workers < 0:
        raise RequestError(f"{workers=} must be a number of processes, 0 or more")
    inputs: Any = specimen.inputs
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        inputs = DataLoader(inputs, BATCH)
    if type(inputs) is DataLoader and not isinstance(inputs.dataset, IterableDataset):
        if isinstance(inputs.sampler, DistributedSampler):
            raise RequestError(
                f"the inputs of {specimen.name} have a DistributedSampler, and would be shared out "
                "twice: give a DataLoader without"
            )
        if inputs.batch_sampler is not None:
            yield from _loaded(specimen, inputs, shard, after, workers)
            return
    if workers is not None:
        warnings.warn(
            f"{workers=} doesn't apply: the inputs of {specimen.name} are neither a DataLoader nor "
            "a map-style data set",
            stacklevel=2,
        )
    yield from _gone_through(specimen, inputs, shard, after)


def _loaded(
    specimen: Specimen, loader: Any, shard: Shard, after: int, workers: int | None
) -> Iterator[Batch]:
    """Of a `DataLoader`, by another one like it, whose sampler names but what is wanted."""
    chosen: deque[tuple[int, int, list[int]]] = deque()

    def wanted() -> Iterator[list[int]]:
        first = number = 0
        indices_of = iter(loader.batch_sampler)
        # A sampler that draws as it goes has numbers of its own, whatever is drawn in between.
        drawn = torch.get_rng_state()
        while first < specimen.n_inputs:
            torch.set_rng_state(drawn)
            indices = next(indices_of, None)
            drawn = torch.get_rng_state()
            if indices is None:
                return
            indices = list(indices)[: specimen.n_inputs - first]
            if not indices:
                continue
            if number == 0 or shard.has(number, after):
                chosen.append((number, first, indices))
                torch.manual_seed(number)
                yield indices
            first += len(indices)
            number += 1

    number_of = loader.num_workers if workers is None else workers
    torch.manual_seed(0)
    own = DataLoader(
        loader.dataset,
        batch_sampler=_Once(wanted()),
        num_workers=number_of,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout if number_of else 0,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context if number_of else None,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if number_of else None,
    )
    for content in own:
        number, first, indices = chosen.popleft()
        yield _batch(specimen, number, first, indices, content)


class _Once:
    """A batch sampler that can be gone through once."""

    def __init__(self, indices: Iterator[list[int]]):
        self._indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return self._indices


def _gone_through(specimen: Specimen, inputs: Any, shard: Shard, after: int) -> Iterator[Batch]:
    first = 0
    torch.manual_seed(0)
    for number, content in enumerate(inputs):
        batch = _batch(specimen, number, first, None, content)
        if number == 0 or shard.has(number, after):
            yield batch
        first += batch.size
        if first >= specimen.n_inputs:
            return
        torch.manual_seed(number + 1)


def _batch(
    specimen: Specimen, number: int, first: int, indices: list[int] | None, content: Any
) -> Batch:
    """`content` taken apart, and cut to what is left of the specimen's inputs."""
    loader = specimen.inputs
    made_a_list = getattr(loader, "collate_fn", default_collate) is default_collate
    if isinstance(content, list) and isinstance(loader, DataLoader | Dataset) and made_a_list:
        content = tuple(content)  # which is what the data set gave
    targets = None
    if specimen.with_targets:
        if not isinstance(content, list | tuple) or len(content) != 2:
            what = f"{len(content)} things" if isinstance(content, Sequence) else "one thing"
            raise RequestError(
                f"a batch of {specimen.name} must be (inputs, targets), and is {what}"
            )
        content, targets = content
        targets = None if targets is None else as_targets(targets)
        if isinstance(content, list) and made_a_list:
            content = tuple(content)
    arguments = content if isinstance(content, tuple) else (content,)
    left = specimen.n_inputs - first
    given = inputs_in(arguments[0])
    count = min(given, left)
    if given > left:
        arguments = tuple(_cut(argument, left) for argument in arguments)
        targets = None if targets is None else targets[:left]
    members = slice(first, first + count) if indices is None else indices
    return Batch(number, first, members, arguments, targets)


def _cut(argument: Any, left: int) -> Any:
    if isinstance(argument, Mapping):
        return {key: value[:left] for key, value in argument.items()}
    return argument[:left]
