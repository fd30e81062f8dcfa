"""Axis tracking: the decimation of each axis of a tensor, relative to the model's input.

The decimation of an axis is the number of input samples to one of its own. Lengths don't give it:
an unpadded convolution shortens without decimating, and the lengths 299, 149, 147, 73 in Inception
v3 are decimations 1, 2, 2, 4. So it is carried along with the tensors through every torch function:
a stride multiplies it, an interpolation divides it, a transposition moves it. After any function
that isn't known to preserve it, it is unknown.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from spectroscope.capture.sites import Shape

T = TypeVar("T")

# The decimation of each axis of a tensor; None where unknown or undefined (channels, features, axes
# made by the model).
Axes = tuple[Fraction | None, ...]


def transformed_axes(shape: Shape) -> tuple[int, ...]:
    """The axes of one input's activation, ``(C, ...)``, that are Fourier transformed.

    Time of ``(C, T)``, both axes of ``(C, H, W)``, the last two of video ``(C, T, H, W)``, and none
    of more. Axes of length 1 don't count: ``(C, 1, T)`` is a line.

    >>> transformed_axes((64, 1, 256)), transformed_axes((3, 8, 32, 32)), transformed_axes((10,))
    ((2,), (2, 3), ())
    """
    axes = tuple(i for i, length in enumerate(shape) if i > 0 and (length is None or length > 1))
    return axes[-2:] if len(axes) <= 3 else ()


def along_transformed_axes(values: Sequence[T], channel_axis: int, shape: Shape) -> list[T]:
    """Select the values of the transformed axes; of all axes of time or space if there are none.

    Args:
        values: one for each axis of the tensor at the site.
        channel_axis: of that tensor; 0: it has no batch axis.
        shape: of one input there, ``(C, ...)``.
    """
    channel = channel_axis % len(values)
    spatial = [x for i, x in enumerate(values) if i != channel and (channel == 0 or i != 0)]
    axes = transformed_axes(shape)
    return [spatial[axis - 1] for axis in axes] if axes else spatial


def common_decimation(axes: Axes | None, channel_axis: int, shape: Shape) -> float:
    """The decimation of the transformed axes; NaN if unknown, or not the same for all of them.

    Arguments as of :func:`along_transformed_axes`, `axes` being the values.
    """
    distinct = set(along_transformed_axes(axes, channel_axis, shape) if axes else ())
    (decimation,) = distinct if len(distinct) == 1 else (None,)
    return math.nan if decimation is None else float(decimation)


class TensorMap(Generic[T]):
    """A value for each of some tensors, which are compared by identity and referenced weakly."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def get(self, tensor: Tensor) -> T | None:
        """The value of `tensor`, or None."""
        entry = self._entries.get(id(tensor))
        # The id of a tensor that no longer exists may be in use by another.
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def set(self, tensor: Tensor, value: T) -> None:
        """Set the value of `tensor`."""
        self._entries[id(tensor)] = weakref.ref(tensor), value

    def discard(self, tensor: Tensor) -> None:
        """Remove `tensor`, if present."""
        self._entries.pop(id(tensor), None)

    def may_contain(self, value: Any) -> bool:
        """Cheap pre-check of any object: no false negatives."""
        return id(value) in self._entries


