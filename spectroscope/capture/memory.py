"""`ForwardMemory`: what is known of a forward that repeats an earlier one.

Channel axes, decimations and downsamplings are carried along with the tensors of a forward, which
costs more Python than everything else. They are the same in the next forward, if that enters and
leaves the same modules and calls the same functions, in the same order, on an input of the same
shape. So the first forward of each kind is tracked, and a forward that repeats it is only compared
with it, step by step: a step that doesn't matter to the observer costs a comparison and no more.
Arguments of functions aren't compared, but the shapes that reach the sites are. Arguments may make
another sampling rate with the same shapes, as ``x[..., ::2]`` and ``x[..., :n]`` do: that is found
when a repeated forward is tracked once more, after 16, 33, 66, … repetitions.

A forward that turns out to be different is not tracked: its tensors up to there are gone. From then
on, every forward with an input of that shape is tracked, as the structure depends on the data.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from torch import nn

from spectroscope.capture.activations import Activation
from spectroscope.capture.axes import Reading
from spectroscope.capture.sites import CoverageRow, Site

if TYPE_CHECKING:
    from spectroscope.capture.passes import Pass

_MAX_FORWARDS = 32  # shapes of inputs that are remembered
_FIRST_CHECK = 16  # repetitions before a forward is tracked once more

_Getter = type(object().__str__)
Subject: TypeAlias = nn.Module | Callable[..., Any]


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
        outermost: the pass, kept while the outermost module runs.
        ran_submodules: it has called a module.
        matters: the observer must be called when a forward that repeats this one enters it.
        sources: nodes of the network that its arguments come from.
    """

    module: nn.Module
    name: str
    kind: str | None
    in_custom: bool = False
    finish: Callable[[Any], Any] | None = None
    outermost: "Pass | None" = None
    ran_submodules: bool = False
    matters: bool = True
    sources: tuple[str, ...] = ()


class NamedCall(NamedTuple):
    """An activation call that has a name.

    Attributes:
        site: the call.
        place: of the site.
        row: of the coverage.
        selected: whether it is selected.
    """

    site: Site
    place: str
    row: CoverageRow
    selected: bool


class KnownCall(NamedTuple):
    """A function call that was an activation.

    Attributes:
        named: the call.
        caller: the module that called the function; None: an activation module,
            which the steps identify.
        activation: by the arguments.
        is_relu: it was torch's own ReLU.
    """

    named: NamedCall
    caller: nn.Module | None
    activation: Activation
    is_relu: bool


class Step(NamedTuple):
    """A step of a forward: it enters or leaves a module, or calls a function.

    Attributes:
        subject: the module or function.
        leaves: the module is left.
        frame: of the module, which is used again; None: of a function, or the step always matters.
        name: of the function; None: of a module.
        matters: whether the call of the function matters to the observer.
        call: the activation that the function call was, where its arguments and caller identify it.
    """

    subject: Subject
    leaves: bool = False
    frame: Frame | None = None
    name: str | None = None
    matters: bool = True
    call: KnownCall | None = None

    @property
    def skipped(self) -> bool:
        """Whether it doesn't matter."""
        return not (self.matters if self.frame is None else self.frame.matters)


