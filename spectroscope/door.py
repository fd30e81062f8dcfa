"""The one place where we stand between models and torch: who is called, and what rectifies.

Two things are put into torch while anybody listens, and taken out when nobody does:

* hooks on *all* modules of the process (torch's own global module hooks), which say which module
  runs. Nothing is registered on the modules themselves: a model can be copied and pickled while it
  is looked at, and layers that ask whether they have hooks (`nn.TransformerEncoderLayer`, before it
  takes its fused path) find none.
* a `TorchFunctionMode`, which sees every call of a torch function, `F.relu` and `x.clamp_(min=0)`
  alike, with its arguments as they are before an in-place call overwrites them.

A mode belongs to a thread. The thread that opens the door has it from then on; another thread gets
it while it runs a module that a listener knows.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
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
from torch.utils.hooks import RemovableHandle

from spectroscope import rectifiers

# Given what a rectifier call returned.
Finish = Callable[[Any], None]


class Listener(Protocol):
    """What may stand at the door."""

    def knows(self, module: nn.Module) -> bool:
        """Whether `module` is of the model listened to."""

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """`module` starts to run with the positional arguments `args`."""

    def leave(self, module: nn.Module, output: Any) -> None:
        """`module` has run; `output` is None if it raised."""

    def rectify(self, function: str, call: rectifiers.Call) -> Finish | None:
        """A rectifier is about to run; the answer, if any, is called with what it returns."""

    def passed(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """A torch function, rectifier or not, has run."""


def open_to(listener: Listener) -> None:
    """Let `listener` hear of every module and rectifier call, until :func:`close_to`."""
    global _listeners, _handles
    with _lock:
        if not _listeners:
            _handles = [
                register_module_forward_pre_hook(_enter),
                register_module_forward_hook(_leave, always_call=True),
            ]
        _listeners = (*_listeners, listener)
    _here.listeners += 1
    if _here.mode is None:
        _here.put_mode()


def close_to(listener: Listener) -> None:
    """Undo :func:`open_to`, in the same thread."""
    global _listeners, _handles
    _here.listeners -= 1
    if _here.listeners == 0:
        _here.take_mode()
    with _lock:
        _listeners = tuple(other for other in _listeners if other is not listener)
        if not _listeners:
            for handle in _handles:
                handle.remove()
            _handles = []


class _Mode(TorchFunctionMode):
    """Sees every call of a torch function in its thread."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if _not_a_forward():
            return function(*args, **kwargs)
        name = rectifiers.function_name(function)
        begun: list[Finish | None] = []
        # What the listeners compute is none of the user's own modes' and subclasses' business.
        if name in rectifiers.FUNCTIONS:
            with torch._C.DisableTorchFunction():
                call = rectifiers.FUNCTIONS[name](args, kwargs)
                begun = [] if call is None else [each.rectify(name, call) for each in _listeners]
        output = function(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            for finish in filter(None, begun):
                finish(output)
            for listener in _listeners:
                listener.passed(name, args, kwargs, output)
        return output


class _Thread(threading.local):
    """What the door has in one thread."""

    def __init__(self) -> None:
        self.listeners = 0  # opened to from this thread
        self.mode: _Mode | None = None
        self.suspended = False  # the mode is off the stack for a moment
        self.visitor: nn.Module | None = None  # brought the mode into this thread
        self.visits = 0  # of it, one inside the other

    def put_mode(self) -> None:
        self.mode = _Mode()
        _push_mode(self.mode)  # type: ignore[no-untyped-call]

    def take_mode(self) -> None:
        mode, self.mode = self.mode, None
        if self.suspended:
            self.suspended = False
        elif mode in _modes():
            # Ours is on top unless somebody's mode was entered since and not yet left.
            above = []
            while (top := _pop_mode()) is not mode:  # type: ignore[no-untyped-call]
                above.append(top)
            for other in reversed(above):
                _push_mode(other)  # type: ignore[no-untyped-call]

    def suspend(self) -> None:
        """Take the mode off the stack if it is alone there; with another it makes no difference."""
        if self.mode is not None and _modes() == [self.mode]:
            _pop_mode()  # type: ignore[no-untyped-call]
            self.suspended = True

    def resume(self) -> None:
        if self.suspended:
            _push_mode(self.mode)  # type: ignore[no-untyped-call]
            self.suspended = False


# These take a fused kernel, which rounds otherwise, unless somebody looks, and ask whether somebody
# does before they run their first submodule. Until then nobody does: outputs stay the same.
_FUSING = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)

_lock = threading.Lock()
_here = _Thread()
_listeners: tuple[Listener, ...] = ()
_handles: list[RemovableHandle] = []


def _modes() -> list[TorchFunctionMode]:
    """Torch function modes of this thread, the innermost last."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _not_a_forward() -> bool:
    """Whether what runs is no forward of its own.

    Within autograd, activation checkpointing runs forwards a second time; `torch.jit.trace` would
    write all that we compute into its graph.
    """
    return torch._C._current_graph_task_id() != -1 or torch._C._is_tracing()


def _enter(module: nn.Module, args: tuple[Any, ...]) -> None:
    if _not_a_forward():
        return
    _here.resume()
    if _here.mode is None and any(listener.knows(module) for listener in _listeners):
        _here.visitor, _here.visits = module, 0
        _here.put_mode()
    _here.visits += module is _here.visitor
    with torch._C.DisableTorchFunction():
        for listener in _listeners:
            listener.enter(module, args)
    if isinstance(module, _FUSING):
        _here.suspend()


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if _not_a_forward():
        return
    _here.resume()
    with torch._C.DisableTorchFunction():
        for listener in _listeners:
            listener.leave(module, output)
    if module is _here.visitor:
        _here.visits -= 1
        if _here.visits == 0:
            _here.visitor = None
            _here.take_mode()
