"""Products of the spectra of both sides."""

import ctypes

import numba
import numpy as np
import torch
from torch import Tensor

from spectroscope.dsp.kernels.cpu.compilation import (
    BLOCKS,
    c_function,
    compile_exactly,
    compile_reordered,
    fields_of,
    next_block,
    pointer,
)
from spectroscope.dsp.kernels.parallel import run
from spectroscope.dsp.moments import MEAN_ROWS, MEANS_XX, MEANS_XY, MEANS_YY

# Real and imaginary parts whose sums stay in the nearest cache.
_BLOCK = 1024


@compile_reordered
def _add_one(parts, x, y, length, sums):
    """Add squares and products of the parts of one spectrum of each side, from x and y on."""
    for i in range(length):
        k = np.uint64(i)
        a, b = np.float64(parts[np.uint64(x + i)]), np.float64(parts[np.uint64(y + i)])
        sums[0, k] += a * a
        sums[1, k] += b * b
        sums[2, k] += a * b


@compile_reordered
def _add_four(parts, x, y, step, length, sums):
    """As :func:`_add_one`, of four spectra: sums are read and written a fourth of the times."""
    for i in range(length):
        k, p, q = np.uint64(i), np.uint64(x + i), np.uint64(y + i)
        one, two, three = np.uint64(step), np.uint64(2 * step), np.uint64(3 * step)
        a, b = np.float64(parts[p]), np.float64(parts[p + one])
        c, d = np.float64(parts[p + two]), np.float64(parts[p + three])
        e, f = np.float64(parts[q]), np.float64(parts[q + one])
        g, h = np.float64(parts[q + two]), np.float64(parts[q + three])
        sums[0, k] += a * a + b * b + c * c + d * d
        sums[1, k] += e * e + f * f + g * g + h * h
        sums[2, k] += a * e + b * f + c * g + d * h


@compile_reordered
def _add_imaginary(parts, x, y, length, sums):
    """Add the imaginary part of conj(x)·y to the sums of even index.

    Those of odd index are of no use. A loop over pairs alone would be vectorised with shuffles,
    which take longer.
    """
    for i in range(length - 1):
        k, at, to = np.uint64(i), np.uint64(x + i), np.uint64(y + i)
        after, behind = np.uint64(x + i + 1), np.uint64(y + i + 1)
        a, b = np.float64(parts[at]), np.float64(parts[to])
        c, d = np.float64(parts[after]), np.float64(parts[behind])
        sums[k] += a * d - c * b


class _Products(ctypes.Structure):
    """Addresses of memory, or 0, and sizes.

    Attributes:
        spectra: ``[c, 2, count, F, 2]``, real and imaginary parts.
        bins: ``[F]``, bin of each component.
        signs: ``[F]``, of its imaginary part in conj(X)·Y; 0: imaginary parts aren't needed.
        max_norm_bins: ``[F]``, likewise; 0: there are none.
        power: float64, ``[2, C, B]``, added to: |X|² and |Y|².
        cross: float64, ``[C, B, 2]``, added to: conj(X)·Y.
        max_norm: float64, ``[C, S]``, added to: |Y|² in max-norm bins.
        count: number of spectra of a channel and side.
        components: F.
        channel: the first of the c channels among C.
        all_channels: C.
        power_bins: B.
        norm_bins: S.
    """

    _fields_ = fields_of(
        *BLOCKS, "spectra", "bins", "signs", "max_norm_bins", "power", "cross", "max_norm", "count",
        "components", "channel", "all_channels", "power_bins", "norm_bins",
    )  # fmt: skip


