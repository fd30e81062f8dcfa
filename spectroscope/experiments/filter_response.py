"""Frequency responses of a model's own filters, to compare with the spectra of its activations."""

import math
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from spectroscope.dsp.frequency_response import response
from spectroscope.dsp.spectra import Transform
from spectroscope.errors import RequestError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS = (nn.AvgPool1d, nn.AvgPool2d)
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)


def filter_response(
    layers: nn.Module | Iterable[nn.Module],
    *,
    channels: Sequence[int] | None = None,
    points: int | None = None,
    fs: float | None = None,
) -> pd.DataFrame:
    """Frequency response of a convolution, or of a chain of linear layers, as a table.

    The response of each output channel to a complex exponential in each input channel. `freq` is
    the frequency of the input; after a stride the output has the frequency to which that folds.
    Borders and biases are ignored.

    Args:
        layers: a `Conv1d` or `Conv2d`; or a chain (an iterable or an `nn.Sequential`) of
            convolutions, batch normalisation in eval mode, average pooling and dropout.
        channels: output channels; None: all.
        points: number of frequencies from 0 to Nyquist, None: 257; for images the side of the grid,
            None: 64.
        fs: sampling rate at the chain's input, like `fs` in `Report.sites()`; None: 1. Only 1-D.

    Returns:
        One row per `channel`, `in_channel` and `freq`. `gain` is output over input amplitude; for
        images the RMS of that over the radial bin, as in `Report.spectra()`. `phase` in radians is
        that of output sample n relative to input sample n·stride; NaN for images.

    Raises:
        RequestError: there is no layer, or a layer is of another kind, is in training mode or gets
            the wrong number of channels; a channel does not exist; or `fs` is not positive.

    >>> table = filter_response(nn.AvgPool1d(2), points=3)
    >>> table["gain"].round(4).tolist()
    [1.0, 0.7071, 0.0]
    """
    if fs is not None and not (math.isfinite(fs) and fs > 0):
        raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
    if points is not None and points < 2:
        raise RequestError(f"{points=} must be 2 or more")
    chain = list(_flat([layers] if isinstance(layers, nn.Module) else layers))
    dims = {_dims(layer) for layer in chain} - {0}
    if len(dims) != 1:
        raise RequestError(
            f"filter_response needs 1-D or 2-D layers, at least one, not {dims or 'none'}"
        )
    (axes,) = dims
    if axes == 2 and fs is not None:
        raise RequestError(f"{fs=} is for 1-D filters; images are in cycles/pixel")
    points = points or (257 if axes == 1 else 64)
    if axes == 1:
        freq = torch.linspace(0, 0.5, points, dtype=torch.float64).unsqueeze(-1)
    else:
        along_axis = torch.fft.fftfreq(points, dtype=torch.float64)
        freq = torch.cartesian_prod(along_axis, along_axis)
    with torch.no_grad():
        total = _chain_response(chain, freq, channels)
    outputs = range(len(total)) if channels is None else channels
    gain, phase = total.abs(), total.angle()
    shown = freq[:, 0] * (fs or 1.0)
    if axes == 2:
        transform = Transform.of((points, points), "boxcar", torch.device("cpu"))
        squares = gain.square().view(*gain.shape[:2], points, points)
        gain = (transform.sum_bins(squares) / transform.components_per_bin()).sqrt()
        phase = torch.full_like(gain, math.nan)
        shown = torch.arange(gain.shape[-1], dtype=torch.float64) / points
    rows, columns, bins = gain.shape
    labels = pd.MultiIndex.from_product(
        [outputs, range(columns), shown.tolist()], names=["channel", "in_channel", "freq"]
    ).to_frame(index=False)
    assert len(labels) == rows * columns * bins
    unit = "cycles/pixel" if axes == 2 else "cycles/sample" if fs is None else "Hz"
    return labels.assign(freq_unit=unit, gain=gain.flatten().numpy(), phase=phase.flatten().numpy())


