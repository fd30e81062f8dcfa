"""Facts from the Python stack: will a call run again, and is it nested in itself?"""

import sys
import types
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint

from spectroscope.capture.tensors import tensors

_CALL_GLOBALS = nn.Module._call_impl.__globals__


def will_be_recomputed() -> bool:
    """Whether the current call runs again in the backward pass (`torch.utils.checkpoint`)."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is vars(checkpoint):
            # Reentrant checkpointing disables gradients: only arguments show the need.
            args = frame.f_locals.get("args", ())
            if torch.is_grad_enabled() or any(tensor.requires_grad for tensor in tensors(args)):
                return True
        frame = frame.f_back
    return False


def keyword_arguments(module: nn.Module) -> dict[str, Any]:
    """The keyword arguments of `module`, which is about to run: its global hooks don't get them."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is _CALL_GLOBALS and frame.f_locals.get("self") is module:
            return dict(frame.f_locals.get("kwargs") or {})
        frame = frame.f_back
    return {}


def calls_itself(module: nn.Module) -> bool:
    """Whether `module`, which is about to run, is already running."""
    frame, calls = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is nn.Module._call_impl.__code__:
            calls += frame.f_locals["self"] is module
    return calls > 1
