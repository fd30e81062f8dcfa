"""Axis tracking: the role and the decimation of each axis of every tensor of one forward.

The decimation of an axis is the number of input samples to one of its own. Lengths don't give it:
an unpadded convolution shortens without decimating, and the lengths 299, 149, 147, 73 in Inception
v3 are decimations 1, 2, 2, 4. So it is carried along with the tensors through every torch function:
a stride multiplies it, an interpolation divides it, a transposition moves it. So is the role: a
convolution or a linear layer makes an axis of channels. After any function that isn't known to
preserve them, both are unknown.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from spectroscope.capture.axes import Axes, Axis
from spectroscope.capture.axis_rules import (
    MAKES_CHANNELS,
    PRODUCTS,
    FunctionCall,
    is_weight,
    output_axes,
)
from spectroscope.capture.inputs import INTEGERS, Input, InputAxes
from spectroscope.capture.tensors import TensorMap, tensors


class AxisTracker:
    """The axes of the tensors of one forward, and which tensors are no signals.

    Args:
        inputs: time axis and sampling rate of the model's inputs.
        buffers: of the model; those that a signal is written into are removed.

    Attributes:
        started: whether the inputs of the model are known.
    """

    def __init__(self, inputs: InputAxes, buffers: TensorMap[bool]) -> None:
        self.started = False
        self._inputs = inputs
        self._may_be_channels_last = False
        self._axes: TensorMap[Axes] = TensorMap()
        self._buffers = buffers
        self._constants: TensorMap[bool] = TensorMap()

    def start(self, inputs: Sequence[Input]) -> None:
        """Track the model's `inputs`."""
        self.started = bool(inputs)
        self._may_be_channels_last = self._inputs.may_be_channels_last(inputs)
        for given, axes in zip(inputs, self._inputs.axes(inputs), strict=True):
            self._axes.set(given.tensor, axes)
            if given.tensor.dtype in INTEGERS:
                self._constants.set(given.tensor, True)

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

    def may_be_signal(self, tensor: Tensor) -> bool:
        """Whether `tensor` may be a signal: not whole numbers, nor a loss, of all or each input."""
        axes = self.of(tensor)
        is_loss = tensor.dim() == 0 or (tensor.dim() == 1 and axes is not None
                                        and axes[0].role == "batch")  # fmt: skip
        is_integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
        return not is_loss and not is_integer

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
        if self._may_be_channels_last and name == "conv1d":
            self._check_time(inputs)
        tracked = [(tensor, axes) for tensor in inputs if (axes := self.of(tensor)) is not None]
        self._update_constants(name, inputs, tracked, output)
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

    def _update_constants(
        self, name: str, inputs: list[Tensor], tracked: list[tuple[Tensor, Axes]], output: Any
    ) -> None:
        if not inputs and name not in _POSITIONS:
            return
        makes_signals = name in MAKES_CHANNELS or name in PRODUCTS
        if tracked and tracked[0][0] is inputs[0]:  # mostly: saves to look at all
            makes_signals |= not self._constants.get(inputs[0])
        if not makes_signals and all(map(self.is_constant, inputs)):
            for tensor in tensors((output,)):
                self._constants.set(tensor, True)
            return
        for tensor in inputs[:1] if name == "setitem" else tensors((output,)):
            for written in (tensor, tensor._base):
                if written is not None:
                    self._constants.discard(written)
                    self._buffers.discard(written)

    def _check_time(self, inputs: list[Tensor]) -> None:
        """Mend the axes of all tensors where a convolution slides along axis 1 of ``[N, T, C]``."""
        axes = self.of(inputs[0])
        if axes is None or axes[-1].role or axes[-1].decimation is None:
            return
        self._inputs.found_channels_last()
        self._may_be_channels_last = False
        self._axes.map(lambda axes: tuple(map(_swapped, axes)))


# Functions of numbers.
_POSITIONS = {"arange", "linspace", "logspace", "zeros", "ones", "full", "eye"}


def _swapped(axis: Axis) -> Axis:
    """An axis of a tensor made from ``[N, T, C]`` that was taken for ``[N, C, T]``."""
    if axis.role == "time":
        return Axis("", axis.decimation)
    from_axis_1 = not axis.role and axis.decimation is not None
    return Axis("time", axis.decimation) if from_axis_1 else axis
