"""Rules of axis tracking: the axes of a torch function's output from those of its arguments."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

from torch import Tensor, nn

from spectroscope.capture.axes import CHANNEL, UNKNOWN, Axes, Axis
from spectroscope.capture.axis_geometry import (
    broadcast,
    merged,
    reshaped,
    scaled,
    scrambled,
    view_axes,
)
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
        if axes is None and call.name not in MAKES_CHANNELS | PRODUCTS:
            return None
        return _RULES[call.name](axes or (UNKNOWN,) * first.dim(), call, output)
    source, axes = call.tracked[0]
    same_layout = output.shape == source.shape and output.stride() == source.stride()
    if call.name in RESHAPES and source is first:
        return reshaped(axes, source.shape, output.shape)
    if source.is_complex() and output.shape == source.shape:
        return axes  # real or imaginary part, which may be a view
    if not same_layout and shares_storage(output, source):
        return view_axes(axes, source, output)
    if call.name in UNKNOWN_AXES:
        return None
    if call.name in SCRAMBLED or call.name.startswith("fft_"):
        dim = call.argument(2 if call.name.startswith("fft_") else 1, "dim", -1)
        return scrambled(axes, dim) if output.dim() == len(axes) and source is first else None
    if call.name == "getitem":
        index = call.args[1] if isinstance(call.args[1], list | tuple) else (call.args[1],)
        if any(True for _ in tensors(index)):  # it selects in any order
            others = [i for i, item in enumerate(index) if not isinstance(item, slice | type(...))]
            if len(others) > 1 or output.dim() != len(axes):
                return None
            after = any(item is ... for item in index[: others[0]])
            return scrambled(axes, others[0] - len(index) if after else others[0])
    if call.name in REDUCTIONS and source is first:
        reduced = _reduced(axes, call, output)
        if reduced is not None:
            return reduced
    if same_layout and len(call.tracked) == 1:
        return axes
    if call.name in JOINING:
        return merged([axes for _, axes in call.tracked])
    lower = any(tensor.dim() > output.dim() for tensor, _ in call.tracked)
    if not lower and any(output.shape == tensor.shape for tensor in call.inputs):
        return merged([broadcast(axes, tensor, output) for tensor, axes in call.tracked])
    return None


def shares_storage(first: Tensor, second: Tensor) -> bool:
    """Whether one tensor is a view of the other, or both of a third."""
    return bool(first.untyped_storage()._cdata == second.untyped_storage()._cdata)


def per_axis(value: Any, count: int) -> list[int]:
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
        strides = per_axis(call.argument(3, "stride", 1), count)
        axes = scaled(axes, [Fraction(1, s) for s in strides] if transposed else strides)
        spatial = (axis if axis.role == "time" else Axis("", axis.decimation)
                   for axis in axes[-count:])  # fmt: skip
        batch = (Axis("batch", axes[0].decimation),) if len(axes) > count + 1 else ()
        return (*batch, CHANNEL, *spatial)

    return rule


def _pooling(count: int, *, first: int = 1) -> _Rule:
    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
        kernel = call.argument(first, "kernel_size")
        steps = per_axis(call.argument(first + 1, "stride") or kernel, count)
        return scaled(_channels_second(axes) if len(axes) == count + 2 else axes, steps)

    return rule


def _resampling(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    """Adaptive pooling and interpolation: the same extent over another number of samples."""
    # With align_corners the extent is between the centres of the first and the last sample.
    ends = int(bool(call.argument(4, "align_corners", False)))
    pairs = list(zip(call.argument(0, "input").shape, output.shape, strict=True))[2:]
    axes = _channels_second(axes)
    if any(length <= ends for pair in pairs for length in pair):
        return scrambled(axes, None)
    return scaled(axes, [Fraction(a - ends, b - ends) for a, b in pairs])


def _pixel_shuffle(*, up: bool) -> _Rule:
    def rule(axes: Axes, call: FunctionCall, output: Tensor) -> Axes:
        factor = Fraction(call.argument(1, "upscale_factor" if up else "downscale_factor"))
        axes = scaled(axes, [1 / factor if up else factor] * 2)
        return (*axes[:-3], CHANNEL, *axes[-2:])

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
    result = list(merged([axes for _, axes in call.tracked]))
    result.insert(call.argument(1, "dim", 0) % output.dim(), UNKNOWN)
    return tuple(result)


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
        batch = merged([axes[:-2] for axes in (left_axes, right_axes) if axes] or [()]) if (
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


def _einsum(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    equation, *operands = call.args
    if operands and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    left, _, right = equation.replace(" ", "").partition("->")
    known: dict[str, Axis] = {}
    weights = set()
    for letters, operand in zip(left.split(","), operands, strict=True):
        operand_axes = call.axes_of(operand)
        for letter, axis in zip(letters, operand_axes or (), strict=operand_axes is not None):
            known[letter] = merged([(known[letter],), (axis,)])[0] if letter in known else axis
        if operand_axes is None and is_weight(operand):
            weights |= {*letters}
    # As in a matrix product: a weight makes channels, and so does any mixture of channels.
    mixes = any(axis.role == "channel" and letter not in right for letter, axis in known.items())
    made = {letter for letter in right if letter not in known and (mixes or letter in weights)}
    result = []
    for letter in right:
        axis = CHANNEL if letter in made else known.get(letter, UNKNOWN)
        lost = made and letter not in made and axis.role == "channel"
        result.append(Axis("feature") if lost else axis)
    return tuple(result)


def _unfold(axes: Axes, call: FunctionCall, output: Tensor) -> Axes | None:
    first = call.inputs[0]
    if shares_storage(output, first):  # Tensor.unfold
        return view_axes(axes, first, output)
    return (axes[0], CHANNEL, UNKNOWN) if len(axes) == 4 else None  # F.unfold


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
    "diff": lambda axes, call, output: axes,
    "einsum": _einsum,
    "glu": lambda axes, call, output: axes,
    "unfold": _unfold,
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
PRODUCTS = frozenset(("matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm", "einsum"))
RESHAPES = {"reshape", "view", "flatten", "unflatten", "ravel", "view_as", "reshape_as"}
# The output keeps the axes of the inputs, though not the shape.
JOINING = {"cat", "concat", "concatenate"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "median", "std", "var", "prod",
               "logsumexp", "nanmean", "nansum"}  # fmt: skip
# The output has the axes of the input, but samples in another order.
SCRAMBLED = {"sort", "argsort", "gather", "scatter", "index_select", "take_along_dim"}
# The output may have the shape of an input, but not the axes.
UNKNOWN_AXES = {"tensordot", "inverse", "take", "grid_sample", "cdist", "outer", "stft",
            "istft"}  # fmt: skip
