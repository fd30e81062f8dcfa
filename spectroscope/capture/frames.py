"""Facts from the Python stack: will a call run again, and is it nested in itself?"""

import sys
import types

import torch
from torch import nn
from torch.utils import checkpoint

from spectroscope.capture.axes import tensors


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


def calls_itself(module: nn.Module) -> bool:
    """Whether `module`, which is about to run, is already running."""
    frame, calls = sys._getframe(), 0
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code is nn.Module._call_impl.__code__:
            calls += frame.f_locals["self"] is module
    return calls > 1
