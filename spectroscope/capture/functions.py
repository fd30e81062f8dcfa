"""`ActivationFunctions`: which calls of torch functions are activations, and of which module."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from spectroscope.capture import activations
from spectroscope.capture.call import reader_of, run_on_copy
from spectroscope.capture.callers import Callers
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.dispatch import Dispatcher, Finish, ignore
from spectroscope.capture.memory import KnownCall
from spectroscope.capture.passes import Pass, ThreadState
from spectroscope.capture.sites import place_of


class Activating(NamedTuple):
    """What is done with an activation call: an interception, and how the call is known again."""

    wrap: Callable[..., Any] | None = None
    finish: Finish | None = None
    known: KnownCall | None = None


class ActivationFunctions:
    """Starts the calls of functions that are activations.

    Args:
        discovery: of the model.
        thread: what runs.
        callers: of functions in this thread.
        dispatcher: is passed the calls.
        entered: calls of activation modules, by place; is updated.
    """

    def __init__(
        self,
        discovery: Discovery,
        thread: ThreadState,
        callers: Callers,
        dispatcher: Dispatcher,
        entered: Counter[str],
    ) -> None:
        self._discovery = discovery
        self._thread = thread
        self._callers = callers
        self._dispatcher = dispatcher
        self._entered = entered

    def repeat(
        self,
        known: KnownCall,
        function: str,
        current: Pass,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> Finish | None:
        """Start a call of `function` that was an activation in an earlier forward, if it still is.

        None if its arguments or its caller are others.
        """
        match = activations.read(function, args, kwargs)
        if match is None or match[0] is not known.activation:
            return None
        named = known.named
        if known.caller is not None:
            frame = self._callers.caller()
            if frame is None or (frame.module, frame.name) != (known.caller, named.site.module):
                return None
        is_relu = known.is_relu and not wrapped
        return self._dispatcher.start(named, match[1], current, is_relu=is_relu)

    def start(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: bool
    ) -> Activating:
        """Start a call of `function`, if it is an activation to be recorded."""
        match = activations.read(function, args, kwargs)
        exact = match is not None and function in activations.EXACT
        is_idiom = match is None
        if match is None:
            current = self._thread.current
            tensor = None if current is None else current.idioms.read(function, args, kwargs)
            match = None if tensor is None else (activations.RELU, tensor)
        if match is None:
            return Activating()
        activation, tensor = match
        frame = self._callers.caller()
        current = self._thread.current
        if frame is None or current is None:
            return Activating()
        is_module = bool(frame.kind) or activations.of_module(frame.module) is activation
        # A module is an activation whatever its input is, but for weights.
        is_weight = (
            tensor.is_floating_point()
            and not current.memory.repeating
            and current.axes.is_constant(tensor)
        )
        if is_weight and frame.kind:
            self._entered[frame.name] -= 1
            self._discovery.discard_row(frame.name)
        if is_weight or not (is_module or current.axes.may_be_signal(tensor)):
            return Activating()
        place, kind = "" if is_module else function.strip("_"), activation.kind
        if kind not in self._discovery.kinds.names:
            self._discovery.row(frame.module, frame.name, place, kind, calls=1, asked=False)
            return Activating(finish=ignore)
        call = self._dispatcher.name(frame.module, frame.name, place, kind, tensor, current)
        if call is None:
            return Activating()
        frame.matters = False
        is_relu = activation is activations.RELU and exact
        finish = self._dispatcher.start(call, tensor, current, is_relu=is_relu and not wrapped)
        if finish is None or not self._dispatcher.changes_outputs:
            running = self._thread.running  # nothing, where a method runs
            is_running = frame.kind and running and frame is running[-1]
            caller = None if is_running else frame.module
            known = None if is_idiom else KnownCall(call, caller, activation, is_relu)
            return Activating(finish=finish, known=known)
        return Activating(partial(run_on_copy, reader_of(tensor, args, kwargs), finish))

    def report_hidden(self, function: str, tensor: Tensor, reason: str) -> None:
        """Report a ReLU whose output the function doesn't return."""
        current, frame = self._thread.current, self._callers.caller()
        # What is missed in an activation module, its own row says.
        if current is None or frame is None or frame.in_custom or frame.kind:
            return
        if not current.axes.is_constant(tensor) and current.axes.may_be_signal(tensor):
            place = function.strip("_")
            if place_of(frame.name, place) not in self._discovery.rows:
                self._discovery.add_unobservable(frame.name, frame.module, reason, function=place)