class AxisTracker:
    """The axes of the tensors of one forward."""

    def __init__(self) -> None:
        self._axes: TensorMap[Axes] = TensorMap()

    def start(self, inputs: Sequence[Any]) -> None:
        """Track the tensors among the model's `inputs`, with every axis at decimation 1."""
        for tensor in tensors(inputs):
            if _is_plain(tensor):
                self._axes.set(tensor, (Fraction(1),) * tensor.dim())

    def of(self, tensor: Tensor) -> Axes | None:
        """The axes of `tensor`, or None if it isn't tracked."""
        axes = self._axes.get(tensor)
        return axes if axes is not None and len(axes) == tensor.dim() else None

    def any_tracked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Cheap pre-check: may any argument be tracked?"""
        return any(
            self._axes.may_contain(value) or isinstance(value, list | tuple)
            for value in (*args, *kwargs.values())
        )

    def update(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> list[tuple[Tensor, Axes]]:
        """Track the output of a torch function that has run.

        Args:
            name: the function's name, from `activations.function_name`.
            args: its positional arguments.
            kwargs: its keyword arguments.
            output: its result.

        Returns:
            The tracked tensors among the arguments, with their axes.
        """
        inputs = [*tensors(args), *tensors(kwargs.values())]
        tracked = [(tensor, axes) for tensor in inputs if (axes := self.of(tensor)) is not None]
        if not tracked:
            return []
        call = _FunctionCall(name.lstrip("_"), args, kwargs, inputs, tracked)
        for tensor in tensors((output,)):
            if tensor is tracked[0][0] and len(tracked) == 1:
                continue  # in-place function
            axes = _output_axes(call, tensor)
            if axes is not None and len(axes) == tensor.dim():
                self._axes.set(tensor, axes)
            else:
                self._axes.discard(tensor)
        return tracked


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among `values`, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


class _FunctionCall(NamedTuple):
    """A torch function call with tracked arguments.

    Attributes:
        name: the function's name, without underscores around it.
        args: positional arguments.
        kwargs: keyword arguments.
        inputs: all tensors among the arguments.
        tracked: those that are tracked, at least one, with their axes.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    tracked: list[tuple[Tensor, Axes]]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


# From the axes of the first argument, the call and its output to the axes of the output.
_Rule = Callable[[Axes, _FunctionCall, Tensor], Axes | None]


def _output_axes(call: _FunctionCall, output: Tensor) -> Axes | None:
    """Axes of an output of a function; None if unknown."""
    source, axes = call.tracked[0]
    if not _is_plain(output):
        return None
    if call.name in _RULES:
        return _RULES[call.name](axes, call, output) if source is call.inputs[0] else None
    same_layout = output.shape == source.shape and output.stride() == source.stride()
    if not same_layout and _storage_id(output) == _storage_id(source):
        return _view_axes(axes, source, output)
    if call.name in _UNKNOWN or call.name.startswith("fft_"):
        return None
    if call.name == "getitem":
        index = call.args[1] if isinstance(call.args[1], list | tuple) else (call.args[1],)
        if any(True for _ in tensors(index)):
            return None  # an index tensor selects in any order
    if same_layout and len(call.tracked) == 1:
        return axes
    if call.name in _JOINING:
        return _merge([axes for _, axes in call.tracked])
    reduced = any(tensor.dim() > output.dim() for tensor, _ in call.tracked)
    if not reduced and any(output.shape == tensor.shape for tensor in call.inputs):
        return _merge([_broadcast(axes, tensor, output) for tensor, axes in call.tracked])
    return None


