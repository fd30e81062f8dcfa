"""Moments of both sides of an activation, and the lines without their means.

A line is a run of values next to each other in memory. It is read once for the sums, and again,
from the cache, for what is left without its mean. Where the mean is so large that a sum of squares
would lose digits, the sums are repeated about the mean. Lines to be transformed are written in
pairs, as :class:`spectroscope.dsp.spectra.Transform` takes them.

Indices are unsigned: numba tests an index that could be negative each time it is used, and then
vectorises nothing.
"""

import ctypes

import numba
import numpy as np
import torch
from torch import Tensor

from spectroscope.dsp.kernels.cpu.compilation import (
    BLOCKS,
    array_at,
    c_function,
    compile_exactly,
    compile_inline,
    compile_reordered,
    fields_of,
    next_block,
)
from spectroscope.dsp.kernels.cpu.tables import (
    CHANNEL_SUMS,
    add_channels,
    add_incomplete,
    add_input,
)
from spectroscope.dsp.kernels.parallel import run
from spectroscope.dsp.moments import (
    INPUTS,
    LINE_FIELDS,
    MEAN_ROWS,
    MEANS_XX,
    MEANS_XY,
    MEANS_YY,
    TABLE_ROWS,
    X_FINITE,
    X_M2,
    X_MEAN,
    XY,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
)

# Of a line of T values, T·mean² over M2 above which the sums are repeated: 4 of float64's 16 digits
# are lost there.
_LARGE_MEAN = 1e4


@compile_reordered
def _sums_of_relu(x, first, length, x_pivot, y_pivot):
    """Sums of a = x − x_pivot, b = ReLU(x) − y_pivot, a², b², 0, and the number of x > 0."""
    x_sum = y_sum = xx = yy = positive = 0.0
    for i in range(length):
        value = np.float64(x[np.uint64(first + i)])
        a, b = value - x_pivot, max(value, 0.0) - y_pivot
        x_sum += a
        y_sum += b
        xx += a * a
        yy += b * b
        positive += 1.0 if value > 0 else 0.0
    return x_sum, y_sum, xx, yy, 0.0, positive


@compile_reordered
def _sums(x, x_first, y, y_first, length, x_pivot, y_pivot):
    """As :func:`_sums_of_relu`, of a given y, and with the sum of a·b."""
    x_sum = y_sum = xx = yy = xy = positive = 0.0
    for i in range(length):
        value = np.float64(y[np.uint64(y_first + i)])
        a, b = np.float64(x[np.uint64(x_first + i)]) - x_pivot, value - y_pivot
        x_sum += a
        y_sum += b
        xx += a * a
        yy += b * b
        xy += a * b
        positive += 1.0 if value > 0 else 0.0
    return x_sum, y_sum, xx, yy, xy, positive


@compile_inline
def _moments_about(x, x_first, y, y_first, length, x_pivot, y_pivot):
    """As :func:`_moments`, and whether the pivots were near enough to the means."""
    if y is None:
        sums = _sums_of_relu(x, x_first, length, x_pivot, y_pivot)
    else:
        sums = _sums(x, x_first, y, y_first, length, x_pivot, y_pivot)
    x_sum, y_sum, xx, yy, xy, positive = sums
    inverse = 1 / length
    x_near, y_near = x_sum * inverse, y_sum * inverse
    xx, yy = max(xx - x_sum * x_near, 0.0), max(yy - y_sum * y_near, 0.0)
    x_mean, y_mean = x_pivot + x_near, y_pivot + y_near
    if y is None:  # Σxy = Σy², because x = y or y = 0
        xy = yy + length * (y_mean * (y_mean - x_mean))
    else:
        xy -= x_sum * y_near
    near = x_sum * x_near <= _LARGE_MEAN * xx and y_sum * y_near <= _LARGE_MEAN * yy
    return (x_mean, y_mean, xx, yy, xy, positive), near


@compile_inline
def _moments(x, x_first, y, y_first, length):
    """Means, M2 and Σ(x − mean)·(y − mean) of a line, and the number of y > 0; NaN or Inf."""
    moments, near = _moments_about(x, x_first, y, y_first, length, 0.0, 0.0)
    if not near and np.isfinite(moments[2] + moments[3]):
        about = moments[0], moments[1]
        moments, _ = _moments_about(x, x_first, y, y_first, length, *about)
    return moments


