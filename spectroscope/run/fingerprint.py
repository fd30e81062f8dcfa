"""The fingerprint of a run: hashes of model and data, options and versions, by name."""

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


def fingerprint(
    specimen: Specimen, parameters: str, batch: Batch, options: Mapping[str, object]
) -> dict[str, str]:
    """The fingerprint of a run, for :class:`spectroscope.statistics.run_shard.RunShard`.

    Of the data only the first batch, targets, f0 and the number of inputs are in it. Two runs with
    equal fingerprints and equal further data give bit-equal reports.

    Args:
        specimen: what is run.
        parameters: :func:`parameter_hash` of its model.
        batch: batch 0.
        options: options of the run.
    """
    made = {
        name: PurePath(str(value)).name  # the folder may differ between machines
        for name, value in specimen.options.items()
        if value is not None
    }
    entries: dict[str, object] = {
        "specimen": specimen.name,
        "made with": ", ".join(f"{name}={value}" for name, value in made.items()) or "no options",
        "model": type(specimen.model).__name__,
        "layers": _layers(specimen.model),
        "parameters and buffers": parameters,
        "number of inputs": specimen.n_inputs,
        "batch size": batch.size,
        "first batch": _digest(_bytes((batch.arguments, batch.targets))),
        "targets and f0": _digest(_bytes((specimen.targets, specimen.f0))),
        # Without the module, which is `__main__` if that runs as a script.
        "metric": getattr(specimen.metric, "__qualname__", ""),
        "fs": specimen.fs,
        "channel_axis": specimen.channel_axis,
        "time_axis": specimen.time_axis,
        **options,
        "spectroscope": version("relu-spectroscope"),
        "torch": torch.__version__,
    }
    return {name: str(value) for name, value in entries.items()}


def parameter_hash(model: nn.Module) -> str:
    """Hash of the names, dtypes, shapes and values of all parameters and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return _digest(_bytes([(name, None if is_lazy(t) else t) for name, t in named]))


def _layers(model: nn.Module) -> str:
    """Hash of the model's repr, which has strides and the like, and of each module's mode."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))  # addresses differ between processes
    return _digest(_bytes([text, [module.training for module in model.modules()]]))


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()[:16]


def _bytes(value: Any) -> Iterator[bytes]:
    """Nested containers as bytes, with the dtype and shape of each array."""
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
