"""Weights and arrays from a user's own files, read without running anything that is in them."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectroscope.errors import RequestError

# Under which training scripts keep the weights of the model, beside the optimizer's.
_NESTS = ("state_dict", "model_state_dict", "model", "net")


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load the weights in `path`, which `torch.save` wrote, into `model`.

    A dictionary that has them under `state_dict` or `model` is looked into, and the ``module.``
    that `nn.DataParallel` puts before every name is taken off.

    Raises:
        RequestError: there is no such file, it has something else than tensors in it, or its names
            or shapes aren't the model's: it says which.
    """
    state = _load(path)
    for nest in _NESTS:
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RequestError(f"{path} has no weights by name in it, but a {type(state).__name__}")
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    own = model.state_dict()
    missing, unexpected = (sorted(a.keys() - b.keys()) for a, b in ((own, state), (state, own)))
    if missing or unexpected:
        faults = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise RequestError(f"{path} doesn't fit {type(model).__name__}: {' and '.join(faults)}")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            shapes = f"{list(tensor.shape)}, and the model has {list(own[name].shape)}"
            raise RequestError(f"{path} doesn't fit {type(model).__name__}: {name} is {shapes}")
    model.load_state_dict(state)


def load_array(path: str | os.PathLike[str]) -> Tensor:
    """The array or tensor in a ``.npy``, ``.pt`` or ``.pth`` file.

    Raises:
        RequestError: there is no such file, it isn't of these, or there is something else in it.
    """
    if Path(path).suffix in (".pt", ".pth"):
        tensor = _load(path)
    elif Path(path).suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
            tensor = torch.from_numpy(array)
        except (OSError, ValueError, TypeError) as error:
            raise RequestError(f"cannot read an array from {path}: {error}") from error
    else:
        raise RequestError(f"{path} is neither .npy nor .pt: these have an array")
    if not isinstance(tensor, Tensor) or tensor.dim() == 0:
        raise RequestError(f"{path} has no tensor in it, but a {type(tensor).__name__}")
    return tensor


def _load(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = "something else than tensors, or damaged"
        raise RequestError(
            f"cannot read {path}: it has {reason} ({type(error).__name__})"
        ) from error
