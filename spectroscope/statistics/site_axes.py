"""What is known along those axes of a site that are transformed, of time or space."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from spectroscope.capture.axes import Axes
from spectroscope.capture.downsampling import DownsamplingStep
from spectroscope.capture.sites import Downsampling
from spectroscope.statistics import transformed_axes
from spectroscope.statistics.recording import Shape

T = TypeVar("T")


def common_decimation(axes: Axes | None, channel_axis: int, shape: Shape) -> float:
    """Samples of the model's input to one of the site's, along the axes that are transformed.

    NaN where that isn't known or isn't the same for all of them, or where there are none.
    """
    found = set(_transformed(axes, channel_axis, shape) if axes else ())
    (decimation,) = found if len(found) == 1 else (None,)
    return math.nan if decimation is None else float(decimation)


def _transformed(of_axes: Sequence[T], channel_axis: int, shape: Shape) -> list[T]:
    """Of something for each axis of a tensor that for those of time or space that are transformed.

    Args:
        of_axes: one for each axis of the tensor at the site.
        channel_axis: the tensor's.
        shape: of one input there, ``(C, ...)``.
    """
    channel = channel_axis % len(of_axes)
    rest = [x for i, x in enumerate(of_axes) if i != channel and (channel == 0 or i != 0)]
    lengths = tuple(2 if length is None else length for length in shape)
    axes = [axis - 1 for axis in transformed_axes(lengths)]
    return [rest[axis] for axis in axes] if axes else rest


def next_downsampling(
    lowerings: Iterable[DownsamplingStep], channel_axis: int, shape: Shape
) -> Downsampling | None:
    """What lowers the sampling rate next after a site, of all that does; None: nothing.

    That with the fewest rectifiers between, and of several what ran first; pooling over all of time
    or space only where nothing else does, for it is mostly a side branch.
    """
    found = []
    for lowering in lowerings:
        factors = _transformed(lowering.factors, channel_axis, shape)
        if factors and max(factors) > 1:
            factor = factors[0] if len(set(factors)) == 1 else math.nan
            found.append((lowering, factor))
    if not found:
        return None
    lowering, factor = min(found, key=lambda pair: (pair[0].whole, pair[0].between))
    return Downsampling(lowering.place, factor, lowering.between, lowering.whole)
