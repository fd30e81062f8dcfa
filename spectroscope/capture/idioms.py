"""ReLUs written as other functions: ``x * (x > 0)``, ``torch.where(x > 0, x, 0)`` and others.

What is known of the values of a tensor follows from the function that made it. No value is read: an
activation may be zero or positive by chance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from spectroscope.capture.activations import Args, Kwargs, argument, is_zero
from spectroscope.capture.tensors import TensorMap, tensors


class _Known(NamedTuple):
    """What is known of the values of a tensor.

    Attributes:
        is_: ``"zero"``, ``"positive"`` (the mask ``x > 0``), ``"negative"`` (``x < 0``),
            ``"magnitude"`` (``|x|``), ``"negative part"`` (``min(x, 0)``), or ``"copy"`` (``x``).
        of: x, which may be gone when a copy is met: an object for each x and its copies.
    """

    is_: str
    of: object = None


class Idioms:
    """Finds ReLUs in one forward that are written as other functions."""

    def __init__(self) -> None:
        self._known: TensorMap[_Known] | None = None  # None: nothing is known yet, as mostly
        self._objects: TensorMap[object] = TensorMap()

    def may_read(self, name: str) -> bool:
        """Cheap pre-check: may a call of the function `name` be a ReLU?"""
        return self._known is not None and name.strip("_") in _READERS

    def read(self, name: str, args: Args, kwargs: Kwargs) -> Tensor | None:
        """The input of the ReLU, if a call of the function `name` is one and returns its output."""
        reader = _READERS.get(name.strip("_"))
        return None if reader is None or self._known is None else reader(self, args, kwargs)

    def unobservable(self, name: str, args: Args) -> tuple[Tensor, str] | None:
        """The input of a ReLU that is part of the call, and why it can't be recorded; or None."""
        if self._known is None or len(args) < 2:
            return None
        if name == "__setitem" and self._is(args[1], "negative", args[0]) and is_zero(args[2]):
            return args[0], "x[x < 0] = 0 is a ReLU that returns nothing; F.relu(x) is recorded"
        if name == "add":
            for x, other in (args[:2], args[1::-1]):
                if self._is(other, "magnitude", x):
                    return x, "x + |x| is twice a ReLU; 2 * F.relu(x) is recorded"
        return None

    def follow(
        self, function: Callable[..., Any], name: str, args: Args, kwargs: Kwargs
    ) -> Callable[[Any], None] | None:
        """What to call with the result of a function that is about to run; None: nothing."""
        if self._known is not None and _is_in_place(function):
            self._known = None  # what was known may be of other values now
            return lambda output: None
        maker = _MAKERS.get(name.strip("_"))
        known = None if maker is None else maker(self, args, kwargs)
        if known is None:
            return None

        def note(output: Any) -> None:
            self._known = self._known or TensorMap()
            for tensor in tensors((output,)):
                self._known.set(tensor, known)

        return note

    def _of(self, value: Any) -> _Known | None:
        known = self._known
        return known.get(value) if known is not None and isinstance(value, Tensor) else None

    def _is(self, value: Any, is_: str, x: Any) -> bool:
        known = self._of(value)
        return known is not None and known.is_ == is_ and known.of is self._object(x)

    def _object(self, x: Any) -> object:
        """What stands for `x` and its copies; None: `x` is no tensor."""
        known = self._of(x)
        if known is not None and known.is_ == "copy":
            return known.of
        if isinstance(x, Tensor) and self._objects.get(x) is None:
            self._objects.set(x, object())
        return self._objects.get(x) if isinstance(x, Tensor) else None

    def _is_zero(self, value: Any) -> bool:
        known = self._of(value)
        return is_zero(value) or (known is not None and known.is_ == "zero")

    def _zero(self, args: Args, kwargs: Kwargs) -> _Known | None:
        return _Known("zero")

    def _full(self, args: Args, kwargs: Kwargs) -> _Known | None:
        return _Known("zero") if argument(args, kwargs, 1, "fill_value") == 0 else None

    def _scaled(self, args: Args, kwargs: Kwargs) -> _Known | None:
        """``0 * x``."""
        numbers = (int, float)
        zero = any(isinstance(factor, numbers) and factor == 0 for factor in args)
        return _Known("zero") if zero else None

    def _comparison(self, args: Args, kwargs: Kwargs, is_: str = "positive") -> _Known | None:
        x, other = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other", "values")
        if isinstance(x, Tensor) and self._is_zero(other):
            return _Known(is_, self._object(x))
        return None

    def _negative(self, args: Args, kwargs: Kwargs) -> _Known | None:
        return self._comparison(args, kwargs, "negative")

    def _opposite(self, args: Args, kwargs: Kwargs) -> _Known | None:
        known = self._of(argument(args, kwargs, 0, "input"))
        opposite = {"positive": "negative", "negative": "positive"}
        return known._replace(is_=opposite[known.is_]) if known and known.is_ in opposite else None

    def _magnitude(self, args: Args, kwargs: Kwargs) -> _Known | None:
        x = argument(args, kwargs, 0, "input")
        return _Known("magnitude", self._object(x)) if isinstance(x, Tensor) else None

    def _minimum(self, args: Args, kwargs: Kwargs) -> _Known | None:
        """``minimum(x, zeros)``, but not ``min(x, 0)``, which is over an axis."""
        a, b = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
        if not isinstance(b, Tensor):
            return None
        return self._clamped((a,), kwargs, b) or self._clamped((b,), kwargs, a)

    def _clamped_above(self, args: Args, kwargs: Kwargs) -> _Known | None:
        """``clamp_max(x, 0)``."""
        return self._clamped(args[:1], kwargs, argument(args, kwargs, 1, "max"))

    def _clamped(self, args: Args, kwargs: Kwargs, high: Any = None) -> _Known | None:
        """``x.clamp(max=0)``."""
        x, low = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "min")
        high = argument(args, kwargs, 2, "max", default=high)
        is_part = isinstance(x, Tensor) and low is None and self._is_zero(high)
        return _Known("negative part", self._object(x)) if is_part else None

    def _copy(self, args: Args, kwargs: Kwargs) -> _Known | None:
        x = argument(args, kwargs, 0, "input")
        if not isinstance(x, Tensor):
            return None
        return self._of(x) or _Known("copy", self._object(x))

    def _converted(self, args: Args, kwargs: Kwargs) -> _Known | None:
        return self._of(argument(args, kwargs, 0, "input"))

    def _read_product(self, args: Args, kwargs: Kwargs) -> Tensor | None:
        """``x * (x > 0)``."""
        a, b = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
        return next((x for x, mask in ((a, b), (b, a)) if self._is(mask, "positive", x)), None)

    def _read_difference(self, args: Args, kwargs: Kwargs) -> Tensor | None:
        """``x - x.clamp(max=0)``."""
        x, other = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "other")
        alpha = argument(args, kwargs, 2, "alpha", default=1)
        return x if alpha == 1 and self._is(other, "negative part", x) else None

    def _read_maximum(self, args: Args, kwargs: Kwargs) -> Tensor | None:
        """``max(x, zeros)``, ``clamp(x, min=zeros)``."""
        a = argument(args, kwargs, 0, "input")
        b = argument(args, kwargs, 1, "other", "min")
        if argument(args, kwargs, 2, "max") is None and isinstance(b, Tensor):
            return next((x for x, zero in ((a, b), (b, a)) if self._is_zero(zero)), None)
        return None

    def _read_where(self, args: Args, kwargs: Kwargs) -> Tensor | None:
        """``where(x > 0, x, 0)``, ``where(x < 0, 0, x)``; ``x.where(x > 0, 0)``."""
        first, second = argument(args, kwargs, 0, "condition"), argument(args, kwargs, 1, "input")
        third = argument(args, kwargs, 2, "other")
        for mask, x, other in ((first, second, third), (second, first, third)):
            if self._is(mask, "positive", x) and self._is_zero(other):
                return x  # type: ignore[no-any-return]
        return third if self._is(first, "negative", third) and self._is_zero(second) else None

    def _read_masked_fill(self, args: Args, kwargs: Kwargs) -> Tensor | None:
        """``x.masked_fill(x < 0, 0)``."""
        x, mask = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "mask")
        is_relu = self._is(mask, "negative", x) and is_zero(argument(args, kwargs, 2, "value"))
        return x if is_relu else None


