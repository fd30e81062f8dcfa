"""Tensors among arguments, and values kept for tensors by identity."""

import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_DEPTH = 8  # of nested inputs; an input may contain itself


class TensorMap(Generic[T]):
    """A value for each of some tensors, which are compared by identity and referenced weakly."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def get(self, tensor: Tensor) -> T | None:
        """The value of `tensor`, or None."""
        entry = self._entries.get(id(tensor))
        # The id of a tensor that no longer exists may be in use by another.
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def set(self, tensor: Tensor, value: T) -> None:
        """Set the value of `tensor`."""
        self._entries[id(tensor)] = weakref.ref(tensor), value

    def discard(self, tensor: Tensor) -> None:
        """Remove `tensor`, if present."""
        self._entries.pop(id(tensor), None)

    def may_contain(self, value: Any) -> bool:
        """Cheap pre-check of any object: no false negatives."""
        return id(value) in self._entries


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among `values`, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def nested_tensors(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Tensors in `value`, in any nesting of lists, tuples, mappings and dataclasses.

    >>> list(nested_tensors({"x": [torch.ones(1), 2], "y": None}))
    [tensor([1.])]
    """
    if isinstance(value, Tensor):
        yield value
        return
    items: Iterable[Any] = ()
    if depth and isinstance(value, Mapping):
        items = value.values()
    elif depth and isinstance(value, list | tuple):
        items = value
    elif depth and dataclasses.is_dataclass(value):
        items = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    for item in items:
        yield from nested_tensors(item, depth - 1)


def is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` has sizes, strides and storage."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
