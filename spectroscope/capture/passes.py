"""What runs in a thread: modules, inside one another, and the pass that they belong to."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.channel_sources import ChannelSources, SourceTracker
from spectroscope.capture.downsampling import Provenance
from spectroscope.capture.inputs import InputAxes
from spectroscope.capture.memory import ForwardMemory


class Pass:
    """One outermost call: of the model, or of a method that was called instead.

    Args:
        inputs: time axis and sampling rate of the model's inputs.
        sources: of the sites.
        memory: of the forwards that it may repeat.
        name: as the attribute.

    Attributes:
        name: of the method, such as `encode()`; empty for ``model(x)``.
        calls: the activation calls so far, by place.
        axes: of the tensors of this pass.
        memory: of the forwards that it may repeat.
        provenance: of the tensors of this pass.
        sources: the filters of the tensors of this pass.
    """

    def __init__(
        self, inputs: InputAxes, sources: ChannelSources, memory: ForwardMemory, name: str = ""
    ) -> None:
        self.name = name
        self.calls: Counter[str] = Counter()
        self.memory = memory
        self.axes = AxisTracker(inputs)
        self.provenance = Provenance(self.axes)
        self.sources = SourceTracker(sources)


@dataclass(slots=True)
class Frame:
    """A module that is running.

    Attributes:
        module: the module.
        name: qualified name; of a module with several names, the one it was called under.
        kind: of activation, or None if it isn't an activation to be recorded.
        in_custom: it is, or runs inside, an activation of the user's own class, whose calls of
            other activations are part of it.
        finish: called with the output; may return the replacement of the output.
        outermost: the pass, kept while the outermost module runs.
        ran_submodules: it has called a module.
    """

    module: nn.Module
    name: str
    kind: str | None
    in_custom: bool = False
    finish: Callable[[Any], Any] | None = None
    outermost: Pass | None = None
    ran_submodules: bool = False


class ThreadState(threading.local):
    """What runs in this thread.

    Args:
        remembers: as `enabled` of :class:`ForwardMemory`.

    Attributes:
        memory: of the forwards of the model in this thread.
    """

    def __init__(self, *, remembers: bool) -> None:
        self.memory = ForwardMemory(enabled=remembers)
        self._running: list[Frame] = []
        self._current: Callable[[], Pass | None] = lambda: None

    @property
    def running(self) -> list[Frame]:
        """The modules that run, the innermost last."""
        if self._current() is None:
            # A KeyboardInterrupt, unlike an Exception, ends a forward without calling the hooks.
            self._running.clear()
        return self._running

    @property
    def current(self) -> Pass | None:
        """The pass that was last entered; None once it has ended."""
        return self._current()

    def enter(self, outermost: Pass) -> None:
        """Make `outermost` the current pass, until nothing else refers to it."""
        self._current = weakref.ref(outermost)
