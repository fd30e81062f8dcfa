"""Which filters of which convolutions and linear layers the channels of an activation are."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spectroscope.capture.axes import Axes
from spectroscope.capture.axis_rules import (
    JOINING,
    MAKES_CHANNELS,
    PRODUCTS,
    RESHAPES,
    SCRAMBLED,
    UNKNOWN_AXES,
    is_weight,
    shares_storage,
)
from spectroscope.capture.tensors import TensorMap, is_plain, tensors

# Numbers of filters, -1 for none: [summands, ...], where the other axes are those of a tensor. They
# have the length 1 where all channels are the same, as along the batch.
_Filters: TypeAlias = NDArray[np.int32]


class SourceRange(NamedTuple):
    """Successive channels of a site that are successive filters of a layer.

    Attributes:
        layer: qualified name of the convolution or linear layer, or of its weight.
        channel: the first channel.
        filter: the first filter, an index of the layer's outputs.
        size: number of channels.
    """

    layer: str
    channel: int
    filter: int
    size: int


# Ranges may overlap: outputs of several layers are added.
Sources: TypeAlias = tuple[SourceRange, ...]


class ChannelSources:
    """The sources of the sites of a model.

    Args:
        layer_of: from a weight to the name of its layer, None if it isn't a parameter.
    """

    def __init__(self, layer_of: Callable[[Tensor], str | None]) -> None:
        self._layer_of = layer_of
        self._layers: dict[tuple[str, int], int] = {}  # number of the first filter
        self._end = 0
        self._sites: dict[str, tuple[int | None, Sources]] = {}  # with the axis of the channels

    def add(self, layer: str, count: int) -> int:
        """The number of the first of the `count` filters of `layer`."""
        if (layer, count) not in self._layers:
            self._layers[layer, count] = self._end
            self._end += count
        return self._layers[layer, count]

    def layer_of(self, weight: Tensor) -> str | None:
        """The name of the layer with this weight; None if it isn't a parameter."""
        return self._layer_of(weight)

    def set(self, site: str, filters: _Filters) -> None:
        """Set the filters of the tensor at a site, unless they are known."""
        long = [axis for axis, size in enumerate(filters.shape[1:]) if size > 1]
        if site not in self._sites and len(long) < 2:
            ranges = self._ranges(filters.reshape(len(filters), -1))
            self._sites[site] = (long[0] if long else None), ranges

    def of(self, site: str, channel_axis: int) -> Sources | None:
        """The sources of a site; None if unknown."""
        axis, sources = self._sites.get(site, (-1, ()))
        return sources if axis in (None, channel_axis) else None

    def state_dict(self) -> dict[str, Any]:
        """The sources as plain data."""
        return {
            site: [axis, [list(x) for x in ranges]] for site, (axis, ranges) in self._sites.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state saved by :meth:`state_dict`."""
        self._sites = {
            site: (axis, tuple(SourceRange(*x) for x in ranges))
            for site, (axis, ranges) in state.items()
        }

    def _ranges(self, filters: _Filters) -> Sources:
        """The ranges of filters ``[summands, C]``."""
        names = [layer for layer, _ in self._layers]
        firsts = np.array([*self._layers.values()])
        layers = np.searchsorted(firsts, filters, "right") - 1
        ranges = []
        for row, layer in zip(filters, layers, strict=True):
            breaks = np.flatnonzero((np.diff(row) != 1) | (np.diff(layer) != 0)) + 1
            for start, stop in zip([0, *breaks], [*breaks, len(row)], strict=True):
                if row[start] >= 0:
                    number = layer[start]
                    first = int(row[start] - firsts[number])
                    ranges.append(SourceRange(names[number], int(start), first, int(stop - start)))
        return tuple(sorted(ranges, key=operator.itemgetter(1)))


class SourceTracker:
    """The filters of the tensors of one forward.

    Args:
        sources: of the sites.
    """

    def __init__(self, sources: ChannelSources) -> None:
        self._sources = sources
        self._filters: TensorMap[_Filters] = TensorMap()

    def add_site(self, site: str, tensor: Tensor) -> None:
        """Set `tensor` as the input of the activation call `site`."""
        filters = self.of(tensor)
        if filters is not None:
            self._sources.set(site, filters)

    def of(self, tensor: Tensor) -> _Filters | None:
        """The filters of `tensor`; None if unknown."""
        filters = self._filters.get(tensor)
        return filters if filters is not None and filters.ndim == tensor.dim() + 1 else None

    def update(
        self,
        place: str,
        tracked: list[tuple[Tensor, Axes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        axes_of: Callable[[Tensor], Axes | None],
    ) -> None:
        """Set the filters of the output of a torch function that has run.

        Args:
            place: calling module and function.
            tracked: what :meth:`AxisTracker.update` returned.
            args: positional arguments of the function.
            kwargs: keyword arguments of the function.
            output: result of the function.
            axes_of: the axes of a tensor.
        """
        name = place.rpartition("/")[2]
        if name == "setitem":
            self._filters.discard(args[0])
        for tensor in tensors((output,)):
            if not is_plain(tensor):
                continue
            weight = _weight(name, args, kwargs)
            if weight is not None:
                filters = self._made(place, weight, axes_of(tensor), tensor)
            else:
                filters = self._kept(name, tracked, args, kwargs, tensor) if tracked else None
            if filters is None:
                self._filters.discard(tensor)
            else:
                self._filters.set(tensor, filters)

    def _made(
        self, place: str, weight: Tensor, axes: Axes | None, output: Tensor
    ) -> _Filters | None:
        """Filters of the output of a layer."""
        channels = [i for i, axis in enumerate(axes or ()) if axis.role == "channel"]
        if len(channels) != 1:
            return None
        # A weight that was computed, as by weight_norm, belongs to the module that calls.
        layer = self._sources.layer_of(weight) or place.rpartition("/")[0] or place
        count = output.shape[channels[0]]
        first = self._sources.add(layer, count)
        shape = [1] * (output.dim() + 1)
        shape[channels[0] + 1] = count
        return np.arange(first, first + count, dtype=np.int32).reshape(shape)

    def _kept(
        self,
        name: str,
        tracked: list[tuple[Tensor, Axes]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Tensor,
    ) -> _Filters | None:
        """Filters of the output of a function that mixes no channels; None for another."""
        source = tracked[0][0]
        filters = self.of(source)
        dims = _dims(args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("dims")))
        if name in JOINING:
            dim = kwargs.get("axis", (dims or [0])[0]) % output.dim()
            several = [*tensors(args), *tensors(kwargs.values())]
            return _concatenated([self.of(tensor) for tensor in several], several, dim)
        if name in _MIXES or (name == "getitem" and not shares_storage(output, source)):
            return None
        if len(tracked) > 1:
            return self._combined(name, [tensor for tensor, _ in tracked], output)
        if filters is None:
            return None
        shape = tuple(source.shape)
        if name in RESHAPES:
            return reindexed(filters, shape, _contiguous(shape), tuple(output.shape),
                             _contiguous(output.shape))  # fmt: skip
        same = output.shape == source.shape and output.stride() == source.stride()
        if not same and shares_storage(output, source):
            offset = int(output.storage_offset() - source.storage_offset())
            return reindexed(filters, shape, source.stride(), tuple(output.shape), output.stride(),
                             offset)  # fmt: skip
        varying = [axis for axis, size in enumerate(filters.shape[1:]) if size > 1]
        over = {d % len(shape) for d in dims}
        if output.dim() < len(shape):  # a reduction
            reduced = len(over) == len(shape) - output.dim() and not over & {*varying}
            return filters.squeeze(tuple(d + 1 for d in over)) if reduced else None
        if name in _ALONG_AXES and (not over or over & {*varying}):
            return None
        kept = all(output.shape[axis] == shape[axis] for axis in varying)
        return filters if output.dim() == len(shape) and kept else None

    def _combined(self, name: str, several: list[Tensor], output: Tensor) -> _Filters | None:
        """Filters of tensors that are combined value by value."""
        if name in _PRODUCTS and any(tensor.shape == output.shape for tensor in several):
            several = [x for x in several if x.shape == output.shape]  # the others are gates
        dim = output.dim()
        shapes = [(1,) * (dim - x.dim()) + tuple(x.shape) for x in several]
        if not all(
            len(shape) == dim
            and all(size in (1, o) for size, o in zip(shape, output.shape, strict=True))
            for shape in shapes
        ):
            return None
        filters = [self.of(tensor) for tensor in several]
        known = [_aligned(x, dim) for x in filters if x is not None]
        if not known:
            return None
        channels = np.broadcast_shapes(*(x.shape[1:] for x in known))
        for x, shape in zip(filters, shapes, strict=True):
            if x is None and any(a > 1 and b > 1 for a, b in zip(shape, channels, strict=True)):
                return None  # channels of unknown sources are added
        return _union(known)


def reindexed(
    filters: _Filters,
    shape: Sequence[int],
    strides: Sequence[int],
    new_shape: Sequence[int],
    new_strides: Sequence[int],
    offset: int = 0,
) -> _Filters | None:
    """Filters of a view, or of a reshaped copy with the strides of contiguous tensors.

    >>> pairs = np.arange(6, dtype=np.int32).reshape(1, 1, 6, 1)
    >>> shuffled = reindexed(pairs, (4, 6, 9), (54, 9, 1), (4, 3, 2, 9), (54, 9, 27, 1))
    >>> shuffled.squeeze().tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    order = [i for i in sorted(range(len(shape)), key=lambda i: -strides[i])
             if shape[i] > 1 and strides[i] > 0]  # fmt: skip

    def places(offsets: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """The index along each axis of elements at these offsets."""
        result = {}
        for axis in order:
            result[axis], offsets = np.divmod(offsets, strides[axis])
        return result

    index = {axis: value for axis, value in places(np.array(offset)).items()}
    dim = len(new_shape)
    for k, (size, stride) in enumerate(zip(new_shape, new_strides, strict=True)):
        for axis, steps in places(np.arange(size) * stride).items():
            if filters.shape[axis + 1] > 1 and steps.any():
                index[axis] = index[axis] + steps.reshape([-1 if i == k else 1 for i in range(dim)])
    varying = [axis for axis in order if filters.shape[axis + 1] > 1]
    if any((index[axis] >= shape[axis]).any() for axis in varying):
        return None
    where = [index.get(a, np.array(0)) if a in varying else np.array(0) for a in range(len(shape))]
    places_of_all: tuple[Any, ...] = (slice(None), *np.broadcast_arrays(*where))
    result: _Filters = filters[places_of_all]
    missing = dim + 1 - result.ndim
    return result.reshape(len(filters), *[1] * missing, *result.shape[1:])


def _concatenated(
    several: list[_Filters | None], joined: list[Tensor], dim: int
) -> _Filters | None:
    """Filters of tensors concatenated along `dim`."""
    known = [filters for filters in several if filters is not None]
    others = {x.shape[1 : dim + 1] + x.shape[dim + 2 :] for x in known}
    if len(known) < len(several) or len(others) > 1:
        return None
    if not any(x.shape[dim + 1] > 1 for x in known) and any(
        max(x.shape[1:]) > 1 for x in known
    ):  # along time: each channel is of all layers
        return _union(known)
    rows = max(map(len, known))
    parts = []
    for filters, tensor in zip(known, joined, strict=True):
        fill = np.full((rows - len(filters), *filters.shape[1:]), -1, np.int32)
        part = np.concatenate([filters, fill])
        parts.append(
            np.repeat(part, tensor.shape[dim], dim + 1) if part.shape[dim + 1] == 1 else part
        )
    return np.concatenate(parts, dim + 1)


def _union(several: list[_Filters]) -> _Filters:
    """All filters of tensors that are combined value by value."""
    shape = np.broadcast_shapes(*(x.shape[1:] for x in several))
    rows = [row for x in several for row in np.broadcast_to(x, (len(x), *shape))]
    return np.stack(list({row.tobytes(): row for row in rows}.values()))


def _aligned(filters: _Filters, dim: int) -> _Filters:
    """Filters of a tensor that is broadcast to `dim` axes."""
    return filters.reshape(len(filters), *[1] * (dim + 1 - filters.ndim), *filters.shape[1:])


def _weight(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The weight, if the function is a layer."""
    if name in MAKES_CHANNELS - {"bilinear", "embedding"}:
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        return weight if isinstance(weight, Tensor) else None
    last = args[-1] if name in ("matmul", "mm", "addmm") and args else None
    return last if isinstance(last, Tensor) and is_weight(last) else None


def _dims(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [v for v in values if type(v) is int]


def _contiguous(shape: Sequence[int]) -> list[int]:
    """Strides of a contiguous tensor."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


# Functions that combine channels, or bring them into another order.
_MIXES = (
    MAKES_CHANNELS | PRODUCTS | SCRAMBLED | UNKNOWN_AXES
    | {"channel_shuffle", "native_channel_shuffle", "pixel_shuffle",
       "pixel_unshuffle", "scaled_dot_product_attention", "multi_head_attention_forward", "stack",
       "lstm", "gru", "rnn_tanh", "rnn_relu", "glu", "repeat", "tile", "unfold", "fold",
       "copy", "fill", "zero"}
)  # fmt: skip
# Functions that combine or move the values along one axis.
_ALONG_AXES = {"softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "flip", "roll"}
_PRODUCTS = {"mul", "imul", "rmul", "div", "idiv", "truediv", "itruediv", "multiply", "divide"}
