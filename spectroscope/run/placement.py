"""Where a model runs, and in which precision: a copy of it there, and its inputs."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectroscope.errors import RequestError

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class Placement(NamedTuple):
    """What is asked for; None: as the model and its inputs are.

    Attributes:
        device: where they are to be.
        dtype: of parameters, buffers and inputs with a point.
        channels_last: images lie in memory with the channels last.
    """

    device: torch.device | None
    dtype: torch.dtype | None
    channels_last: bool

    @classmethod
    def of(cls, device: str | None, dtype: str | None, channels_last: bool) -> "Placement":
        """The placement with those names, once it is seen that there is such a device.

        Raises:
            RequestError: there isn't, or there is no such dtype.
        """
        if dtype is not None and dtype not in DTYPES:
            raise RequestError(f"{dtype=} is none of {', '.join(DTYPES)}")
        return cls(
            None if device is None else _device(device),
            None if dtype is None else DTYPES[dtype],
            channels_last,
        )

    def placed(self, model: nn.Module) -> nn.Module:
        """A copy of `model` that is as asked for; itself, if it is already so.

        Raises:
            RequestError: it can't be copied, or the device doesn't take it.
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
            first = str(error).partition("\n")[0]
            raise RequestError(
                f"a copy of {type(model).__name__} for another device, dtype or memory format "
                f"can't be made: {first}"
            ) from error
        return model

    def tensor(self, tensor: Tensor) -> Tensor:
        """`tensor` as asked for; itself, if it is already so."""
        dtype = self.dtype if tensor.is_floating_point() else None
        # What comes from a GPU must be there before it is read.
        to_gpu = self.device is not None and self.device.type == "cuda"
        tensor = tensor.to(self.device, dtype, non_blocking=to_gpu)
        if self.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def inputs(self, value: Any) -> Any:
        """The same for all tensors in lists, tuples and dictionaries."""
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
    """Devices that a model can run on here."""
    found = ["cpu"]
    found += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # It may be there, and yet be somebody else's, or broken: torch says which.
        first = str(error).partition("\n")[0]
        there = ", ".join(devices())
        raise RequestError(f"device {name!r} isn't there: there is {there} ({first})") from error
    return device
