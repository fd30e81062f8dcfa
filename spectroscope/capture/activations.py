"""What counts as a rectifier: which torch functions, with which arguments, and which modules."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from spectroscope.errors import RequestError


class Call(NamedTuple):
    """A rectifier call: what goes in, and what kind it is."""

    kind: str
    input: Tensor


# From the positional and keyword arguments of a call to the call, or None if it rectifies nothing.
Reader = Callable[[tuple[Any, ...], dict[str, Any]], Call | None]


def _argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, *names: str, default: Any = None
) -> Any:
    if len(args) > position:
        return args[position]
    return next((kwargs[name] for name in names if name in kwargs), default)


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _argument(args, kwargs, 0, "input", "self")


def _always(kind: str) -> Reader:
    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        x = _input(args, kwargs)
        return Call(kind, x) if isinstance(x, Tensor) else None

    return read


def _hardtanh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    low = _argument(args, kwargs, 1, "min_val", default=-1.0)
    high = _argument(args, kwargs, 2, "max_val", default=1.0)
    if low != 0:
        return None
    return Call("ReLU6" if high == 6 else "Hardtanh", _input(args, kwargs))


def _threshold(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    at, value = _argument(args, kwargs, 1, "threshold"), _argument(args, kwargs, 2, "value")
    return Call("ReLU", _input(args, kwargs)) if at == 0 and value == 0 else None


def _clamp(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    low, high = _argument(args, kwargs, 1, "min"), _argument(args, kwargs, 2, "max")
    if not _is_zero(low) or isinstance(high, Tensor):
        return None
    # Other limits are mostly those of boxes and colours.
    kind = {None: "ReLU", math.inf: "ReLU", 6: "ReLU6"}.get(high)
    return None if kind is None else Call(kind, _input(args, kwargs))


def _maximum(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """Read ``maximum(x, 0)`` or ``maximum(0, x)``; ``max(x)`` and ``max(x, dim)`` are none."""
    a, b = _input(args, kwargs), _argument(args, kwargs, 1, "other")
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        for x, other in ((a, b), (b, a)):
            if _is_zero(other):
                return Call("ReLU", x)
    return None


def _is_zero(value: Any) -> bool:
    """Whether `value` is the number 0, or a tensor of one element that is 0.

    A whole tensor of zeros isn't asked about: it may be an activation that happens to be zero.
    """
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_meta and bool(value == 0)
    return value is not None and value == 0


# By function_name: F.relu, torch.relu, Tensor.relu_ and torch.ops.aten.relu.default share one.
FUNCTIONS: dict[str, Reader] = {
    "relu": _always("ReLU"),
    "relu6": _always("ReLU6"),
    "hardtanh": _hardtanh,
    "threshold": _threshold,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "maximum": _maximum,
    "max": _maximum,
    "leaky_relu": _always("LeakyReLU"),
    "prelu": _always("PReLU"),
    "elu": _always("ELU"),
    "gelu": _always("GELU"),
    "silu": _always("SiLU"),
    "hardswish": _always("Hardswish"),
}

FAMILY = frozenset({"ReLU", "ReLU6", "Hardtanh"})  # what is recorded unless more is asked for

MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "ReLU",
    nn.ReLU6: "ReLU6",
    nn.Hardtanh: "Hardtanh",
    nn.Threshold: "ReLU",
    nn.LeakyReLU: "LeakyReLU",
    nn.PReLU: "PReLU",
    nn.ELU: "ELU",
    nn.GELU: "GELU",
    nn.SiLU: "SiLU",
    nn.Hardswish: "Hardswish",
}


def function_name(function: Any) -> str:
    """Name of a torch function as the tables have it: no overload, no in-place underscore.

    >>> import torch
    >>> {function_name(f) for f in (torch.relu, torch.Tensor.relu_, torch.ops.aten.relu.default)}
    {'relu'}
    """
    # An operator's name is of its library; those of others may be called as torch's are.
    operator = getattr(function, "_schema", getattr(function, "_qualified_op_name", "aten::"))
    if not str(operator).startswith("aten::"):
        return str(operator).partition("(")[0]
    name = getattr(function, "__name__", "").partition(".")[0]
    return "threshold" if name == "_threshold" else name.rstrip("_")


def module_kind(module: nn.Module) -> str | None:
    """Kind of rectifier that `module` is, or None if it is none."""
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        if module.min_val != 0:
            return None
        return "ReLU6" if module.max_val == 6 else "Hardtanh"
    if isinstance(module, nn.Threshold) and (module.threshold, module.value) != (0, 0):
        return None
    return next((kind for cls, kind in MODULES.items() if isinstance(module, cls)), None)


class Kinds(NamedTuple):
    """What a recorder looks for: kinds by name, and classes of the user's own."""

    names: frozenset[str]
    classes: tuple[type[nn.Module], ...]

    @classmethod
    def of(cls, more: Iterable[str | type[nn.Module]]) -> "Kinds":
        """The ReLU family and `more`: names of kinds, or module classes.

        Raises:
            RequestError: a name isn't of a known kind, or something is neither name nor class.
        """
        names, classes = set(FAMILY), []
        for kind in [more] if isinstance(more, str | type) else more:
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                # Of the family what rectifies is seen anyway; asked for by class, all of it is.
                name = MODULES.get(kind)
                if name is None or name in FAMILY:
                    classes.append(kind)
                else:
                    names.add(name)
            elif kind in MODULES.values():
                names.add(str(kind))
            else:
                known = ", ".join(sorted(set(MODULES.values())))
                raise RequestError(f"kind {kind!r} is no nn.Module class and none of {known}")
        return cls(frozenset(names), tuple(classes))

    def of_module(self, module: nn.Module) -> str | None:
        """Kind that `module` is recorded as, or None if it isn't one that is looked for."""
        kind = module_kind(module)
        if kind in self.names:
            return kind
        if not isinstance(module, self.classes):
            return None
        name = type(module).__name__  # a user's own ReLU is none of ours
        return f"{type(module).__module__}.{name}" if name in MODULES.values() else name
