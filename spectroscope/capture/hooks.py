"""Global hooks: registered observers see every module and torch function call.

While at least one observer is registered, two things are installed in torch:

* Global module hooks, which report which module runs. Nothing is registered on the modules
  themselves, so that a model can still be copied and pickled, and layers that check for hooks
  (`nn.TransformerEncoderLayer`, before its fused path) find none.
* A `TorchFunctionMode`, which sees every torch function call, `F.relu` and `x.clamp_(min=0)`
  alike, before an in-place call overwrites its arguments.

A mode belongs to one thread. The thread that registers an observer has it until the observer is
removed; any other thread has it while a module that an observer owns runs there.

Observers that change outputs are called before those that only observe, so that the latter see
what the model gets. An exception in an observer goes to the `on_error` of that observer alone: the
model runs on, unless `on_error` raises.
"""

import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from spectroscope.capture.memory import ForwardMemory
from spectroscope.capture.observer import Observer


def register(observer: Observer) -> None:
    """Report every module and function call to `observer`, until :func:`remove`."""
    global _observers
    _local.observers.append(observer)
    if _local.mode is None:
        _local.push_mode()
    with _lock:
        # Those that change outputs come first; the sort is stable.
        _observers = tuple(
            sorted((*_observers, observer), key=lambda other: not other.changes_outputs)
        )
        _install()


def remove(observer: Observer) -> None:
    """Undo :func:`register`, complete or interrupted, in the same thread. May be repeated."""
    global _observers
    with _lock:
        _observers = tuple(other for other in _observers if other is not observer)
        _uninstall_if_unused()
    if observer in _local.observers:
        _local.observers.remove(observer)
    _local.remove_mode_if_unused()


def _install() -> None:
    if not _hook_handles:
        _hook_handles.append(register_module_forward_pre_hook(_before_module))
        _hook_handles.append(register_module_forward_hook(_after_module, always_call=True))
    # Compiled code has no hooks: run the original. Only where something can be compiled, as loading
    # the compiler takes a second.
    if not _eager_stance and (
        "torch._dynamo" in sys.modules or any(observer.compiled for observer in _observers)
    ):
        _eager_stance.append(torch.compiler.set_stance("force_eager"))
        # torch warns that our hooks also run for its wrapper module, which is harmless.
        warnings.filters.insert(0, _WARNING_FILTER)  # type: ignore[attr-defined]


def _uninstall_if_unused() -> None:
    """Undo :func:`_install` once no observer is registered and no thread runs an owned module."""
    if _observers or _borrowing_threads:
        return
    # Undo first, then forget: after an interrupt between the two it is undone a second time.
    while _hook_handles:
        _hook_handles[-1].remove()
        _hook_handles.pop()
    while _eager_stance:
        _eager_stance[-1].__exit__(None, None, None)
        _eager_stance.pop()
    while _WARNING_FILTER in warnings.filters:
        warnings.filters.remove(_WARNING_FILTER)  # type: ignore[attr-defined]


@contextmanager
def paused() -> Iterator[None]:
    """Context in which this thread's module calls are not reported."""
    before = _local.paused
    try:
        _local.paused, _local.known = True, None
        yield
    finally:
        _local.paused = before