@compile_inline
def _write_pair(x, first, second, length, first_mean, second_mean, rectify, out, to):
    """Write x − mean of two lines, value by value in turn; the mean has twice the digits of x.

    Args:
        x: memory.
        first: where a line begins.
        second: likewise.
        length: of both.
        first_mean: of the first.
        second_mean: of the second.
        rectify: of ReLU(x) instead of x.
        out: memory, written to.
        to: from here on.
    """
    a_high, b_high = out.dtype.type(first_mean), out.dtype.type(second_mean)
    a_low, b_low = out.dtype.type(first_mean - a_high), out.dtype.type(second_mean - b_high)
    zero = out.dtype.type(0)
    for i in range(length):
        a, b = x[np.uint64(first + i)], x[np.uint64(second + i)]
        if rectify:
            a, b = max(a, zero), max(b, zero)
        out[np.uint64(to + 2 * i)] = (a - a_high) - a_low
        out[np.uint64(to + 2 * i + 1)] = (b - b_high) - b_low


@compile_exactly
def _finite_moments(x, first, length, rectify):
    """Mean, M2, number > 0 and number of the finite values."""
    finite = total = positive = m2 = 0.0
    for i in range(first, first + length):
        value = 0.0 if rectify and x[i] < 0 else np.float64(x[i])
        if np.isfinite(value):
            finite += 1.0
            total += value
            positive += 1.0 if value > 0 else 0.0
    mean = total / max(finite, 1.0)
    for i in range(first, first + length):
        value = 0.0 if rectify and x[i] < 0 else np.float64(x[i])
        if np.isfinite(value):
            m2 += (value - mean) * (value - mean)
    return mean, m2, positive, finite


@compile_exactly
def _finite_output(x, x_first, y, y_first, length):
    """As :func:`_finite_moments`, of the output."""
    if y is None:
        return _finite_moments(x, x_first, length, 1)
    return _finite_moments(y, y_first, length, 0)


@compile_inline
def _add_line(sums, f, line, length):
    """Sums of the first f lines of an input, and of one more: those of all values so far.

    Args:
        sums: mean of x, mean of y, M2 of x, M2 of y, product of the deviations, number of y > 0,
            and sums of the squared means of x and of y and of their products.
        f: number of lines before.
        line: as :func:`_moments` returns them.
        length: of the lines.
    """
    x_mean, y_mean, xx, yy, xy, positive, means_xx, means_yy, means_xy = sums
    x, y = line[X_MEAN], line[Y_MEAN]
    a, b = x - x_mean, y - y_mean
    if f == 0:
        x_mean, y_mean = x, y
    else:
        x_mean += a / (f + 1)
        y_mean += b / (f + 1)
    return (
        x_mean,
        y_mean,
        xx + (line[X_M2] + length * (a * (x - x_mean))),
        yy + (line[Y_M2] + length * (b * (y - y_mean))),
        xy + (line[XY] + length * (a * (y - y_mean))),
        positive + line[Y_POSITIVE],
        means_xx + x * x,
        means_yy + y * y,
        means_xy + x * y,
    )


_NO_SUMS = (0.0,) * 9


@compile_inline
def _add_input(x, x_first, y, y_first, values, sums, of_channels, c, table, channel):
    """Add an input of a channel; returns whether it is finite on both sides."""
    x_mean, y_mean, xx, yy, xy, positive, _, _, _ = sums
    if np.isfinite(xx + yy):
        add_input(of_channels, np.uint64(c), x_mean, y_mean, xx, yy, xy, positive)
        return True
    x_moments = _finite_moments(x, x_first, values, 0)
    y_moments = _finite_output(x, x_first, y, y_first, values)
    add_incomplete(table, channel, values, x_moments, y_moments)
    return False


@compile_inline
def _add_means(job, channel, sums):
    """Add the products of the means of the lines of an input, if they are wanted."""
    if not job.means:
        return
    means = array_at(job.means, (MEAN_ROWS, job.table_channels), np.float64)
    means[INPUTS, channel] += 1.0
    means[MEANS_XX, channel] += sums[6]
    means[MEANS_YY, channel] += sums[7]
    means[MEANS_XY, channel] += sums[8]


