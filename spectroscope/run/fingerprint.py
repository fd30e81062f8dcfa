"""What makes a run this run: hashes of model and data, options and versions, each by name."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from spectroscope.run.shards import Batch
from spectroscope.specimens.specimen import Specimen


def identity(
    specimen: Specimen, parameters: str, batch: Batch, options: Mapping[str, object]
) -> dict[str, str]:
    """The identity of a run, for :class:`spectroscope.statistics.run_shard.RunShard`.

    Two runs that agree in it and in the rest of their data give the same report to the bit.

    Args:
        specimen: what is run.
        parameters: :func:`of_model` of its model.
        batch: the first of all.
        options: how it is run.
    """
    made = {
        name: PurePath(str(value)).name  # it may lie elsewhere on another machine
        for name, value in specimen.options.items()
        if value is not None
    }
    truth = (specimen.targets, specimen.f0)
    found: dict[str, object] = {
        "specimen": specimen.name,
        "made with": ", ".join(f"{name}={value}" for name, value in made.items()) or "no options",
        "model": type(specimen.model).__name__,
        "layers": _layers(specimen.model),
        "parameters and buffers": parameters,
        "number of inputs": specimen.n_inputs,
        "batch size": batch.size,
        "first batch": _digest(_bytes((batch.arguments, batch.targets))),
        "targets and f0": _digest(_bytes(truth)),
        # Not its module, which is another when that is run as a script.
        "metric": getattr(specimen.metric, "__qualname__", ""),
        "fs": specimen.fs,
        "channel_axis": specimen.channel_axis,
        **options,
        "spectroscope": version("relu-spectroscope"),
        "torch": torch.__version__,
    }
    return {name: str(value) for name, value in found.items()}


def of_model(model: nn.Module) -> str:
    """Hash of the names, types, shapes and values of all parameters and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return _digest(_bytes([(name, None if is_lazy(t) else t) for name, t in named]))


def _layers(model: nn.Module) -> str:
    """Hash of what modules print of themselves (a stride, say), and of which are in training."""
    said = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))  # another in each process
    return _digest(_bytes([said, [module.training for module in model.modules()]]))


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:16]


def _bytes(value: Any) -> Iterator[bytes]:
    """Tensors with their types and shapes, and how they lie in each other."""
    if isinstance(value, Tensor) and not value.is_meta and value.layout == torch.strided:
        yield f"{value.dtype}{list(value.shape)}".encode()
        plain = value.detach().cpu().dequantize() if value.is_quantized else value.detach().cpu()
        yield plain.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__}{len(value)}".encode()
        for entry in value:
            yield from _bytes(entry)
    elif isinstance(value, Mapping):
        yield from _bytes(list(value.items()))
    else:
        yield repr(value).encode()
