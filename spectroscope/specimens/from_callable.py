"""Specimen from the user's own model: `package.module:callable`."""

import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.errors import RequestError, first_line
from spectroscope.io import load_array, load_checkpoint
from spectroscope.specimens.specimen import Specimen

BATCH = 64


def from_callable(
    path: str,
    *,
    input: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    fs: float | None = None,
    channel_axis: ChannelAxis = "auto",
    time_axis: TimeAxis = "auto",
) -> Specimen:
    """Specimen from a callable that returns a model or a Specimen.

    Args:
        path: ``"package.module:callable"``; it is called without arguments. Modules in the current
            folder are found too.
        input: inputs of the model, ``[N, ...]``: a ``.npy`` or ``.pt`` file. Required for a model.
        weights: of the model: a `state_dict` written by `torch.save`.
        fs: sampling rate of a 1-D input in Hz.
        channel_axis: as in :func:`spectroscope.record`.
        time_axis: as in :func:`spectroscope.record`.

    Raises:
        RequestError: the callable does not exist, raises, or returns something else; a file can't
            be read; or another argument is given for a Specimen.
    """
    made = _call(path)
    options = {"input": input, "weights": weights, "fs": fs}
    given = [name for name, value in options.items() if value is not None]
    axes = {"channel_axis": channel_axis, "time_axis": time_axis}
    given += [name for name, value in axes.items() if value != "auto"]
    if isinstance(made, Specimen):
        if given:
            raise RequestError(f"{path} returns a Specimen, which has its own {', '.join(given)}")
        return made
    if not isinstance(made, nn.Module):
        raise RequestError(
            f"{path} returns a {type(made).__name__}, not an nn.Module or a Specimen"
        )
    if weights is not None:
        load_checkpoint(made, weights)
    return on_input(made, path, input, fs=fs, channel_axis=channel_axis, time_axis=time_axis)


def on_input(
    model: nn.Module,
    path: str,
    input: str | os.PathLike[str] | None,
    **facts: Any,
) -> Specimen:
    """Specimen from a model and a file of inputs.

    Args:
        model: the model.
        path: where it is from.
        input: the file.
        facts: further attributes of the specimen.

    Raises:
        RequestError: `input` is missing or can't be read.
    """
    if input is None:
        raise RequestError(
            f"{path} is a model: pass its inputs, [N, ...], as --input x.npy or x.pt"
        )
    x = _cast_like(load_array(input), model)
    with suppress(NotImplementedError):  # of `torch.export`, whose modules are always in one mode
        model.eval()
    return Specimen(
        name=path,
        description=f"{type(model).__name__} on {os.path.basename(input)}",
        license="your own",
        model=model,
        inputs=torch.split(x, BATCH),
        n_inputs=len(x),
        **facts,
    )


def _call(path: str) -> Any:
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:  # `python -m` adds it, an installed command does not
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        return function()
    except Exception as error:  # the user's own code can raise anything
        raise RequestError(
            f"{path} can't be called: {type(error).__name__}: {first_line(error)}"
        ) from error


def _cast_like(x: Tensor, model: nn.Module) -> Tensor:
    """`x` on the model's device and, if it is floating point, in the model's dtype."""
    parameter = next(model.parameters(), torch.empty(0))
    if not x.is_floating_point():
        return x.to(parameter.device)
    return x.to(parameter.device, parameter.dtype)
