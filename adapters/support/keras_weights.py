"""Load a Keras HDF5 file into a PyTorch module, by the order of layers: names are ignored."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectroscope.adapters.support.packages import import_extra
from spectroscope.errors import RequestError

# The tensor to fill, the shape that Keras stores, and the axes of that in the order of PyTorch.
_Slot = tuple[Tensor, tuple[int, ...], tuple[int, ...]]


def load(model: nn.Module, file: Path | BinaryIO, source: str) -> None:
    """Fill the convolutions, dense, attention and normalisation layers of `model`, in order.

    Args:
        model: registers its layers in the order in which the Keras model has them.
        file: HDF5, as ``Model.save_weights`` or ``Model.save`` of Keras 2 writes it.
        source: name of the file in error messages.

    Raises:
        RequestError: h5py is missing, the file is not a Keras weights file, or its arrays don't fit
            `model`.
    """
    h5py = import_extra("h5py")
    try:
        with h5py.File(file) as h5:
            arrays = list(_arrays(h5))
    except PermissionError as error:
        raise RequestError(f"cannot read {source}: {error.strerror}") from error
    except Exception as error:  # a file of another format can raise anything
        raise RequestError(f"{source} is not a Keras weights file ({error!r})") from error
    slots = [slot for layer in _layers(model) for slot in _slots(layer)]
    shapes, expected = [array.shape for array in arrays], [shape for _, shape, _ in slots]
    if shapes != expected:
        different = [(s, e) for s, e in zip(shapes, expected, strict=False) if s != e]
        detail = (
            f"an array has shape {different[0][0]} instead of {different[0][1]}"
            if different
            else f"{len(shapes)} arrays instead of {len(expected)}"
        )
        raise RequestError(f"{source} does not fit {type(model).__name__}: {detail}")
    with torch.no_grad():
        for array, (tensor, _, axes) in zip(arrays, slots, strict=True):
            tensor.copy_(torch.from_numpy(array.transpose(axes).copy()).reshape(tensor.shape))


def _arrays(h5: Any) -> Iterator[NDArray[np.float32]]:
    """The weights in an open `h5py.File`, in order."""
    layers = h5.get("model_weights", h5)
    for layer in layers.attrs["layer_names"]:
        for name in layers[layer].attrs["weight_names"]:
            yield layers[layer][name][()]


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    inside: set[nn.Module] = set()  # projections of an attention layer, which has slots itself
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            inside.update(module.children())
        if module not in inside:
            yield module


def _slots(layer: nn.Module) -> Iterator[_Slot]:
    if isinstance(layer, nn.Conv1d):
        out_channels, in_channels, size = layer.weight.shape
        yield layer.weight, (size, in_channels, out_channels), (2, 1, 0)
    elif isinstance(layer, nn.Linear):
        yield layer.weight, (layer.in_features, layer.out_features), (1, 0)
    elif isinstance(layer, nn.LayerNorm):
        yield layer.weight, tuple(layer.normalized_shape), (0,)
    elif isinstance(layer, nn.MultiheadAttention):
        width, heads, size = layer.embed_dim, layer.num_heads, layer.head_dim
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        for weight, bias in zip(weights, biases, strict=True):
            yield weight, (width, heads, size), (1, 2, 0)
            yield bias, (heads, size), (0, 1)
        yield layer.out_proj.weight, (heads, size, width), (2, 0, 1)
        yield layer.out_proj.bias, (width,), (0,)
    if isinstance(layer, nn.Conv1d | nn.Linear | nn.LayerNorm):
        assert layer.bias is not None
        yield layer.bias, tuple(layer.bias.shape), (0,)
