"""The axes of a tensor: what each is, and which of them are Fourier transformed."""

import math
import operator
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")

# "feature": channels of an earlier layer, which now are neither channels nor time or space.
# "": time, space, or not known.
Role: TypeAlias = Literal["batch", "channel", "feature", "time", ""]


class Axis(NamedTuple):
    """An axis of a tensor.

    Attributes:
        role: what it is.
        decimation: samples of the model's input to one of this axis; None where unknown or
            undefined (channels, features, axes made by the model).
    """

    role: Role = ""
    decimation: Fraction | None = None


Axes: TypeAlias = tuple[Axis, ...]
TimeAxis: TypeAlias = int | Literal["auto"]
ChannelAxis: TypeAlias = int | Literal["auto"] | Mapping[str, int | Literal["auto"]]
CHANNEL = Axis("channel")
UNKNOWN = Axis()


class Layout(NamedTuple):
    """How the axes of an activation are read.

    Attributes:
        batch: axis of the inputs; None: it has no such axis.
        channel: axis of the channels.
        transformed: axes that are Fourier transformed; none if empty.
        is_time: the one transformed axis is the time of the model's input.
    """

    batch: int | None
    channel: int
    transformed: tuple[int, ...]
    is_time: bool

    @property
    def leading(self) -> tuple[int, ...]:
        """Batch axis, if any, and channel axis."""
        return (self.channel,) if self.batch is None else (self.batch, self.channel)

    def order(self, dim: int) -> tuple[int, ...]:
        """The axes in the order ``N, C, ...``, without N if there is no batch axis."""
        return _order(self, dim)

    def transformed_in_order(self, dim: int) -> tuple[int, ...]:
        """The transformed axes of ``[N, C, ...]``."""
        return _transformed_in_order(self, dim)

    def select(self, values: Sequence[T]) -> list[T]:
        """The values of the transformed axes; of all axes of time or space if there are none."""
        axes = self.transformed or [i for i in range(len(values)) if i not in self.leading]
        return [values[axis] for axis in axes]


@lru_cache
def _order(layout: Layout, dim: int) -> tuple[int, ...]:
    return (*layout.leading, *(i for i in range(dim) if i not in layout.leading))


@lru_cache
def _transformed_in_order(layout: Layout, dim: int) -> tuple[int, ...]:
    order, first = layout.order(dim), int(layout.batch is None)
    return tuple(sorted(order.index(axis) + first for axis in layout.transformed))


class Reading(NamedTuple):
    """How the tensor of a site is read.

    Attributes:
        shape: of the tensor.
        layout: of its axes.
        decimation: samples of the model's input per sample of the site, along the axes of time or
            space; NaN where unknown or different between them.
        tracked: False: the forward wasn't tracked, and layout and decimation aren't known.
    """

    shape: tuple[int, ...]
    layout: Layout
    decimation: float
    tracked: bool


def layout_of(
    shape: Sequence[int | None], axes: Axes | None, channel_axis: int | None, *, timed: bool
) -> Layout:
    """The layout of an activation.

    Transformed is time, if it is known which axis that is. Otherwise the axes of time or space: the
    axis of a line, both of an image, the last two of a video, and none of more. Where frequencies
    are along time alone, several axes are no image: one may be time. Axes of length 1 don't count:
    ``[N, C, 1, T]`` is a line.

    Args:
        shape: of the activation; None where lengths differ.
        axes: what is known of its axes.
        channel_axis: of the channels, where 0 means that there is no batch axis; None: from `axes`,
            and where that isn't known 1.
        timed: whether frequencies are along time alone.

    >>> layout_of((1, 64, 1, 256), None, 1, timed=False).transformed
    (3,)
    >>> layout_of((1, 3, 8, 32, 32), None, 1, timed=False).transformed
    (3, 4)
    """
    dim = len(shape)
    axes = axes or (UNKNOWN,) * dim
    roles = [axis.role for axis in axes]
    others = set(range(dim))
    if channel_axis is None:
        channel = known_channel(axes)
        if "batch" in roles and roles.index("batch") != channel:
            batch: int | None = roles.index("batch")
        else:
            batch = None if channel == 0 or roles[0] == "time" else 0
        others = {i for i in others if roles[i] in ("time", "")}
    else:
        channel = channel_axis % dim
        batch = None if channel == 0 else 0
    places = [i for i in sorted(others) if i not in (batch, channel)]
    times = [i for i in places if roles[i] == "time"] if timed else []
    if times:
        # Of several, as of frames and the samples in them, the longest.
        time = max(times, key=lambda i: float(axes[i].decimation or 1) * (shape[i] or 0))
        transformed = (time,) if shape[time] != 1 else ()
        return Layout(batch, channel, transformed, bool(transformed))
    places = [i for i in places if shape[i] != 1]
    are_known = len(places) <= (1 if timed else 3)
    return Layout(batch, channel, tuple(places[-2:]) if are_known else (), False)


def known_channel(axes: Axes | None) -> int:
    """The axis of channels, of several the last. If none is known, 1, unless that is another."""
    channels = [i for i, axis in enumerate(axes or ()) if axis.role == "channel"]
    if channels or not axes or len(axes) < 3:
        return channels[-1] if channels else 1
    return next((i for i in range(1, len(axes)) if axes[i].role not in ("batch", "time")), 1)


def axis_number(channel_axis: Any) -> int | None:
    """A given axis as a number; None: ``"auto"``.

    Raises:
        TypeError: it is neither.
    """
    return None if channel_axis == "auto" else operator.index(channel_axis)


def unknown_axes(shape: Sequence[int], axes: Axes | None) -> str | None:
    """Which of the batch and the channel axis isn't known, where that matters; None if both are.

    It doesn't matter without axes of time or space. Axis 1 of the model's inputs is taken as
    it is.
    """
    if len(shape) < 3:
        return None
    channels = [i for i, axis in enumerate(axes or ()) if axis.role == "channel"]
    if len(channels) > 1:
        places = " and ".join(map(str, channels))
        return f"axes {places} are both of channels: the last was taken (channel_axis= chooses)"
    if (
        axes is not None
        and channels
        and axes[0] == UNKNOWN
        and all(a.role != "batch" for a in axes)
    ):
        return "its batch axis isn't known: axis 0 was taken, and n_samples counts that"
    if channels or (axes is not None and axes[1].decimation is not None):
        return None
    return "its channel axis isn't known: axis 1 was taken (channel_axis= gives it)"


def unknown_time(shape: Sequence[int], layout: Layout) -> str | None:
    """That time isn't known among several axes, of a layout that is timed; None if it is known."""
    others = [i for i, size in enumerate(shape) if size != 1 and i not in layout.leading]
    if layout.transformed or len(others) < 2:
        return None
    return "which of its axes is time isn't known: no spectra (without fs, those of an image)"


def common_decimation(axes: Axes | None, layout: Layout) -> float:
    """The decimation of the transformed axes; NaN if unknown, or not the same for all of them."""
    distinct = {axis.decimation for axis in layout.select(axes)} if axes else set()
    (decimation,) = distinct if len(distinct) == 1 else (None,)
    return math.nan if decimation is None else float(decimation)


def decimations(axes: Axes) -> tuple[Fraction | None, ...]:
    """The decimation of each axis."""
    return tuple(axis.decimation for axis in axes)