@compile_exactly
def _write_fields(fields, number, line, x, x_first, y, y_first, length):
    """Write the moments of one line, or of the finite values in it."""
    if np.isfinite(line[X_M2] + line[Y_M2]):
        for field in range(X_FINITE):
            fields[field, number] = line[field]
        fields[X_FINITE, number] = fields[Y_FINITE, number] = length
        return
    mean, m2, _, finite = _finite_moments(x, x_first, length, 0)
    fields[X_MEAN, number], fields[X_M2, number], fields[X_FINITE, number] = mean, m2, finite
    mean, m2, positive, finite = _finite_output(x, x_first, y, y_first, length)
    fields[Y_MEAN, number], fields[Y_M2, number], fields[Y_FINITE, number] = mean, m2, finite
    fields[XY, number], fields[Y_POSITIVE, number] = 0.0, positive


class _Reading(ctypes.Structure):
    """Some channels of a batch: addresses of memory, or 0; strides and sizes in values.

    Attributes:
        x: the input, from the first value on; the lines of a channel follow each other.
        y: the output, likewise; ignored where it is ReLU(x).
        table: ``[TABLE_ROWS, table_channels]``, in the layout of `spectroscope.dsp.moments`.
        means: ``[MEAN_ROWS, table_channels]``, likewise, of the chosen inputs.
        out: ``[c, 2, pairs, f, T, 2]``, of the chosen inputs.
        fields: ``[LINE_FIELDS, c, m, f]``, likewise.
        samples: n.
        lines: f, of an input and channel.
        length: T, of a line.
        start: number of the first of the m chosen inputs.
        step: from one to the next.
        table_channel: the first of the channels in `table` and `means`.
    """

    _fields_ = fields_of(
        *BLOCKS, "x", "x_sample", "x_channel", "y", "y_sample", "y_channel", "table", "means", "out",
        "fields", "samples", "lines", "length", "start", "step", "table_channel",
        "table_channels",
    )  # fmt: skip


@compile_exactly
def _read_pairs(job, x, y, table, of_channels, first_channel, channels):
    """Read the chosen inputs of some channels, two at a time, and write their lines."""
    lines, length, values = job.lines, job.length, job.lines * job.length
    chosen = (job.samples - job.start + job.step - 1) // job.step
    pairs = (chosen + 1) // 2
    size = 2 * values  # of a pair of inputs
    fields = array_at(job.fields, (LINE_FIELDS, job.channels * chosen * lines), np.float64)
    out = array_at(job.out, (2 * job.channels * pairs * size,), x.dtype)
    for pair in range(pairs):
        n = job.start + 2 * pair * job.step
        whole = n + job.step < job.samples
        step = job.step if whole else 0  # a last input without another is read twice
        for c in range(channels):
            at = first_channel + c
            channel = np.uint64(job.table_channel + at)
            x_first, y_first = n * job.x_sample + at * job.x_channel, 0
            x_second, y_second = x_first + step * job.x_sample, 0
            if y is not None:
                y_first = n * job.y_sample + at * job.y_channel
                y_second = y_first + step * job.y_sample
            x_out = (2 * at * pairs + pair) * size
            y_out = x_out + pairs * size
            a = b = _NO_SUMS
            for f in range(lines):
                to = f * length
                first = _moments(x, x_first + to, y, y_first + to, length)
                second = _moments(x, x_second + to, y, y_second + to, length)
                a, b = _add_line(a, f, first, length), _add_line(b, f, second, length)
                _write_pair(
                    x, x_first + to, x_second + to, length, first[X_MEAN], second[X_MEAN], False,
                    out, x_out + 2 * to,
                )  # fmt: skip
                if y is None:
                    _write_pair(
                        x, x_first + to, x_second + to, length, first[Y_MEAN], second[Y_MEAN], True,
                        out, y_out + 2 * to,
                    )  # fmt: skip
                else:
                    _write_pair(
                        y, y_first + to, y_second + to, length, first[Y_MEAN], second[Y_MEAN],
                        False, out, y_out + 2 * to,
                    )  # fmt: skip
                if job.fields:
                    number = (at * chosen + 2 * pair) * lines + f
                    _write_fields(fields, number, first, x, x_first + to, y, y_first + to, length)
                    if whole:
                        number += lines
                        second_at = x_second + to, y, y_second + to
                        _write_fields(fields, number, second, x, *second_at, length)
            # The input alone, so that the order is that of the inputs.
            if _add_input(x, x_first, y, y_first, values, a, of_channels, c, table, channel):
                _add_means(job, channel, a)
            else:
                _clear(out, x_out, y_out, 0, values)
            if not whole:
                _clear(out, x_out, y_out, 1, values)
            elif _add_input(x, x_second, y, y_second, values, b, of_channels, c, table, channel):
                _add_means(job, channel, b)
            else:
                _clear(out, x_out, y_out, 1, values)


