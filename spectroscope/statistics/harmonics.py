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


class HarmonicSums(NamedTuple):
    """Sums over inputs, float64. An amplitude is kept as its square, twice its power.

    Where a fundamental differs from input to input, a harmonic may be folded in some and not in
    others: 0 on the axis of two is not folded, 1 is.

    Attributes:
        freq: ``[2, K]``, sum of the frequencies, folded, in cycles per sample of the site, over
            the inputs whose fundamental is known.
        inputs: ``[2, K]``, number of those inputs.
        counts: ``[2, C, K]``, number of inputs in `squares`: those with a usable harmonic and
            finite values on both sides.
        squares: ``[2, 2, C, K]``, of the amplitudes; first the input's, then the output's.
        tones: ``[5, C]``, over the inputs with a fundamental that isn't folded: their number; the
            power of the input and of the output without DC and fundamental; the DC of a ReLU of the
            input's own DC and fundamental alone; the output's own DC.
    """

    freq: Tensor
    inputs: Tensor
    counts: Tensor
    squares: Tensor
    tones: Tensor


class HarmonicAmplitudes(ChunkedStatistic):
    """Amplitudes of harmonics on both sides of a line; arrays of :class:`HarmonicSums`.

    Nothing is kept of inputs whose fundamental isn't known, and of what isn't transformed along one
    axis.

    Args:
        fundamental: that of the inputs, None: unknown; may be exchanged between batches.
        orders: number of harmonics.
        timed: nothing is kept of an axis that isn't the time of the model's input.
    """

    name = "harmonics"
    layout = {
        "freq": (2, "K"),
        "inputs": (2, "K"),
        "counts": (2, "C", "K"),
        "squares": (2, 2, "C", "K"),
        "tones": (5, "C"),
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
        f0 = self.fundamental.at(math.nan if time_lost else call.decimation, len(x))
        if isinstance(f0, str):
            call.note(f0)
        length = x.shape[call.transformed[0]]
        return HarmonicsAccumulator(x, length, f0, self.orders) if isinstance(f0, Tensor) else {}

    def merged(self, one: Arrays, other: Arrays) -> Arrays:
        """See :meth:`Statistic.merged`.

        Raises:
            RequestError: the numbers of harmonics differ.
        """
        orders, others = one["freq"].shape[1], other["freq"].shape[1]
        if orders != others:
            raise RequestError(f"{orders} harmonics, then {others}")
        return super().merged(one, other)


class HarmonicsAccumulator:
    """The sums of one batch.

    Args:
        x: ``[N, C, ...]``, the batch, of which only shape and device matter.
        length: T, of the transformed axis; the others are averaged over.
        f0: ``[N]`` or ``[1]``, for all, in cycles per sample of the site; NaN: not known.
        orders: K.
    """

    def __init__(self, x: Tensor, length: int, f0: Tensor, orders: int):
        # Not waited for: the kernels that use it come after it.
        f0 = f0.to(x.device, non_blocking=x.is_cuda)
        self._harmonics = Harmonics.of(f0, orders, length)
        self._length = length
        folded, usable = self._harmonics.folded, self._harmonics.usable
        self._kinds = torch.stack([usable & ~folded, usable & folded]).double()  # [2, n, K]
        times = len(x) // len(folded)
        known = ~self._harmonics.f0.isnan().unsqueeze(-1)
        every = torch.stack([known & ~folded, known & folded]).double()
        self._freq = (every * self._harmonics.freq.nan_to_num(0)).sum(1) * times
        self._inputs = every.sum(1) * times
        channels = x.shape[1]
        self._counts = x.new_zeros(2, channels, orders, dtype=torch.float64)
        self._squares = x.new_zeros(2, 2, channels, orders, dtype=torch.float64)
        self._tones = x.new_zeros(5, channels, dtype=torch.float64)

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        n, c, finite, means = chunk.inputs, chunk.channels, chunk.finite, chunk.means
        every = len(self._harmonics.f0) == 1
        harmonics = self._harmonics
        if not every:
            harmonics = Harmonics(*(tensor[n] for tensor in harmonics))
        kinds = self._kinds if every else self._kinds[:, n]
        good = torch.ones_like(means[0], dtype=torch.bool) if finite is None else finite  # [n, c]
        counted = kinds.unsqueeze(2) * good.unsqueeze(-1)  # [2, n, c, K]
        self._counts[:, c] += counted.sum(1)
        rows, mean = torch.cat(chunk.rows, 1), torch.cat(means, 1)
        lines = chunk.length // self._length
        if lines == 1:
            ac_power = torch.cat([side.m2 for side in chunk.moments], 1) / chunk.length
        else:
            rows = rows.view(len(rows), -1, self._length)
            mean = rows.mean(-1)
            ac_power = (rows - mean.unsqueeze(-1)).square().mean(-1)
        both = fit(rows, harmonics, mean, ac_power)
        channels = good.shape[1]

        def averaged(values: Tensor) -> Tensor:
            if lines == 1:
                return values
            return values.view(len(values), -1, lines, *values.shape[2:]).mean(2)

        amplitude = averaged(both.amplitude.square())
        for number in range(2):
            square = amplitude[:, number * channels :][:, :channels].where(good.unsqueeze(-1), 0)
            self._squares[number, :, c] += (counted * square).sum(1)
        tonal = counted[0, :, :, 0]
        rest_in, rest_out = averaged(both.noise_and_distortion).chunk(2, 1)
        inputs = channels * lines
        dc = averaged(rectified_tone_dc(both.dc[:, :inputs], both.amplitude[:, :inputs, 0]))
        for number, value in enumerate((torch.ones_like(dc), rest_in, rest_out, dc, means[1])):
            self._tones[number, c] += (tonal * value.where(good, 0)).sum(0)

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        sums = self._freq, self._inputs, self._counts, self._squares, self._tones
        return HarmonicSums(*sums)._asdict()
