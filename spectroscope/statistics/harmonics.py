"""Amplitudes of harmonics on both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.harmonics import Harmonics, Tone, fit
from spectroscope.dsp.moments import X_M2, Y_M2
from spectroscope.dsp.theory.tones import rectified_tone_dc
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Arrays
from spectroscope.statistics.chunks import BatchMoments, Chunk, ChunkedStatistic
from spectroscope.statistics.fundamentals import Fundamental

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall


# Rows of `HarmonicSums.fundamental`: of inputs whose fundamental is usable and not folded,
(
    INPUTS,  # number of inputs
    FUNDAMENTAL_IN,  # squared amplitude of the fundamental, of the input
    FUNDAMENTAL_OUT,  # likewise, of the output
    RESIDUAL_IN,  # power of the input without DC and fundamental
    RESIDUAL_OUT,  # power of the output without DC and fundamental
    TONE_DC,  # DC of the ReLU of the input's own DC plus fundamental
    OUTPUT_DC,  # DC of the output
    CONFIDENCE,  # confidence of an estimated fundamental; 0 of one that was given
    # and of those of them whose every harmonic is usable.
    COMPLETE_INPUTS,
    COMPLETE_FUNDAMENTAL_IN,
    COMPLETE_FUNDAMENTAL_OUT,
    COMPLETE_HARMONICS_IN,  # sum of the squared amplitudes of harmonics 2 … K
    COMPLETE_HARMONICS_OUT,
) = range(13)
ROWS = 13


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
        noise_counts: ``[folded, C, K]``, number of inputs in `noise`: those of `counts` in which
            the noise is known.
        noise: ``[2, side, folded, C, K]``, squared amplitudes of the noise (0), and squared
            amplitudes of the harmonic in the same inputs (1).
        fundamental: ``[ROWS, C]``, the rows named above.
    """

    freq: Tensor
    inputs: Tensor
    counts: Tensor
    squares: Tensor
    noise_counts: Tensor
    noise: Tensor
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
    reads_line_moments = True
    layout = {
        "freq": (2, "K"),
        "inputs": (2, "K"),
        "counts": (2, "C", "K"),
        "squares": (2, 2, "C", "K"),
        "noise_counts": (2, "C", "K"),
        "noise": (2, 2, 2, "C", "K"),
        "fundamental": (ROWS, "C"),
    }

    def __init__(
        self, fundamental: Fundamental | None = None, orders: int = 8, *, timed: bool = False
    ):
        self.fundamental = fundamental or Fundamental(None, None)
        self.orders = orders
        self._timed = timed

    def start(self, call: "ActivationCall", chosen: range) -> "Arrays | HarmonicsAccumulator":
        """See :class:`ChunkedStatistic`."""
        if self.fundamental.f0 is None or len(call.transformed) != 1:
            return {}
        x = call.input
        time_lost = self._timed and not call.layout.is_time
        tone = self.fundamental.at_site(math.nan if time_lost else call.decimation, len(x))
        if isinstance(tone, str):
            call.note(tone)
        length = x.shape[call.transformed[0]]
        if not isinstance(tone, Tone):
            return {}
        if len(tone.freq) > 1:
            tone = Tone(*(part[chosen.start :: chosen.step] for part in tone))
        return HarmonicsAccumulator(x, len(chosen), length, tone, self.orders)

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
        x: ``[N, C, ...]``, for channels and device.
        inputs: n, number of inputs that are read.
        length: T, of the transformed axis; means are taken over the other axes.
        tone: ``[n]``, or ``[1]`` for all inputs, in cycles per sample of the site; NaN: unknown.
        orders: K.
    """

    def __init__(self, x: Tensor, inputs: int, length: int, tone: Tone, orders: int):
        # Asynchronous: the kernels that read them run later on the same stream.
        f0, confidence = (part.to(x.device, non_blocking=x.is_cuda) for part in tone)
        self._confidence = confidence.nan_to_num(0)
        self._harmonics = harmonics = Harmonics.of(f0, orders, length)
        known = ~harmonics.f0.isnan().unsqueeze(-1)
        repeats = inputs // len(f0)
        by_folding = _by_folding(known, harmonics.folded)
        self._freq = (by_folding * harmonics.freq.nan_to_num(0)).sum(1) * repeats
        self._inputs = by_folding.sum(1) * repeats
        sizes = {"C": x.shape[1], "K": orders, 2: 2, ROWS: ROWS}
        self._sums = {
            name: x.new_zeros([sizes[size] for size in shape], dtype=torch.float64)
            for name, shape in HarmonicAmplitudes.layout.items()
        }

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        n, c, moments = chunk.inputs, chunk.channels, chunk.moments
        assert moments is not None  # as HarmonicAmplitudes.reads_line_moments
        harmonics, confidence = self._harmonics, self._confidence
        if len(confidence) > 1:
            harmonics, confidence = Harmonics(*(field[n] for field in harmonics)), confidence[n]
        finite = moments.finite.T  # [n, c]
        # Channels and lines of both sides are channels of one fit. The lines lack their means.
        sides = chunk.real_lines().double()
        means = moments.means.permute(2, 0, 1, 3)  # [n, 2, c, lines]
        power = moments.fields[X_M2 : Y_M2 + 1].permute(2, 0, 1, 3) / moments.length
        fitted = fit(
            sides.flatten(1, 3), harmonics, torch.zeros_like(means).flatten(1), power.flatten(1)
        )

        def by_side(values: Tensor) -> Tensor:
            """``[side, n, c, ...]``, the mean over lines, without what isn't finite."""
            averaged = values.view(*means.shape, *values.shape[2:]).mean(3).transpose(0, 1)
            return averaged.where(finite.view(*finite.shape, *[1] * (averaged.dim() - 3)), 0)

        squares, noise = by_side(fitted.amplitude.square()), by_side(fitted.noise)
        for mask, counts, sums, values in (
            (harmonics.usable, "counts", "squares", squares),
            (harmonics.noise_known, "noise_counts", "noise", torch.stack([noise, squares])),
        ):
            counted = _by_folding(mask, harmonics.folded).unsqueeze(2) * finite.unsqueeze(-1)
            self._sums[counts][:, c] += counted.sum(1)  # counted: [folded, n, c, K]
            self._sums[sums][..., c, :] += (counted * values.unsqueeze(-4)).sum(-3)
        has_fundamental = (harmonics.usable & ~harmonics.folded)[:, :1]  # [n, 1]
        complete = has_fundamental & harmonics.usable.all(-1, keepdim=True)
        fundamental, distortion = squares[..., 0], squares[..., 1:].sum(-1)
        residual = by_side(fitted.noise_and_distortion)
        dc = means.flatten(1) + fitted.dc
        tone_dc = by_side(rectified_tone_dc(dc, fitted.amplitude[..., 0]))[0]
        ones, output_dc = torch.ones_like(tone_dc), means[:, 1].mean(-1)
        totals = (  # in the order of the rows
            *(ones, *fundamental, *residual, tone_dc, output_dc, confidence.unsqueeze(-1) * ones),
            *(ones, *fundamental, *distortion),
        )
        for row, value in enumerate(totals):
            used = finite & (complete if row >= COMPLETE_INPUTS else has_fundamental)
            self._sums["fundamental"][row, c] += value.where(used, 0).sum(0)

    def arrays(self, moments: BatchMoments) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        return self._sums | {"freq": self._freq, "inputs": self._inputs}


def _by_folding(mask: Tensor, folded: Tensor) -> Tensor:
    """``[2, N, K]``, float64: where `mask` holds and the harmonic isn't folded, and where it is."""
    return torch.stack([mask & ~folded, mask & folded]).double()
