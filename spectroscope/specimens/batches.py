"""Batches as people have them: inputs, or inputs and targets, and targets in one piece."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.errors import RequestError


def with_targets(
    batches: Iterable[Any], targets: ArrayLike | Tensor | None
) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Arguments of the model, and targets if there are any, batch by batch.

    Args:
        batches: each the inputs ``[N, ...]``, or ``(inputs, targets)``, as a `DataLoader` gives
            them; `inputs` a tuple where the model takes several, or a dictionary of tensors.
        targets: of all inputs, in order, for batches that have none.

    Raises:
        RequestError: a batch is of another kind, or there are too few targets.
    """
    given = None if targets is None else torch.as_tensor(targets)
    first = 0
    for batch in batches:
        target = None
        if isinstance(batch, list | tuple):
            if len(batch) != 2:
                raise RequestError(
                    f"a batch is inputs, or (inputs, targets), not {len(batch)} things"
                )
            batch, target = batch
        inputs = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        last = first + count(inputs[0])
        if target is None and given is not None:
            if len(given) < last:
                raise RequestError(f"{len(given)} targets for {last} inputs or more")
            target = given[first:last]
        first = last
        yield inputs, target


def count(argument: Any) -> int:
    """Inputs in an argument of the model: a tensor or list of them, or a dictionary of such."""
    return len(next(iter(argument.values())) if isinstance(argument, Mapping) else argument)


def tensor(output: Any) -> Tensor:
    """A model's output, if it is a tensor.

    Raises:
        RequestError: it isn't.
    """
    if not isinstance(output, Tensor):
        raise RequestError(
            f"the model returns a {type(output).__name__}; wrap it in one that returns the tensor "
            "to be judged"
        )
    return output
