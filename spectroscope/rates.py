"""How many samples of the model's input one sample of a tensor spans, axis by axis.

Lengths don't tell: an unpadded convolution shortens without decimating, Inception v3's 299, 149,
147, 73 are decimations 1, 2, 2, 4. So the number is carried along with the tensors through every
torch function: a stride multiplies it, an interpolation divides it, a transposition moves it. Where
a function isn't known to keep it, it is lost, and unknown from there on.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

# One entry an axis of the tensor: its decimation, or None where there is none to know (channels,
# features, axes made by the model).
Axes = tuple[Fraction | None, ...]
Rule = Callable[[Axes, tuple[Any, ...], dict[str, Any], Tensor], Axes | None]


class Rates:
    """The axes of the tensors of one forward. The tensors are referred to weakly."""

    def __init__(self) -> None:
        # By id; the reference tells whether a tensor of that id is still the one.
        self._axes: dict[int, tuple[weakref.ref[Tensor], Axes]] = {}

    def start(self, inputs: Sequence[Any]) -> None:
        """Begin with the tensors among `inputs`, each axis of them at decimation 1."""
        for tensor in _tensors(inputs):
            self._note(tensor, (Fraction(1),) * tensor.dim())

    def of(self, tensor: Tensor) -> Axes | None:
        """What is known of `tensor`, or None: nothing."""
        reference, axes = self._axes.get(id(tensor), (None, ()))
        if reference is None or reference() is not tensor or len(axes) != tensor.dim():
            return None
        return axes

    def concern(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether something may be known of a tensor among the arguments; quick to say no."""
        for value in (*args, *kwargs.values()):
            if id(value) in self._axes or isinstance(value, list | tuple):
                return True
        return False

    def _note(self, tensor: Tensor, axes: Axes | None) -> None:
        if axes is not None and len(axes) == tensor.dim():
            self._axes[id(tensor)] = weakref.ref(tensor), axes
        else:
            self._axes.pop(id(tensor), None)

    def passed(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Note what is known of the output of a torch function that has run.

        Args:
            name: of the function, as `rectifiers.function_name` gives it.
            args: its positional arguments.
            kwargs: its keyword arguments.
            output: what it returned.
        """
        given = list(_tensors([*args, *kwargs.values()]))
        known = [(tensor, found) for tensor in given if (found := self.of(tensor)) is not None]
        if not known:
            return
        source, first = known[0]
        rule = _RULES.get(name.lstrip("_"))
        for tensor in _tensors([output]):
            axes: Axes | None
            if _storage(tensor) == _storage(source):
                axes = _of_view(first, source, tensor)
            elif rule is not None:
                axes = rule(first, args, kwargs, tensor) if source is given[0] else None
            elif name in _JOINING or tensor.shape in [t.shape for t in given]:
                axes = _merged([found for _, found in known]) if name not in _OPAQUE else None
            else:
                axes = None
            self._note(tensor, axes)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """Tensors among `values`, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def _storage(tensor: Tensor) -> int:
    """Identity of the memory that `tensor` lies in; of its own, if it has none to speak of."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, nested, within torch.func
        return -id(tensor)


def _of_view(axes: Axes, source: Tensor, view: Tensor) -> Axes:
    """Axes of a tensor that shares the memory of another, told by their strides.

    That is every transposition, permutation, (un)squeezing, slice, split and cheap reshape. An axis
    of the view lies along that of the source whose stride divides its own and within whose extent
    it stays; their quotient is the step of the slice.
    """
    found: list[Fraction | None] = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        along = [
            (source_stride, axis)
            for source_size, source_stride, axis in zip(
                source.shape, source.stride(), axes, strict=True
            )
            if source_stride > 0
            and stride > 0
            and stride % source_stride == 0
            and 0 < (size - 1) * stride <= (source_size - 1) * source_stride
        ]
        if not along:
            found.append(None)
            continue
        source_stride, axis = max(along, key=lambda pair: pair[0])
        found.append(None if axis is None else axis * (stride // source_stride))
    return tuple(found)


def _merged(known: Sequence[Axes]) -> Axes:
    """Axes of several tensors put together, value by value or end to end.

    Fewer axes are the last ones, as in broadcasting. One on which two differ is lost.
    """
    merged: list[set[Fraction]] = [set() for _ in range(max(map(len, known)))]
    for axes in known:
        for here, axis in zip(reversed(merged), reversed(axes), strict=False):
            if axis is not None:
                here.add(axis)
    return tuple(here.pop() if len(here) == 1 else None for here in merged)


def _argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _each(value: Any, count: int) -> list[Fraction]:
    """A number for every axis, from one or from as many."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [Fraction(v) for v in (values * count if len(values) == 1 else values)]


def _scaled(axes: Axes, factors: Sequence[Fraction]) -> Axes:
    """Multiply the last axes by `factors`."""
    spatial = axes[len(axes) - len(factors) :]
    scaled = [None if axis is None else axis * f for axis, f in zip(spatial, factors, strict=True)]
    return (*axes[: len(axes) - len(factors)], *scaled)


def _convolution(count: int, *, transposed: bool = False) -> Rule:
    def rule(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
        strides = _each(_argument(args, kwargs, 3, "stride", 1), count)
        scaled = _scaled(axes, [1 / s for s in strides] if transposed else strides)
        return (*scaled[: -count - 1], None, *scaled[-count:])

    return rule


def _pooling(count: int, *, first: int = 1) -> Rule:
    def rule(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
        kernel = _argument(args, kwargs, first, "kernel_size")
        return _scaled(axes, _each(_argument(args, kwargs, first + 1, "stride") or kernel, count))

    return rule


def _resampling(
    axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Axes | None:
    """Spread the input over another number of samples: adaptive pooling, interpolation."""
    source = args[0] if args else kwargs["input"]
    ends = int(bool(_argument(args, kwargs, 4, "align_corners", False)))
    pairs = list(zip(source.shape, output.shape, strict=True))[2:]
    if any(length <= ends for pair in pairs for length in pair):
        return None
    return _scaled(axes, [Fraction(a - ends, b - ends) for a, b in pairs])


def _shuffle(*, up: bool) -> Rule:
    def rule(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
        factor = Fraction(
            _argument(args, kwargs, 1, "upscale_factor" if up else "downscale_factor")
        )
        scaled = _scaled(axes, [1 / factor if up else factor] * 2)
        return (*scaled[:-3], None, *scaled[-2:])

    return rule


def _padding(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
    return axes


def _linear(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
    return (*axes[:-1], None)


_RULES: dict[str, Rule] = {
    "pad": _padding,
    "constant_pad_nd": _padding,
    "linear": _linear,
    "interpolate": _resampling,
    "pixel_shuffle": _shuffle(up=True),
    "pixel_unshuffle": _shuffle(up=False),
}
for _n in (1, 2, 3):
    _RULES[f"conv{_n}d"] = _convolution(_n)
    _RULES[f"conv_transpose{_n}d"] = _convolution(_n, transposed=True)
    _RULES[f"avg_pool{_n}d"] = _RULES[f"max_pool{_n}d"] = _pooling(_n)
    _RULES[f"max_pool{_n}d_with_indices"] = _pooling(_n)
    _RULES[f"lp_pool{_n}d"] = _pooling(_n, first=2)
    _RULES[f"adaptive_avg_pool{_n}d"] = _RULES[f"adaptive_max_pool{_n}d"] = _resampling
    _RULES[f"adaptive_max_pool{_n}d_with_indices"] = _resampling

# The output's shape isn't that of an input, but its axes are.
_JOINING = {"cat", "concat", "concatenate"}
# The output may have an input's shape, but not its axes.
_OPAQUE = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "einsum",
           "tensordot", "inverse", "sort", "argsort", "gather", "scatter", "index_select", "take",
           "take_along_dim", "grid_sample", "cdist", "outer", "fft", "ifft", "fft2", "ifft2",
           "fftn", "ifftn", "fftshift", "ifftshift", "hfft", "ihfft", "stft", "istft"}  # fmt: skip
