"""Specimen from a `.keras` file: a model that Keras 3 has saved, run on its torch backend."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.errors import RequestError, first_line
from spectroscope.specimens.from_callable import on_input
from spectroscope.specimens.specimen import Specimen

# Layers of Keras that run what a file contains, as code, a pickle or a program.
_RUN_CODE = {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}
# Values, which have no module.
_VALUES = re.compile(r"__(keras_tensor|tensor|numpy|bytes|ellipsis|slice)__")


def from_keras(
    path: str,
    *,
    input: str | os.PathLike[str] | None = None,
    fs: float | None = None,
    channel_axis: ChannelAxis = "auto",
    time_axis: TimeAxis = "auto",
) -> Specimen:
    """Specimen from a model saved by Keras 3. Nothing in the file is executed.

    Args:
        path: a ``.keras`` file.
        input: inputs of the model, ``[N, ...]``: a ``.npy`` or ``.pt`` file. Required.
        fs: sampling rate of a 1-D input in Hz.
        channel_axis: as in :func:`spectroscope.record`.
        time_axis: as in :func:`spectroscope.record`.

    Raises:
        RequestError: Keras isn't installed or runs on another backend, a file can't be read, or a
            layer of the model isn't one of Keras or contains code.
    """
    config = _config(path)
    for module, cls in _classes(config):
        own = module == "builtins" or re.match(r"keras(\.|$)", module)
        if cls in _RUN_CODE or not (own or _VALUES.fullmatch(cls)):
            raise RequestError(
                f"{path} is not loaded: {cls} has code that isn't Keras' own; give the model as "
                "package.module:callable"
            )
    keras = _keras(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RequestError(f"{path} can't be loaded: {reason}") from error
    return on_input(model, path, input, fs=fs, channel_axis=channel_axis, time_axis=time_axis)


def _config(path: str) -> Any:
    """The description of the model in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} isn't a file saved by Keras 3: {first_line(error)}") from error


def _classes(config: Any) -> Iterator[tuple[str, str]]:
    """Module and name of every class that loading the model looks up."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield str(config.get("module")), str(config["class_name"])
        # The optimizer and the loss aren't loaded.
        config = [value for key, value in config.items() if key != "compile_config"]
    if isinstance(config, list):
        for value in config:
            yield from _classes(value)


def _keras(path: str) -> Any:
    """Keras on its torch backend."""
    if "keras" not in sys.modules:
        if find_spec("keras") is None:
            raise RequestError(f"{path} needs keras: pip install keras (the extra [keras])")
        os.environ["KERAS_BACKEND"] = "torch"
    import keras

    if (backend := keras.backend.backend()) != "torch":
        raise RequestError(
            f"{path} needs keras on torch, but it runs on {backend}: start Python with "
            "KERAS_BACKEND=torch"
        )
    return keras
