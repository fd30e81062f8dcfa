"""Both sides of a ReLU in one reading: loops that numba compiles, for the CPU.

torch would convert an activation to float64 in memory, and pass over that once for each sum. Here
it is read once, as it is, and what is added is added in float64. Only `rows`
imports this, when there is something to reduce: to load numba takes a third of a second, and to
compile, on a machine's first use, a few; what was compiled is kept on disk.

Indices are unsigned, for of one that might be negative numba asks each time whether it is, and
then nothing is vectorised. Sums may be reordered, but NaN and infinity are as they are.
"""

import functools

import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from spectroscope.dsp.moments import CANCELLATION

Array = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float64).max)
# Values added up at a time. Sums of sums, for to add 10⁶ numbers one by one would lose digits; and
# not only by chance: squares of float32 end in the same bits (an odd number's is 1 modulo 8), so
# that a sum eight times as long as this rounds down most times.
_PIECE = 512
_COLUMN = 128  # likewise, of one channel of many that are added up abreast, in one sum each
# Channels at a time where they lie side by side.
_ABREAST = 256

_compiled = numba.njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"}
)
# Where a mean is taken out first, to reorder would undo that.
_compiled_exactly = numba.njit(nogil=True, cache=True, error_model="numpy")


def _sturdy(loop):
    """The same, compiled without a cache where that is damaged, or full.

    Only then can there be an exception, before anything has run: the loops raise none.
    """

    @functools.wraps(loop)
    def call(*arguments):
        try:
            return loop(*arguments)
        except Exception:
            for dispatcher in _dispatchers:
                dispatcher._cache = NullCache()
            return loop(*arguments)

    return call


@_compiled
def _sums(values):
    """Σx, Σx², Σy, Σy² and the number of y > 0, where y is ReLU(x)."""
    x_sum = x_square = y_sum = y_square = positive = 0.0
    for i in range(values.size):
        x = np.float64(values[np.uint64(i)])
        y = max(x, 0.0)
        x_sum += x
        x_square += x * x
        y_sum += y
        y_square += y * y
        positive += 1.0 if x > 0 else 0.0
    return x_sum, x_square, y_sum, y_square, positive


@_compiled_exactly
def _plus(total, rest, value):
    """Σ + value, and what rounding has left out of Σ so far (Neumaier, *ZAMM* 54, 1974)."""
    found = total + value
    if abs(total) >= abs(value):
        return found, rest + ((total - found) + value)
    return found, rest + ((value - found) + total)


@_compiled_exactly
def _moments(out, row, length, sums):
    """Write a row's moments to `out`; 1 if its sums don't tell them, and then M2 is NaN."""
    x_sum, x_square, y_sum, y_square, positive = sums
    x_mean, y_mean = x_sum / length, y_sum / length
    x_m2, y_m2 = x_square - x_mean * x_sum, y_square - y_mean * y_sum
    # So written that NaN is doubtful too, and a row of zeros isn't.
    clear = x_square <= x_m2 * CANCELLATION and y_square <= y_m2 * CANCELLATION
    clear = clear or (length == 1 and x_square <= _LARGEST)
    out[0, row], out[1, row] = x_mean, y_mean
    out[2, row], out[3, row] = x_m2, y_m2
    out[4, row] = positive
    if clear:
        return 0
    out[2, row] = np.nan
    return 1


