"""What runs in a thread: modules, inside one another, and the pass that they belong to."""

import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor

from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.channel_sources import SourceTracker
from spectroscope.capture.downsampling import Provenance
from spectroscope.capture.idioms import Idioms
from spectroscope.capture.inputs import Input, InputAxes
from spectroscope.capture.memory import ForwardMemory, Frame
from spectroscope.capture.network import NetworkTracker
from spectroscope.capture.paths import Paths
from spectroscope.capture.pooling import GlobalPooling
from spectroscope.capture.rectified import RectifiedTensors
from spectroscope.capture.tensors import TensorMap


class Pass:
    """One outermost call: of the model, or of a method that was called instead.

    Args:
        inputs: as in :class:`AxisTracker`.
        buffers: as in :class:`AxisTracker`.
        paths: is updated.
        memory: of the forwards that it may repeat.
        name: as the attribute.
        follows: whether the network is wanted.

    Attributes:
        name: of the method, such as `encode()`; empty for ``model(x)``.
        calls: the activation calls so far, by place.
        memory: of the forwards that it may repeat.
        axes: of the tensors of this pass.
        sources: the filters of the tensors of this pass.
        idioms: ReLUs in other words.
        rectified: ReLUs in words that `idioms` doesn't know.
    """

    def __init__(
        self,
        inputs: InputAxes,
        buffers: TensorMap[bool],
        paths: Paths,
        memory: ForwardMemory,
        name: str = "",
        *,
        follows: bool = True,
    ) -> None:
        self.name = name
        self.calls: Counter[str] = Counter()
        self.memory = memory
        self.axes = AxisTracker(inputs, buffers)
        self.sources = SourceTracker(paths.sources)
        self.idioms = Idioms()
        self.rectified = RectifiedTensors()
        self._provenance = Provenance(self.axes)
        self._downsamplings = paths.downsamplings
        self._pooling = GlobalPooling(paths.only_mean)
        self._follows = follows
        self._network = NetworkTracker(paths.network, self.axes, timed=inputs.fs is not None)

    @property
    def follows(self) -> bool:
        """Whether the network is followed: it is wanted, and not known from an earlier forward."""
        return self._follows and self.memory.tracking

    def start(self, inputs: list[Input]) -> None:
        """The model is called with `inputs`."""
        self.axes.start(inputs)
        if self._follows:
            self.rectified.add(given.tensor for given in inputs)
        self._network.start(inputs)

    def track(
        self, place: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[Any], None] | None:
        """What to call with the output of a torch function that is about to run; None: nothing."""
        axes, pooling, network = self.axes, self._pooling, self._network
        if not (
            pooling.active
            or axes.concerns(name, args, kwargs)
            or (self._follows and network.concerns(name, args, kwargs))
        ):
            return None

        def update(output: Any) -> None:
            tracked = axes.update(name, args, kwargs, output)
            if tracked:
                steps = self._provenance.update(place, tracked, args, kwargs, output)
                self._downsamplings.add(steps)
            self.sources.update(place, tracked, args, kwargs, output, axes.of)
            if pooling.active:
                pooling.update(name, args, kwargs, output)
            if self._follows:
                network.update(place, tracked, args, kwargs, output)

        return update

    def enter_module(self, frame: Frame, arguments: Any) -> None:
        """A module is called with `arguments`, while the network is followed."""
        frame.sources = self._network.known_sources(arguments)

    def exit_module(self, frame: Frame, output: Any) -> None:
        """A module that got tensors of the network has returned."""
        self._network.add_module(frame.module, frame.name, frame.sources, output)

    def add_site(
        self, site: str, output: Tensor, transformed: tuple[int, ...], *, in_place: bool
    ) -> None:
        """Track the output of an activation with these axes of time or space."""
        self._provenance.add_site(site, output)
        self._network.add_site(site, output, in_place=in_place)
        if self.name:  # its end isn't seen
            self._pooling.lose(site)
        else:
            self._pooling.add_site(site, output, transformed)

    def finish(self, outputs: list[Tensor]) -> None:
        """The model has returned `outputs`."""
        self.memory.finish()
        if self.memory.tracking:
            self._pooling.end(outputs)
            self._network.end(outputs)
        elif not self.memory.repeating:
            self._pooling.lose()


class ThreadState(threading.local):
    """What runs in this thread.

    Args:
        remembers: as `enabled` of :class:`ForwardMemory`.

    Attributes:
        memory: of the forwards of the model in this thread.
    """

    def __init__(self, *, remembers: bool) -> None:
        self._running: list[Frame] = []
        self.memory = ForwardMemory(self._running, enabled=remembers)
        self._current: Callable[[], Pass | None] = lambda: None

    @property
    def running(self) -> list[Frame]:
        """The modules that run, the innermost last."""
        if self._current() is None:
            # A KeyboardInterrupt, unlike an Exception, ends a forward without calling the hooks.
            self._running.clear()
        else:
            self.memory.catch_up()
        return self._running

    @property
    def current(self) -> Pass | None:
        """The pass that was last entered; None once it has ended."""
        return self._current()

    def enter(self, outermost: Pass) -> None:
        """Make `outermost` the current pass, until nothing else refers to it."""
        self._current = weakref.ref(outermost)

    def called_name(self, names: list[str]) -> str:
        """The name of a shared module below the innermost running module that contains it."""
        for frame in reversed(self.running):
            below = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if below:
                return below[0]
        return names[0]
