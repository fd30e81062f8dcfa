"""How a call is run so that its result can be changed, and whether it is one of several."""

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from spectroscope.capture import activations
from spectroscope.capture.axes import tensors


def on_a_copy(
    read: activations.Reader,
    finish: Callable[..., Any],
    function: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a rectifier on a copy of its input, and change what it returns by `finish`.

    A copy, because what an in-place function returns is needed for its gradient, and must not be
    written to. What it would have overwritten is overwritten in the end with what the model gets.
    """
    call, out = read(args, kwargs), kwargs.get("out")
    assert call is not None  # it was read before
    tensor, copy = call.input, call.input.clone()
    swapped = [copy if arg is tensor else arg for arg in args]
    named = {key: copy if arg is tensor and key != "out" else arg for key, arg in kwargs.items()}
    # What is to be overwritten may be needed for a gradient of the change.
    given = tensor if out is None else tensor.clone()
    output = function(*swapped, **named)
    if output is copy:
        given, out = tensor.clone(), tensor
    new = finish(output, given)
    if new is None:
        new = output
    return new if out is None else out.copy_(new)


def runs_again() -> bool:
    """Whether what runs now is going to run again in a backward pass (torch.utils.checkpoint)."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is vars(checkpoint):
            # With reentrant checkpointing, the arguments alone know of gradients.
            given = frame.f_locals.get("args", ())
            if torch.is_grad_enabled() or any(tensor.requires_grad for tensor in tensors(given)):
                return True
        frame = frame.f_back
    return False


def calls_itself(module: nn.Module) -> bool:
    """Whether `module`, which is about to run, is running already (it calls itself)."""
    frame, running = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is nn.Module._call_impl.__code__:
            running += frame.f_locals["self"] is module
    return running > 1