def _flat(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        if type(layer) is nn.Sequential:
            yield from _flat(layer)
        else:
            yield layer


def _dims(layer: nn.Module) -> int:
    """Number of axes that a layer filters; 0: any."""
    if isinstance(layer, _IDENTITIES):
        return 0
    for number, classes in enumerate(zip(_CONVOLUTIONS, _NORMS, _POOLS, strict=True), start=1):
        # Not a subclass: its forward may differ.
        if type(layer) in classes:
            if isinstance(layer, _NORMS) and (layer.training or layer.running_var is None):
                raise RequestError("batch normalisation is linear in eval mode only: model.eval()")
            return number
    raise RequestError(
        f"{type(layer).__name__} has no frequency response: only Conv1d, Conv2d, AvgPool, "
        "BatchNorm and Dropout do"
    )


def _chain_response(chain: list[nn.Module], freq: Tensor, channels: Sequence[int] | None) -> Tensor:
    """Response ``[out, in, F]`` of all layers, one after the other."""
    total: Tensor | None = None
    step = torch.ones(freq.shape[1], dtype=torch.float64)  # decimation at the layer's input
    for layer in chain:
        if isinstance(layer, _CONVOLUTIONS):
            # Of the last layer only `channels`; of the others all outputs are needed.
            _check_channels(total, layer, layer.in_channels)
            one = _convolution(layer, freq * step, channels if chain[-1] is layer else None)
            total = one if total is None else torch.einsum("omf,mif->oif", one, total)
            step = step * torch.tensor(layer.stride, dtype=torch.float64)
        elif isinstance(layer, _NORMS):
            scale = (layer.running_var.double() + layer.eps).rsqrt()  # type: ignore[union-attr]
            _check_channels(total, layer, len(scale))
            scale = (scale * layer.weight.double() if layer.affine else scale).cpu()
            identity = torch.eye(len(scale)).unsqueeze(-1).expand(-1, -1, len(freq))
            total = scale.view(-1, 1, 1) * (identity if total is None else total)
        elif isinstance(layer, _POOLS):
            kernel, stride, padding = (
                list(value) if isinstance(value, tuple) else [value] * freq.shape[1]
                for value in (layer.kernel_size, layer.stride, layer.padding)
            )
            divisor = getattr(layer, "divisor_override", None) or math.prod(kernel)
            mean = torch.full(kernel, 1 / divisor, dtype=torch.float64)
            ones = [1] * len(kernel)
            one = response(mean, freq * step, dilation=ones, padding=padding)
            total = one.view(1, 1, -1) if total is None else total * one
            step = step * torch.tensor(stride, dtype=torch.float64)
    assert total is not None  # at least one layer filters
    if channels is not None and not isinstance(chain[-1], _CONVOLUTIONS):
        total = total[_check_outputs(channels, len(total))]
    return total


def _convolution(
    layer: nn.Conv1d | nn.Conv2d, freq: Tensor, channels: Sequence[int] | None
) -> Tensor:
    weight = layer.weight.detach().double().cpu()
    outputs = (
        list(range(len(weight))) if channels is None else _check_outputs(channels, len(weight))
    )
    if isinstance(layer.padding, str):
        # "same" pads one more at the end if the total is odd.
        extent = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padding = [e // 2 if layer.padding == "same" else 0 for e in extent]
    else:
        padding = list(layer.padding)
    gain = response(weight[outputs], freq, dilation=layer.dilation, padding=padding)
    if layer.groups == 1:
        return gain
    in_per_group, out_per_group = gain.shape[1], len(weight) // layer.groups
    full = gain.new_zeros(len(outputs), layer.in_channels, gain.shape[-1])
    for row, channel in enumerate(outputs):
        first = channel // out_per_group * in_per_group
        full[row, first : first + in_per_group] = gain[row]
    return full


def _check_channels(total: Tensor | None, layer: nn.Module, channels: int) -> None:
    if total is not None and len(total) != channels:
        raise RequestError(f"{layer} gets {len(total)} channels instead of {channels}")


def _check_outputs(channels: Sequence[int], count: int) -> list[int]:
    if wrong := [channel for channel in channels if not 0 <= channel < count]:
        raise RequestError(f"there is no channel {wrong[0]}: there are {count}")
    return list(channels)
