"""`Values`: tells, without comparing bits, which tensors of several forwards have the same values.

Each storage has a state: what computed it (a function and the states of its arguments), or that it
existed before. A function that writes to it gives it another state. The value of a tensor is the
state of its storage and its place there.

What can't be followed is unknown: values from threads, extensions, NumPy and tensor subclasses,
writes that torch doesn't count, and all that is computed from these.
"""

import itertools
from collections.abc import Hashable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

_PLAIN = (bool, int, str, type(None), type(...), torch.dtype, torch.device, torch.layout,
          torch.memory_format)  # fmt: skip
_MAX_COMPARED = 2**26  # bytes of a storage whose content is compared

State: TypeAlias = Hashable


class _Storage:
    """What is known of a storage.

    Attributes:
        reference: weak; while it is held, no other storage has the same address.
        state: what its values are; None: unknown.
        version: of its tensors when the state was set.
        content: a copy, where functions that aren't seen may write to it.
        result: the call whose stored result has this storage.
    """

    __slots__ = ("content", "reference", "result", "state", "version")

    def __init__(self, tensor: Tensor, state: State):
        self.reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self.state = state
        self.version = _version(tensor)
        self.content: Tensor | None = None
        self.result: int | None = None


class UnknownError(Exception):
    """An argument's value isn't known."""


class Values:
    """The values of the tensors of a forward, and of later ones as far as they are the same.

    Attributes:
        recording: tensors not seen before get a state; otherwise they are unknown.
    """

    def __init__(self) -> None:
        self.recording = False
        self._leaf_states = itertools.count()
        self._storages: dict[int, _Storage] = {}  # by address

    def add_leaf(self, tensor: Tensor) -> None:
        """Give a state of its own to a tensor that nothing but torch writes to."""
        if has_storage(tensor):
            self.add(tensor, next(self._leaf_states))

    def clear(self) -> None:
        """Forget all."""
        self._storages.clear()

    def purge(self) -> None:
        """Forget the storages that no longer exist."""
        self._storages = {
            address: entry
            for address, entry in self._storages.items()
            if not entry.reference.expired()  # type: ignore[no-untyped-call]
        }

    def frozen(self, argument: Any) -> Hashable:
        """What equals that of any other argument with the same value."""
        kind = type(argument)
        if isinstance(argument, Tensor):
            value = self.value(argument)
            if value is None:
                raise UnknownError
            return value
        if kind in _PLAIN:
            return kind, argument
        if isinstance(argument, float):
            return kind, argument.hex()  # 0.0 == -0.0
        if isinstance(argument, np.generic):
            return argument.dtype.str, argument.tobytes()
        if kind in (tuple, list, torch.Size):
            return kind, *map(self.frozen, argument)
        if kind is dict:
            return kind, *((key, self.frozen(item)) for key, item in argument.items())
        if kind is slice:
            return kind, *map(self.frozen, (argument.start, argument.stop, argument.step))
        raise UnknownError

    def value(self, tensor: Tensor) -> Hashable:
        """What the values of a tensor are: the state of its storage, and where in it they are."""
        if not has_storage(tensor):
            return None
        entry = self.entry(tensor)
        if torch.is_inference_mode_enabled():  # writes aren't counted
            self.distrust((tensor,))
            return None
        if entry is None:
            if not self.recording:
                return None
            entry = self.add(tensor, next(self._leaf_states))
            self._keep_content(entry, tensor)
        elif entry.version != _version(tensor) or (
            entry.content is not None and not torch.equal(entry.content, _bytes(tensor))
        ):
            entry.state = None  # a write that wasn't seen
        if entry.state is None:
            return None
        place = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        return entry.state, *place, tensor.is_conj(), tensor.is_neg()

    def entry(self, tensor: Tensor) -> _Storage | None:
        """What is known of the storage of a plain tensor."""
        return self._storages.get(tensor.untyped_storage()._cdata)

    def add(self, tensor: Tensor, state: State) -> _Storage:
        """Set the state of a storage."""
        entry = _Storage(tensor, state)
        self._storages[tensor.untyped_storage()._cdata] = entry
        return entry

    def _keep_content(self, entry: _Storage, tensor: Tensor) -> None:
        """Copy what an extension, NumPy or a CUDA graph may write to again."""
        if tensor.untyped_storage().nbytes() <= _MAX_COMPARED:
            entry.content = _bytes(tensor).clone()
        else:
            entry.state = None

    def distrust(self, given: Iterable[Tensor]) -> None:
        """Make the values of tensors unknown, for good."""
        for tensor in filter(has_storage, given):
            entry = self.entry(tensor)
            if entry is not None:
                entry.state = None
            elif self.recording:
                self.add(tensor, None)

    def note_writes(self, call: int | None, given: Iterable[Tensor]) -> list[int]:
        """Set the states of the arguments that a function has written to.

        Returns:
            The calls whose stored results were overwritten.
        """
        overwritten = []
        for i, tensor in enumerate(given):
            entry = self.entry(tensor) if has_storage(tensor) else None
            if entry is None or entry.version == _version(tensor):
                continue
            entry.version = _version(tensor)
            entry.state = None if call is None else (call, "written", i)
            if entry.content is not None:
                self._keep_content(entry, tensor)
            if entry.result is not None:
                overwritten.append(entry.result)
                entry.result = None
        return overwritten


def has_storage(tensor: Tensor) -> bool:
    """Whether a tensor is plain: of torch's own class, with storage, sizes and strides."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _version(tensor: Tensor) -> int:
    """The number of writes to a tensor and its views so far."""
    # Outside of inference mode nothing can be written to an inference tensor.
    return 0 if tensor.is_inference() else tensor._version


def _bytes(tensor: Tensor) -> Tensor:
    """The whole storage of a tensor."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
