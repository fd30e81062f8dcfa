"""Replay of a forward: later forwards of the same inputs reuse results of the first.

A result is reused where the same function gets the same values, wherever in the forward that is. So
a forward that fills a cache or takes another branch reuses what it computes the same way, and
computes everything else.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodDescriptorType, WrapperDescriptorType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from spectroscope.capture import hooks
from spectroscope.capture.observer import Interception
from spectroscope.capture.tensors import tensors
from spectroscope.capture.values import UnknownError, Values, has_storage

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
_METHODS = MethodDescriptorType, WrapperDescriptorType


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
        self._values = Values()
        self._thread: int | None = None
        self._calls: dict[Hashable, int] = {}
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
            if isinstance(tensor, Tensor):
                self._values.add_leaf(tensor)
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
        self._values.clear()

    def owns(self, module: nn.Module) -> bool:
        """See :class:`spectroscope.capture.observer.Observer`."""
        return False

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.observer.Observer`."""

    def on_module_exit(self, module: nn.Module, output: Any) -> None:
        """See :class:`spectroscope.capture.observer.Observer`."""

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.observer.Observer`."""
        raise error

    def memory(self) -> None:
        """See :class:`spectroscope.capture.observer.Observer`."""

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> Interception | None:
        """See :class:`spectroscope.capture.observer.Observer`."""
        name = getattr(function, "__name__", "")
        if threading.get_ident() != self._thread or name in ("__get__", "__set__"):
            return None  # attributes compute nothing
        if name in _ESCAPES:
            self._values.distrust(tensors(args))
        call = None if wrapped else self._call(function, name, args, kwargs)
        if not self._values.recording:
            if call is None:
                return None
            if (result := self._usable_result(call)) is not None:
                return Interception(wrap=partial(self._reuse, call, result))
        elif _may_write(name, args, kwargs):
            self._copy_results((*tensors(args), *tensors(kwargs.values())))
        return Interception(wrap=partial(self._run, name, call))

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
            key = function, _environment(), self._values.frozen(args), self._values.frozen(kwargs)
        except UnknownError:
            return None
        return self._calls.setdefault(key, len(self._calls)) if self._values.recording else (
            self._calls.get(key))  # fmt: skip

    def _usable_result(self, call: int) -> _Result | None:
        result = self._results.get(call)
        if result is None or self._values.value(result.tensor) != result.value:
            return None
        # What the model still has must not be returned as another tensor.
        shared = not result.copied and _references(result.tensor) != self._unshared
        return None if shared else result

    def _reuse(self, call: int, result: _Result, *_: Any, **__: Any) -> Tensor:
        with torch._C.DisableTorchFunction():
            if not result.copied:
                return result.tensor.detach()
            copy = result.tensor.clone()
            self._values.add(copy, (call, 0))
            return copy

    def _run(
        self, name: str, call: int | None, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        output = function(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            given = [*tensors(args), *tensors(kwargs.values())]
            for overwritten in self._values.note_writes(call, given):
                self._results.pop(overwritten)
            if name.endswith("batch_norm") and (
                kwargs.get("training") or any(arg is True for arg in args)
            ):
                # In training it updates its statistics, which torch doesn't count.
                self._values.distrust(x for x in given[1:] if not isinstance(x, nn.Parameter))
            for i, tensor in enumerate(tensors((output,))):
                if not has_storage(tensor) or self._values.entry(tensor) is not None:
                    continue  # a view, or the argument itself
                entry = self._values.add(tensor, None if call is None else (call, i))
                stored = self._values.recording and name in _STORED and output is tensor
                if not stored or call is None or call in self._results or tensor.requires_grad:
                    continue
                result = tensor.detach()
                self._results[call] = _Result(result, self._values.value(result), copied=False)
                entry.result = call
        return output

    def _copy_results(self, given: Iterable[Tensor]) -> None:
        """Copy the stored results among the arguments of a function that may write to them."""
        for tensor in filter(has_storage, given):
            entry = self._values.entry(tensor)
            if entry is None or entry.result is None:
                continue
            call, entry.result = entry.result, None
            result = self._results.pop(call)
            copy = result.tensor.clone()
            if self._values.value(result.tensor) == result.value and copy.stride() == (
                result.tensor.stride()):  # fmt: skip
                self._values.add(copy, (call, 0))
                self._results[call] = _Result(copy, self._values.value(copy), copied=True)

    @contextmanager
    def _registered(self, *, recording: bool) -> Iterator[None]:
        self._values.recording, self._thread = recording, threading.get_ident()
        try:
            hooks.register(self)
            yield
        finally:
            hooks.remove(self)
            self._values.purge()


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
        return str(module).startswith(("torch._ops.aten", "torch._ops.prims"))
    return str(module).partition(".")[0] == "torch"


def _environment() -> Hashable:
    """What else a result may depend on."""
    autocast = [
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        for device in ("cpu", "cuda")
    ]
    return torch.is_grad_enabled(), torch.get_default_dtype(), *autocast


def _references(tensor: Tensor) -> int:
    """The number of references to the storage of a tensor, its own included."""
    count: int = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return count


def _random_states() -> list[bytes]:
    """The states of torch's random number generators."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return [state.numpy().tobytes() for state in states]
