"""`Callers`: which module calls a function, and which pass it belongs to."""

import threading
from collections.abc import Callable

from torch import nn

from spectroscope.capture.discovery import Discovery
from spectroscope.capture.frames import FrameValue, line_of, outermost_method, running_methods
from spectroscope.capture.memory import Frame
from spectroscope.capture.passes import Pass, ThreadState


class Callers:
    """Finds the callers of functions in one thread.

    Args:
        model: the model.
        discovery: of its modules.
        thread: what runs.
        new_pass: makes a pass of a method, from its name.
    """

    def __init__(
        self,
        model: nn.Module,
        discovery: Discovery,
        thread: ThreadState,
        new_pass: Callable[[str], Pass],
    ) -> None:
        self._model = model
        self._discovery = discovery
        self._thread = thread
        self._new_pass = new_pass
        self._made_in = threading.get_ident()

    def innermost(self) -> Frame | None:
        """The innermost module whose call is seen; in a traced graph, that which was traced."""
        if not self._thread.running:
            return None
        frame = self._thread.running[-1]
        origins = self._discovery.origins.get(frame.module)
        if not origins:
            return frame
        name, kind = origins.get(line_of(type(frame.module).forward.__code__), ("", None))
        return Frame(frame.module, f"{frame.name}.{name}".strip("."), kind)

    def caller(self) -> Frame | None:
        """The module that calls a function: of those on the stack the innermost, or None.

        Not each comes through `nn.Module.__call__`: `model.encode(x)` and `module.forward(x)`
        don't.
        """
        innermost = self.innermost()
        if innermost is not None and innermost.kind:
            return innermost
        _, module = next(running_methods(self._discovery.names), (None, None))
        if module is None or any(outer.module is module for outer in self._thread.running):
            return innermost
        if innermost is None:
            self.enter_method()
        kind = self._discovery.kind_of[module]
        if isinstance(module, self._discovery.kinds.classes):
            kind = None  # its output isn't seen
        return Frame(module, self._thread.called_name(self._discovery.names[module]), kind)

    def enter_method(self) -> None:
        """Enter the pass of the outermost method that runs, other than ``model(x)``."""
        frame, module, method = outermost_method(self._model, self._discovery.names)
        outermost = FrameValue.get(frame, self._thread)
        if outermost is None:
            name = f"{self._discovery.names[module][0]}.{method}".strip(".")
            if threading.get_ident() != self._made_in:
                name += " in another thread"
            outermost = self._new_pass(name or "itself")
            FrameValue.set(frame, self._thread, outermost)
        self._thread.enter(outermost)