@compile_exactly
def _add_channel(job, spectra, c, work, sums):
    """Add the products of one channel."""
    count, parts = job.count, 2 * job.components
    bins = numba.carray(pointer(job.bins), job.components, np.int64)
    signs = numba.carray(pointer(job.signs), job.components, np.float64)
    max_norm_bins = numba.carray(pointer(job.max_norm_bins), job.components, np.int64)
    power = numba.carray(pointer(job.power), (2, job.all_channels, job.power_bins), np.float64)
    cross = numba.carray(pointer(job.cross), (job.all_channels, job.power_bins, 2), np.float64)
    max_norm = numba.carray(pointer(job.max_norm), (job.all_channels, job.norm_bins), np.float64)
    to = job.channel + c
    sums[:] = 0
    for first in range(0, parts, _BLOCK):
        length = min(_BLOCK, parts - first)
        x = 2 * c * count * parts + first
        y = x + count * parts
        for row in range(4):
            for k in range(length):
                work[row, np.uint64(k)] = 0
        for m in range(0, count - count % 4, 4):
            _add_four(spectra, x + m * parts, y + m * parts, parts, length, work)
        for m in range(count - count % 4, count):
            _add_one(spectra, x + m * parts, y + m * parts, length, work)
        if job.signs:
            for m in range(count):
                _add_imaginary(spectra, x + m * parts, y + m * parts, length, work[3])
        for k in range(length // 2):
            component, re, im = np.uint64(first // 2 + k), np.uint64(2 * k), np.uint64(2 * k + 1)
            b = np.uint64(bins[component])
            output = work[1, re] + work[1, im]
            sums[b, 0] += work[0, re] + work[0, im]
            sums[b, 1] += output
            sums[b, 2] += work[2, re] + work[2, im]
            if job.signs:
                sums[b, 3] += signs[component] * work[3, re]
            if job.max_norm_bins:
                max_norm[to, np.uint64(max_norm_bins[component])] += output
    for b in range(job.power_bins):
        power[0, to, b] += sums[b, 0]
        power[1, to, b] += sums[b, 1]
        cross[to, b, 0] += sums[b, 2]
        cross[to, b, 1] += sums[b, 3]


@compile_exactly
def _add_products(record, dtype):
    """Add blocks of channels until none is left."""
    job = numba.carray(record, 1)[0]
    size = 4 * job.channels * job.count * job.components
    spectra, work = numba.carray(pointer(job.spectra), size, dtype), np.empty((4, _BLOCK))
    sums = np.empty((job.power_bins, 4))
    while True:
        first = next_block(record) * job.block
        if first >= job.channels:
            break
        for c in range(first, min(first + job.block, job.channels)):
            _add_channel(job, spectra, c, work, sums)


def _add_products_32(record):
    _add_products(record, np.float32)


def _add_products_64(record):
    _add_products(record, np.float64)


_LOOPS = {torch.complex64: _add_products_32, torch.complex128: _add_products_64}
# Values of spectra below which a second thread doesn't pay.
_SMALLEST = 1 << 17


def add_products(
    spectra: Tensor,
    bins: Tensor,
    signs: Tensor | None,
    max_norm_bins: Tensor | None,
    channel: int,
    power: Tensor,
    cross: Tensor,
    max_norm: Tensor,
) -> None:
    """Add |X|², |Y|² and conj(X)·Y over spectra, and over the components of each bin.

    Args:
        spectra: complex, ``[c, 2, ..., F]``, contiguous, of both sides.
        bins: int64, ``[F]``, bin of each component.
        signs: float64, ``[F]``, of its imaginary part in conj(X)·Y; None: that isn't needed.
        max_norm_bins: int64, ``[F]``; None: there are none.
        channel: the first of the c channels among C.
        power: float64, ``[2, C, B]``, contiguous, added to: |X|² and |Y|².
        cross: complex128, ``[C, B]``, contiguous, added to: conj(X)·Y.
        max_norm: float64, ``[C, S]``, contiguous, added to: |Y|² in max-norm bins.
    """
    channels, components = len(spectra), spectra.shape[-1]
    threads = torch.get_num_threads() if spectra.numel() >= _SMALLEST else 1
    job = _Products(
        0, -(-channels // threads), channels, spectra.data_ptr(), bins.data_ptr(),
        *(0 if tensor is None else tensor.data_ptr() for tensor in (signs, max_norm_bins)),
        power.data_ptr(), cross.data_ptr(), max_norm.data_ptr(),
        spectra.numel() // (2 * channels * components), components,
        channel, power.shape[1], power.shape[2], max_norm.shape[1],
    )  # fmt: skip
    run(c_function(_LOOPS[spectra.dtype], _Products), job, threads)


class _Scaling(ctypes.Structure):
    """The arguments of :func:`scale_products`: addresses of memory, and sizes."""

    _fields_ = fields_of(
        "power", "cross", "max_norm", "means", "channels", "bins", "norm_bins", "lines",
        "points",
    )  # fmt: skip


def _scale_products(record):
    job = numba.carray(record, 1)[0]
    power = numba.carray(pointer(job.power), (2, job.channels, job.bins), np.float64)
    cross = numba.carray(pointer(job.cross), (job.channels, 2 * job.bins), np.float64)
    max_norm = numba.carray(pointer(job.max_norm), (job.channels, job.norm_bins), np.float64)
    means = numba.carray(pointer(job.means), (MEAN_ROWS, job.channels), np.float64)
    scale = 1 / (job.lines * job.points**2)
    for c in range(job.channels):
        for row in (power[0, c], power[1, c], cross[c], max_norm[c]):
            for b in range(row.size):
                row[np.uint64(b)] *= scale
        x, y = means[MEANS_XX, c] / job.lines, means[MEANS_YY, c] / job.lines
        power[0, c, 0], power[1, c, 0] = x, y
        cross[c, 0], cross[c, 1] = means[MEANS_XY, c] / job.lines, 0.0
        if job.norm_bins:
            max_norm[c, 0] = y


def scale_products(
    power: Tensor, cross: Tensor, max_norm: Tensor, means: Tensor, lines: int, points: int
) -> None:
    """See :func:`spectroscope.dsp.kernels.dispatch.scale_products`; all contiguous."""
    addresses = (tensor.data_ptr() for tensor in (power, cross, max_norm, means))
    sizes = power.shape[1], power.shape[2], max_norm.shape[1]
    run(c_function(_scale_products, _Scaling), _Scaling(*addresses, *sizes, lines, points), 1)
