"""The model's inputs: which tensors they are, and the time axis and sampling rate of each."""

import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import Axes, Axis, TimeAxis, axis_number
from spectroscope.capture.tensors import is_plain, nested_tensors
from spectroscope.errors import RequestError

# Types of positions, lengths and masks; images are of others.
INTEGERS = (torch.bool, torch.int32, torch.int64)
SamplingRate: TypeAlias = float | Mapping[str, float] | None


class Input(NamedTuple):
    """A tensor among the model's inputs.

    Attributes:
        path: name of the argument; of tensors in it also the key, field or index: ``("x", "ppg")``.
        tensor: the tensor.
    """

    path: tuple[str, ...]
    tensor: Tensor

    @property
    def name(self) -> str:
        """The path, with dots."""
        return ".".join(self.path)


class InputAxes:
    """Time axis and sampling rate of the model's inputs.

    Args:
        fs: samples per second along time; a dictionary gives it by the name of an argument, key
            or field. The first one is the reference of all frequencies. None: unknown.
        time_axis: of the inputs. ``"auto"``: the last, until :meth:`found_channels_last` is called.

    Attributes:
        fs: that of the reference; None if unknown.
        channels_last: inputs are ``[N, T, C]``.
        problem: of which inputs the sampling rate is unknown, as text; empty if of none.

    Raises:
        TypeError: a rate isn't a number, or `time_axis` isn't a whole one.
        RequestError: a rate isn't positive.
    """

    def __init__(self, fs: SamplingRate, time_axis: TimeAxis):
        self._rates = {k: float(v) for k, v in fs.items()} if isinstance(fs, Mapping) else {}
        rates = [*self._rates.values()] if isinstance(fs, Mapping) else [] if fs is None else [fs]
        if not all(math.isfinite(rate) and rate > 0 for rate in rates) or fs == {}:
            raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
        self.fs = float(rates[0]) if rates else None
        self._given = axis_number(time_axis)
        self.channels_last = False
        self.problem = ""

    @property
    def time_axis(self) -> int:
        """Time axis of an input ``[N, C, T]`` or ``[N, T, C]``."""
        if self._given is not None:
            return self._given
        return -2 if self.channels_last else -1

    def time_axis_of(self, tensor: Tensor) -> int | None:
        """Time axis of an input, from 0; None if it has no such axis."""
        dim = tensor.dim()
        axis = self.time_axis if self._given is not None or dim == 3 else -1
        if not -dim <= axis < dim:
            return None
        if dim > 2 and tensor.shape[axis] == 1:  # a line [N, C, T, 1]
            axis = max((i for i in range(2, dim) if tensor.shape[i] > 1), default=axis)
        return axis % dim

    def may_be_channels_last(self, inputs: Sequence[Input]) -> bool:
        """Whether :meth:`found_channels_last` may be called: nothing was given or found yet."""
        signal = self.signal(inputs)
        return (self._given is None and not self.channels_last
                and signal is not None and signal.tensor.dim() == 3)  # fmt: skip

    def found_channels_last(self) -> None:
        """Inputs are ``[N, T, C]``: a one-dimensional convolution slides along axis 1."""
        self.channels_last = True

    def signal(self, inputs: Sequence[Input]) -> Input | None:
        """The input to whose samples decimation and `f0` refer, if there is one.

        The one with the first rate given by name, or the first of real numbers with a time axis;
        one ``[N, C, T]`` before one ``[N, T]``.
        """
        timed = [
            x
            for x in inputs
            if x.tensor.dim() > 1
            and self.time_axis_of(x.tensor) is not None
            and (not self._rates or self._rate(x) == self.fs)
        ]
        real = [x for x in timed if x.tensor.is_floating_point()]
        return next((x for x in real if x.tensor.dim() > 2), next(iter(real or timed), None))

    def axes(self, inputs: Sequence[Input]) -> list[Axes]:
        """The axes of each input. Decimation counts samples of :meth:`signal`.

        With one `fs` for all, that of inputs of another length along time is unknown.
        """
        signal = self.signal(inputs)
        result, unknown = [], []
        for given in inputs:
            axis, tensor = self.time_axis_of(given.tensor), given.tensor
            decimation: Fraction | None = Fraction(1)
            if self._rates:
                rate = self._rate(given)
                decimation = None if rate is None else Fraction(str(self.fs)) / Fraction(str(rate))
            elif signal is not None and axis is not None and tensor.dim() == signal.tensor.dim():
                other = self.time_axis_of(signal.tensor)
                length = signal.tensor.shape[other] if other is not None else 1
                if length not in (1, tensor.shape[axis]):
                    decimation = None
            if decimation is None and tensor.is_floating_point() and tensor.dim() > 1:
                unknown.append(given.name)
            result.append(_axes(tensor, axis, decimation))
        if unknown and self.fs is not None:
            reference = "" if signal is None else f", that of {signal.name} is fs"
            self.problem = (
                f"the sampling rate of the input {' and '.join(unknown)} is unknown{reference}: "
                f"fs={{name: rate}} gives that of each"
            )
        for key in self._rates:
            if not any(key in (x.name, *x.path) for x in inputs):
                names = ", ".join(x.name for x in inputs)
                self.problem = f"no input has the name {key!r} in fs={self._rates}, only {names}"
        return result

    def _rate(self, given: Input) -> float | None:
        """The rate of an input that is given by name."""
        names = (given.name, *reversed(given.path))
        return next((self._rates[name] for name in names if name in self._rates), None)


def inputs_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Input]:
    """All tensors among the arguments of a module, in any nesting."""
    function = getattr(module.forward, "__func__", None)
    names = None if kwargs or function is None else _names_of(function)
    if names is not None and len(args) <= len(names):
        bound = dict(zip(names, args, strict=False))
    else:
        try:
            bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        except (TypeError, ValueError):  # no signature, or a wrong call
            bound = {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    tensors = (pair for name, value in bound.items() for pair in nested_tensors(value, (name,)))
    return [Input(*pair) for pair in tensors if is_plain(pair[1])]


def _names_of(method: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of a method's positional arguments; None if it takes any number, or isn't known.

    They are remembered: :func:`inspect.signature` is slow.
    """
    if method not in _NAMES:
        names = None
        with suppress(TypeError, ValueError):
            parameters = list(inspect.signature(method).parameters.values())
            if all(p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in parameters):
                names = tuple(p.name for p in parameters[1:] if p.kind is p.POSITIONAL_OR_KEYWORD)
        _NAMES[method] = names
    return _NAMES[method]


_NAMES: weakref.WeakKeyDictionary[Callable[..., Any], tuple[str, ...] | None]
_NAMES = weakref.WeakKeyDictionary()


def _axes(tensor: Tensor, time: int | None, decimation: Fraction | None) -> Axes:
    """Axes of an input, from its time axis and the decimation along it."""
    axes = [Axis("", Fraction(1))] * tensor.dim()
    if time is not None:
        axes[time] = Axis("time", decimation)
    # Sequences may come first, [T, N, F]; a single one is [T, F].
    batch = int(time == 0)
    if tensor.dim() > 1 + batch:
        axes[batch] = Axis("batch", Fraction(1))
    return tuple(axes)
