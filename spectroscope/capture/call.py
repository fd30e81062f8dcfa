"""`ActivationCall`: one call of an activation, to be recorded or changed."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from spectroscope.capture.activations import Reader
from spectroscope.capture.axes import Layout, Reading
from spectroscope.capture.sites import Site
from spectroscope.capture.tensors import is_transformed

T = TypeVar("T")


class ActivationCall:
    """One call of an activation, with channels first.

    Attributes:
        site: `module`, `function`, `call` and `kind`.
        reading: layout of the axes of the tensors in the model, and decimation.
        is_relu: torch's own ReLU is called, so that the output is known before it runs.
    """

    def __init__(
        self,
        site: Site,
        tensor: Tensor,
        reading: Reading,
        *,
        is_relu: bool = False,
        note: Callable[[str], None] = lambda reason: None,
    ):
        self.site = site
        self.reading = reading
        self.is_relu = is_relu
        self._input = tensor
        self._output: Tensor | None = None
        self._note = note
        self._shared: dict[Callable[[ActivationCall], object], object] = {}

    @property
    def name(self) -> str:
        """Name of the site, as in the reports."""
        return self.site.name

    @property
    def layout(self) -> Layout:
        """Layout of the axes of the tensors in the model."""
        return self.reading.layout

    @property
    def decimation(self) -> float:
        """Samples of the model's input per sample; NaN where unknown."""
        return self.reading.decimation

    @property
    def input(self) -> Tensor:
        """``[N, C, ...]``; an in-place activation overwrites it afterwards."""
        return channels_first(self._input, self.layout)

    @property
    def output(self) -> Tensor:
        """``[N, C, ...]``; for a ReLU also before it runs.

        Raises:
            RuntimeError: an activation other than ReLU has not run yet.
        """
        if self._output is not None:
            return channels_first(self._output, self.layout)
        if not self.is_relu:
            raise RuntimeError(f"{self.name} has not run yet")
        return self.shared(_relu)

    @property
    def channel_axis(self) -> int:
        """Channel axis of the tensors in the model."""
        return self.layout.channel

    @property
    def transformed(self) -> tuple[int, ...]:
        """The axes of ``[N, C, ...]`` that are Fourier transformed."""
        return self.layout.transformed_in_order(self._input.dim())

    def transformed_last(self, tensor: Tensor) -> Tensor:
        """A view of `tensor` ``[N, C, ...]`` with the transformed axes last."""
        axes, dim = self.transformed, tensor.dim()
        last = tuple(range(dim - len(axes), dim))
        return tensor if axes == last else tensor.movedim(axes, last)

    @property
    def device(self) -> torch.device:
        """Device of input and output."""
        return self._input.device

    def shared(self, function: "Callable[[ActivationCall], T]") -> T:
        """``function(self)``, computed once and shared by all statistics."""
        if function not in self._shared:
            self._shared[function] = function(self)
        return self._shared[function]  # type: ignore[return-value]

    def note(self, reason: str) -> None:
        """Give the reason, in `Report.coverage()`, why part of this call isn't recorded."""
        self._note(reason)

    def to(self, device: torch.device) -> "ActivationCall":
        """A copy of the call on `device`."""
        call = copy.copy(self)
        call._shared = {}
        call._input = self._input.to(device)
        call._output = None if self._output is None else self._output.to(device)
        return call

    def keep_input(self) -> None:
        """Copy the input before an in-place activation overwrites it."""
        self._input = self._input.clone()

    def finish(self, output: Tensor, original_input: Tensor | None = None) -> None:
        """Set the output after the activation has run.

        Args:
            output: of the activation.
            original_input: copy of the input, if the activation has overwritten it.
        """
        self._output = output
        if original_input is not None:
            self._input = original_input

    def channels_restored(self, tensor: Tensor) -> Tensor:
        """A view of `tensor` ``[N, C, ...]`` with the axes as in the model."""
        order = self.layout.order(self._input.dim())
        tensor = tensor.squeeze(0) if self.layout.batch is None else tensor
        return tensor.permute([order.index(axis) for axis in range(len(order))])


def channels_first(tensor: Tensor, layout: Layout) -> Tensor:
    """`tensor`, or a view of it, as ``[N, C, ...]``; N is 1 without a batch axis."""
    if layout.channel == 1 and layout.batch == 0:
        return tensor
    tensor = tensor.permute(layout.order(tensor.dim()))
    return tensor.unsqueeze(0) if layout.batch is None else tensor


def _relu(call: ActivationCall) -> Tensor:
    return call.input.clamp_min(0)


_STRIDED, _NO_DISPATCH = torch.strided, Tensor.__torch_dispatch__


def unreadable(tensor: Tensor, channel_axis: int) -> str | None:
    """Why `tensor` can't be read as ``[N, C, ...]`` of real numbers, or None if it can."""
    if not tensor.is_floating_point():
        return f"{tensor.dtype} is not a real floating-point type"
    if tensor.layout is not _STRIDED or tensor.is_nested:
        return "not a dense tensor"
    on_cpu = tensor.is_cpu
    if not on_cpu and tensor.is_meta:
        return "a tensor without values"
    if type(tensor).__torch_dispatch__ != _NO_DISPATCH:
        return f"{type(tensor).__name__} is a tensor subclass with its own operations"
    if is_transformed(tensor):
        return "inside a torch.func transform"
    if not on_cpu and tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return "captured into a CUDA graph, whose replays can't be seen"
    if not -tensor.dim() <= channel_axis < tensor.dim():
        return f"{list(tensor.shape)} has no channel_axis={channel_axis} (0: without a batch axis)"
    return None


def run_on_copy(
    read: Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None],
    change: Callable[[Any, Tensor], Tensor | None],
    function: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run an activation on a copy of its input, change the output, and return the result.

    The gradient of an in-place function needs its output, which therefore must not be overwritten.
    Instead the function runs on a copy, and its result is copied to the tensor that it would have
    overwritten.

    Args:
        read: from the arguments to the input, which is one of them.
        change: from output and input to the replacement of the output; None: keep the output.
        function: the activation's torch function.
        args: positional arguments of the function.
        kwargs: keyword arguments of the function.
    """
    tensor, out = read(args, kwargs), kwargs.get("out")
    assert tensor is not None  # the call was recognized as an activation before
    copy = tensor.clone()
    args = tuple(copy if arg is tensor else arg for arg in args)
    kwargs = {key: copy if arg is tensor and key != "out" else arg for key, arg in kwargs.items()}
    # The gradient of the change may need the input, which `out` may overwrite.
    original_input = tensor if out is None else tensor.clone()
    output = function(*args, **kwargs)
    if output is copy:  # in place
        original_input, out = tensor.clone(), tensor
    elif out is None and any(output is arg for arg in args):  # as mask.mul_(x)
        out = output
    new = change(output, original_input)
    if new is None:
        new = output
    return new if out is None else out.copy_(new)


def reader_of(tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reader:
    """Reads the argument of another call that is `tensor` in this one."""
    position = next((i for i, value in enumerate(args) if value is tensor), None)
    if position is not None:
        return lambda args, kwargs: args[position]
    key = next(key for key, value in kwargs.items() if value is tensor and key != "out")
    return lambda args, kwargs: kwargs[key]
