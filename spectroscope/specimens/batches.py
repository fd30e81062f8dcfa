"""Batches from a user: inputs, or (inputs, targets), or inputs and separate targets."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.errors import RequestError, first_line


def with_targets(
    batches: Iterable[Any], targets: ArrayLike | Tensor | None
) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Iterate over (arguments of the model, targets or None), batch by batch.

    Args:
        batches: each is inputs ``[N, ...]`` or ``(inputs, targets)``, like those of a `DataLoader`.
            `inputs` is a tuple if the model takes several arguments; an argument may be a
            dictionary of tensors.
        targets: targets of all inputs, in order, for batches without targets.

    Raises:
        RequestError: a batch has another structure, or there are too few targets.
    """
    all_targets = None if targets is None else as_targets(targets)
    first = 0
    for batch in batches:
        target = None
        if isinstance(batch, list | tuple):
            if len(batch) != 2:
                raise RequestError(
                    f"a batch must be inputs or (inputs, targets), not {len(batch)} items"
                )
            batch, target = batch
        inputs = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        last = first + count(inputs[0])
        if target is None and all_targets is not None:
            if len(all_targets) < last:
                raise RequestError(f"{len(all_targets)} targets for {last} inputs or more")
            target = all_targets[first:last]
        first = last
        yield inputs, None if target is None else as_targets(target)


def as_targets(targets: Any) -> Tensor:
    """Targets as a tensor, by position: from a tensor, a list, a NumPy array or a pandas Series.

    Raises:
        RequestError: they aren't numbers.
    """
    if isinstance(targets, Tensor):
        return targets
    try:
        if isinstance(targets, list | tuple | int | float):
            return torch.as_tensor(targets)
        array = np.array(targets, order="C")  # a copy: the original may be read-only
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise RequestError(
            "targets must be numbers, in one tensor, array or list with an entry for each input "
            f"(torch.cat joins batches): {reason}"
        ) from error


def count(argument: Any) -> int:
    """Number of inputs in an argument of the model: a tensor, a list, or a dictionary of them."""
    return len(next(iter(argument.values())) if isinstance(argument, Mapping) else argument)


def tensor(output: Any) -> Tensor:
    """Return the model's output, which must be a tensor.

    Raises:
        RequestError: it is not a tensor.
    """
    if not isinstance(output, Tensor):
        raise RequestError(
            f"the model returns a {type(output).__name__}; wrap it in a module that returns the "
            "tensor to evaluate"
        )
    return output