@compile_exactly
def _clear(out, x_out, y_out, part, values):
    """Write 0 to one input of a pair, on both sides."""
    for i in range(values):
        out[np.uint64(x_out + 2 * i + part)] = 0
        out[np.uint64(y_out + 2 * i + part)] = 0


@compile_exactly
def _read_others(job, x, y, table, of_channels, first_channel, channels):
    """Read the inputs of some channels that aren't chosen."""
    lines, length, values = job.lines, job.length, job.lines * job.length
    for n in range(job.samples):
        if n >= job.start and (n - job.start) % job.step == 0:
            continue
        for c in range(channels):
            at = first_channel + c
            x_first, y_first = n * job.x_sample + at * job.x_channel, 0
            if y is not None:
                y_first = n * job.y_sample + at * job.y_channel
            sums = _NO_SUMS
            for f in range(lines):
                to = f * length
                line = _moments(x, x_first + to, y, y_first + to, length)
                sums = _add_line(sums, f, line, length)
            channel = np.uint64(job.table_channel + at)
            _add_input(x, x_first, y, y_first, values, sums, of_channels, c, table, channel)


@compile_inline
def _read(record, dtype, y_dtype):
    """Read blocks of channels until none is left."""
    job = numba.carray(record, 1)[0]
    size = 1 << 62  # of the activation: strides say where its values are
    x, y = array_at(job.x, size, dtype), array_at(job.y, size, y_dtype)
    table = array_at(job.table, (TABLE_ROWS, job.table_channels), np.float64)
    while True:
        first = next_block(record) * job.block
        if first >= job.channels:
            break
        channels = min(job.block, job.channels - first)
        of_channels = np.zeros((CHANNEL_SUMS, channels))
        if job.out:
            _read_pairs(job, x, y, table, of_channels, first, channels)
        if not job.out or job.step > 1 or job.start > 0:
            _read_others(job, x, y, table, of_channels, first, channels)
        add_channels(table, job.table_channel + first, of_channels, job.lines * job.length)


def _read_relu_32(record):
    _read(record, np.float32, None)


def _read_relu_64(record):
    _read(record, np.float64, None)


def _read_both_32(record):
    _read(record, np.float32, np.float32)


def _read_both_64(record):
    _read(record, np.float64, np.float64)


_LOOPS = {
    (torch.float32, True): _read_relu_32,
    (torch.float64, True): _read_relu_64,
    (torch.float32, False): _read_both_32,
    (torch.float64, False): _read_both_64,
}
# Blocks of channels for each thread, so that one which is disturbed takes fewer.
_BLOCKS_OF_THREAD = 4
# Values of an activation below which a second thread doesn't pay, and which lie next to each other
# in memory and are read together.
_SMALLEST, _RUN = 1 << 17, 1 << 12


def read_lines(
    x: Tensor,
    y: Tensor | None,
    lines: int,
    chosen: range,
    channel: int,
    table: Tensor,
    means: Tensor | None,
    fields: Tensor | None,
    out: Tensor | None,
) -> None:
    """See :func:`spectroscope.dsp.kernels.dispatch.read_lines`.

    The values of each input and channel are contiguous, and of both sides of one type.
    """
    samples, channels = x.shape[:2]
    values = x.numel() // (samples * channels)
    threads = torch.get_num_threads() if x.numel() >= _SMALLEST else 1
    block = max(-(-channels // (threads * _BLOCKS_OF_THREAD)), _RUN // values)
    block = min(block, -(-channels // threads))
    start = samples if out is None else chosen.start
    job = _Reading(
        0, block, channels, x.data_ptr(), *x.stride()[:2],
        *((0, 0, 0) if y is None else (y.data_ptr(), *y.stride()[:2])), table.data_ptr(),
        *(0 if tensor is None else tensor.data_ptr() for tensor in (means, out, fields)),
        samples, lines, values // lines, start, chosen.step, channel, table.shape[1],
    )  # fmt: skip
    run(c_function(_LOOPS[x.dtype, y is None], _Reading), job, threads)
