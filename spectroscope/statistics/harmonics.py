"""Amplitudes of harmonics on both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.harmonics import Harmonics, fit
from spectroscope.dsp.theory.tones import rectified_tone_dc
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays
from spectroscope.statistics.chunks import Chunk, ChunkedStatistic
from spectroscope.statistics.fundamentals import Fundamental

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall


# Rows of `HarmonicSums.fundamental`.
(
    INPUTS,  # number of inputs
    RESIDUAL_IN,  # power of the input without DC and fundamental
    RESIDUAL_OUT,  # power of the output without DC and fundamental
    TONE_DC,  # DC of the ReLU of the input's own DC plus fundamental
    OUTPUT_DC,  # DC of the output
) = range(5)


class HarmonicSums(NamedTuple):
    """Sums over inputs, float64.

    If the fundamental differs between inputs, a harmonic may be folded in some inputs only. Index 0
    of the `folded` axis has the inputs in which it isn't folded, index 1 those in which it is.

    Attributes:
        freq: ``[folded, K]``, frequencies after folding, in cycles per sample of the site, of the
            inputs whose fundamental is known.
        inputs: ``[folded, K]``, number of inputs in `freq`.
        counts: ``[folded, C, K]``, number of inputs in `squares`: those in which the harmonic is
            usable and both sides are finite.
        squares: ``[side, folded, C, K]``, squared amplitudes of input (0) and output (1).
        fundamental: ``[5, C]``, over the inputs in `counts` whose fundamental isn't folded: the
            rows named above.
    """

    freq: Tensor
    inputs: Tensor
    counts: Tensor
    squares: Tensor
    fundamental: Tensor


class HarmonicAmplitudes(ChunkedStatistic):
    """Amplitudes of harmonics on both sides, as :class:`HarmonicSums`.

    Inputs whose fundamental is unknown are left out, and so are activations with no or several
    transformed axes.

    Args:
        fundamental: of the inputs; None: unknown. May be replaced between batches.
        orders: K, number of harmonics.
        timed: leave out activations whose transformed axis isn't the time of the model's input.
    """

    name = "harmonics"
    layout = {
        "freq": (2, "K"),
        "inputs": (2, "K"),
        "counts": (2, "C", "K"),
        "squares": (2, 2, "C", "K"),
        "fundamental": (5, "C"),
    }

    def __init__(
        self, fundamental: Fundamental | None = None, orders: int = 8, *, timed: bool = False
    ):
        self.fundamental = fundamental or Fundamental(None, 1.0)
        self.orders = orders
        self._timed = timed

    def start(self, call: "ActivationCall") -> "Arrays | HarmonicsAccumulator":
        """See :class:`ChunkedStatistic`."""
        x = call.input
        if len(call.transformed) != 1:
            return {}
        time_lost = self._timed and not call.layout.is_time
        f0 = self.fundamental.at_site(math.nan if time_lost else call.decimation, len(x))
        if isinstance(f0, str):
            call.note(f0)
        length = x.shape[call.transformed[0]]
        return HarmonicsAccumulator(x, length, f0, self.orders) if isinstance(f0, Tensor) else {}

    def merged(self, first: Arrays, second: Arrays) -> Arrays:
        """See :meth:`Statistic.merged`.

        Raises:
            RequestError: the numbers of harmonics differ.
        """
        first_orders, second_orders = first["freq"].shape[1], second["freq"].shape[1]
        if first_orders != second_orders:
            raise RequestError(f"{first_orders} harmonics, then {second_orders}")
        return super().merged(first, second)


class HarmonicsAccumulator:
    """The sums of one batch.

    Args:
        x: ``[N, C, ...]``, for shape and device.
        length: T, of the transformed axis; means are taken over the other axes.
        f0: ``[N]``, or ``[1]`` for all inputs, in cycles per sample of the site; NaN: unknown.
        orders: K.
    """

    def __init__(self, x: Tensor, length: int, f0: Tensor, orders: int):
        # Asynchronous: the kernels that read f0 run later on the same stream.
        f0 = f0.to(x.device, non_blocking=x.is_cuda)
        self._harmonics = Harmonics.of(f0, orders, length)
        self._length = length
        folded, usable = self._harmonics.folded, self._harmonics.usable
        self._usable = torch.stack([usable & ~folded, usable & folded]).double()  # [2, N or 1, K]
        repeats = len(x) // len(folded)
        known = ~self._harmonics.f0.isnan().unsqueeze(-1)
        by_folding = torch.stack([known & ~folded, known & folded]).double()
        self._freq = (by_folding * self._harmonics.freq.nan_to_num(0)).sum(1) * repeats
        self._inputs = by_folding.sum(1) * repeats
        channels = x.shape[1]
        self._counts = x.new_zeros(2, channels, orders, dtype=torch.float64)
        self._squares = x.new_zeros(2, 2, channels, orders, dtype=torch.float64)
        self._fundamental = x.new_zeros(5, channels, dtype=torch.float64)

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        n, c, finite, means = chunk.inputs, chunk.channels, chunk.finite, chunk.means
        harmonics, usable = self._harmonics, self._usable
        if len(harmonics.f0) > 1:
            harmonics = Harmonics(*(tensor[n] for tensor in harmonics))
            usable = usable[:, n]
        if finite is None:
            finite = torch.ones_like(means[0], dtype=torch.bool)  # [n, c]
        counted = usable.unsqueeze(2) * finite.unsqueeze(-1)  # [2, n, c, K]
        self._counts[:, c] += counted.sum(1)
        rows, mean = torch.cat(chunk.rows, 1), torch.cat(means, 1)
        lines = chunk.length // self._length
        if lines == 1:
            ac_power = torch.cat([side.m2 for side in chunk.moments], 1) / chunk.length
        else:
            rows = rows.view(len(rows), -1, self._length)
            mean = rows.mean(-1)
            ac_power = (rows - mean.unsqueeze(-1)).square().mean(-1)
        # Both sides as 2c channels of one fit, the input's first.
        fitted = fit(rows, harmonics, mean, ac_power)

        def averaged(values: Tensor) -> Tensor:
            if lines == 1:
                return values
            return values.view(len(values), -1, lines, *values.shape[2:]).mean(2)

        squares = averaged(fitted.amplitude.square())
        channels = finite.shape[1]
        for side in range(2):
            square = squares[:, side * channels :][:, :channels].where(finite.unsqueeze(-1), 0)
            self._squares[side, :, c] += (counted * square).sum(1)
        has_fundamental = counted[0, :, :, 0]
        residual_in, residual_out = averaged(fitted.noise_and_distortion).chunk(2, 1)
        first = channels * lines
        tone_dc = averaged(rectified_tone_dc(fitted.dc[:, :first], fitted.amplitude[:, :first, 0]))
        for row, value in (
            (INPUTS, torch.ones_like(tone_dc)),
            (RESIDUAL_IN, residual_in),
            (RESIDUAL_OUT, residual_out),
            (TONE_DC, tone_dc),
            (OUTPUT_DC, means[1]),
        ):
            self._fundamental[row, c] += (has_fundamental * value.where(finite, 0)).sum(0)

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        sums = self._freq, self._inputs, self._counts, self._squares, self._fundamental
        return HarmonicSums(*sums)._asdict()
