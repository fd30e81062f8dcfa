"""Weights from a Keras HDF5 file into a PyTorch module, by structure: names don't matter."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectroscope.errors import RequestError

# A parameter as Keras stores it: the tensor to fill, its shape there, its axes there in our order.
_Slot = tuple[Tensor, tuple[int, ...], tuple[int, ...]]


def load(model: nn.Module, file: Path | BinaryIO, source: str) -> None:
    """Fill the convolutions, dense, attention and normalisation layers of `model`, in order.

    Args:
        model: registers its layers in the order in which the Keras model has them.
        file: HDF5, as ``Model.save_weights`` or ``Model.save`` of Keras 2 writes it.
        source: what to call it in an error.

    Raises:
        RequestError: it isn't such a file, or its arrays aren't those of `model`.
    """
    try:
        with h5py.File(file) as h5:
            arrays = list(_arrays(h5))
    except PermissionError as error:
        raise RequestError(f"cannot read {source}: {error.strerror}") from error
    except Exception as error:  # what a file of another make raises can be anything
        raise RequestError(f"{source} is not a Keras weights file ({error!r})") from error
    slots = [slot for layer in _layers(model) for slot in _slots(layer)]
    found, expected = [array.shape for _, array in arrays], [shape for _, shape, _ in slots]
    if found != expected:
        differ = [(f, e) for f, e in zip(found, expected, strict=False) if f != e]
        detail = (
            f"an array of shape {differ[0][0]} where {differ[0][1]} belongs"
            if differ
            else f"{len(found)} arrays where {len(expected)} belong"
        )
        raise RequestError(f"{source} is not of {type(model).__name__}: {detail}")
    with torch.no_grad():
        for (_, array), (tensor, _, axes) in zip(arrays, slots, strict=True):
            tensor.copy_(torch.from_numpy(array.transpose(axes).copy()).reshape(tensor.shape))


def _arrays(h5: h5py.File) -> Iterator[tuple[str, NDArray[np.float32]]]:
    layers = h5.get("model_weights", h5)
    for layer in layers.attrs["layer_names"]:
        for name in layers[layer].attrs["weight_names"]:
            yield name, layers[layer][name][()]


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    inside: set[nn.Module] = set()  # an attention's own projections belong to its slots
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
