"""Files: written whole or not at all, and read without running anything that is in them."""

import errno
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectroscope.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

STAGING = ".writing-"  # what the names of staging folders begin with

# Errors of whoever writes, never of one who reads.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# Torch is imported where it is needed: to write tables takes none.

# Under which training scripts keep the weights of the model, beside the optimizer's.
_NESTS = ("state_dict", "model_state_dict", "model", "net")


@contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A staging folder whose files move into `path` together when the block ends.

    If the block raises, `path` is as it was before: nothing in it is touched, and a folder that
    didn't exist doesn't exist afterwards. Of files with the same name the new ones stay.

    Raises:
        RequestError: `path` can't be created or written to, which is raised before the block runs;
            or there is no room for what the block writes.
    """
    folder = Path(path)
    missing = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    except OSError as error:
        _remove_empty(missing)
        raise RequestError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield staging
        _move(sorted(staging.iterdir()), folder)
    except OSError as error:
        if error.errno not in _NO_ROOM or folder.name.startswith(STAGING):
            raise  # in a staging folder the one around it says which folder that is
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(missing)  # what has files in it by now stays


def _move(files: list[Path], folder: Path) -> None:
    for file in files:
        if os.path.isdir(folder / file.name):
            raise RequestError(f"cannot write {folder / file.name}: there is a folder of that name")
    try:
        for file in files:
            os.replace(file, folder / file.name)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # never made, or something else has been put there meanwhile
            return


def load_checkpoint(model: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Load the weights in `path`, which `torch.save` wrote, into `model`.

    A dictionary that has them under `state_dict` or `model` is looked into, and the ``module.``
    that `nn.DataParallel` puts before every name is taken off.

    Raises:
        RequestError: there is no such file, it has something else than tensors in it, or its names
            or shapes aren't the model's: it says which.
    """
    from torch import Tensor

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


def load_array(path: str | os.PathLike[str]) -> "Tensor":
    """The array or tensor in a ``.npy``, ``.pt`` or ``.pth`` file.

    Raises:
        RequestError: there is no such file, it isn't of these, or there is something else in it.
    """
    import numpy as np
    import torch

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
    if not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
        raise RequestError(f"{path} has no tensor in it, but a {type(tensor).__name__}")
    return tensor


def _load(path: str | os.PathLike[str]) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = "something else than tensors, or damaged"
        raise RequestError(
            f"cannot read {path}: it has {reason} ({type(error).__name__})"
        ) from error
