"""Axes of a tensor that is a view, a reshape or a combination of others."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

from spectroscope.capture.axes import CHANNEL, UNKNOWN, Axes, Axis


def view_axes(axes: Axes, source: Tensor, view: Tensor) -> Axes:
    """Axes of a view of `source`, found by stride.

    Covers transposition, permutation, (un)squeezing, slicing and splitting. An axis of the view
    runs along the axis of `source` with the largest stride that divides the view's, if it stays
    within that axis; the quotient of the strides is the step of the slice. An axis of length 1 is
    one of the same stride.
    """
    given = list(zip(source.shape, source.stride(), axes, strict=True))
    axes_of_view = [UNKNOWN] * view.dim()
    used = set()
    for i, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        candidates = [
            (source_stride, k)
            for k, (source_size, source_stride, _) in enumerate(given)
            if source_stride > 0
            and stride % source_stride == 0
            and 0 < (size - 1) * stride <= (source_size - 1) * source_stride
        ]
        if candidates:
            source_stride, k = max(candidates)
            used.add(k)
            axes_of_view[i] = _times(given[k][2], stride // source_stride)
    for i, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        same = [k for k, other in enumerate(given) if other[1] == stride and k not in used]
        if size == 1 and same:
            # Of several, one that has the length 1 too.
            k = min(same, key=lambda k: given[k][0])
            used.add(k)
            axes_of_view[i] = given[k][2] if given[k][0] == 1 else Axis(given[k][2].role)
    return tuple(axes_of_view)


def reshaped(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """Axes after a reshape, in which axes are merged and split.

    >>> time = Axis("time", Fraction(1))
    >>> reshaped((Axis("batch"), CHANNEL, time), (2, 4, 6), (2, 2, 2, 3, 2))[-2:]
    (Axis(role='time', decimation=Fraction(2, 1)), Axis(role='time', decimation=Fraction(1, 1)))
    >>> [axis.role for axis in reshaped((Axis("batch"), CHANNEL, time), (2, 4, 6), (2, 24))]
    ['batch', 'channel']
    """
    if tuple(before) == tuple(after):
        return axes
    if 0 in before or 0 in after:
        return None
    result = [UNKNOWN] * len(after)
    old, new = ([i for i, size in enumerate(shape) if size > 1] for shape in (before, after))
    ones = [i for i, size in enumerate(before) if size == 1]
    places = [i for i, size in enumerate(after) if size == 1]
    if len(ones) == len(places):
        for i, k in zip(places, ones, strict=True):
            result[i] = axes[k]
    if places and 0 in (*ones[:1],) and axes[0].role == "batch" and 0 in places:
        result[0] = axes[0]
    while old and new:
        sources, targets = [old.pop(0)], [new.pop(0)]
        size, length = before[sources[0]], after[targets[0]]
        while size != length:
            if size < length:
                sources.append(old.pop(0))
                size *= before[sources[-1]]
            else:
                targets.append(new.pop(0))
                length *= after[targets[-1]]
        lengths = [after[i] for i in targets]
        for i, axis in zip(targets, _split(_joined([axes[k] for k in sources]), lengths),
                           strict=True):  # fmt: skip
            result[i] = axis
    return tuple(result)


def _joined(axes: Sequence[Axis]) -> Axis:
    """Several axes as one."""
    if len(axes) == 1:
        return axes[0]
    roles = [axis.role for axis in axes]
    if "batch" in roles:
        return Axis("batch")
    if "channel" in roles:
        return CHANNEL
    return Axis("feature") if set(roles) == {"feature"} else UNKNOWN


def _split(axis: Axis, lengths: Sequence[int]) -> list[Axis]:
    """One axis as several of `lengths`."""
    if axis.role == "batch":
        return [axis if len(lengths) == 1 else Axis("batch"), *[UNKNOWN] * (len(lengths) - 1)]
    parts = [axis]
    for length in reversed(lengths[1:]):
        parts.insert(0, _times(parts[0], length))
    return parts


def broadcast(axes: Axes, tensor: Tensor, output: Tensor) -> Axes:
    """Axes of `tensor` broadcast to `output`: an axis of length 1 that is expanded has no rate."""
    lengths = output.shape[output.dim() - tensor.dim() :]
    return tuple(
        UNKNOWN if size == 1 != length else axis
        for axis, size, length in zip(axes, tensor.shape, lengths, strict=True)
    )


def merged(several: Sequence[Axes]) -> Axes:
    """Axes of several tensors combined value by value or concatenated.

    They are aligned at the last axis, as in broadcasting. An axis on which two decimations differ
    has none. Of roles that contradict each other, the first holds.
    """
    dim = max(map(len, several))
    channels = next((k for axes in several
                     if (k := {i - len(axes) for i, a in enumerate(axes) if a.role == "channel"})),
                    set())  # fmt: skip
    result: list[Axis] = []
    for i in range(-dim, 0):
        aligned = [axes[i] for axes in several if len(axes) >= -i]
        roles = [axis.role for axis in aligned if axis.role]
        if i in channels:
            result.append(CHANNEL)
            continue
        roles = [role for role in roles if role != "channel"]
        known = [axis.decimation for axis in aligned if axis.decimation is not None]
        same = bool(known) and known.count(known[0]) == len(known)
        result.append(Axis(roles[0] if roles else "", known[0] if same else None))
    return tuple(result)


def scrambled(axes: Axes, dim: Any) -> Axes:
    """Axes after a function that keeps them, but not the samples of one or of all."""
    over = {dim % len(axes)} if isinstance(dim, int) else set(range(len(axes)))
    kept = ("batch", "channel", "feature")
    return tuple(a if i not in over else Axis(a.role) if a.role in kept else UNKNOWN
                 for i, a in enumerate(axes))  # fmt: skip


def _times(axis: Axis, factor: int | Fraction) -> Axis:
    # Most factors are 1, and fractions are slow.
    if axis.decimation is None or factor == 1:
        return axis
    return Axis(axis.role, axis.decimation * factor)


def scaled(axes: Axes, factors: Sequence[int | Fraction]) -> Axes:
    """Multiply the last axes by `factors`."""
    first = len(axes) - len(factors)
    return (*axes[:first], *map(_times, axes[first:], factors))
