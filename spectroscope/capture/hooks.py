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

Some listeners only hear, others change what calls return; the latter come first, so that the former
hear what the model gets. Whatever goes wrong with a listener is told to that listener and to nobody
else: the model runs on, unless the listener raises it again.
"""

import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

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
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle


class Answer(NamedTuple):
    """What a listener wants of a call of a torch function.

    Attributes:
        around: called instead of the function, with the function and its arguments; what it
            returns is what the model gets. What it raises, the model raises.
        finish: called with what the model gets.
    """

    around: Callable[..., Any] | None = None
    finish: Callable[[Any], None] | None = None


class Listener(Protocol):
    """What may stand at the door."""

    @property
    def changes(self) -> bool:
        """Whether it changes what calls and modules return."""

    @property
    def compiled(self) -> bool:
        """Whether the model has compiled parts."""

    def knows(self, module: nn.Module) -> bool:
        """Whether `module` is of the model listened to."""

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """`module` starts to run with the positional arguments `args`."""

    def leave(self, module: nn.Module, output: Any) -> Any:
        """`module` has run; `output` is None if it raised. An answer, if any, replaces it."""

    def before(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        changed: bool,
    ) -> Answer | None:
        """A torch function is about to run; `changed`: another listener may change its result."""

    def failed(self, error: Exception) -> None:
        """One of these, or the `finish` of an answer, has raised `error`."""


def open_to(listener: Listener) -> None:
    """Let `listener` hear of every module and torch function, until :func:`close_to`."""
    global _listeners
    _here.open.append(listener)
    if _here.mode is None:
        _here.put_mode()
    with _lock:
        # Stable: those that change come first, each kind in the order in which it came.
        _listeners = tuple(sorted((*_listeners, listener), key=lambda other: not other.changes))
        _hook()


def close_to(listener: Listener) -> None:
    """Undo :func:`open_to`, as far as it came, in the same thread. Twice is as good as once."""
    global _listeners
    with _lock:
        _listeners = tuple(other for other in _listeners if other is not listener)
        _unhook()
    if listener in _here.open:
        _here.open.remove(listener)
    if not _here.open and _here.visitor is None:
        _here.take_mode()


def _hook() -> None:
    if not _handles:
        _handles.append(register_module_forward_pre_hook(_enter))
        _handles.append(register_module_forward_hook(_leave, always_call=True))
    # What is compiled was compiled without us: its origin runs instead. Not asked for where
    # nothing can be compiled, for it takes a second to load the compiler.
    if not _eager and ("torch._dynamo" in sys.modules or any(x.compiled for x in _listeners)):
        _eager.append(torch.compiler.set_stance("force_eager"))
        # torch warns that it calls our hooks for its wrapper too, which does no harm.
        warnings.filters.insert(0, _WRAPPER)  # type: ignore[attr-defined]


def _unhook() -> None:
    """Take out what :func:`_hook` put in, once nobody listens and no thread is on a visit."""
    if _listeners or _visits[0]:
        return
    # Undone first and forgotten then: what an interrupt leaves between is undone again.
    while _handles:
        _handles[-1].remove()
        _handles.pop()
    while _eager:
        _eager[-1].__exit__(None, None, None)
        _eager.pop()
    while _WRAPPER in warnings.filters:
        warnings.filters.remove(_WRAPPER)  # type: ignore[attr-defined]


@contextmanager
def aside() -> Iterator[None]:
    """Context in which modules that run, the model's own too, are no part of its forward."""
    before = _here.aside
    try:
        _here.aside = True
        yield
    finally:
        _here.aside = before


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
        if torch.compiler.is_compiling() or _not_a_forward():
            return function(*args, **kwargs)
        run = function
        finishing: list[tuple[Listener, Callable[[Any], None]]] = []
        with _alone():
            for listener in _listeners:
                with _guarded(listener):
                    answer = listener.before(function, args, kwargs, run is not function)
                    if answer is None:
                        continue
                    if answer.around is not None:
                        run = partial(answer.around, run)
                    if answer.finish is not None:
                        finishing.append((listener, answer.finish))
        output = run(*args, **kwargs)
        if finishing:
            with _alone():
                for listener, finish in finishing:
                    with _guarded(listener):
                        finish(output)
        return output


