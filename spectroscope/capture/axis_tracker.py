"""Axis tracking: the role and the decimation of each axis of every tensor of one forward.

The decimation of an axis is the number of input samples to one of its own. Lengths don't give it:
an unpadded convolution shortens without decimating, and the lengths 299, 149, 147, 73 in Inception
v3 are decimations 1, 2, 2, 4. So it is carried along with the tensors through every torch function:
a stride multiplies it, an interpolation divides it, a transposition moves it. So is the role: a
convolution or a linear layer makes an axis of channels. After any function that isn't known to
preserve them, both are unknown.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import Axes, Axis
from spectroscope.capture.axis_rules import (
    MAKES_CHANNELS,
    PRODUCTS,
    FunctionCall,
    is_weight,
    output_axes,
)
from spectroscope.capture.tensors import TensorMap, is_plain, nested_tensors, tensors


class AxisTracker:
    """The axes of the tensors of one forward, and which tensors are no signals.

    Args:
        buffers: of the model; those that a signal is written into are removed.

    Attributes:
        started: whether the inputs of the model are known.
        lengths: along time, of inputs of different lengths, the reference first; else empty.
    """

    def __init__(self, buffers: TensorMap[bool]) -> None:
        self.started = False
        self._buffers = buffers
        self._constants: TensorMap[bool] = TensorMap()
        self.lengths: tuple[int, ...] = ()
        self._axes: TensorMap[Axes] = TensorMap()

    def start(self, inputs: Any, time_axis: int) -> None:
        """Track the tensors in the model's `inputs`, with every axis at decimation 1.

        The first input of real numbers is the reference: the sampling rate of another one, whose
        length along time differs, is unknown.

        Args:
            inputs: tensors in any nesting.
            time_axis: which axis of the inputs is time.
        """
        given = [tensor for tensor in nested_tensors(inputs) if is_plain(tensor)]
        self.started = bool(given)
        timed = [x for x in given if x.dim() > 1 and -x.dim() <= time_axis < x.dim()]
        signals = [x for x in timed if x.is_floating_point()] or timed
        lengths = [x.shape[time_axis] for x in signals if x.dim() == signals[0].dim()]
        if len(set(lengths)) > 1:
            self.lengths = tuple(dict.fromkeys(lengths))
        for tensor in given:
            self._axes.set(tensor, _input_axes(tensor, time_axis, lengths))
            if tensor.dtype in _INTEGERS:
                self._constants.set(tensor, True)

    def of(self, tensor: Tensor) -> Axes | None:
        """The axes of `tensor`, or None if it isn't tracked."""
        axes = self._axes.get(tensor)
        return axes if axes is not None and len(axes) == tensor.dim() else None

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether `tensor` is made from weights, positions and inputs of whole numbers alone.

        The result of a layer or of a matrix product is a signal, whatever it is made from.
        """
        if self._constants.get(tensor):
            return True
        given = is_weight(tensor) or any(
            x is not None and self._buffers.get(x) for x in (tensor, tensor._base)
        )
        return given and self.of(tensor) is None

    def concerns(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Cheap pre-check: may :meth:`update` have something to do?"""
        name = name.lstrip("_")
        return (
            name in MAKES_CHANNELS
            or name in _POSITIONS
            or any(
                self._axes.may_contain(value)
                or isinstance(value, list | tuple | nn.Parameter)
                or self._constants.may_contain(value)
                or self._buffers.may_contain(value)
                for value in (*args, *kwargs.values())
            )
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
        name = name.lstrip("_")
        inputs = [*tensors(args), *tensors(kwargs.values())]
        tracked = [(tensor, axes) for tensor in inputs if (axes := self.of(tensor)) is not None]
        self._update_constants(name, inputs, output)
        if not inputs or not (tracked or name in MAKES_CHANNELS):
            return []
        call = FunctionCall(name, args, kwargs, inputs, tracked)
        for tensor in tensors((output,)):
            if len(tracked) == 1 and tensor is tracked[0][0]:
                continue  # in-place function
            axes = output_axes(call, tensor)
            if axes is not None and len(axes) == tensor.dim():
                self._axes.set(tensor, axes)
            else:
                self._axes.discard(tensor)
        return tracked

    def _update_constants(self, name: str, inputs: list[Tensor], output: Any) -> None:
        if not inputs and name not in _POSITIONS:
            return
        makes_signals = name in MAKES_CHANNELS or name in PRODUCTS
        if not makes_signals and all(map(self.is_constant, inputs)):
            for tensor in tensors((output,)):
                self._constants.set(tensor, True)
            return
        for tensor in inputs[:1] if name == "setitem" else tensors((output,)):
            for written in (tensor, tensor._base):
                if written is not None:
                    self._constants.discard(written)
                    self._buffers.discard(written)


# Of positions, lengths and masks; images are of others.
_INTEGERS = (torch.bool, torch.int32, torch.int64)
# Functions of numbers.
_POSITIONS = {"arange", "linspace", "logspace", "zeros", "ones", "full", "eye"}


def _input_axes(tensor: Tensor, time_axis: int, lengths: Sequence[int]) -> Axes:
    """Axes of an input; `lengths` are those of all inputs along time, the reference first."""
    dim = tensor.dim()
    axes = [Axis("", Fraction(1))] * dim
    timed = -dim <= time_axis < dim
    if timed and dim > 2 and tensor.shape[time_axis] == 1:  # a line [N, C, T, 1]
        time_axis = max((i for i in range(2, dim) if tensor.shape[i] > 1), default=time_axis)
    if timed:
        differs = bool(lengths) and dim > 1 and lengths[0] not in (tensor.shape[time_axis], 1)
        axes[time_axis] = Axis("time", None if differs else Fraction(1))
    # Sequences may come first, [T, N, F]; a single one is [T, F].
    batch = int(timed and time_axis % dim == 0)
    if dim > 1 + batch:
        axes[batch] = Axis("batch", Fraction(1))
    return tuple(axes)
