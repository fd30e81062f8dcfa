"""Replay of a forward: later forwards of the same inputs reuse results of the first.

A result is reused where the same function gets the same values. Values are compared by origin, not
bit by bit: each storage has a state, which says what computed it (a function and the states of its
arguments), or that it existed before. A function that writes to a storage gives it another state.
So the position in the forward plays no part: a forward that fills a cache, or takes another branch,
reuses what it computes the same way, and computes the rest.

What can't be followed is never reused: values from threads, extensions, NumPy and tensor subclasses,
writes that torch doesn't count, and all that is computed from these.
"""

import itertools
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from spectroscope.capture import hooks
from spectroscope.capture.axes import tensors

# Expensive functions that return a new tensor, which depends on the arguments alone.
_STORED = {
    *(f"{name}{n}d" for n in (1, 2, 3) for name in ("conv", "conv_transpose", "_max_pool",
      "max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_max_pool")),
    "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "einsum", "batch_norm",
    "layer_norm", "group_norm", "instance_norm", "scaled_dot_product_attention", "interpolate",
    "softmax", "gelu", "silu", "cat", "concat", "add", "__add__", "mul", "__mul__",
}  # fmt: skip
# They make memory that a kernel may fill unseen.
_BUFFERS = {"zeros", "zeros_like", "new_zeros", "resize_", "set_"}
# They give the memory of a tensor to code that may write to it unseen.
_ESCAPES = {"numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"}
_PLAIN = (bool, int, str, type(None), type(...), torch.dtype, torch.device, torch.layout,
          torch.memory_format)  # fmt: skip
_METHODS = MethodDescriptorType, WrapperDescriptorType
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


class _Result(NamedTuple):
    """A stored result.

    Attributes:
        tensor: the result, or a copy.
        value: of it, when it was stored.
        copied: the model writes to the result, and must get a copy each time.
    """

    tensor: Tensor
    value: Hashable
    copied: bool


class _UnknownError(Exception):
    """An argument's value isn't known."""


