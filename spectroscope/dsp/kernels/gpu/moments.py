"""Moments of the rows of a tensor ``[N, C, T]`` and of its ReLU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp import moments as layout
from spectroscope.dsp.kernels.gpu.memory import load_tile, tile_rows, tile_shape

# Triton takes no globals but these.
X_MEAN, Y_MEAN = tl.constexpr(layout.X_MEAN), tl.constexpr(layout.Y_MEAN)
X_M2, Y_M2 = tl.constexpr(layout.X_M2), tl.constexpr(layout.Y_M2)
Y_POSITIVE = tl.constexpr(layout.Y_POSITIVE)
X_COMPENSATION = tl.constexpr(layout.X_COMPENSATION)
Y_COMPENSATION = tl.constexpr(layout.Y_COMPENSATION)
X_FINITE, Y_FINITE = tl.constexpr(layout.X_FINITE), tl.constexpr(layout.Y_FINITE)


@triton.jit(do_not_specialize=["size", "channels", "length", "sample_stride", "channel_stride"])
def _row_moments(
    x,
    out,
    size,
    channels,
    length,
    sample_stride,
    channel_stride,
    time_stride,
    ROWS: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
):
    """Moments of some rows, which are channels of one sample; `size` is N·C."""
    sample, channel, valid, row = tile_rows(x, channels, sample_stride, channel_stride, ROWS)
    x_sum = tl.zeros((ROWS, TIMES), tl.float64)
    y_sum = tl.zeros((ROWS, TIMES), tl.float64)
    x_count = tl.zeros((ROWS, TIMES), tl.float64)
    y_count = tl.zeros((ROWS, TIMES), tl.float64)
    positive = tl.zeros((ROWS, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        value, x_ok, y_ok = load_tile(row, first, length, time_stride, valid, TIMES)
        above = y_ok & (value > 0)
        x_sum += tl.where(x_ok, value, 0.0)
        y_sum += tl.where(above, value, 0.0)
        x_count += tl.where(x_ok, 1.0, 0.0)
        y_count += tl.where(y_ok, 1.0, 0.0)
        positive += tl.where(above, 1.0, 0.0)
    x_finite, y_finite = tl.sum(x_count, 1), tl.sum(y_count, 1)
    x_mean = tl.sum(x_sum, 1) / tl.maximum(x_finite, 1.0)
    y_mean = tl.sum(y_sum, 1) / tl.maximum(y_finite, 1.0)
    x_error = tl.zeros((ROWS, TIMES), tl.float64)
    y_error = tl.zeros((ROWS, TIMES), tl.float64)
    x_m2 = tl.zeros((ROWS, TIMES), tl.float64)
    y_m2 = tl.zeros((ROWS, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        value, x_ok, y_ok = load_tile(row, first, length, time_stride, valid, TIMES)
        x_deviation = tl.where(x_ok, value - x_mean[:, None], 0.0)
        y_deviation = tl.where(y_ok, tl.where(value > 0, value, 0.0) - y_mean[:, None], 0.0)
        x_error += x_deviation
        y_error += y_deviation
        x_m2 += x_deviation * x_deviation
        y_m2 += y_deviation * y_deviation
    x_compensation = tl.sum(x_error, 1) / tl.maximum(x_finite, 1.0)
    y_compensation = tl.sum(y_error, 1) / tl.maximum(y_finite, 1.0)
    to = out + sample * channels + channel
    size = size.to(tl.int64)
    tl.store(to + X_MEAN * size, x_mean, valid)
    tl.store(to + Y_MEAN * size, y_mean, valid)
    tl.store(to + X_M2 * size, tl.sum(x_m2, 1), valid)
    tl.store(to + Y_M2 * size, tl.sum(y_m2, 1), valid)
    tl.store(to + Y_POSITIVE * size, tl.sum(positive, 1), valid)
    tl.store(to + X_COMPENSATION * size, x_compensation, valid)
    tl.store(to + Y_COMPENSATION * size, y_compensation, valid)
    tl.store(to + X_FINITE * size, x_finite, valid)
    tl.store(to + Y_FINITE * size, y_finite, valid)


def row_moments(flat: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Moments of the rows of a tensor and of its ReLU.

    Args:
        flat: float16, bfloat16, float32 or float64, on a GPU; from the tensor's first value on.
        shape: N, C, T.
        strides: of N, C and T in `flat`.

    Returns:
        Float64, ``[ROW_FIELDS, N, C]``, in the layout of :mod:`spectroscope.dsp.moments`.
    """
    samples, channels, length = shape
    out = torch.empty(layout.ROW_FIELDS, samples, channels, dtype=torch.float64, device=flat.device)
    rows, times = tile_shape(shape, strides)
    grid = (samples * triton.cdiv(channels, rows),)
    with torch.cuda.device(flat.device):
        _row_moments[grid](flat, out, samples * channels, channels, length, *strides, rows, times)
    return out
