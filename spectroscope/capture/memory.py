"""`ForwardMemory`: what is known of a forward that repeats an earlier one.

Channel axes, decimations and downsamplings are carried along with the tensors of a forward, which
costs more Python than everything else. They are the same in the next forward, if that calls the
same modules and functions, in the same order, on an input of the same shape. So the first forward
of each kind is tracked, and a forward that repeats it is only compared with it, step by step.
Arguments of functions aren't compared, but the shapes that reach the sites are. Arguments may make
another sampling rate with the same shapes, as ``x[..., ::2]`` and ``x[..., :n]`` do: that is found
when a repeated forward is tracked once more, after 16, 33, 66, … repetitions.

A forward that turns out to be different is not tracked: its tensors up to there are gone. From then
on, every forward with an input of that shape is tracked, as the structure depends on the data.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from torch import nn

from spectroscope.capture.axes import Reading
from spectroscope.capture.sites import Site

_MAX_FORWARDS = 32  # shapes of inputs that are remembered
_FIRST_CHECK = 16  # repetitions before a forward is tracked once more

_Getter = type(object().__str__)
Step: TypeAlias = nn.Module | Callable[..., Any]


class _Forward:
    """A tracked forward: its steps, whether each matters to the observer, and its sites."""

    def __init__(self) -> None:
        self.steps: list[tuple[Step, bool]] = []
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


class ForwardMemory:
    """The forwards of one thread, by shape of the input.

    Args:
        enabled: False: every forward is tracked.

    Attributes:
        tracking: whether the tensors of the current forward are to be tracked.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.tracking = True
        self._enabled = enabled
        self._forwards: dict[Hashable, _Forward] = {}
        self._key: Hashable = None
        self._current = _Forward()
        self._expected: list[tuple[Step, bool]] | None = None
        self._position = 0

    @property
    def repeating(self) -> bool:
        """Whether the current forward has repeated an earlier one so far."""
        return self._expected is not None

    def start(self, key: Hashable) -> None:
        """Begin a forward; `key` is what it has in common with those that may repeat it."""
        self._key, self._position = key, 0
        known = self._forwards.get(key)
        if known is None or not known.repeats or known.is_due():
            self.tracking, self._current, self._expected = True, _Forward(), None
        else:
            self.tracking, self._current, self._expected = False, known, known.steps

    def expects(self, step: Step) -> bool | None:
        """Compare the next step with that of the forward which this one repeats.

        Returns:
            Whether the step mattered then; None if the steps differ, or if this forward is tracked.
        """
        expected = self._expected
        if expected is None:
            return None
        position = self._position
        if position < len(expected):
            known, matters = expected[position]
            # The getter of a property is a new object at each call.
            if known is step or (type(known) is type(step) is _Getter and known == step):
                self._position = position + 1
                return matters
        self._differs()
        return None

    def add(self, step: Step, *, matters: bool) -> None:
        """Add a step to the current forward, if that is tracked."""
        if self.tracking:
            self._current.steps.append((step, matters))

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

    def _differs(self) -> None:
        self._current.repeats = False
        self._expected = None
