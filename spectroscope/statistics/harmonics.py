"""Amplitudes of harmonics on both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.harmonics import Harmonics, fit
from spectroscope.dsp.moments import X_M2, Y_M2
from spectroscope.dsp.theory.tones import rectified_tone_dc
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays
from spectroscope.statistics.chunks import Block, Chunk, ChunkedStatistic
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
        n, c, moments = chunk.inputs, chunk.channels, chunk.moments
        harmonics, usable = self._harmonics, self._usable
        if len(harmonics.f0) > 1:
            harmonics = Harmonics(*(tensor[n] for tensor in harmonics))
            usable = usable[:, n]
        finite = moments.finite.T  # [n, c]
        counted = usable.unsqueeze(2) * finite.unsqueeze(-1)  # [2, n, c, K]
        self._counts[:, c] += counted.sum(1)
        # Channels and lines of both sides are channels of one fit. The lines lack their means.
        sides = torch.stack([side.double() for side in chunk.lines]).transpose(0, 1)
        means = moments.means.permute(2, 0, 1, 3)  # [n, 2, c, lines]
        power = moments.fields[X_M2 : Y_M2 + 1].permute(2, 0, 1, 3) / moments.length
        fitted = fit(
            sides.flatten(1, 3), harmonics, torch.zeros_like(means).flatten(1), power.flatten(1)
        )
        amplitude = fitted.amplitude.view(*means.shape, -1)
        squares = amplitude.square().mean(3).where(finite[:, None, :, None], 0)
        for side in range(2):
            self._squares[side, :, c] += (counted * squares[:, side]).sum(1)
        input_dc = (means + fitted.dc.view(means.shape))[:, 0]
        tone_dc = rectified_tone_dc(input_dc, amplitude[:, 0, ..., 0]).mean(-1)
        residual = fitted.noise_and_distortion.view(means.shape).mean(-1)
        has_fundamental = counted[0, :, :, 0]
        for row, value in (
            (INPUTS, torch.ones_like(tone_dc)),
            (RESIDUAL_IN, residual[:, 0]),
            (RESIDUAL_OUT, residual[:, 1]),
            (TONE_DC, tone_dc),
            (OUTPUT_DC, means[:, 1].mean(-1)),
        ):
            self._fundamental[row, c] += (has_fundamental * value.where(finite, 0)).sum(0)

    def finish(self, block: Block) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        sums = self._freq, self._inputs, self._counts, self._squares, self._fundamental
        return HarmonicSums(*sums)._asdict()
