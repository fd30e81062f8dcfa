"""`Forward`: the modules that run in a thread, and what is tracked of the tensors."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.downsampling import DownsamplingLog, Provenance
from spectroscope.capture.idioms import Idioms
from spectroscope.capture.inputs import InputAxes
from spectroscope.capture.memory import ForwardMemory
from spectroscope.capture.pooling import GlobalPooling, OnlyMean
from spectroscope.capture.tensors import TensorMap


@dataclass(slots=True)
class Frame:
    """A module that is running.

    Attributes:
        module: the module.
        name: qualified name; of a module with several names, the one it was called under.
        kind: of activation, or None if it isn't an activation to be recorded.
        in_custom: it is, or runs inside, an activation of the user's own class, whose calls of
            other activations are part of it, or a parametrization of weights.
        finish: called with the output; may return the replacement of the output.
        ran_submodules: it has called a module.
    """

    module: nn.Module
    name: str
    kind: str | None
    in_custom: bool
    finish: Callable[[Any], Any] | None
    ran_submodules: bool = False


class Forward(threading.local):
    """The forward pass that runs in this thread.

    Args:
        inputs: as in :class:`AxisTracker`.
        buffers: as in :class:`AxisTracker`.
        downsamplings: is updated.
        only_mean: as in :class:`GlobalPooling`.
        remembers: forwards that repeat an earlier one aren't tracked.
    """

    def __init__(
        self,
        inputs: InputAxes,
        buffers: TensorMap[bool],
        downsamplings: DownsamplingLog,
        only_mean: dict[str, OnlyMean],
        *,
        remembers: bool,
    ) -> None:
        self.running: list[Frame] = []
        self.calls: Counter[str] = Counter()
        self.memory = ForwardMemory(enabled=remembers)
        self._inputs = inputs
        self._buffers = buffers
        self._downsamplings = downsamplings
        self._only_mean = only_mean
        self.restart()

    def restart(self) -> None:
        """Forget the tensors of the previous forward."""
        self.axes = AxisTracker(self._inputs, self._buffers)
        self.provenance = Provenance(self.axes)
        self.pooling = GlobalPooling(self._only_mean)
        self.idioms = Idioms()

    def track(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[Any], None] | None:
        """What to call with the output of a torch function that is about to run; None: nothing."""
        axes, provenance, pooling = self.axes, self.provenance, self.pooling
        if not pooling.active and not axes.concerns(name, args, kwargs):
            return None
        place = f"{self.running[-1].name}/{name.strip('_')}".lstrip("/")

        def update(output: Any) -> None:
            tracked = axes.update(name, args, kwargs, output)
            if tracked:
                steps = provenance.update(place, tracked, args, kwargs, output)
                self._downsamplings.add(steps)
            if pooling.active:
                pooling.update(name, args, kwargs, output)

        return update

    def end(self, outputs: list[Tensor], *, is_model: bool) -> None:
        """The model, or the part of it that was called, has returned `outputs`."""
        if self.memory.tracking:
            self.pooling.end(outputs, is_model=is_model)
        elif not self.memory.repeating:
            self.pooling.lose()
        self.restart()

    def add_site(self, site: str, output: Tensor, transformed: tuple[int, ...]) -> None:
        """Track the output of an activation with these axes of time or space."""
        self.provenance.add_site(site, output)
        self.pooling.add_site(site, output, transformed)

    def called_name(self, names: list[str]) -> str:
        """The name of a shared module below the innermost running module that contains it."""
        for frame in reversed(self.running):
            below = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if below:
                return below[0]
        return names[0]