class _FunctionMode(TorchFunctionMode):
    """Reports every torch function call of its thread."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if is_compiling() or _in_backward_or_trace():
            return function(*args, **kwargs)
        if _local.known is _observers and _local.memory.skips(function):
            return function(*args, **kwargs)
        run = function
        callbacks: list[tuple[Observer, Callable[[Any], Any]]] = []
        with no_modes():
            for observer in _observers:
                interception = None
                try:
                    wrapped = run is not function
                    interception = observer.on_function_call(function, args, kwargs, wrapped)
                except Exception as error:
                    observer.on_error(error)
                if interception is None:
                    continue
                if interception.wrap is not None:
                    run = partial(interception.wrap, run)
                if interception.on_output is not None:
                    callbacks.append((observer, interception.on_output))
        output = run(*args, **kwargs)
        if callbacks:
            with no_modes():
                for observer, on_output in callbacks:
                    try:
                        on_output(output)
                    except Exception as error:
                        observer.on_error(error)
        return output


@contextmanager
def _no_function_and_dispatch_modes() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def no_modes() -> Any:
    """Context in which no mode and no tensor subclass of the user sees our computations."""
    if torch._C._len_torch_dispatch_stack():
        return _no_function_and_dispatch_modes()
    return torch._C.DisableTorchFunction()


class _ThreadState(threading.local):
    """The function mode of one thread, and what may be skipped in it.

    While `known` is the tuple of observers, there is one, and its memory is `memory`.
    """

    def __init__(self) -> None:
        self.observers: list[Observer] = []  # registered from this thread
        self.known: tuple[Observer, ...] | None = None
        self.memory = ForwardMemory([], enabled=False)
        self.mode: _FunctionMode | None = None
        self.suspended = False  # the mode may be off the stack until `resume_mode`
        self.paused = False  # module calls are not reported
        self.entry_module: nn.Module | None = None  # the mode is here while this module runs
        self.entry_depth = 0  # recursive calls of it

    def push_mode(self) -> None:
        self.mode = _FunctionMode()
        _push_mode(self.mode)  # type: ignore[no-untyped-call]

    def remove_mode_if_unused(self) -> None:
        if self.observers or self.entry_module is not None:
            return
        if self.mode in _mode_stack():
            _change_mode_stack(lambda stack: [mode for mode in stack if mode is not self.mode])
        self.mode = self.known = None
        self.paused = False  # an interrupt may have left it set

    def suspend_mode(self) -> None:
        """Pop the mode if no other is on the stack; with another, popping it changes nothing."""
        if self.mode is not None and _mode_stack() == [self.mode]:
            self.suspended, self.known = True, None
            _pop_mode()  # type: ignore[no-untyped-call]

    def resume_mode(self) -> None:
        """Put a suspended mode back at the bottom of the stack."""
        mode = self.mode
        if mode is not None and mode not in _mode_stack():
            _change_mode_stack(lambda stack: [mode, *stack])
        self.suspended = False


# With a mode active, these modules don't take their fused kernel, which rounds differently. They
# check before they run their first submodule, so the mode is suspended until then.
FUSED_MODULES = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)

_WARNING_FILTER = (
    "ignore",
    re.compile(r"Using `torch\.compile\(module\)` when there are global hooks"),
    UserWarning,
    None,
    0,
)
_lock = threading.Lock()
_local = _ThreadState()
_observers: tuple[Observer, ...] = ()
_hook_handles: list[RemovableHandle] = []
_eager_stance: list[Any] = []
_borrowing_threads: set[int] = set()  # have the mode only while their entry module runs


def _mode_stack() -> list[TorchFunctionMode]:
    """Torch function modes of this thread, the innermost last."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _change_mode_stack(change: Callable[[list[Any]], list[Any]]) -> None:
    stack = _mode_stack()
    for _ in stack:
        _pop_mode()  # type: ignore[no-untyped-call]
    for mode in change(stack):
        _push_mode(mode)  # type: ignore[no-untyped-call]


_graph_task, _is_tracing = torch._C._current_graph_task_id, torch._C._is_tracing


def _in_backward_or_trace() -> bool:
    """Whether autograd or `torch.jit.trace` is running.

    In the backward pass, activation checkpointing runs forwards a second time; tracing would put
    our computations into the graph.
    """
    return _graph_task() != -1 or _is_tracing()


def _before_module(module: nn.Module, args: tuple[Any, ...]) -> None:
    if is_compiling():
        return
    if _local.known is _observers and not _in_backward_or_trace() and _local.memory.skips(module):
        return
    if _local.paused:
        return
    if _in_backward_or_trace():
        if any(observer.changes_outputs and observer.owns(module) for observer in _observers):
            raise RuntimeError(
                "an intervention can't follow into activation checkpointing, which runs parts of "
                "the model again in the backward pass, nor into torch.jit.trace: end it before"
            )
        return
    if _local.suspended:
        _local.resume_mode()
    if _local.mode is None and any(observer.owns(module) for observer in _observers):
        _local.entry_module, _local.entry_depth = module, 0
        with _lock:
            _borrowing_threads.add(threading.get_ident())
        _local.push_mode()
    if module is _local.entry_module:
        _local.entry_depth += 1
    if _local.known is not _observers:
        memories = [observer.memory() for observer in _observers]
        if len(memories) == 1 and memories[0] is not None:
            _local.known, _local.memory = _observers, memories[0]
    with no_modes():
        for observer in _observers:
            try:
                observer.on_module_enter(module, args)
            except Exception as error:
                observer.on_error(error)
    if isinstance(module, FUSED_MODULES):
        _local.suspend_mode()


def _after_module(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if is_compiling() or _in_backward_or_trace():
        return None
    if _local.known is _observers and _local.memory.leaves(module):
        return None
    if _local.paused:
        return None
    if _local.suspended:
        _local.resume_mode()
    replacement = None
    with no_modes():
        for observer in _observers:
            try:
                new = observer.on_module_exit(module, output)
            except Exception as error:
                observer.on_error(error)
            else:
                if new is not None:
                    output = replacement = new
    if module is _local.entry_module:
        _local.entry_depth -= 1
        if _local.entry_depth == 0:
            _local.entry_module = None
            _local.remove_mode_if_unused()
            with _lock:
                _borrowing_threads.discard(threading.get_ident())
                _uninstall_if_unused()
    return replacement