@_sturdy
@_compiled_exactly
def lines(flat, shape, strides, begin, end, out):
    """Moments of rows whose values lie one after the other.

    Args:
        flat: the memory, from the first value on.
        shape: N, C, T.
        strides: of N, C and T in `flat`; the last is 1.
        begin: the first of the rows, of which there are N·C.
        end: the row after the last.
        out: ``[5, N·C]``: mean and M2 of both sides, and the number of values > 0.

    Returns:
        How many rows :func:`again` is to look at.
    """
    channels, length = shape[1], shape[2]
    doubtful = 0
    for row in range(begin, end):
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        x_sum = x_square = y_sum = y_square = positive = 0.0
        x_rest = x_square_rest = y_rest = y_square_rest = 0.0
        for piece in range(0, length, _PIECE):
            stop = min(piece + _PIECE, length)
            a, b, c, d, e = _sums(flat[start + piece : start + stop])
            x_sum, x_rest = _plus(x_sum, x_rest, a)
            x_square, x_square_rest = _plus(x_square, x_square_rest, b)
            y_sum, y_rest = _plus(y_sum, y_rest, c)
            y_square, y_square_rest = _plus(y_square, y_square_rest, d)
            positive += e
        sums = (
            x_sum + x_rest,
            x_square + x_square_rest,
            y_sum + y_rest,
            y_square + y_square_rest,
            positive,
        )
        doubtful += _moments(out, row, length, sums)
    return doubtful


@_compiled
def _abreast(one, two, three, four, sums):
    """Add four values of each of several channels to their sums ``[5, channels]``."""
    for i in range(one.size):
        at = np.uint64(i)
        a, b = np.float64(one[at]), np.float64(two[at])
        c, d = np.float64(three[at]), np.float64(four[at])
        sums[0, at] += a + b + c + d
        sums[1, at] += a * a + b * b + c * c + d * d
        e, f, g, h = max(a, 0.0), max(b, 0.0), max(c, 0.0), max(d, 0.0)
        sums[2, at] += e + f + g + h
        sums[3, at] += e * e + f * f + g * g + h * h
        first = (1.0 if a > 0 else 0.0) + (1.0 if b > 0 else 0.0)
        sums[4, at] += first + (1.0 if c > 0 else 0.0) + (1.0 if d > 0 else 0.0)


