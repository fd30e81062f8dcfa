"""A model of the user's own as a specimen: `package.module:callable`."""

import importlib
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from spectroscope.errors import RequestError
from spectroscope.io import load_array, load_checkpoint
from spectroscope.specimens.specimen import Specimen

BATCH = 64


def own(
    path: str,
    *,
    input: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    fs: float | None = None,
    channel_axis: int = 1,
) -> Specimen:
    """What `package.module:callable` makes: a model, to be run on `input`, or a whole Specimen.

    Args:
        path: of something that takes no arguments; looked for in the current folder too.
        input: a ``.npy`` or ``.pt`` file, ``[N, ...]``; for a model it is needed.
        checkpoint: its weights, as `torch.save` writes a `state_dict`.
        fs: samples per second of a 1-D input.
        channel_axis: as in :func:`spectroscope.record`.

    Raises:
        RequestError: there is no such thing, it fails, or it makes something else; a file can't be
            read; or options are given for a Specimen, which has all of that itself.
    """
    made = _call(path)
    options = {"input": input, "checkpoint": checkpoint, "fs": fs}
    given = [name for name, value in options.items() if value is not None]
    if isinstance(made, Specimen):
        if given:
            raise RequestError(f"{path} makes a Specimen, which has its own {', '.join(given)}")
        return made
    if not isinstance(made, nn.Module):
        raise RequestError(f"{path} makes a {type(made).__name__}, not an nn.Module or a Specimen")
    if input is None:
        raise RequestError(
            f"{path} makes a model: --input x.npy or x.pt, [N, ...], is to run it on"
        )
    if checkpoint is not None:
        load_checkpoint(made, checkpoint)
    x = _fitting(load_array(input), made)
    return Specimen(
        name=path,
        description=f"{type(made).__name__} on {os.path.basename(input)}",
        license="your own",
        model=made.eval(),
        inputs=torch.split(x, BATCH),
        n_inputs=len(x),
        fs=fs,
        channel_axis=channel_axis,
    )


def _call(path: str) -> Any:
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it, which a command hasn't
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found()
    except Exception as error:  # the user's own code can raise anything
        first = str(error).partition("\n")[0]
        raise RequestError(f"{path} can't be called: {type(error).__name__}: {first}") from error


def _fitting(x: Tensor, model: nn.Module) -> Tensor:
    """`x` in the model's precision, and on its device, if it is of numbers with a point."""
    parameter = next(model.parameters(), torch.empty(0))
    if not x.is_floating_point():
        return x.to(parameter.device)
    return x.to(parameter.device, parameter.dtype)
