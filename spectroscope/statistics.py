"""What is kept of each site: a fixed-size state that merges, whatever way the data was split.

A batch is reduced where it is seen (:meth:`SideStatistics.of`) and merged into what was there
(:meth:`SideStatistics.merge`). Both are pure: the state is replaced whole, so that an interrupt
between two batches, or in the middle of one, can't leave half of a batch in it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.moments import Moments, row_moments
from spectroscope.dsp.spectra import power_spectrum

# Values reduced at a time. In float64 this is 1 MiB on the CPU, which stays in the L2 cache
# between the passes (measured: twice as fast as whole activations); a GPU wants fewer kernels.
_CHUNK_CPU = 1 << 17
_CHUNK_GPU = 1 << 24


class SideStatistics(NamedTuple):
    """One side (`in` or `out`) of one site. Every tensor is float64, ``[C]`` unless said.

    Attributes:
        inputs: number of inputs (batch items) seen.
        length: values of one channel of one input (time points, pixels); None once inputs of
            different lengths have been seen.
        dc: moments of each input's own DC, each input counting once.
        dc_by_value: the same DCs, each weighted by the number of finite values it is the mean of,
            so that its mean is the mean of all values.
        ac_power: sum over all values of (value − its input's DC)².
        active: number of finite values > 0.
        nonfinite: number of NaN and ±Inf values, which are in none of the sums.
        spectrum: ``[C, length // 2 + 1]``, the sum over inputs of their one-sided power spectra;
            None where it isn't recorded: no time axis, more than one, or different lengths.
        spectrum_inputs: number of inputs in `spectrum`: those whose values are all finite.
    """

    inputs: int
    length: int | None
    dc: Moments
    dc_by_value: Moments
    ac_power: Tensor
    active: Tensor
    nonfinite: Tensor
    spectrum: Tensor | None
    spectrum_inputs: Tensor

    @classmethod
    def of(cls, x: Tensor, *, spectra: bool) -> "SideStatistics":
        """Statistics of one batch.

        Args:
            x: ``[N, C, ...]``, real, N ≥ 1, with at least one value per channel.
            spectra: keep the power spectrum too, if x is ``[N, C, T]`` with T > 1.
        """
        samples, channels = x.shape[:2]
        length = x[0, 0].numel()
        dc, rest, count, ac_power, active = x.new_zeros(5, samples, channels, dtype=torch.float64)
        spectrum = None
        if spectra and x.dim() == 3 and length > 1:
            spectrum = x.new_zeros(channels, length // 2 + 1, dtype=torch.float64)
        for n, c in _chunks(samples, channels, length, _CHUNK_CPU if x.is_cpu else _CHUNK_GPU):
            block = x[n, c].to(torch.float64, memory_format=torch.contiguous_format)
            rows = block.reshape(*block.shape[:2], length)
            reduced = row_moments(rows)
            count[n, c], dc[n, c], rest[n, c] = reduced.finite, reduced.mean, reduced.rest
            ac_power[n, c], active[n, c] = reduced.m2, reduced.positive
            if spectrum is not None:
                power = power_spectrum(reduced.centered)
                power[..., 0] = dc[n, c].square()
                spectrum[c] += (power * (count[n, c] == length).unsqueeze(-1)).sum(0)
        return cls(
            inputs=samples,
            length=length,
            dc=Moments.of(dc, rest, (count > 0).double()),
            dc_by_value=Moments.of(dc, rest, count),
            ac_power=ac_power.sum(0),
            active=active.sum(0),
            nonfinite=(length - count).sum(0),
            spectrum=spectrum,
            spectrum_inputs=(count == length).sum(0, dtype=torch.float64),
        )

    def merge(self, other: "SideStatistics") -> "SideStatistics":
        """Statistics of both together; associative, and commutative to rounding."""
        same_length = self.length == other.length
        spectrum = None
        if same_length and self.spectrum is not None and other.spectrum is not None:
            spectrum = self.spectrum + other.spectrum
        return SideStatistics(
            inputs=self.inputs + other.inputs,
            length=self.length if same_length else None,
            dc=self.dc.merge(other.dc),
            dc_by_value=self.dc_by_value.merge(other.dc_by_value),
            ac_power=self.ac_power + other.ac_power,
            active=self.active + other.active,
            nonfinite=self.nonfinite + other.nonfinite,
            spectrum=spectrum,
            spectrum_inputs=self.spectrum_inputs + other.spectrum_inputs,
        )


class SiteStatistics(NamedTuple):
    """Both sides of one site."""

    input: SideStatistics
    output: SideStatistics

    def merge(self, other: "SiteStatistics") -> "SiteStatistics":
        """Statistics of both together."""
        return SiteStatistics(self.input.merge(other.input), self.output.merge(other.output))


def unrecordable(x: Tensor) -> str | None:
    """Why `x` can't be reduced, or None if it can."""
    if not x.is_floating_point():
        return f"{x.dtype} is not a real floating-point type"
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        return "not a dense tensor"
    if x.is_meta or type(x).__name__ == "FakeTensor":
        return "a tensor without values"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "inside a torch.func transform"
    return None


def _chunks(samples: int, channels: int, length: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Slices over the samples, and over the channels where one sample alone exceeds `budget`."""
    c_step = max(1, min(channels, budget // length))
    n_step = max(1, budget // (length * channels))
    for n in range(0, samples, n_step):
        for c in range(0, channels, c_step):
            yield slice(n, n + n_step), slice(c, c + c_step)
