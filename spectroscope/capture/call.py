"""`ActivationCall`: one call of an activation, as it is handed to what records or changes it."""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from spectroscope.capture.sites import Site

T = TypeVar("T")


class ActivationCall:
    """One call of an activation, channels first.

    Attributes:
        site: its name in its parts: `module`, `function`, `call`, `kind`.
        decimation: samples of the model's input to one of the site's, along the axes of time or
            space; NaN where that isn't known or isn't the same for all of them.
        is_relu: torch's own ReLU is called: the output is known before it runs.
    """

    def __init__(
        self,
        site: Site,
        tensor: Tensor,
        channel_axis: int,
        *,
        decimation: float = math.nan,
        is_relu: bool = False,
        note: Callable[[str], None] = lambda reason: None,
    ):
        self.site = site
        self.decimation = decimation
        self.is_relu = is_relu
        self._axis = channel_axis
        self._input = tensor
        self._output: Tensor | None = None
        self._note = note
        self._shared: dict[Callable[[ActivationCall], object], object] = {}

    @property
    def name(self) -> str:
        """Of the site, as in the reports."""
        return self.site.name

    @property
    def input(self) -> Tensor:
        """``[N, C, ...]``. An in-place activation overwrites it: see :meth:`keep_input`."""
        return channels_first(self._input, self._axis)

    @property
    def output(self) -> Tensor:
        """``[N, C, ...]``; of a ReLU that hasn't run yet what it is going to return.

        Raises:
            RuntimeError: another activation hasn't run yet.
        """
        if self._output is not None:
            return channels_first(self._output, self._axis)
        if not self.is_relu:
            raise RuntimeError(f"{self.name} has not run yet")
        return self.shared(_relu)

    @property
    def channel_axis(self) -> int:
        """Of the activation as the model has it."""
        return self._axis

    @property
    def device(self) -> torch.device:
        """Where input and output are."""
        return self._input.device

    def shared(self, function: "Callable[[ActivationCall], T]") -> T:
        """``function(self)``, computed once however many statistics ask for it."""
        if function not in self._shared:
            self._shared[function] = function(self)
        return self._shared[function]  # type: ignore[return-value]

    def note(self, reason: str) -> None:
        """Say in `Report.coverage()` why something of this call isn't recorded."""
        self._note(reason)

    def to(self, device: torch.device) -> "ActivationCall":
        """A copy of the call on `device`."""
        call = copy.copy(self)
        call._shared = {}
        call._input = self._input.to(device)
        call._output = None if self._output is None else self._output.to(device)
        return call

    def keep_input(self) -> None:
        """Copy the input, before an in-place activation overwrites it."""
        self._input = self._input.clone()

    def finish(self, output: Tensor, given: Tensor | None = None) -> None:
        """Set the output, once the activation has run; and the input, if it was overwritten."""
        self._output = output
        if given is not None:
            self._input = given

    def channels_restored(self, tensor: Tensor) -> Tensor:
        """A view of ``[N, C, ...]`` with its axes as the activation has them."""
        if self._axis % self._input.dim() == 0:
            return tensor.squeeze(0)
        return tensor.movedim(1, self._axis)


def channels_first(tensor: Tensor, axis: int) -> Tensor:
    """A view of `tensor` as ``[N, C, ...]``, its channels being at `axis`; 0: no batch axis."""
    return tensor.unsqueeze(0) if axis % tensor.dim() == 0 else tensor.movedim(axis, 1)


def _relu(call: ActivationCall) -> Tensor:
    return call.input.clamp_min(0)


def unreadable(tensor: Tensor, channel_axis: int) -> str | None:
    """Why `tensor` can't be read as ``[N, C, ...]`` of real numbers, or None if it can."""
    if not tensor.is_floating_point():
        return f"{tensor.dtype} is not a real floating-point type"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return "not a dense tensor"
    if tensor.is_meta:
        return "a tensor without values"
    if type(tensor).__torch_dispatch__ != Tensor.__torch_dispatch__:
        return f"{type(tensor).__name__} is a tensor of its own kind"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "inside a torch.func transform"
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
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
    """Run an activation on a copy of its input, and return what `change` makes of its output.

    A copy, because what an in-place function returns is needed for its gradient, and must not be
    written to. What it would have overwritten is overwritten in the end with what the model gets.

    Args:
        read: from the arguments to the input, which is one of them.
        change: from output and input to what replaces the output; None: nothing does.
        function: the activation's torch function.
        args: its arguments.
        kwargs: likewise.
    """
    tensor, out = read(args, kwargs), kwargs.get("out")
    assert tensor is not None  # it was an activation's before
    copy = tensor.clone()
    swapped = [copy if arg is tensor else arg for arg in args]
    named = {key: copy if arg is tensor and key != "out" else arg for key, arg in kwargs.items()}
    # What is to be overwritten may be needed for a gradient of the change.
    given = tensor if out is None else tensor.clone()
    output = function(*swapped, **named)
    if output is copy:
        given, out = tensor.clone(), tensor
    new = change(output, given)
    if new is None:
        new = output
    return new if out is None else out.copy_(new)
