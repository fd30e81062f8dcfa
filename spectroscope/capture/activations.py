"""`Activation`: one record per kind, with modules, functions and theoretical properties.

To add a kind, add a record to :data:`ACTIVATIONS`.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from spectroscope.errors import RequestError

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
# From the arguments of a torch function to the activation's input; None: with these arguments the
# function isn't this activation.
Reader = Callable[[Args, Kwargs], Tensor | None]


@dataclass(frozen=True)
class Activation:
    """One kind of activation.

    Attributes:
        kind: name in the tables.
        modules: predicate by module class: whether an instance is of this kind.
        functions: reader of the arguments, by :func:`function_name`.
        default: whether it is recorded without being named in `kinds`.
        gain: g of the preserved part g·x of the output; None: by regression.
        gaussian_dc: from mean and standard deviation of a Gaussian input to the DC of the output.
        tones: whether the closed forms for tones (`theory.tones_dc`, the paper's series) hold.
        encoder_code: value of `nn.TransformerEncoderLayer.activation_relu_or_gelu` for this kind.
    """

    kind: str
    modules: Mapping[type[nn.Module], Callable[[Any], bool]] = field(default_factory=dict)
    functions: Mapping[str, Reader] = field(default_factory=dict)
    default: bool = False
    gain: float | None = None
    gaussian_dc: Callable[[Any, Any], Any] | None = None
    tones: bool = False
    encoder_code: int | None = None


def argument(args: Args, kwargs: Kwargs, position: int, *names: str, default: Any = None) -> Any:
    """An argument of a function by position or by one of its names."""
    if len(args) > position:
        return args[position]
    return next((kwargs[name] for name in names if name in kwargs), default)


def _input(args: Args, kwargs: Kwargs) -> Tensor | None:
    x = args[0] if args else argument(args, kwargs, 0, "input", "self")
    return x if isinstance(x, Tensor) else None


def _hardtanh(is_high: Callable[[Any], bool]) -> Reader:
    def read(args: Args, kwargs: Kwargs) -> Tensor | None:
        low = argument(args, kwargs, 1, "min_val", default=-1.0)
        high = argument(args, kwargs, 2, "max_val", default=1.0)
        return _input(args, kwargs) if low == 0 and is_high(high) else None

    return read


def _leaky_relu(args: Args, kwargs: Kwargs) -> Tensor | None:
    slope = argument(args, kwargs, 1, "negative_slope", default=0.01)
    return _input(args, kwargs) if slope == 0 else None


def _rrelu(args: Args, kwargs: Kwargs) -> Tensor | None:
    slopes = (argument(args, kwargs, 1, "lower", default=1 / 8),
              argument(args, kwargs, 2, "upper", default=1 / 3))  # fmt: skip
    return _input(args, kwargs) if slopes == (0, 0) else None


def _threshold(args: Args, kwargs: Kwargs) -> Tensor | None:
    threshold = argument(args, kwargs, 1, "threshold")
    value = argument(args, kwargs, 2, "value")
    return _input(args, kwargs) if threshold == 0 and value == 0 else None


def _clamp(*highs: float | None) -> Reader:
    """Clamping to [0, high] for `high` in `highs`; other limits are mostly of boxes or colours."""

    def read(args: Args, kwargs: Kwargs) -> Tensor | None:
        low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
        if not is_zero(low) or isinstance(high, Tensor) or high not in highs:
            return None
        return _input(args, kwargs)

    return read


def _limits(args: Args, kwargs: Kwargs) -> Tensor | None:
    """Clamping to [0, any limit]."""
    low, high = argument(args, kwargs, 1, "min"), argument(args, kwargs, 2, "max")
    return _input(args, kwargs) if high is not None and is_zero(low) else None


def _maximum(args: Args, kwargs: Kwargs) -> Tensor | None:
    """``maximum(x, 0)`` and ``maximum(0, x)``, but not ``max(x)`` and ``max(x, dim)``."""
    a, b = _input(args, kwargs), argument(args, kwargs, 1, "other")
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        for x, other in ((a, b), (b, a)):
            if is_zero(other):
                return x
    return None


def is_zero(value: Any) -> bool:
    """Whether `value` is the number 0, or a tensor of one element that is 0.

    Not a larger tensor of zeros: that may be an activation that happens to be zero.
    """
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_meta and bool(value == 0)
    return value is not None and value == 0


def _any(module: nn.Module) -> bool:
    return True


def _relu_gaussian_dc(mean: Any, std: Any) -> Any:
    from spectroscope.dsp import theory  # deferred: capture itself does no mathematics

    return theory.gaussian_dc(mean, std)


def _relu6_gaussian_dc(mean: Any, std: Any) -> Any:
    # min(ReLU(x), 6) = ReLU(x) − ReLU(x − 6)
    return _relu_gaussian_dc(mean, std) - _relu_gaussian_dc(mean - 6, std)


RELU = Activation(
    "ReLU",
    modules={
        nn.ReLU: _any,
        nn.Threshold: lambda m: (m.threshold, m.value) == (0, 0),
        nn.LeakyReLU: lambda m: m.negative_slope == 0,
        nn.RReLU: lambda m: (m.lower, m.upper) == (0, 0),
        nn.Hardtanh: lambda m: (m.min_val, m.max_val) == (0, math.inf),
    },
    functions={
        "relu": _input,
        "threshold": _threshold,
        "clamp": _clamp(None, math.inf),
        "clip": _clamp(None, math.inf),
        "clamp_min": _clamp(None, math.inf),
        "maximum": _maximum,
        "max": _maximum,
        "fmax": _maximum,
        "leaky_relu": _leaky_relu,
        "rrelu": _rrelu,
        "hardtanh": _hardtanh(lambda high: high == math.inf),
    },
    default=True,
    gain=0.5,  # ReLU(x) = ½x + ½|x|
    gaussian_dc=_relu_gaussian_dc,
    tones=True,
    encoder_code=1,
)
RELU6 = Activation(
    "ReLU6",
    modules={nn.ReLU6: _any, nn.Hardtanh: lambda m: m.min_val == 0 and m.max_val == 6},
    functions={
        "relu6": _input,
        "hardtanh": _hardtanh(lambda high: high == 6),
        "clamp": _clamp(6),
        "clip": _clamp(6),
    },
    default=True,
    gaussian_dc=_relu6_gaussian_dc,
)
HARDTANH = Activation(
    "Hardtanh",
    modules={nn.Hardtanh: lambda m: not isinstance(m, nn.ReLU6) and m.min_val == 0},
    functions={"hardtanh": _hardtanh(lambda high: high != 6)},
    default=True,
)
# A call is of the first kind that matches.
ACTIVATIONS = (
    RELU,
    RELU6,
    HARDTANH,
    Activation("LeakyReLU", {nn.LeakyReLU: _any}, {"leaky_relu": _input}),
    Activation("RReLU", {nn.RReLU: _any}, {"rrelu": _input}),
    Activation("PReLU", {nn.PReLU: _any}, {"prelu": _input}),
    Activation("ELU", {nn.ELU: _any}, {"elu": _input}),
    Activation("GELU", {nn.GELU: _any}, {"gelu": _input}, encoder_code=2),
    Activation("SiLU", {nn.SiLU: _any}, {"silu": _input}),
    Activation("Hardswish", {nn.Hardswish: _any}, {"hardswish": _input}),
    Activation("Mish", {nn.Mish: _any}, {"mish": _input}),
    Activation("Softplus", {nn.Softplus: _any}, {"softplus": _input}),
    Activation("Softshrink", {nn.Softshrink: _any}, {"softshrink": _input}),
    Activation("Hardshrink", {nn.Hardshrink: _any}, {"hardshrink": _input}),
    Activation("SELU", {nn.SELU: _any}, {"selu": _input}),
    Activation("CELU", {nn.CELU: _any}, {"celu": _input}),
    Activation("Tanh", {nn.Tanh: _any}, {"tanh": _input}),
    Activation("Sigmoid", {nn.Sigmoid: _any}, {"sigmoid": _input}),
    # A clipped ReLU, or the limits of boxes or colours: arguments don't say which.
    Activation("Clamp", functions={"clamp": _limits, "clip": _limits}),
)
_BY_KIND = {activation.kind: activation for activation in ACTIVATIONS}
# Functions whose result as a ReLU is that of clamp_min(0), of NaN and infinity too.
EXACT = frozenset({"relu", "threshold", "clamp", "clip", "clamp_min", "maximum", "max"})
# The kinds that a call of a function may be, by the function's name.
FUNCTIONS: dict[str, list[Activation]] = {}
for _activation in ACTIVATIONS:
    for _name in _activation.functions:
        FUNCTIONS.setdefault(_name, []).append(_activation)


def by_kind(kind: str) -> Activation:
    """The record of a kind; for a user's own class one without theoretical properties."""
    return _BY_KIND.get(kind) or Activation(kind)


def function_name(function: Any) -> str:
    """Name of a torch function in the tables: without overload and in-place underscore.

    >>> import torch
    >>> {function_name(f) for f in (torch.relu, torch.Tensor.relu_, torch.ops.aten.relu.default)}
    {'relu'}
    """
    # Operators of other libraries keep their namespace: they may have the name of a torch function.
    operator = str(getattr(function, "_schema", getattr(function, "_qualified_op_name", "aten::")))
    if not operator.startswith("aten::"):
        return operator.partition("(")[0]
    name = getattr(function, "__name__", "").partition(".")[0]
    return "threshold" if name == "_threshold" else name.rstrip("_")


def read(name: str, args: Args, kwargs: Kwargs) -> tuple[Activation, Tensor] | None:
    """The activation and its input, if a call of the torch function `name` is one, or None."""
    for activation in FUNCTIONS.get(name, ()):
        x = activation.functions[name](args, kwargs)
        if x is not None:
            return activation, x
    return None


def of_module(module: nn.Module) -> Activation | None:
    """The activation that `module` is, or None."""
    for activation in ACTIVATIONS:
        for cls, applies in activation.modules.items():
            if isinstance(module, cls) and applies(module):
                return activation
    return None


class Kinds(NamedTuple):
    """The kinds that are recorded: by name, and the user's own module classes."""

    names: frozenset[str]
    classes: tuple[type[nn.Module], ...]

    @classmethod
    def of(cls, kinds: Iterable[str | type[nn.Module]]) -> "Kinds":
        """The default kinds and `kinds`: names of kinds, module classes, or ``"all"``.

        Raises:
            RequestError: an element is neither the name of a kind nor a module class.
        """
        names = {activation.kind for activation in ACTIVATIONS if activation.default}
        classes = []
        for kind in [kinds] if isinstance(kinds, str | type) else kinds:
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                # With a class of a default kind, such as nn.Hardtanh, every instance is recorded.
                matches = [a for a in ACTIVATIONS if kind in a.modules]
                if all(activation.default for activation in matches):
                    classes.append(kind)
                names.update(activation.kind for activation in matches)
            elif kind == "all":
                names.update(_BY_KIND)
            elif kind in _BY_KIND:
                names.add(str(kind))
            else:
                known = ", ".join(("all", *sorted(_BY_KIND)))
                raise RequestError(f"kind {kind!r} is neither a module class nor one of {known}")
        return cls(frozenset(names), tuple(classes))

    def of_module(self, module: nn.Module) -> str | None:
        """The kind that `module` is recorded as, or None if it isn't recorded."""
        activation = of_module(module)
        if activation is not None and activation.kind in self.names:
            return activation.kind
        if not isinstance(module, self.classes):
            return None
        name = type(module).__name__
        # A user's own class called ReLU is another kind.
        return f"{type(module).__module__}.{name}" if name in _BY_KIND else name