def _is_in_place(function: Callable[..., Any]) -> bool:
    name = getattr(function, "__name__", "").partition(".")[0]
    if name.startswith("__"):
        return name == "__setitem__" or name in _IN_PLACE_OPERATORS
    return name.endswith("_")


_IN_PLACE_OPERATORS = {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")}
# What is known of the output of a function.
_MAKERS: dict[str, Callable[[Idioms, Args, Kwargs], _Known | None]] = {
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), Idioms._zero),
    **dict.fromkeys(("full", "full_like", "new_full"), Idioms._full),
    **dict.fromkeys(("mul", "multiply"), Idioms._scaled),
    **dict.fromkeys(
        ("gt", "ge", "greater", "greater_equal", "heaviside"), Idioms._comparison
    ),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), Idioms._negative),
    **dict.fromkeys(("logical_not", "bitwise_not", "invert"), Idioms._opposite),
    **dict.fromkeys(("abs", "absolute"), Idioms._magnitude),
    **dict.fromkeys(("min", "minimum", "fmin"), Idioms._minimum),
    "clamp_max": Idioms._clamped_above,
    **dict.fromkeys(("clamp", "clip"), Idioms._clamped),
    **dict.fromkeys(("clone", "detach"), Idioms._copy),
    **dict.fromkeys(
        ("float", "half", "bfloat16", "double", "to", "type", "type_as"), Idioms._converted
    ),
}  # fmt: skip
# Functions that may be a ReLU.
_READERS: dict[str, Callable[[Idioms, Args, Kwargs], Tensor | None]] = {
    **dict.fromkeys(("mul", "multiply"), Idioms._read_product),
    **dict.fromkeys(("max", "maximum", "fmax", "clamp", "clip", "clamp_min"), Idioms._read_maximum),
    **dict.fromkeys(("sub", "subtract"), Idioms._read_difference),
    "where": Idioms._read_where,
    "masked_fill": Idioms._read_masked_fill,
}
