"""Amplitudes of harmonics on both sides of a rectifier, summed over inputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.harmonics import Harmonics, fit
from spectroscope.dsp.theory.tones import rectified_tone_dc


class HarmonicSums(NamedTuple):
    """Sums over inputs, float64. An amplitude is kept as its square, twice its power.

    Where a fundamental differs from input to input, a harmonic may be folded in some and not in
    others: 0 on the axis of two is not folded, 1 is.

    Attributes:
        freq: ``[2, K]``, sum of the frequencies, folded, in cycles per sample of the site, over
            the inputs whose fundamental is known.
        inputs: ``[2, K]``, number of those inputs.
        found: ``[2, C, K]``, number of inputs in `squares`: those with a usable harmonic and finite
            values on both sides.
        squares: ``[2, 2, C, K]``, of the amplitudes; first the input's, then the output's.
        tones: ``[5, C]``, over the inputs with a fundamental that isn't folded: their number; the
            power of the input and of the output without DC and fundamental; the DC of a ReLU of the
            input's own DC and fundamental alone; the output's own DC.
    """

    freq: Tensor
    inputs: Tensor
    found: Tensor
    squares: Tensor
    tones: Tensor

    def merge(self, other: "HarmonicSums") -> "HarmonicSums":
        """Sums of both, which are of as many harmonics."""
        return HarmonicSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class HarmonicsOfBatch:
    """The sums of one batch, put together from the pieces that it is reduced in.

    Args:
        x: ``[N, C, T]``, the batch, of which only shape and device matter.
        f0: ``[N]`` or ``[1]``, for all, in cycles per sample of the site; NaN: not known.
        orders: K.
    """

    def __init__(self, x: Tensor, f0: Tensor, orders: int):
        # Not waited for: the kernels that use it come after it.
        f0 = f0.to(x.device, non_blocking=x.is_cuda)
        self._harmonics = Harmonics.of(f0, orders, x[0, 0].numel())
        folded, usable = self._harmonics.folded, self._harmonics.usable
        self._kinds = torch.stack([usable & ~folded, usable & folded]).double()  # [2, n, K]
        times = len(x) // len(folded)
        known = ~self._harmonics.f0.isnan().unsqueeze(-1)
        every = torch.stack([known & ~folded, known & folded]).double()
        self._freq = (every * self._harmonics.freq.nan_to_num(0)).sum(1) * times
        self._inputs = every.sum(1) * times
        channels = x.shape[1]
        self._found = x.new_zeros(2, channels, orders, dtype=torch.float64)
        self._squares = x.new_zeros(2, 2, channels, orders, dtype=torch.float64)
        self._tones = x.new_zeros(5, channels, dtype=torch.float64)

    def add(
        self,
        n: slice,
        c: slice,
        sides: tuple[Tensor, Tensor],
        means: tuple[Tensor, Tensor],
        ac: tuple[Tensor, Tensor],
        finite: Tensor | None,
    ) -> None:
        """Take in a piece: samples `n`, channels `c`.

        Args:
            n: the samples.
            c: the channels.
            sides: input and output, float64, ``[n, c, T]``.
            means: of their rows, ``[n, c]``.
            ac: sum of the squared deviations from them, likewise.
            finite: ``[n, c]``, which rows are so on both sides; None: all.
        """
        every = len(self._harmonics.f0) == 1
        harmonics = self._harmonics
        if not every:
            harmonics = Harmonics(*(tensor[n] for tensor in harmonics))
        kinds = self._kinds if every else self._kinds[:, n]
        good = torch.ones_like(means[0], dtype=torch.bool) if finite is None else finite  # [n, c]
        counted = kinds.unsqueeze(2) * good.unsqueeze(-1)  # [2, n, c, K]
        self._found[:, c] += counted.sum(1)
        length = sides[0].shape[-1]
        both = fit(torch.cat(sides, 1), harmonics, torch.cat(means, 1), torch.cat(ac, 1) / length)
        amplitude = both.amplitude.square()
        channels = good.shape[1]
        for number in range(2):
            square = amplitude[:, number * channels :][:, :channels].where(good.unsqueeze(-1), 0)
            self._squares[number, :, c] += (counted * square).sum(1)
        tonal = counted[0, :, :, 0]
        rest_in, rest_out = both.noise_and_distortion.chunk(2, 1)
        dc = rectified_tone_dc(both.dc[:, :channels], both.amplitude[:, :channels, 0])
        for number, value in enumerate((torch.ones_like(dc), rest_in, rest_out, dc, means[1])):
            self._tones[number, c] += (tonal * value.where(good, 0)).sum(0)

    def sums(self) -> HarmonicSums:
        """The whole, once all pieces are in."""
        return HarmonicSums(self._freq, self._inputs, self._found, self._squares, self._tones)
