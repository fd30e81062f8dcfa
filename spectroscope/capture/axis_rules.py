"""Rules of axis tracking: the axes of a torch function's output from those of its arguments."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from torch import Tensor, nn

from spectroscope.capture.axes import CHANNEL, UNKNOWN, Axes, Axis
from spectroscope.capture.tensors import is_plain, tensors


class FunctionCall(NamedTuple):
    """A torch function call.

    Attributes:
        name: the function's name, without underscores around it.
        args: positional arguments.
        kwargs: keyword arguments.
        inputs: all tensors among the arguments, at least one.
        tracked: those that are tracked, with their axes.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    tracked: list[tuple[Tensor, Axes]]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def axes_of(self, tensor: Tensor) -> Axes | None:
        """Axes of an argument; None if it isn't tracked."""
        return next((axes for other, axes in self.tracked if other is tensor), None)


# From the axes of the first argument, the call and its output to the axes of the output.
_Rule = Callable[[Axes, FunctionCall, Tensor], Axes | None]


def output_axes(call: FunctionCall, output: Tensor) -> Axes | None:
    """Axes of an output of a function; None if unknown."""
    if not is_plain(output):
        return None
    first = call.inputs[0]
    if call.name in _RULES:
        axes = call.axes_of(first)
        if axes is None and call.name not in MAKES_CHANNELS | _PRODUCTS:
            return None
        return _RULES[call.name](axes or (UNKNOWN,) * first.dim(), call, output)
    source, axes = call.tracked[0]
    same_layout = output.shape == source.shape and output.stride() == source.stride()
    if call.name in _RESHAPES and source is first:
        return _reshaped(axes, source.shape, output.shape)
    if source.is_complex() and output.shape == source.shape:
        return axes  # real or imaginary part, which may be a view
    if not same_layout and _storage_id(output) == _storage_id(source):
        return _view_axes(axes, source, output)
    if call.name in _UNKNOWN:
        return None
    if call.name in _SCRAMBLED or call.name.startswith("fft_"):
        dim = call.argument(2 if call.name.startswith("fft_") else 1, "dim", -1)
        return _scrambled(axes, dim) if output.dim() == len(axes) and source is first else None
    if call.name == "getitem":
        index = call.args[1] if isinstance(call.args[1], list | tuple) else (call.args[1],)
        if any(True for _ in tensors(index)):  # it selects in any order
            others = [i for i, item in enumerate(index) if not isinstance(item, slice | type(...))]
            if len(others) > 1 or output.dim() != len(axes):
                return None
            after = any(item is ... for item in index[: others[0]])
            return _scrambled(axes, others[0] - len(index) if after else others[0])
    if call.name in _REDUCTIONS and source is first:
        reduced = _reduced(axes, call, output)
        if reduced is not None:
            return reduced
    if same_layout and len(call.tracked) == 1:
        return axes
    if call.name in _JOINING:
        return _merge([axes for _, axes in call.tracked])
    lower = any(tensor.dim() > output.dim() for tensor, _ in call.tracked)
    if not lower and any(output.shape == tensor.shape for tensor in call.inputs):
        return _merge([_broadcast(axes, tensor, output) for tensor, axes in call.tracked])
    return None


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _view_axes(axes: Axes, source: Tensor, view: Tensor) -> Axes:
    """Axes of a view of `source`, found by stride.

    Covers transposition, permutation, (un)squeezing, slicing and splitting. An axis of the view
    runs along the axis of `source` with the largest stride that divides the view's, if it stays
    within that axis; the quotient of the strides is the step of the slice. An axis of length 1 is
    one of the same stride.
    """
    given = list(zip(source.shape, source.stride(), axes, strict=True))
    view_axes = [UNKNOWN] * view.dim()
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
            view_axes[i] = _times(given[k][2], stride // source_stride)
    for i, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        same = [k for k, other in enumerate(given) if other[1] == stride and k not in used]
        if size == 1 and same:
            # Of several, one that has the length 1 too.
            k = min(same, key=lambda k: given[k][0])
            used.add(k)
            view_axes[i] = given[k][2] if given[k][0] == 1 else Axis(given[k][2].role)
    return tuple(view_axes)


def _reshaped(axes: Axes, before: Sequence[int], after: Sequence[int]) -> Axes | None:
    """Axes after a reshape, in which axes are merged and split.

    >>> time = Axis("time", Fraction(1))
    >>> _reshaped((Axis("batch"), CHANNEL, time), (2, 4, 6), (2, 2, 2, 3, 2))[-2:]
    (Axis(role='time', decimation=Fraction(2, 1)), Axis(role='time', decimation=Fraction(1, 1)))
    >>> [axis.role for axis in _reshaped((Axis("batch"), CHANNEL, time), (2, 4, 6), (2, 24))]
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


def _broadcast(axes: Axes, tensor: Tensor, output: Tensor) -> Axes:
    """Axes of `tensor` broadcast to `output`: an axis of length 1 that is expanded has no rate."""
    lengths = output.shape[output.dim() - tensor.dim() :]
    return tuple(
        UNKNOWN if size == 1 != length else axis
        for axis, size, length in zip(axes, tensor.shape, lengths, strict=True)
    )


def _merge(several: Sequence[Axes]) -> Axes:
    """Axes of several tensors combined value by value or concatenated.

    They are aligned at the last axis, as in broadcasting. An axis on which two decimations differ
    has none. Of roles that contradict each other, the first holds.
    """
    dim = max(map(len, several))
    channels = next((k for axes in several
                     if (k := {i - len(axes) for i, a in enumerate(axes) if a.role == "channel"})),
                    set())  # fmt: skip
    merged: list[Axis] = []
    for i in range(-dim, 0):
        aligned = [axes[i] for axes in several if len(axes) >= -i]
        roles = [axis.role for axis in aligned if axis.role]
        if i in channels:
            merged.append(CHANNEL)
            continue
        roles = [role for role in roles if role != "channel"]
        known = [axis.decimation for axis in aligned if axis.decimation is not None]
        same = bool(known) and known.count(known[0]) == len(known)
        merged.append(Axis(roles[0] if roles else "", known[0] if same else None))
    return tuple(merged)


def _scrambled(axes: Axes, dim: Any) -> Axes:
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


def _scale(axes: Axes, factors: Sequence[int | Fraction]) -> Axes:
    """Multiply the last axes by `factors`."""
    first = len(axes) - len(factors)
    return (*axes[:first], *map(_times, axes[first:], factors))


def _per_axis(value: Any, count: int) -> list[int]:
    """One integer per axis, from one for all or a sequence."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _channels_last(axes: Iterable[Axis]) -> Axes:
    """`axes` and an axis of channels behind them, which those before are no longer."""
    return (*(Axis("feature") if axis.role == "channel" else axis for axis in axes), CHANNEL)


def _channels_second(axes: Axes) -> Axes:
    """`axes` of a function that expects channels at axis 1, unless it is known where they are."""
    if len(axes) < 3 or any(axis.role == "channel" for axis in axes) or axes[1].role == "time":
        return axes
    return (axes[0], CHANNEL, *axes[2:])


def _convolution(count: int, *, transposed: bool = False) -> _Rule:
    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
        strides = _per_axis(call.argument(3, "stride", 1), count)
        scaled = _scale(axes, [Fraction(1, s) for s in strides] if transposed else strides)
        spatial = (axis if axis.role == "time" else Axis("", axis.decimation)
                   for axis in scaled[-count:])  # fmt: skip
        batch = (Axis("batch", axes[0].decimation),) if len(axes) > count + 1 else ()
        return (*batch, CHANNEL, *spatial)

    return rule


def _pooling(count: int, *, first: int = 1) -> _Rule:
    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
        kernel = call.argument(first, "kernel_size")
        steps = _per_axis(call.argument(first + 1, "stride") or kernel, count)
        return _scale(_channels_second(axes) if len(axes) == count + 2 else axes, steps)

    return rule


def _resampling(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    """Adaptive pooling and interpolation: the same extent over another number of samples."""
    # With align_corners the extent is between the centres of the first and the last sample.
    ends = int(bool(call.argument(4, "align_corners", False)))
    pairs = list(zip(call.argument(0, "input").shape, output.shape, strict=True))[2:]
    axes = _channels_second(axes)
    if any(length <= ends for pair in pairs for length in pair):
        return _scrambled(axes, None)
    return _scale(axes, [Fraction(a - ends, b - ends) for a, b in pairs])


def _pixel_shuffle(*, up: bool) -> _Rule:
    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
        factor = Fraction(call.argument(1, "upscale_factor" if up else "downscale_factor"))
        scaled = _scale(axes, [1 / factor if up else factor] * 2)
        return (*scaled[:-3], CHANNEL, *scaled[-2:])

    return rule


def _embedding(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
    # F.embedding(indices, weight), torch.embedding(weight, indices)
    indices = next((x for x in call.inputs if not x.is_floating_point()), call.inputs[0])
    return _channels_last(call.axes_of(indices) or (UNKNOWN,) * indices.dim())


def _recurrent(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    if output.shape[:-1] != call.inputs[0].shape[:-1]:
        return None  # a state
    return _channels_last(axes[:-1])


def _attention(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    value = call.axes_of(call.argument(2, "value"))
    return (*axes[:-1], value[-1] if value else UNKNOWN)


def _stack(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
    merged = list(_merge([axes for _, axes in call.tracked]))
    merged.insert(call.argument(1, "dim", 0) % output.dim(), UNKNOWN)
    return tuple(merged)


def _repetition(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    if output.dim() != len(axes):
        return None
    return tuple(axis if size == length else Axis(axis.role) for axis, size, length
                 in zip(axes, call.inputs[0].shape, output.shape, strict=True))  # fmt: skip


def _product(position: int, *, swapped: bool = False) -> _Rule:
    """A matrix product: rows of the left matrix, columns of the right one."""

    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
        pair = call.inputs[position : position + 2]
        if len(pair) < 2 or min(x.dim() for x in pair) < 2:
            return None
        left, right = reversed(pair) if swapped else pair
        left_axes, right_axes = call.axes_of(left), call.axes_of(right)
        if left_axes is right_axes is None:
            return None
        row = _mixed(left, left_axes, -2, right_axes)
        column = _mixed(right, right_axes, -1, left_axes)
        batch = _merge([axes[:-2] for axes in (left_axes, right_axes) if axes] or [()]) if (
            max(x.dim() for x in pair) > 2) else ()  # fmt: skip
        result = (*(UNKNOWN,) * (output.dim() - 2 - len(batch)), *batch, row)
        if column.role == "channel":
            return _channels_last(result)
        return (*result, column)

    return rule


def _mixed(matrix: Tensor, axes: Axes | None, axis: int, other: Axes | None) -> Axis:
    """An axis of a product that comes from `matrix`, whose axes may be unknown."""
    if axes is not None:
        return axes[axis]
    # A weight makes channels, and so does any mixture of channels.
    mixes = other is not None and other[axis].role == "channel"
    return CHANNEL if mixes or is_weight(matrix) else UNKNOWN


def is_weight(tensor: Tensor) -> bool:
    """Whether `tensor` is a parameter, or a view of one."""
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


def _reduced(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    """Axes after a reduction over some of them; None where it isn't one."""
    dim = call.argument(1, "dim", call.kwargs.get("axis"))
    dims = dim if isinstance(dim, list | tuple) else (dim,)
    if not dims or not all(type(d) is int for d in dims):
        return None
    over = {d % len(axes) for d in dims}
    if output.dim() == len(axes):
        return tuple(a if i not in over else CHANNEL if a == CHANNEL else UNKNOWN
                     for i, a in enumerate(axes))  # fmt: skip
    kept = tuple(a for i, a in enumerate(axes) if i not in over)
    return kept if len(kept) == output.dim() else None


_RULES: dict[str, _Rule] = {
    "pad": lambda axes, call, output: axes,
    "constant_pad_nd": lambda axes, call, output: axes,
    "linear": lambda axes, call, output: _channels_last(axes[:-1]),
    "bilinear": lambda axes, call, output: _channels_last(axes[:-1]),
    "embedding": _embedding,
    "interpolate": _resampling,
    "pixel_shuffle": _pixel_shuffle(up=True),
    "pixel_unshuffle": _pixel_shuffle(up=False),
    "scaled_dot_product_attention": _attention,
    "stack": _stack,
    "repeat": _repetition,
    "tile": _repetition,
    "matmul": _product(0),
    "rmatmul": _product(0, swapped=True),
    "mm": _product(0),
    "bmm": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
}
for _n in (1, 2, 3):
    _RULES[f"conv{_n}d"] = _convolution(_n)
    _RULES[f"conv_transpose{_n}d"] = _convolution(_n, transposed=True)
    _RULES[f"avg_pool{_n}d"] = _RULES[f"max_pool{_n}d"] = _pooling(_n)
    _RULES[f"max_pool{_n}d_with_indices"] = _pooling(_n)
    _RULES[f"lp_pool{_n}d"] = _pooling(_n, first=2)
    _RULES[f"adaptive_avg_pool{_n}d"] = _RULES[f"adaptive_max_pool{_n}d"] = _resampling
    _RULES[f"adaptive_max_pool{_n}d_with_indices"] = _resampling
for _name in ("batch_norm", "instance_norm", "group_norm", "feature_dropout"):
    _RULES[_name] = lambda axes, call, output: _channels_second(axes)
for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    _RULES[_name] = _recurrent

# The output has channels whatever is known of the input.
MAKES_CHANNELS = frozenset(
    {"linear", "bilinear", "embedding"}
    | {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)}
)
_PRODUCTS = frozenset(("matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm"))
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "ravel", "view_as", "reshape_as"}
# The output keeps the axes of the inputs, though not the shape.
_JOINING = {"cat", "concat", "concatenate"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "median", "std", "var", "prod",
               "logsumexp", "nanmean", "nansum"}  # fmt: skip
# The output has the axes of the input, but samples in another order.
_SCRAMBLED = {"sort", "argsort", "gather", "scatter", "index_select", "take_along_dim"}
# The output may have the shape of an input, but not the axes.
_UNKNOWN = {"einsum", "tensordot", "inverse", "take", "grid_sample", "cdist", "outer", "stft",
            "istft"}  # fmt: skip
