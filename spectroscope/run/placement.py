"""Device, dtype and memory format of a run, applied to a copy of the model and to its inputs."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectroscope.errors import RequestError, first_line

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class Placement(NamedTuple):
    """Device, dtype and memory format; None: unchanged.

    Attributes:
        device: device of the model and its inputs.
        dtype: dtype of floating-point parameters, buffers and inputs.
        channels_last: whether images are in the channels-last memory format.
    """

    device: torch.device | None
    dtype: torch.dtype | None
    channels_last: bool

    @classmethod
    def parse(cls, device: str | None, dtype: str | None, channels_last: bool) -> "Placement":
        """The placement with these names.

        Raises:
            RequestError: the device isn't available, or the dtype is unknown.
        """
        if dtype is not None and dtype not in DTYPES:
            raise RequestError(f"{dtype=} must be one of {', '.join(DTYPES)}")
        return cls(
            None if device is None else _device(device),
            None if dtype is None else DTYPES[dtype],
            channels_last,
        )

    def model(self, model: nn.Module) -> nn.Module:
        """A converted copy of `model`, or `model` itself if nothing has to change.

        Raises:
            RequestError: the model can't be copied or converted.
        """
        tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)]
        if not any(self.tensor(tensor) is not tensor for tensor in tensors):
            return model
        try:
            model = copy.deepcopy(model).to(self.device, self.dtype)
            with torch.no_grad():
                for tensor in [*model.parameters(), *model.buffers()]:
                    if not is_lazy(tensor):
                        tensor.data = self.tensor(tensor.data)
        except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
            reason = first_line(error)
            raise RequestError(
                f"cannot copy {type(model).__name__} to another device, dtype or memory format: "
                f"{reason}"
            ) from error
        return model

    def tensor(self, tensor: Tensor) -> Tensor:
        """A converted copy of `tensor`, or `tensor` itself if nothing has to change."""
        dtype = self.dtype if tensor.is_floating_point() else None
        # Copies from a GPU must have finished before the CPU reads them.
        to_gpu = self.device is not None and self.device.type == "cuda"
        tensor = tensor.to(self.device, dtype, non_blocking=to_gpu)
        if self.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def inputs(self, value: Any) -> Any:
        """`value` with all tensors in lists, tuples and mappings converted."""
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.inputs, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self.inputs, value))
        if isinstance(value, Mapping):
            return {key: self.inputs(entry) for key, entry in value.items()}
        return value


def devices() -> list[str]:
    """Names of the devices of this machine."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # An existing device may be in use by another process, or broken: torch gives the reason.
        reason = first_line(error)
        raise RequestError(
            f"device {name!r} is not available; available: {', '.join(devices())} ({reason})"
        ) from error
    return device
