"""How many samples of the model's input one sample of a tensor spans, axis by axis.

Lengths don't tell: an unpadded convolution shortens without decimating, Inception v3's 299, 149,
147, 73 are decimations 1, 2, 2, 4. So the number is carried along with the tensors through every
torch function: a stride multiplies it, an interpolation divides it, a transposition moves it. Where
a function isn't known to keep it, it is lost, and unknown from there on.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
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
        for tensor in tensors(inputs):
            if _plain(tensor):
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

    def passed(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> list[tuple[Tensor, Axes]]:
        """Note what is known of the output of a torch function that has run.

        Args:
            name: of the function, as `activations.function_name` gives it.
            args: its positional arguments.
            kwargs: its keyword arguments.
            output: what it returned.

        Returns:
            The tensors among the arguments of which something was known, and what.
        """
        given = [*tensors(args), *tensors(kwargs.values())]
        known = [(tensor, found) for tensor in given if (found := self.of(tensor)) is not None]
        name = name.lstrip("_")
        for tensor in tensors((output,)) if known else ():
            if tensor is known[0][0] and len(known) == 1:
                continue  # worked on in place
            self._note(tensor, _axes_of(tensor, name, args, kwargs, given, known))
        return known


def _axes_of(
    output: Tensor,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    given: Sequence[Tensor],
    known: Sequence[tuple[Tensor, Axes]],
) -> Axes | None:
    """Axes of a function's output, from those of its inputs; None: nothing is known of them."""
    source, axes = known[0]
    if not _plain(output):
        return None
    if name in _RULES:
        return _RULES[name](axes, args, kwargs, output) if source is given[0] else None
    # The same shape in memory too: neither a transposition nor a slice.
    alike = output.shape == source.shape and output.stride() == source.stride()
    if not alike and _storage(output) == _storage(source):
        return _of_view(axes, source, output)
    if name in _OPAQUE or name.startswith("fft_"):
        return None
    if name == "getitem" and any(True for _ in tensors([args[1], *_items(args[1])])):
        return None  # picked by an index, in any order
    if alike and len(known) == 1:
        return axes
    if name in _JOINING or any(output.shape == tensor.shape for tensor in given):
        joining = name in _JOINING
        return _merged([_stretched(t, axes, output, joining=joining) for t, axes in known])
    return None


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _stretched(tensor: Tensor, axes: Axes, output: Tensor, *, joining: bool) -> Axes:
    """Axes of an input; those of length 1 that are broadcast have no rate of their own."""
    if joining:
        return axes
    lengths = zip(reversed(tensor.shape), reversed(output.shape), strict=False)
    kept = [None if a == 1 != b else axis for (a, b), axis in zip(lengths, axes[::-1], strict=True)]
    return tuple(kept[::-1])


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors among `values`, and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Tensor))


def _plain(tensor: Tensor) -> bool:
    """Whether `tensor` has sizes, strides and memory as other tensors have."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


def _storage(tensor: Tensor) -> int:
    """Identity of the memory that `tensor` lies in."""
    return int(tensor.untyped_storage()._cdata)


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
    merged: list[Fraction | None] = [None] * max(map(len, known))
    lost = set()
    for axes in known:
        for i, axis in enumerate(reversed(axes)):
            if merged[i] is None:
                merged[i] = axis
            elif axis is not None and axis is not merged[i] and axis != merged[i]:
                lost.add(i)
    return tuple(None if i in lost else axis for i, axis in enumerate(merged))[::-1]


def _argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str, default: Any = None
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _each(value: Any, count: int) -> list[int]:
    """A number for every axis, from one or from as many."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


def _scaled(axes: Axes, factors: Sequence[int | Fraction]) -> Axes:
    """Multiply the last axes by `factors`."""
    spatial = axes[len(axes) - len(factors) :]
    # Most factors are 1, and fractions slow.
    scaled = [a if a is None or f == 1 else a * f for a, f in zip(spatial, factors, strict=True)]
    return (*axes[: len(axes) - len(factors)], *scaled)


def _convolution(count: int, *, transposed: bool = False) -> Rule:
    def rule(axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Axes:
        strides = _each(_argument(args, kwargs, 3, "stride", 1), count)
        scaled = _scaled(axes, [Fraction(1, s) for s in strides] if transposed else strides)
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
_OPAQUE = {"matmul", "rmatmul", "mm", "bmm", "baddbmm", "addmm", "einsum",
           "tensordot", "inverse", "sort", "argsort", "gather", "scatter", "index_select", "take",
           "take_along_dim", "grid_sample", "cdist", "outer", "stft", "istft"}  # fmt: skip
