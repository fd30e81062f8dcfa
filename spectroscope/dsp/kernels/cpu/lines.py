"""Both sides of an activation in one reading: moments, and the lines without their means.

A line is a run of values next to each other in memory. What is left without its mean is written
from the cache. Lines to be transformed are written in pairs, as
:class:`spectroscope.dsp.spectra.Transform` takes them.
"""

import ctypes

import numba
import numpy as np
import torch
from torch import Tensor

from spectroscope.dsp.kernels.cpu.compilation import (
    BLOCKS,
    c_function,
    compile_exactly,
    compile_inline,
    fields_of,
    next_block,
    pointer,
)
from spectroscope.dsp.kernels.cpu.moments import (
    NO_SUMS,
    add_line,
    finite_moments,
    finite_output,
    moments_of,
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


@compile_inline
def _chosen(job):
    """Number of the chosen inputs."""
    return (job.samples - job.start + job.step - 1) // job.step if job.out else 0


@compile_exactly
def _write_fields(job, number, at, line, x, x_first, y, y_first):
    """Write the moments of one line of a channel, or of the finite values in it."""
    of_channel = _chosen(job) * job.lines
    fields = numba.carray(pointer(job.fields), (LINE_FIELDS, job.channels * of_channel), np.float64)
    k, length = np.uint64(at * of_channel + number), job.length
    if np.isfinite(line[X_M2] + line[Y_M2]):
        for field in range(X_FINITE):
            fields[field, k] = line[field]
        fields[X_FINITE, k] = fields[Y_FINITE, k] = length
        return
    mean, m2, _, finite = finite_moments(x, x_first, length, 0)
    fields[X_MEAN, k], fields[X_M2, k], fields[X_FINITE, k] = mean, m2, finite
    mean, m2, positive, finite = finite_output(x, x_first, y, y_first, length)
    fields[Y_MEAN, k], fields[Y_M2, k], fields[Y_FINITE, k] = mean, m2, finite
    fields[XY, k], fields[Y_POSITIVE, k] = 0.0, positive


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
        *BLOCKS, "x", "x_sample", "x_channel", "y", "y_sample", "y_channel", "table", "means",
        "out", "fields", "samples", "lines", "length", "start", "step", "table_channel",
        "table_channels",
    )  # fmt: skip


@compile_exactly
def _clear(out, x_out, y_out, part, values):
    """Write 0 to one input of a pair, on both sides."""
    for i in range(values):
        out[np.uint64(x_out + 2 * i + part)] = 0
        out[np.uint64(y_out + 2 * i + part)] = 0


@compile_inline
def _read_inputs(job, x, y, n, count, at, is_chosen, m, table, of_channels, c, means):
    """Read some inputs of one channel; returns which of them are finite on both sides.

    Args:
        job: what is read.
        x: memory.
        y: likewise.
        n: the first input.
        count: 1, or 2 that are chosen one after another.
        at: the channel.
        is_chosen: whether `means` and `fields` of the job are added to.
        m: number of the first among the chosen.
        table: added to.
        of_channels: sums over inputs, added to.
        c: column of the channel in them.
        means: ``[2, 2, f]``, written to: means of each line on both sides, by input.
    """
    lines, length, values = job.lines, job.length, job.lines * job.length
    channel = np.uint64(job.table_channel + at)
    finite = (False, False)
    for part in range(count):
        x_first = (n + part * job.step) * job.x_sample + at * job.x_channel
        y_first = (n + part * job.step) * job.y_sample + at * job.y_channel
        sums = NO_SUMS
        for f in range(lines):
            x_line, y_line = x_first + f * length, y_first + f * length
            line = moments_of(x, x_line, y, y_line, length)
            sums = add_line(sums, f, line, length)
            means[part, 0, f], means[part, 1, f] = line[X_MEAN], line[Y_MEAN]
            if is_chosen and job.fields:
                _write_fields(job, (m + part) * lines + f, at, line, x, x_line, y, y_line)
        x_mean, y_mean, xx, yy, xy, positive, means_xx, means_yy, means_xy = sums
        if np.isfinite(xx + yy):
            finite = (True, finite[1]) if part == 0 else (finite[0], True)
            add_input(of_channels, np.uint64(c), x_mean, y_mean, xx, yy, xy, positive)
            if is_chosen and job.means:
                products = numba.carray(
                    pointer(job.means), (MEAN_ROWS, job.table_channels), np.float64
                )
                products[INPUTS, channel] += 1.0
                products[MEANS_XX, channel] += means_xx
                products[MEANS_YY, channel] += means_yy
                products[MEANS_XY, channel] += means_xy
        else:
            x_moments = finite_moments(x, x_first, values, 0)
            y_moments = finite_output(x, x_first, y, y_first, values)
            add_incomplete(table, job.table_channel + at, values, x_moments, y_moments)
    return finite


@compile_inline
def _write_lines(job, x, y, n, count, at, pair, finite, means):
    """Write the lines of one or two inputs of one channel."""
    lines, length, values = job.lines, job.length, job.lines * job.length
    pairs = (_chosen(job) + 1) // 2
    out = numba.carray(pointer(job.out), (4 * job.channels * pairs * values,), x.dtype)
    x_out = (2 * at * pairs + pair) * 2 * values
    y_out = x_out + pairs * 2 * values
    first = n * job.x_sample + at * job.x_channel
    # A last input without another is written twice, and cleared.
    step = job.step * job.x_sample if count == 2 else 0
    for f in range(lines):
        to = f * length
        a, b = first + to, first + to + step
        x_means = means[0, 0, f], means[count - 1, 0, f]
        _write_pair(x, a, b, length, x_means[0], x_means[1], False, out, x_out + 2 * to)
        y_means = means[0, 1, f], means[count - 1, 1, f]
        if y is None:
            _write_pair(x, a, b, length, y_means[0], y_means[1], True, out, y_out + 2 * to)
        else:
            a = n * job.y_sample + at * job.y_channel + to
            b = a + (job.step * job.y_sample if count == 2 else 0)
            _write_pair(y, a, b, length, y_means[0], y_means[1], False, out, y_out + 2 * to)
    if not finite[0]:
        _clear(out, x_out, y_out, 0, values)
    if not finite[1]:
        _clear(out, x_out, y_out, 1, values)


@compile_exactly
def _read(record, dtype, y_dtype):
    """Read blocks of channels until none is left: first the chosen inputs, in pairs."""
    job = numba.carray(record, 1)[0]
    size = 1 << 62  # of the activation: strides say where its values are
    x = numba.carray(pointer(job.x), size, dtype)
    y = None if y_dtype is None else numba.carray(pointer(job.y), size, y_dtype)
    table = numba.carray(pointer(job.table), (TABLE_ROWS, job.table_channels), np.float64)
    means = np.empty((2, 2, job.lines))
    chosen = _chosen(job)
    pairs = (chosen + 1) // 2
    while True:
        first = next_block(record) * job.block
        if first >= job.channels:
            break
        channels = min(job.block, job.channels - first)
        of_channels = np.zeros((CHANNEL_SUMS, channels))
        for number in range(pairs + job.samples):
            is_chosen, n, m, count = number < pairs, number - pairs, 2 * number, 1
            if is_chosen:
                n, count = job.start + m * job.step, min(chosen - m, 2)
            elif chosen and n >= job.start and (n - job.start) % job.step == 0:
                continue
            for c in range(channels):
                at = first + c
                finite = _read_inputs(
                    job, x, y, n, count, at, is_chosen, m, table, of_channels, c, means
                )
                if is_chosen:
                    _write_lines(job, x, y, n, count, at, number, finite, means)
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
