"""Tensors among arguments, and values kept for tensors by identity."""

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def map(self, function: Callable[[T], T]) -> None:
        """Replace every value by ``function(value)``."""
        self._entries = {key: (ref, function(x)) for key, (ref, x) in self._entries.items()}

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


def nested_tensors(
    value: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Tensors in `value`, in any nesting of lists, tuples, mappings and dataclasses.

    Each comes with `path` and the keys, fields or indices that lead to it.

    >>> list(nested_tensors({"x": [torch.ones(1), 2], "y": None}))
    [(('x', '0'), tensor([1.]))]
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    items: Iterable[tuple[Any, Any]] = ()
    if len(path) > _DEPTH:
        return
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        items = [(name, getattr(value, name, None)) for name in names]
    for name, item in items:
        yield from nested_tensors(item, (*path, str(name)))


def is_transformed(tensor: Tensor) -> bool:
    """Whether a torch.func transform wraps the tensor, or what is computed of it.

    All transforms but vmap wrap each new tensor, also of tensors that aren't wrapped themselves.
    """
    transforms = _transforms()
    if transforms is None or _is_wrapped(tensor):
        return _is_wrapped(tensor)
    return any(transform.key() != _VMAP for transform in transforms)


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_transforms, _VMAP = (
    torch._C._functorch.get_interpreter_stack,
    torch._C._functorch.TransformType.Vmap,
)


def is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` has sizes, strides and storage."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
