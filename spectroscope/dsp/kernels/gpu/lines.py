"""Moments of lines of both sides of an activation, and the lines without their means."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from spectroscope.dsp import moments as layout

# Triton takes no globals but these.
X_MEAN, Y_MEAN = tl.constexpr(layout.X_MEAN), tl.constexpr(layout.Y_MEAN)
X_M2, Y_M2, XY = tl.constexpr(layout.X_M2), tl.constexpr(layout.Y_M2), tl.constexpr(layout.XY)
Y_POSITIVE = tl.constexpr(layout.Y_POSITIVE)
X_FINITE, Y_FINITE = tl.constexpr(layout.X_FINITE), tl.constexpr(layout.Y_FINITE)

# Values that a program reads at a time, and the most lines of them.
_TILE = 1024
_MOST_LINES = 32


@triton.jit
def _load(x, y, time, inside, RELU: tl.constexpr):  # noqa: N803
    """Values of both sides in float64, and where they are finite."""
    a = tl.load(x + time, inside, 0.0).to(tl.float64)
    if RELU:  # noqa: SIM108, Triton has no such expression
        b = tl.where(a < 0, 0.0, a)  # NaN stays NaN
    else:
        b = tl.load(y + time, inside, 0.0).to(tl.float64)
    # Comparisons with NaN are false. ReLU(-Inf) = 0 is finite.
    return a, b, inside & (tl.abs(a) < float("inf")), inside & (tl.abs(b) < float("inf"))


@triton.jit(
    do_not_specialize=[
        "count", "lines", "length", "x_sample", "x_channel", "y_sample", "y_channel",
        "channels", "samples",
    ]
)  # fmt: skip
def _center_lines(
    x,
    y,
    moments,
    out,
    count,
    lines,
    length,
    x_sample,
    x_channel,
    y_sample,
    y_channel,
    channels,
    samples,
    fields,
    RELU: tl.constexpr,  # noqa: N803
    WRITE: tl.constexpr,  # noqa: N803
    LINES: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
):
    """Some lines, numbered as in ``[n, c, lines]``; `count` is their number in all."""
    number = tl.program_id(0) * LINES + tl.arange(0, LINES)
    valid = number < count
    line, at = (number % lines).to(tl.int64), number // lines
    n, c = (at // channels).to(tl.int64), (at % channels).to(tl.int64)
    x_line = (x + n * x_sample + c * x_channel + line * length)[:, None]
    y_line = (y + n * y_sample + c * y_channel + line * length)[:, None]
    x_sum = tl.zeros((LINES, TIMES), tl.float64)
    y_sum = tl.zeros((LINES, TIMES), tl.float64)
    x_count = tl.zeros((LINES, TIMES), tl.float64)
    y_count = tl.zeros((LINES, TIMES), tl.float64)
    positive = tl.zeros((LINES, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        time = (first + tl.arange(0, TIMES))[None, :]
        inside = valid[:, None] & (time < length)
        a, b, x_ok, y_ok = _load(x_line, y_line, time, inside, RELU)
        x_sum += tl.where(x_ok, a, 0.0)
        y_sum += tl.where(y_ok, b, 0.0)
        x_count += tl.where(x_ok, 1.0, 0.0)
        y_count += tl.where(y_ok, 1.0, 0.0)
        positive += tl.where(y_ok & (b > 0), 1.0, 0.0)
    x_finite, y_finite = tl.sum(x_count, 1), tl.sum(y_count, 1)
    x_mean = tl.sum(x_sum, 1) / tl.maximum(x_finite, 1.0)
    y_mean = tl.sum(y_sum, 1) / tl.maximum(y_finite, 1.0)
    finite = (tl.minimum(x_finite, y_finite) == length)[:, None]
    xx = tl.zeros((LINES, TIMES), tl.float64)
    yy = tl.zeros((LINES, TIMES), tl.float64)
    xy = tl.zeros((LINES, TIMES), tl.float64)
    for first in range(0, length, TIMES):
        time = (first + tl.arange(0, TIMES))[None, :]
        inside = valid[:, None] & (time < length)
        a, b, x_ok, y_ok = _load(x_line, y_line, time, inside, RELU)
        a = tl.where(x_ok, a - x_mean[:, None], 0.0)
        b = tl.where(y_ok, b - y_mean[:, None], 0.0)
        xx += a * a
        yy += b * b
        xy += a * b
        if WRITE:  # [c, 2, pairs, lines, T, 2]
            pairs = (samples + 1) // 2
            at_line = ((c * 2 * pairs + n // 2) * lines + line)[:, None]
            to = 2 * (at_line * length + time) + (n % 2)[:, None]
            tl.store(out + to, tl.where(finite, a, 0.0), inside)
            to += 2 * pairs * lines.to(tl.int64) * length
            tl.store(out + to, tl.where(finite, b, 0.0), inside)
    to = moments + (c * samples + n) * lines + line
    fields = fields.to(tl.int64)
    tl.store(to + X_MEAN * fields, x_mean, valid)
    tl.store(to + Y_MEAN * fields, y_mean, valid)
    tl.store(to + X_M2 * fields, tl.sum(xx, 1), valid)
    tl.store(to + Y_M2 * fields, tl.sum(yy, 1), valid)
    tl.store(to + XY * fields, tl.sum(xy, 1), valid)
    tl.store(to + Y_POSITIVE * fields, tl.sum(positive, 1), valid)
    tl.store(to + X_FINITE * fields, x_finite, valid)
    tl.store(to + Y_FINITE * fields, y_finite, valid)


def center_lines(x: Tensor, y: Tensor | None, lines: int, out: Tensor | None) -> layout.LineMoments:
    """Moments of lines, and the lines without their means.

    Args:
        x: ``[n, c, values]``, float16, bfloat16, float32 or float64; an input's values contiguous.
        y: likewise; None: ReLU(x).
        lines: of each input and channel.
        out: ``[c, 2, pairs, lines, T]``, contiguous, complex, written to: 0 in inputs that aren't
            finite on both sides. Nothing is written beside an odd last input. None: moments alone.
    """
    samples, channels, values = x.shape
    fields = x.new_empty(layout.LINE_FIELDS, channels, samples, lines, dtype=torch.float64)
    length, count = values // lines, samples * channels * lines
    times = min(_TILE, max(32, triton.next_power_of_2(length)))
    at_once = min(_MOST_LINES, _TILE // times, triton.next_power_of_2(count))
    given = x if y is None else y
    parts = x if out is None else torch.view_as_real(out)
    with torch.cuda.device(x.device):
        _center_lines[(triton.cdiv(count, at_once),)](
            x, given, fields, parts, count, lines, length, x.stride(0), x.stride(1),
            given.stride(0), given.stride(1), channels, samples, fields[0].numel(),
            y is None, out is not None, at_once, times,
        )  # fmt: skip
    moments = layout.LineMoments(fields, length)
    if out is not None and lines > 1:  # a line that isn't finite takes the others with it
        for part in (0, 1):
            finite = moments.finite[:, None, part::2, None, None]
            of_part = parts[:, :, : finite.shape[2], ..., part]
            of_part.masked_fill_(~finite, 0)
    return moments
