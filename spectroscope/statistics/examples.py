"""Both sides of an activation for the first inputs: lines and thumbnails of bounded size."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays, Statistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

MAX_INPUTS = 16
# Points of a line, and side of a thumbnail, at most.
_LINE, _SIDE = 512, 64
_CHANNELS = 3
# Bytes of a site, at most. More inputs have fewer points each.
BYTES = 1 << 17
# Values of a batch whose outputs are computed at a time, for their means.
_VALUES = 1 << 20


class Examples(Statistic):
    """Both sides of the first inputs, of the channels with the largest, median and smallest DC.

    The channels are those of the first batch. A line of more than 512 points becomes the smallest
    and the largest input value of each of 256 equal parts, with the output at the same samples:
    true pairs of input and output, whose envelope shows what taking every k-th sample would alias.
    An image becomes a thumbnail of 64 × 64 means or fewer. With many inputs all are coarser, so
    that a site has :data:`BYTES` at most. Of further axes, such as electrodes or frames, the first
    is taken.

    The arrays of N inputs and K channels are:

    - `wanted`: ``[]``, int64, number of inputs asked for;
    - `channels`: ``[N, K]``, int64, from the largest DC to the smallest;
    - `shape`: ``[N, D]``, int64, T or H and W of the input at the site; D is 0 without such axes;
    - `dc`: ``[N, K, 2]``, float32, mean of input and output before anything is left out;
    - `positions`: ``[N, K, P]``, int64, samples of a line; ``[N, K, 0]`` of images;
    - `values`: ``[N, K, 2, P]``, float32, input and output. Shorter ones end in NaN.

    Args:
        inputs: number of inputs.

    Raises:
        RequestError: `inputs` isn't from 0 to 16.
    """

    name = "examples"
    layout = {
        "wanted": (),
        "channels": ("N", "K"),
        "shape": ("N", "D"),
        "dc": ("N", "K", 2),
        "positions": ("N", "K", "Q"),
        "values": ("N", "K", 2, "P"),
    }

    def __init__(self, inputs: int = 0):
        if not 0 <= inputs <= MAX_INPUTS:
            raise RequestError(f"examples={inputs} must be from 0 to {MAX_INPUTS}")
        self.inputs = inputs

    def reduce_next(self, call: "ActivationCall", before: Arrays | None) -> Arrays:
        """See :meth:`Statistic.reduce_next`."""
        if not self.inputs:
            return {}
        x = call.transformed_last(call.input)
        count = min(self.inputs - (len(before["channels"]) if before else 0), len(x))
        if count <= 0 or not x.numel():
            return {}
        axes = len(call.transformed)
        channels = before["channels"][-1].to(x.device) if before else _extreme_channels(call)
        x = _first_lines(x[:count], axes)[:, channels]
        if call.is_relu:
            y = x.clamp_min(0)
        else:
            y = _first_lines(call.transformed_last(call.output[:count]), axes)[:, channels]
        shape = tuple(x.shape[2:])
        size = size_of(shape, self.inputs)
        sides = torch.stack([x, y], 2).float()
        if not axes:
            sides = sides.unsqueeze(-1)
        if axes == 2:
            pooled = functional.adaptive_avg_pool2d(sides.flatten(0, 2), size)
            values = pooled.reshape(*sides.shape[:3], -1)
            positions = channels.new_empty(count, len(channels), 0)
        else:
            positions = _envelope(sides[:, :, 0], size[0])
            values = sides.gather(-1, positions.unsqueeze(2).expand(-1, -1, 2, -1))
        return {
            "wanted": torch.tensor(self.inputs),
            "channels": channels.expand(count, -1),
            "shape": torch.tensor(shape, dtype=torch.int64).expand(count, -1),
            "dc": sides.flatten(3).mean(-1, dtype=torch.float64).float(),
            "positions": positions,
            "values": values,
        }

    def merged(self, first: Arrays, second: Arrays) -> Arrays:
        """The inputs of `first`, and those of `second` as far as more were asked for.

        `first` alone, if the two differ in the number asked for or in the axes.
        """
        count = int(first["wanted"]) - len(first["channels"])
        alike = all(first[key].shape[1:] == second[key].shape[1:] for key in ("channels", "shape"))
        if count <= 0 or not alike or not torch.equal(first["wanted"], second["wanted"]):
            return first
        points = max(first["values"].shape[-1], second["values"].shape[-1])
        state = {"wanted": first["wanted"]}
        for key in first.keys() - state.keys():
            pair = [first[key], second[key][:count]]
            if key == "values" or (key == "positions" and first["shape"].shape[1] < 2):
                fill = math.nan if key == "values" else -1
                pair = [functional.pad(x, (0, points - x.shape[-1]), value=fill) for x in pair]
            state[key] = torch.cat(pair)
        return state

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """See :meth:`Statistic.checked`; the points must fit the shapes."""
        arrays = super().checked(arrays, channels)
        wanted, shapes, points = int(arrays["wanted"]), arrays["shape"], arrays["values"].shape[-1]
        if not 1 <= len(shapes) <= wanted <= MAX_INPUTS or shapes.shape[1] > 2:
            raise ValueError(f"{len(shapes)} examples of {wanted}")
        if arrays["positions"].shape[-1] != (0 if shapes.shape[1] == 2 else points):
            raise ValueError("positions")
        for shape in shapes.tolist():
            if min(shape, default=1) < 1 or math.prod(size_of(shape, wanted)) > points:
                raise ValueError(f"{points} points of {shape}")
        return arrays


def size_of(shape: Sequence[int], inputs: int) -> Any:
    """What an input of a shape is reduced to: points of a line, or rows and columns.

    Args:
        shape: T or H and W; empty: a single value.
        inputs: number of inputs asked for.

    Returns:
        ``(P,)`` or ``(rows, columns)``.
    """
    values = BYTES // (4 * _CHANNELS * inputs) - 8  # of a channel, beside the other arrays
    if len(shape) < 2:
        points = min(_LINE, values // 4) // 2 * 2  # position (two), input, output
        return (min(*shape, points) if shape else 1,)
    side = min(_SIDE, math.isqrt(values // 2))
    scale = max(1.0, max(shape) / side)
    return tuple(max(1, round(length / scale)) for length in shape)


def _first_lines(tensor: Tensor, axes: int) -> Tensor:
    """``[N, C, ...]`` with the last `axes` axes alone: the first line or image of several."""
    return tensor.flatten(2, -axes - 1)[:, :, 0] if tensor.dim() > 2 + axes else tensor


def _extreme_channels(call: "ActivationCall") -> Tensor:
    """``[K]``: the channels with the largest, median and smallest output DC of this batch.

    Of those whose DC is finite, if there are any.
    """
    whole = call.input if call.is_relu else call.output
    total = whole.new_zeros(whole.shape[1], dtype=torch.float64)
    for part in torch.split(whole, max(1, _VALUES // whole[0].numel())):
        y = part.clamp_min(0) if call.is_relu else part
        total += y.reshape(*y.shape[:2], -1).mean(2, dtype=torch.float64).sum(0)
    finite = total.isfinite()
    order = total.where(finite, -math.inf).argsort(descending=True, stable=True)
    last = max(int(finite.sum()), 1) - 1
    return order[sorted({0, last // 2, last})]


def _envelope(lines: Tensor, points: int) -> Tensor:
    """Samples of the smallest and the largest value in each of ``points / 2`` parts of a line.

    Args:
        lines: ``[..., T]``.
        points: T, for all samples; or an even number less than T.

    Returns:
        ``[..., points]``, int64, ascending. NaN counts as largest.
    """
    length = lines.shape[-1]
    if points == length:
        return torch.arange(length, device=lines.device).expand(lines.shape)
    edges = torch.arange(points // 2 + 1, device=lines.device) * length // (points // 2)
    offsets = torch.arange(-(-length // (points // 2)), device=lines.device)
    samples = (edges[:-1, None] + offsets).minimum(edges[1:, None] - 1)  # a part's last, repeated
    parts = lines.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)[..., samples]
    # The first of the smallest and the last of the largest: two samples even where all are equal.
    low = parts.argmin(-1)
    high = len(offsets) - 1 - parts.flip(-1).argmax(-1)
    both = torch.stack([low, high], -1).sort(-1).values + edges[:-1, None]
    return both.minimum(edges[1:, None] - 1).flatten(-2)