def _is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` has sizes, strides and storage."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view_axes(axes: Axes, source: Tensor, view: Tensor) -> Axes:
    """Axes of a view of `source`, found by stride.

    Covers transposition, permutation, (un)squeezing, slicing, splitting and reshaping without a
    copy. An axis of the view runs along the axis of `source` with the largest stride that divides
    the view's, if it stays within that axis; the quotient of the strides is the step of the slice.
    """
    view_axes: list[Fraction | None] = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        candidates = [
            (source_stride, axis)
            for source_size, source_stride, axis in zip(
                source.shape, source.stride(), axes, strict=True
            )
            if source_stride > 0
            and stride % source_stride == 0
            and 0 < (size - 1) * stride <= (source_size - 1) * source_stride
        ]
        source_stride, axis = max(candidates, key=lambda pair: pair[0], default=(1, None))
        view_axes.append(_times(axis, stride // source_stride))
    return tuple(view_axes)


def _broadcast(axes: Axes, tensor: Tensor, output: Tensor) -> Axes:
    """Axes of `tensor` broadcast to `output`: an axis of length 1 that is expanded has no rate."""
    lengths = output.shape[output.dim() - tensor.dim() :]
    return tuple(
        None if size == 1 != length else axis
        for axis, size, length in zip(axes, tensor.shape, lengths, strict=True)
    )


def _merge(several: Sequence[Axes]) -> Axes:
    """Axes of several tensors combined value by value or concatenated.

    They are aligned at the last axis, as in broadcasting. An axis on which two differ is unknown.
    """
    merged: list[Fraction | None] = []
    for i in range(max(map(len, several)), 0, -1):
        known = [axes[-i] for axes in several if len(axes) >= i and axes[-i] is not None]
        merged.append(known[0] if known and known.count(known[0]) == len(known) else None)
    return tuple(merged)


def _times(axis: Fraction | None, factor: int | Fraction) -> Fraction | None:
    # Most factors are 1, and fractions are slow.
    return axis if axis is None or factor == 1 else axis * factor


def _scale(axes: Axes, factors: Sequence[int | Fraction]) -> Axes:
    """Multiply the last axes by `factors`."""
    first = len(axes) - len(factors)
    return (*axes[:first], *map(_times, axes[first:], factors))


def _per_axis(value: Any, count: int) -> list[int]:
    """One integer per axis, from one for all or a sequence."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _convolution(count: int, *, transposed: bool = False) -> _Rule:
    def rule(axes: Axes, call: _FunctionCall, output: Tensor) -> Axes:
        strides = _per_axis(call.argument(3, "stride", 1), count)
        scaled = _scale(axes, [Fraction(1, s) for s in strides] if transposed else strides)
        return (*scaled[: -count - 1], None, *scaled[-count:])

    return rule


def _pooling(count: int, *, first: int = 1) -> _Rule:
    def rule(axes: Axes, call: _FunctionCall, output: Tensor) -> Axes:
        kernel = call.argument(first, "kernel_size")
        return _scale(axes, _per_axis(call.argument(first + 1, "stride") or kernel, count))

    return rule


def _resampling(axes: Axes, call: _FunctionCall, output: Tensor) -> Axes | None:
    """Adaptive pooling and interpolation: the same extent over another number of samples."""
    # With align_corners the extent is between the centres of the first and the last sample.
    ends = int(bool(call.argument(4, "align_corners", False)))
    pairs = list(zip(call.argument(0, "input").shape, output.shape, strict=True))[2:]
    if any(length <= ends for pair in pairs for length in pair):
        return None
    return _scale(axes, [Fraction(a - ends, b - ends) for a, b in pairs])


def _pixel_shuffle(*, up: bool) -> _Rule:
    def rule(axes: Axes, call: _FunctionCall, output: Tensor) -> Axes:
        factor = Fraction(call.argument(1, "upscale_factor" if up else "downscale_factor"))
        scaled = _scale(axes, [1 / factor if up else factor] * 2)
        return (*scaled[:-3], None, *scaled[-2:])

    return rule


_RULES: dict[str, _Rule] = {
    "pad": lambda axes, call, output: axes,
    "constant_pad_nd": lambda axes, call, output: axes,
    "linear": lambda axes, call, output: (*axes[:-1], None),
    "interpolate": _resampling,
    "pixel_shuffle": _pixel_shuffle(up=True),
    "pixel_unshuffle": _pixel_shuffle(up=False),
}
for _n in (1, 2, 3):
    _RULES[f"conv{_n}d"] = _convolution(_n)
    _RULES[f"conv_transpose{_n}d"] = _convolution(_n, transposed=True)
    _RULES[f"avg_pool{_n}d"] = _RULES[f"max_pool{_n}d"] = _pooling(_n)
    _RULES[f"max_pool{_n}d_with_indices"] = _pooling(_n)
    _RULES[f"lp_pool{_n}d"] = _pooling(_n, first=2)
    _RULES[f"adaptive_avg_pool{_n}d"] = _RULES[f"adaptive_max_pool{_n}d"] = _resampling
    _RULES[f"adaptive_max_pool{_n}d_with_indices"] = _resampling

# The output keeps the axes of the inputs, though not the shape.
_JOINING = {"cat", "concat", "concatenate"}
# The output may have the shape of an input, but not the axes.
_UNKNOWN = {"matmul", "rmatmul", "mm", "bmm", "baddbmm", "addmm", "einsum",
            "tensordot", "inverse", "sort", "argsort", "gather", "scatter", "index_select", "take",
            "take_along_dim", "grid_sample", "cdist", "outer", "stft", "istft"}  # fmt: skip