class _Forward:
    """A tracked forward: its steps, and its sites.

    Attributes:
        steps: all of them.
        taken: by step, the module or function; None if the step matters; and None at the end.
        left: the same for modules that are left.
        readings: by site.
        repeats: whether no forward of this kind was different.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.taken: list[Subject | None] = [None]
        self.left: list[Subject | None] = [None]
        self.readings: dict[Site, Reading] = {}
        self.repeats = True
        self._repetitions = 0
        self._next_check = _FIRST_CHECK

    def is_due(self) -> bool:
        """Count a repetition; whether it is to be tracked."""
        self._repetitions += 1
        if self._repetitions < self._next_check:
            return False
        # Even and odd in turn, as forwards of two kinds may alternate.
        self._next_check = 2 * self._next_check + (self._next_check % 2 == 0)
        return True

    def finish(self) -> None:
        """No step will be added."""
        for steps, leaves in ((self.taken, False), (self.left, True)):
            steps[:0] = [s.subject if s.skipped and s.leaves is leaves else None
                         for s in self.steps]  # fmt: skip


_NOTHING = _Forward()


class ForwardMemory:
    """The forwards of one thread, by shape of the input.

    Args:
        running: the modules that run, the innermost last.
        enabled: False: every forward is tracked.

    Attributes:
        tracking: whether the tensors of the current forward are to be tracked.
    """

    def __init__(self, running: list[Frame], *, enabled: bool) -> None:
        self.tracking = True
        self._running = running
        self._enabled = enabled
        self._forwards: dict[Hashable, _Forward] = {}
        self._key: Hashable = None
        self._current = _Forward()
        self._expected: list[Step] | None = None
        self._taken, self._left = _NOTHING.taken, _NOTHING.left
        self._position = 0
        self._caught_up = 0

    @property
    def repeating(self) -> bool:
        """Whether the current forward has repeated an earlier one so far."""
        return self._expected is not None

    def start(self, key: Hashable) -> None:
        """Begin a forward; `key` is what it has in common with those that may repeat it."""
        self._key, self._position, self._caught_up = key, 0, 0
        known = self._forwards.get(key)
        if known is None or not known.repeats or known.is_due():
            self.tracking, self._current, self._expected = True, _Forward(), None
            self.stop()
        else:
            self.tracking, self._current, self._expected = False, known, known.steps
            self._taken, self._left = known.taken, known.left

    def leaves(self, module: nn.Module) -> bool:
        """As :meth:`skips`, of a module that is left."""
        if self._left[self._position] is module:
            self._position += 1
            return True
        return False

    def skips(self, subject: Subject) -> bool:
        """Take the next step, if the forward which this one repeats has it and it doesn't matter.

        Returns:
            Whether it was taken.
        """
        known = self._taken[self._position]
        # The getter of a property is a new object at each call.
        if known is subject or (type(known) is _Getter and known == subject):
            self._position += 1
            return True
        return False

    def catch_up(self) -> None:
        """Enter and leave the modules of the steps that were skipped."""
        if self._expected is None or self._caught_up == self._position:
            return
        running, steps = self._running, self._expected[self._caught_up : self._position]
        if self._position == len(self._expected) - 1:  # the model itself has yet to be left
            del running[1:]
            running[0].ran_submodules |= any(step.frame is not None for step in steps)
            steps = []
        for step in steps:
            if step.leaves:
                running.pop()
            elif step.frame is not None:
                running[-1].ran_submodules = True
                running.append(step.frame)
        self._caught_up = self._position

    def expects(self, subject: Subject, *, leaves: bool = False) -> Step | None:
        """Take the next step, if the forward which this one repeats has it.

        Returns:
            The step in that forward; None if they differ, or if this forward is tracked.
        """
        expected, position = self._expected, self._position
        if expected is None:
            return None
        if position < len(expected):
            step = expected[position]
            known = step.subject
            if step.leaves is leaves and (
                known is subject or (type(known) is _Getter and known == subject)
            ):
                if step.name is None and not step.skipped:
                    self.catch_up()
                    self._caught_up = position + 1
                self._position = position + 1
                return step
        self._differs()
        return None

    def add(self, step: Step) -> None:
        """Add a step to the current forward, if that is tracked."""
        if self.tracking:
            self._current.steps.append(step)

    def recall(self, site: Site, shape: tuple[int, ...]) -> Reading | None:
        """How a tensor of this shape was read at `site`; None: not known."""
        reading = self._current.readings.get(site)
        if reading is not None and reading.shape == shape:
            return reading
        if self._expected is not None:
            self._differs()
        return None

    def add_reading(self, site: Site, reading: Reading) -> None:
        """Remember how the tensor of `site` is read."""
        self._current.readings[site] = reading

    def finish(self) -> None:
        """End a forward that is complete; one that repeats another may end earlier than that."""
        if not (self.tracking and self._enabled):
            return
        known = self._forwards.get(self._key)
        if known is not None:
            read = self._current.readings.items()
            known.repeats &= all(known.readings.get(site, now) == now for site, now in read)
            return
        if len(self._forwards) == _MAX_FORWARDS:
            del self._forwards[next(iter(self._forwards))]
        self._forwards[self._key] = self._current
        self._current.finish()

    def stop(self) -> None:
        """Nothing is skipped from now on."""
        self._taken, self._left = _NOTHING.taken, _NOTHING.left
        self._position = self._caught_up = 0

    def _differs(self) -> None:
        self.catch_up()
        self._current.repeats = False
        self._expected = None
        self.stop()