class _guarded:  # noqa: N801, a context manager; contextlib's generators take four times as long
    """What is raised inside is told to the listener, unless it is meant to end the program."""

    def __init__(self, listener: Listener):
        self.listener = listener

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, Exception):
            self.listener.failed(error)
            return True
        return False


@contextmanager
def _without_modes() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


def _alone() -> Any:
    """Context in which no mode and no subclass of the user's sees what we compute."""
    if torch._C._len_torch_dispatch_stack():
        return _without_modes()
    return torch._C.DisableTorchFunction()


class _Thread(threading.local):
    """What the door has in one thread."""

    def __init__(self) -> None:
        self.open: list[Listener] = []  # opened to from this thread
        self.mode: _Mode | None = None
        self.suspended = False  # the mode may be off the stack for a moment
        self.aside = False  # nobody is to hear
        self.visitor: nn.Module | None = None  # brought the mode into this thread
        self.visits = 0  # of it, one inside the other

    def put_mode(self) -> None:
        self.mode = _Mode()
        _push_mode(self.mode)  # type: ignore[no-untyped-call]

    def take_mode(self) -> None:
        if self.mode in _modes():
            _rearranged(lambda modes: [mode for mode in modes if mode is not self.mode])
        self.mode = None
        self.aside = False  # an interrupt may have left it

    def suspend(self) -> None:
        """Take the mode off the stack if it is alone there; with another it makes no difference."""
        if self.mode is not None and _modes() == [self.mode]:
            self.suspended = True
            _pop_mode()  # type: ignore[no-untyped-call]

    def resume(self) -> None:
        """Put the mode back where it was, under what has come since."""
        if self.suspended:
            mode = self.mode
            if mode is not None and mode not in _modes():
                _rearranged(lambda modes: [mode, *modes])
            self.suspended = False


# These take a fused kernel, which rounds otherwise, unless somebody looks, and ask whether somebody
# does before they run their first submodule. Until then nobody does: outputs stay the same.
FUSING = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)

_WRAPPER = (
    "ignore",
    re.compile(r"Using `torch\.compile\(module\)` when there are global hooks"),
    UserWarning,
    None,
    0,
)
_lock = threading.Lock()
_here = _Thread()
_listeners: tuple[Listener, ...] = ()
_handles: list[RemovableHandle] = []
_eager: list[Any] = []
_visits = [0]  # threads that have the mode for the time of a visit


def _modes() -> list[TorchFunctionMode]:
    """Torch function modes of this thread, the innermost last."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _rearranged(change: Callable[[list[Any]], list[Any]]) -> None:
    modes = _modes()
    for _ in modes:
        _pop_mode()  # type: ignore[no-untyped-call]
    for mode in change(modes):
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _not_a_forward() -> bool:
    """Whether what runs is no forward of its own.

    Within autograd, activation checkpointing runs forwards a second time; `torch.jit.trace` would
    write all that we compute into its graph.
    """
    return torch._C._current_graph_task_id() != -1 or torch._C._is_tracing()


def _enter(module: nn.Module, args: tuple[Any, ...]) -> None:
    if torch.compiler.is_compiling() or _here.aside:
        return
    if _not_a_forward():
        if any(listener.changes and listener.knows(module) for listener in _listeners):
            raise RuntimeError(
                "an intervention can't follow into activation checkpointing, which runs parts of "
                "the model again in the backward pass, nor into torch.jit.trace: end it before"
            )
        return
    _here.resume()
    if _here.mode is None and any(listener.knows(module) for listener in _listeners):
        _here.visitor, _here.visits = module, 0
        with _lock:
            _visits[0] += 1
        _here.put_mode()
    _here.visits += module is _here.visitor
    with _alone():
        for listener in _listeners:
            with _guarded(listener):
                listener.enter(module, args)
    if isinstance(module, FUSING):
        _here.suspend()


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if torch.compiler.is_compiling() or _here.aside or _not_a_forward():
        return None
    _here.resume()
    changed = None
    with _alone():
        for listener in _listeners:
            with _guarded(listener):
                new = listener.leave(module, output)
                if new is not None:
                    output = changed = new
    if module is _here.visitor:
        _here.visits -= 1
        if _here.visits == 0:
            _here.visitor = None
            _here.take_mode()
            with _lock:
                _visits[0] -= 1
                _unhook()
    return changed