class Replay:
    """An observer that stores results of one forward and returns them in later ones.

    Only expensive functions are replaced by their stored results. All others run again on these, so
    that the model's own code takes the same branches again.

    The forwards must run without gradients, and outside of inference mode, where torch doesn't
    count writes.

    Attributes:
        is_random: the stored forward drew random numbers, and must not be replayed.
    """

    changes_outputs = True
    compiled = False

    def __init__(self) -> None:
        self.is_random = False
        self._recording = False
        self._thread: int | None = None
        self._leaf_states = itertools.count()
        self._calls: dict[Hashable, int] = {}
        self._storages: dict[int, _Storage] = {}  # by address
        self._results: dict[int, _Result] = {}  # by call
        self._unshared = 0  # references to a storage that one tensor has

    @contextmanager
    def recording(self, model: nn.Module, inputs: Any) -> Iterator[None]:
        """Context that stores the results of one forward, in place of those stored before.

        Args:
            model: nothing but torch writes to its parameters and buffers.
            inputs: likewise; tensors, in any containers.
        """
        self.forget()
        self._unshared = _references(torch.empty(1))
        for tensor in (*model.parameters(), *model.buffers(), *tree_leaves(inputs)):
            if isinstance(tensor, Tensor) and _has_storage(tensor):
                self._add(tensor, next(self._leaf_states))
        before = _random_states()
        with self._registered(recording=True):
            yield
        self.is_random = _random_states() != before

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Context in which one forward reuses stored results."""
        with self._registered(recording=False):
            yield

    def forget(self) -> None:
        """Free the stored results."""
        self._results.clear()
        self._calls.clear()
        self._storages.clear()

    def owns(self, module: nn.Module) -> bool:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        return False

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""

    def on_module_exit(self, module: nn.Module, output: Any) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        raise error

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> hooks.Interception | None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        name = getattr(function, "__name__", "")
        if threading.get_ident() != self._thread or name in ("__get__", "__set__"):
            return None  # attributes compute nothing
        if name in _ESCAPES:
            self._distrust(tensors(args))
        call = None if wrapped else self._call(function, name, args, kwargs)
        if not self._recording:
            if call is None:
                return None
            if (result := self._usable_result(call)) is not None:
                return hooks.Interception(wrap=partial(self._reuse, call, result))
        elif _may_write(name, args, kwargs):
            self._copy_results((*tensors(args), *tensors(kwargs.values())))
        return hooks.Interception(wrap=partial(self._run, name, call))

    def _call(
        self,
        function: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> int | None:
        """The number that all calls of this function with these values have; None if unknown.

        In a replay, None too if the stored forward had no such call.
        """
        if not _is_torch(function) or "empty" in name or name in _BUFFERS:
            return None
        try:
            key = function, _environment(), self._frozen(args), self._frozen(kwargs)
        except _UnknownError:
            return None
        return self._calls.setdefault(key, len(self._calls)) if self._recording else (
            self._calls.get(key))  # fmt: skip

    def _frozen(self, argument: Any) -> Hashable:
        """What equals that of any other argument with the same value."""
        kind = type(argument)
        if isinstance(argument, Tensor):
            value = self._value(argument)
            if value is None:
                raise _UnknownError
            return value
        if kind in _PLAIN:
            return kind, argument
        if isinstance(argument, float):
            return kind, argument.hex()  # 0.0 == -0.0
        if isinstance(argument, np.generic):
            return argument.dtype.str, argument.tobytes()
        if kind in (tuple, list, torch.Size):
            return kind, *map(self._frozen, argument)
        if kind is dict:
            return kind, *((key, self._frozen(item)) for key, item in argument.items())
        if kind is slice:
            return kind, *map(self._frozen, (argument.start, argument.stop, argument.step))
        raise _UnknownError

    def _value(self, tensor: Tensor) -> Hashable:
        """What the values of a tensor are: the state of its storage, and where in it they are."""
        if not _has_storage(tensor):
            return None
        entry = self._entry(tensor)
        if torch.is_inference_mode_enabled():  # writes aren't counted
            self._distrust((tensor,))
            return None
        if entry is None:
            if not self._recording:
                return None
            entry = self._add(tensor, next(self._leaf_states))
            self._keep_content(entry, tensor)
        elif entry.version != _version(tensor) or (
            entry.content is not None and not torch.equal(entry.content, _bytes(tensor))
        ):
            entry.state = None  # a write that wasn't seen
        if entry.state is None:
            return None
        place = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        return entry.state, *place, tensor.is_conj(), tensor.is_neg()

    def _entry(self, tensor: Tensor) -> _Storage | None:
        return self._storages.get(tensor.untyped_storage()._cdata)

    def _add(self, tensor: Tensor, state: State) -> _Storage:
        entry = _Storage(tensor, state)
        self._storages[tensor.untyped_storage()._cdata] = entry
        return entry

    def _keep_content(self, entry: _Storage, tensor: Tensor) -> None:
        """Copy what an extension, NumPy or a CUDA graph may write to again."""
        if tensor.untyped_storage().nbytes() <= _MAX_COMPARED:
            entry.content = _bytes(tensor).clone()
        else:
            entry.state = None

    def _distrust(self, given: Iterable[Tensor]) -> None:
        for tensor in filter(_has_storage, given):
            entry = self._entry(tensor)
            if entry is not None:
                entry.state = None
            elif self._recording:
                self._add(tensor, None)

    def _usable_result(self, call: int) -> _Result | None:
        result = self._results.get(call)
        if result is None or self._value(result.tensor) != result.value:
            return None
        # What the model still has must not be returned as another tensor.
        shared = not result.copied and _references(result.tensor) != self._unshared
        return None if shared else result

    def _reuse(self, call: int, result: _Result, *_: Any, **__: Any) -> Tensor:
        with torch._C.DisableTorchFunction():
            if not result.copied:
                return result.tensor.detach()
            copy = result.tensor.clone()
            self._add(copy, (call, 0))
            return copy

    def _run(
        self, name: str, call: int | None, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        output = function(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            given = [*tensors(args), *tensors(kwargs.values())]
            self._note_writes(call, given)
            if name.endswith("batch_norm") and (
                kwargs.get("training") or any(arg is True for arg in args)
            ):
                # In training it updates its statistics, which torch doesn't count.
                self._distrust(x for x in given[1:] if not isinstance(x, nn.Parameter))
            for i, tensor in enumerate(tensors((output,))):
                if not _has_storage(tensor) or self._entry(tensor) is not None:
                    continue  # a view, or the argument itself
                entry = self._add(tensor, None if call is None else (call, i))
                stored = self._recording and name in _STORED and output is tensor
                if stored and call is not None and not tensor.requires_grad:
                    if call not in self._results:
                        result = tensor.detach()
                        self._results[call] = _Result(result, self._value(result), copied=False)
                        entry.result = call
        return output

    def _note_writes(self, call: int | None, given: Iterable[Tensor]) -> None:
        """Set the states of the arguments that a function has written to."""
        for i, tensor in enumerate(given):
            entry = self._entry(tensor) if _has_storage(tensor) else None
            if entry is None or entry.version == _version(tensor):
                continue
            entry.version = _version(tensor)
            entry.state = None if call is None else (call, "written", i)
            if entry.content is not None:
                self._keep_content(entry, tensor)
            if entry.result is not None:
                self._results.pop(entry.result)
                entry.result = None

    def _copy_results(self, given: Iterable[Tensor]) -> None:
        """Copy the stored results among the arguments of a function that may write to them."""
        for tensor in filter(_has_storage, given):
            entry = self._entry(tensor)
            if entry is None or entry.result is None:
                continue
            call, entry.result = entry.result, None
            result = self._results.pop(call)
            copy = result.tensor.clone()
            if self._value(result.tensor) == result.value and copy.stride() == (
                result.tensor.stride()):  # fmt: skip
                self._add(copy, (call, 0))
                self._results[call] = _Result(copy, self._value(copy), copied=True)

    @contextmanager
    def _registered(self, *, recording: bool) -> Iterator[None]:
        self._recording, self._thread = recording, threading.get_ident()
        try:
            hooks.register(self)
            yield
        finally:
            hooks.remove(self)
            self._storages = {
                address: entry
                for address, entry in self._storages.items()
                if not entry.reference.expired()  # type: ignore[no-untyped-call]
            }


def _may_write(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function may write to its arguments, to judge by its name and arguments."""
    in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("__"))
    return (
        in_place
        or name == "__setitem__"
        or any(arg is True for arg in args)
        or "out" in kwargs
        or bool(kwargs.get("inplace"))
    )


def _is_torch(function: Callable[..., Any]) -> bool:
    """Whether what a function returns depends on its arguments alone, as torch's own do."""
    module = getattr(function, "__module__", None)
    if module is None:
        return isinstance(function, _METHODS)
    if module.startswith("torch._ops"):
        return module.startswith(("torch._ops.aten", "torch._ops.prims"))
    return module == "torch" or module.startswith("torch.")


def _environment() -> Hashable:
    """What else a result may depend on."""
    autocast = [
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in ("cpu", "cuda")
    ]
    return torch.is_grad_enabled(), torch.get_default_dtype(), *autocast


def _has_storage(tensor: Tensor) -> bool:
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


def _references(tensor: Tensor) -> int:
    """The number of references to the storage of a tensor, its own included."""
    count: int = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return count


def _bytes(tensor: Tensor) -> Tensor:
    """The whole storage of a tensor."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _random_states() -> list[bytes]:
    """The states of torch's random number generators."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return [state.numpy().tobytes() for state in states]
