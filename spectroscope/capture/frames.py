"""Facts from the Python stack: which methods of the model run, and will they run again?"""

import inspect
import sys
import types
from collections.abc import Collection, Container, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from spectroscope.capture.tensors import nested_tensors, tensors

_CALL_GLOBALS = nn.Module._call_impl.__globals__


def will_be_recomputed() -> bool:
    """Whether the current call runs again in the backward pass (`torch.utils.checkpoint`)."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is vars(checkpoint):
            # Reentrant checkpointing disables gradients: only arguments show the need.
            args = frame.f_locals.get("args", ())
            if torch.is_grad_enabled() or any(tensor.requires_grad for tensor in tensors(args)):
                return True
        frame = frame.f_back
    return False


def keyword_arguments(module: nn.Module) -> dict[str, Any]:
    """The keyword arguments of `module`, which is about to run: its global hooks don't get them."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is _CALL_GLOBALS and frame.f_locals.get("self") is module:
            return dict(frame.f_locals.get("kwargs") or {})
        frame = frame.f_back
    return {}


def calls_itself(module: nn.Module) -> bool:
    """Whether `module`, which is about to run, is already running."""
    frame, calls = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is nn.Module._call_impl.__code__:
            calls += frame.f_locals["self"] is module
    return calls > 1


def line_of(code: types.CodeType) -> int:
    """The line number at which `code` is running; 0 if it isn't."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return 0 if frame is None else frame.f_lineno


def running_methods(modules: Container[nn.Module]) -> Iterator[tuple[types.FrameType, nn.Module]]:
    """The methods of `modules` that run in this thread, with the module, the innermost first."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        module = _module_of(frame)
        if module is not None and module in modules:
            yield frame, module
        frame = frame.f_back


def outermost_method(
    model: nn.Module, modules: Container[nn.Module]
) -> tuple[types.FrameType, nn.Module, str]:
    """The call of the model that runs in this thread, where that isn't ``model(x)``.

    It is the model's own `forward`; or else the outermost method of one of its `modules`, leaving
    out loops over inputs, such as `fit(loader)`. One of them must be running.

    Returns:
        Its frame, its module, and its name; the name is empty if the module itself was called.
    """
    methods = list(running_methods(modules))
    own = [m for m in methods if m[1] is model and m[0].f_code.co_name in ("__call__", "forward")]
    frame, module = (own or [m for m in methods if not _loops_over_inputs(m[0])] or methods)[-1]
    return frame, module, "" if frame.f_globals is _CALL_GLOBALS else f"{frame.f_code.co_name}()"


class FrameValue:
    """A value that is kept until a running function ends, without a reference to its frame.

    It is kept in the frame's `f_trace`, which ends with the frame, and which Python reads only
    where a debugger is active: then it calls what the debugger had put there.

    Args:
        owner: who keeps it.
        value: what is kept.
        trace: what `f_trace` was before.
    """

    def __init__(self, owner: object, value: Any, trace: Any) -> None:
        self._owner = owner
        self._value = value
        self._trace = trace

    def __call__(self, *event: Any) -> None:
        """Call the debugger."""
        if self._trace is not None:
            self._trace = self._trace(*event)

    @classmethod
    def get(cls, frame: types.FrameType, owner: object) -> Any:
        """The value that `owner` keeps in `frame`, or None."""
        trace = frame.f_trace
        while isinstance(trace, cls):
            if trace._owner is owner:
                return trace._value
            trace = trace._trace
        return None

    @classmethod
    def set(cls, frame: types.FrameType, owner: object, value: Any) -> None:
        """Keep `value` in `frame`, until it ends."""
        frame.f_trace = cls(owner, value, frame.f_trace)


def _module_of(frame: types.FrameType) -> nn.Module | None:
    """The module of which `frame` runs a method, or None."""
    code = frame.f_code
    if not code.co_argcount:
        return None
    name = code.co_varnames[0]
    # A function whose first argument is a module isn't a method of it. One called `self` is taken
    # for a method though its class may not have it: generated code, and methods set on an object.
    if name != "self" and "." not in code.co_qualname:
        return None
    (value,) = _read(frame, [name]) or [None]
    if not isinstance(value, nn.Module):
        return None
    methods = (f"{cls.__qualname__}.{code.co_name}" for cls in type(value).__mro__)
    return value if name == "self" or code.co_qualname in methods else None


def _loops_over_inputs(frame: types.FrameType) -> bool:
    """Whether a method was given no tensor, but what can only be iterated over: a `DataLoader`."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    values = _read(frame, code.co_varnames[1:count])
    return next(nested_tensors(values), None) is None and any(
        isinstance(value, Iterable) and not isinstance(value, Collection | nn.Module)
        for value in values
    )


def _read(frame: types.FrameType, names: Iterable[str]) -> list[Any]:
    """Local variables of a running function; empty where reading would be noticed."""
    if "locals" in frame.f_code.co_names:  # reading changes the dictionary that it has returned
        return []
    variables = frame.f_locals
    values = [variables.get(name) for name in names]
    # Before Python 3.13 the dictionary is a copy that the frame keeps, with every tensor in it. A
    # debugger may have it too, beside the frame, `variables` and the argument of `getrefcount`.
    if isinstance(variables, dict) and sys.getrefcount(variables) <= 3:
        variables.clear()
    return values
