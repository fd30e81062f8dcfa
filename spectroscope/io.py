"""Atomic writes, and reading of checkpoints and arrays without running code in the files."""

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

STAGING = ".writing-"  # prefix of the names of staging folders

# Only writing raises these errors, never reading.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# torch is imported in the functions that need it: writing tables does not.

# Keys under which training scripts save the weights, next to the state of the optimizer.
_NESTED = ("state_dict", "model_state_dict", "model", "net")


@contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A staging folder whose files are moved into `path` together when the block ends.

    If the block raises, `path` is unchanged, and is not created if it did not exist. New files
    replace files of the same name.

    Raises:
        RequestError: `path` can't be created or written to (raised before the block runs), or the
            disk is full.
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
        if error.errno not in _NO_SPACE or folder.name.startswith(STAGING):
            raise  # of nested staging folders the outer one reports the folder
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(missing)  # keeps folders that now have files


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
        except OSError:  # never created, or no longer empty
            return


def load_checkpoint(model: "nn.Module", path: str | os.PathLike[str]) -> None:
    """Load weights that `torch.save` wrote to `path` into `model`.

    The weights may be nested under a key such as `state_dict` or `model`. What wrappers such as
    `torch.compile` and `nn.DataParallel` add to the names doesn't count, in file and model.

    Raises:
        RequestError: the file can't be read, contains anything but tensors, or its names or shapes
            don't fit the model; the message names them.
    """
    from torch import Tensor

    from spectroscope.wrappers import bare_names

    state = _load(path)
    for nest in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(nest), Mapping):
            state = state[nest]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RequestError(f"{path} must have weights by name, not a {type(state).__name__}")
    own = model.state_dict()
    names = bare_names(own)
    expected = {name: own[full] for name, full in names.items()}
    state = {str(name): tensor for name, tensor in state.items()}
    state = {name: state[full] for name, full in bare_names(state, like=expected).items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        faults = [
            f"{len(names)} {fault} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for fault, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise RequestError(f"{path} doesn't fit {type(model).__name__}: {' and '.join(faults)}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, but the model has {list(expected[name].shape)}"
            raise RequestError(f"{path} doesn't fit {type(model).__name__}: {name} is {shapes}")
    # What isn't a weight, such as AveragedModel's count, stays.
    model.load_state_dict(own | {names[name]: tensor for name, tensor in state.items()})


def load_array(path: str | os.PathLike[str]) -> "Tensor":
    """Read the array or tensor in a ``.npy``, ``.pt`` or ``.pth`` file.

    Raises:
        RequestError: the file can't be read, has another extension, or contains something else.
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
        raise RequestError(f"{path} must be a .npy or .pt file")
    if not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
        raise RequestError(f"{path} must have a tensor, not a {type(tensor).__name__}")
    return tensor


def _load(path: str | os.PathLike[str]) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RequestError(
            f"cannot read {path}: damaged, or not only tensors ({type(error).__name__})"
        ) from error