@_sturdy
@_compiled_exactly
def columns(flat, shape, strides, begin, end, out):
    """As :func:`lines`, where the channels lie side by side: the stride of C is 1.

    `begin` and `end` are of samples.
    """
    channels, length = shape[1], shape[2]
    doubtful = 0
    sums = np.empty((5, _ABREAST))
    total, rest = np.empty((5, _ABREAST)), np.empty((5, _ABREAST))
    nothing = np.zeros(_ABREAST, flat.dtype)
    for sample in range(begin, end):
        for first in range(0, channels, _ABREAST):
            count = min(_ABREAST, channels - first)
            total[:] = rest[:] = 0
            for piece in range(0, length, _COLUMN):
                sums[:] = 0
                stop = min(piece + _COLUMN, length)
                start = sample * strides[0] + piece * strides[2] + first
                for _ in range((stop - piece) // 4):
                    one = flat[start : start + count]
                    two = flat[start + strides[2] :][:count]
                    three = flat[start + 2 * strides[2] :][:count]
                    four = flat[start + 3 * strides[2] :][:count]
                    _abreast(one, two, three, four, sums)
                    start += 4 * strides[2]
                for _ in range((stop - piece) % 4):
                    one = flat[start : start + count]
                    _abreast(one, nothing, nothing, nothing, sums)
                    start += strides[2]
                for which in range(5):
                    for i in range(count):
                        total[which, i], rest[which, i] = _plus(
                            total[which, i], rest[which, i], sums[which, i]
                        )
            total += rest
            for i in range(count):
                found = (total[0, i], total[1, i], total[2, i], total[3, i], total[4, i])
                doubtful += _moments(out, sample * channels + first + i, length, found)
    return doubtful


@_compiled_exactly
def _centred(flat, start, stride, length, centre, rectified):
    """Number of finite values, and the sums of them and of their squares, less `centre`."""
    finite = total = square = 0.0
    for piece in range(0, length, _PIECE):
        piece_total = piece_square = 0.0
        for time in range(piece, min(piece + _PIECE, length)):
            x = np.float64(flat[start + time * stride])
            if rectified and x < 0:
                x = 0.0
            if abs(x) <= _LARGEST:
                finite += 1
                piece_total += x - centre
                piece_square += (x - centre) * (x - centre)
        total += piece_total
        square += piece_square
    return finite, total, square


@_sturdy
@_compiled_exactly
def again(flat, shape, strides, begin, end, out, more):
    """Moments of the finite values of those rows of which :func:`lines` was in doubt.

    Twice over each, the mean taken out first: as :func:`spectroscope.dsp.moments.row_moments`.

    Args:
        flat: see :func:`lines`.
        shape: likewise.
        strides: likewise, but none of them need be 1.
        begin: likewise.
        end: likewise.
        out: likewise, and what it wrote there.
        more: ``[4, N·C]``, of all rows: what rounding left out of either mean, and the number of
            finite values on either side.
    """
    channels, length = shape[1], shape[2]
    for row in range(begin, end):
        more[0, row] = more[1, row] = 0
        more[2, row] = more[3, row] = length
        if not np.isnan(out[2, row]):
            continue
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        for side in range(2):
            finite, total, _ = _centred(flat, start, strides[2], length, 0.0, side == 1)
            mean = total / max(finite, 1.0)
            _, rest, m2 = _centred(flat, start, strides[2], length, mean, side == 1)
            out[side, row], out[2 + side, row] = mean, m2
            more[side, row], more[2 + side, row] = rest / max(finite, 1.0), finite
        # What isn't finite doesn't count.
        positive = 0.0
        for time in range(length):
            x = np.float64(flat[start + time * strides[2]])
            positive += 1.0 if 0 < x <= _LARGEST else 0.0
        out[4, row] = positive
    return 0


@_compiled_exactly
def _over_samples(values, rests, weights, result):
    """Write weight, pivot, offset and M2 (see `Moments`) over ``[N, C]`` to `result` ``[4, C]``."""
    weight, pivot, offset, m2 = result[0], result[1], result[2], result[3]
    result[:] = 0
    for n in range(len(values)):
        for c in range(weight.size):
            weight[c] += weights[n, c]
            pivot[c] += weights[n, c] * values[n, c]
    for c in range(weight.size):
        pivot[c] /= max(weight[c], 1.0)
    for n in range(len(values)):
        for c in range(weight.size):
            offset[c] += weights[n, c] * ((values[n, c] - pivot[c]) + rests[n, c])
    for c in range(weight.size):
        offset[c] /= max(weight[c], 1.0)
    for n in range(len(values)):
        for c in range(weight.size):
            near = ((values[n, c] - pivot[c]) + rests[n, c]) - offset[c]
            m2[c] += weights[n, c] * (near * near)


@_sturdy
@_compiled_exactly
def fold(means, m2, positive, length, dc, sums, joint):
    """Sum moments of rows up into those of channels, where all values are finite.

    Args:
        means: ``[2, N, C]``, of the rows of either side.
        m2: likewise.
        positive: ``[N, C]``, number of values > 0 of the second side.
        length: of the rows.
        dc: ``[2, 2, 4, C]``, written to: moments of either side's means, counting each once, and
            as often as it has values.
        sums: ``[2, 3, C]``, written to: of M2, of `positive` and of what isn't finite.
        joint: ``[6, C]``, written to: the fields of `CoMoments`.
    """
    samples, channels = positive.shape
    sums[:] = 0
    dc[:] = 0
    x_pivot, y_pivot, x_offset, y_offset = dc[0, 0, 1], dc[1, 0, 1], dc[0, 0, 2], dc[1, 0, 2]
    x_square, y_square, product = dc[0, 0, 3], dc[1, 0, 3], joint[5]
    x_pivot[:], y_pivot[:], product[:] = means[0, 0], means[1, 0], 0
    x_within, y_within, active = sums[0, 0], sums[1, 0], sums[1, 1]
    for n in range(samples):
        x, y, x_m2, y_m2, above = means[0, n], means[1, n], m2[0, n], m2[1, n], positive[n]
        for c in range(channels):
            at = np.uint64(c)
            x_offset[at] += x[at] - x_pivot[at]
            y_offset[at] += y[at] - y_pivot[at]
            x_within[at] += x_m2[at]
            y_within[at] += y_m2[at]
            active[at] += above[at]
            product[at] += y[at] * (y[at] - x[at])  # as `relu_product`
    for c in range(channels):
        x_offset[c] /= samples
        y_offset[c] /= samples
        product[c] = y_within[c] + length * product[c]
    for n in range(samples):
        x, y = means[0, n], means[1, n]
        for c in range(channels):
            at = np.uint64(c)
            x_near = (x[at] - x_pivot[at]) - x_offset[at]
            y_near = (y[at] - y_pivot[at]) - y_offset[at]
            x_square[at] += x_near * x_near
            y_square[at] += y_near * y_near
            product[at] += length * (x_near * y_near)
    for side in range(2):
        for c in range(channels):
            dc[side, 0, 0, c] = samples
            dc[side, 1, 0, c] = samples * length
            dc[side, 1, 1, c] = dc[side, 0, 1, c]
            dc[side, 1, 2, c] = dc[side, 0, 2, c]
            dc[side, 1, 3, c] = dc[side, 0, 3, c] * length
            joint[1 + side, c] = dc[side, 0, 1, c] + dc[side, 0, 2, c]
            joint[3 + side, c] = sums[side, 0, c] + dc[side, 1, 3, c]
    joint[0] = samples * length


@_sturdy
@_compiled_exactly
def fold_finite(means, m2, positive, rests, finite, length, dc, sums, joint):
    """As :func:`fold`, where some values are not finite, or the means' `rests` matter.

    Args:
        means: see :func:`fold`.
        m2: likewise.
        positive: likewise.
        rests: ``[2, N, C]``, what rounding left out of the means.
        finite: likewise, number of finite values.
        length: see :func:`fold`.
        dc: likewise.
        sums: likewise.
        joint: likewise.
    """
    samples, channels = positive.shape
    sums[:] = 0
    joint[:] = 0
    weights = np.empty(positive.shape)
    for side in range(2):
        for n in range(samples):
            for c in range(channels):
                weights[n, c] = 1.0 if finite[side, n, c] > 0 else 0.0
        _over_samples(means[side], rests[side], weights, dc[side, 0])
        _over_samples(means[side], rests[side], finite[side], dc[side, 1])
    for n in range(samples):
        for c in range(channels):
            sums[0, 0, c] += m2[0, n, c]
            sums[1, 0, c] += m2[1, n, c]
            sums[1, 1, c] += positive[n, c]
            sums[0, 2, c] += length - finite[0, n, c]
            sums[1, 2, c] += length - finite[1, n, c]
            if min(finite[0, n, c], finite[1, n, c]) == length:
                joint[0, c] += length
                joint[1, c] += length * means[0, n, c]
                joint[2, c] += length * means[1, n, c]
    for c in range(channels):
        joint[1, c] /= max(joint[0, c], 1.0)
        joint[2, c] /= max(joint[0, c], 1.0)
    for n in range(samples):
        for c in range(channels):
            if min(finite[0, n, c], finite[1, n, c]) == length:
                x, y = means[0, n, c], means[1, n, c]
                a, b = x - joint[1, c], y - joint[2, c]
                joint[3, c] += m2[0, n, c] + length * (a * a)
                joint[4, c] += m2[1, n, c] + length * (b * b)
                # As `relu_product`.
                joint[5, c] += m2[1, n, c] + length * (y * (y - x) + a * b)


@_sturdy
@_compiled_exactly
def merge(mine, other, out):
    """Write two tables ``[28, C]`` as one, see :meth:`spectroscope.dsp.moments.Moments.merge`."""
    for c in range(mine.shape[1]):
        for row in range(0, 16, 4):
            one, two = mine[row, c], other[row, c]
            weight = one + two
            pivot = mine[row + 1, c] if one > 0 else other[row + 1, c]
            here = mine[row + 2, c] + (mine[row + 1, c] - pivot)
            there = other[row + 2, c] + (other[row + 1, c] - pivot)
            apart = there - here
            share = two / max(weight, 1.0)
            out[row, c], out[row + 1, c] = weight, pivot
            out[row + 2, c] = (one * here + two * there) / max(weight, 1.0)
            out[row + 3, c] = mine[row + 3, c] + other[row + 3, c] + apart * apart * (one * share)
        for row in range(16, 22):
            out[row, c] = mine[row, c] + other[row, c]
        one, two = mine[22, c], other[22, c]
        out[22, c] = one + two
        share = two / max(one + two, 1.0)
        x, y = other[23, c] - mine[23, c], other[24, c] - mine[24, c]
        out[23, c], out[24, c] = mine[23, c] + x * share, mine[24, c] + y * share
        out[25, c] = mine[25, c] + other[25, c] + x * x * (one * share)
        out[26, c] = mine[26, c] + other[26, c] + y * y * (one * share)
        out[27, c] = mine[27, c] + other[27, c] + x * y * (one * share)


@_sturdy
@_compiled_exactly
def products(x, y, whole, chunk, begin, end, sums, imaginary):
    """Add |X|², |Y|², Re conj(X)·Y and, if there is room for it, Im conj(X)·Y to sums over inputs.

    Args:
        x: ``[n, c, f, 2·F]``, real and imaginary parts in turn.
        y: likewise.
        whole: F.
        chunk: how many of the F to add up at a time: their sums stay in the nearest cache.
        begin: the first of c times the number of chunks.
        end: the one after the last.
        sums: ``[3, c, F]``.
        imaginary: ``[c, F]``, or with c = 0.
    """
    chunks = (whole + chunk - 1) // chunk
    for share in range(begin, end):
        c, first = share // chunks, (share % chunks) * chunk
        last = min(first + chunk, whole)
        xx, yy, xy = sums[0, c, first:last], sums[1, c, first:last], sums[2, c, first:last]
        for n in range(x.shape[0]):
            for f in range(x.shape[2]):
                a, b = x[n, c, f, 2 * first : 2 * last], y[n, c, f, 2 * first : 2 * last]
                for k in range(xx.size):
                    at = np.uint64(k)
                    real, imag = np.uint64(2 * k), np.uint64(2 * k + 1)
                    xx[at] += a[real] * a[real] + a[imag] * a[imag]
                    yy[at] += b[real] * b[real] + b[imag] * b[imag]
                    xy[at] += a[real] * b[real] + a[imag] * b[imag]
                if len(imaginary):
                    turned = imaginary[c, first:last]
                    for k in range(xx.size):
                        real, imag = np.uint64(2 * k), np.uint64(2 * k + 1)
                        turned[np.uint64(k)] += a[real] * b[imag] - a[imag] * b[real]
    return 0


@_sturdy
@_compiled_exactly
def widen(flat, shape, strides, begin, end, x, y):
    """Write rows as float64 to `x`, and their ReLU to `y`, both ``[N·C, T]``.

    The other arguments are those of :func:`lines`.
    """
    channels, length = shape[1], shape[2]
    for row in range(begin, end):
        start = (row // channels) * strides[0] + (row % channels) * strides[1]
        values, wide, rectified = flat[start : start + length], x[row], y[row]
        for i in range(values.size):
            at = np.uint64(i)
            value = np.float64(values[at])
            wide[at] = value
            # NaN stays what it is.
            rectified[at] = 0.0 if value <= 0.0 else value
    return 0


_dispatchers = [
    found
    for value in tuple(globals().values())
    for found in (value, getattr(value, "__wrapped__", None))
    if isinstance(found, Dispatcher)
]
