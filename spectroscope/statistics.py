"""What is kept of each site: a fixed-size state that merges, whatever way the data was split.

A batch is reduced where it is seen (:meth:`SideStatistics.of`) and merged into what was there
(:meth:`SideStatistics.merge`). Both are pure: the state is replaced whole, so that an interrupt
between two batches, or in the middle of one, can't leave half of a batch in it.
"""

import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.moments import Moments, RowMoments, row_moments
from spectroscope.dsp.spectra import power_spectrum

# Values reduced at a time: in float64 4 MiB on the CPU, which stays in cache between passes, and
# is enough to make the calls themselves cheap (benchmarks/record.py). A GPU wants fewer kernels.
_CHUNK_CPU = 1 << 19
_CHUNK_GPU = 1 << 24


class SideStatistics(NamedTuple):
    """One side (`in` or `out`) of one site. Every tensor is float64.

    Attributes:
        inputs: number of inputs (batch items) seen.
        length: values of one channel of one input (time points, pixels); None once inputs of
            different lengths have been seen.
        dc: moments, each ``[2, C]``, of the inputs' own DCs: in the first row each input counts
            once, in the second as often as it has finite values, so that the mean is that of all
            values.
        sums: ``[4, C]``, see the properties.
        spectrum: ``[C, length // 2 + 1]``, the sum over inputs of their one-sided power spectra;
            None where it isn't recorded: no time axis, more than one, or different lengths.
    """

    inputs: int
    length: int | None
    dc: Moments
    sums: Tensor
    spectrum: Tensor | None

    @property
    def ac_power(self) -> Tensor:
        """``[C]``, sum over all values of (value − its input's DC)²."""
        return self.sums[0]

    @property
    def active(self) -> Tensor:
        """``[C]``, number of finite values > 0; of an output."""
        return self.sums[1]

    @property
    def nonfinite(self) -> Tensor:
        """``[C]``, number of NaN and ±Inf values, which are in nothing else."""
        return self.sums[2]

    @property
    def spectrum_inputs(self) -> Tensor:
        """``[C]``, number of inputs in `spectrum`: those whose values are all finite."""
        return self.sums[3]

    @classmethod
    def of(cls, x: Tensor, *, spectra: bool, active: bool) -> "SideStatistics":
        """Statistics of one batch.

        Args:
            x: ``[N, C, ...]``, real, N ≥ 1, with at least one value per channel.
            spectra: keep the power spectrum too, if x is ``[N, C, T]`` with T > 1.
            active: count the values > 0 too.
        """
        samples, channels = x.shape[:2]
        length = x[0, 0].numel()
        budget = _CHUNK_CPU if x.is_cpu else _CHUNK_GPU
        mean = x.new_empty(samples, channels, dtype=torch.float64)
        rest = finite = None  # until a block has them; mostly none does
        sums = x.new_zeros(4, channels, dtype=torch.float64)
        spectrum = None
        if spectra and x.dim() == 3 and length > 1:
            spectrum = x.new_zeros(channels, length // 2 + 1, dtype=torch.float64)
        for n, c in _chunks(samples, channels, length, budget):
            rows, work = _scratch(x[n, c], budget)
            found = row_moments(rows, work, positive=active)
            mean[n, c] = found.mean
            sums[0, c] += found.m2.sum(0)
            if found.positive is not None:
                sums[1, c] += found.positive.sum(0)
            if found.finite is not None and found.rest is not None:
                if rest is None or finite is None:
                    rest, finite = torch.zeros_like(mean), torch.full_like(mean, length)
                rest[n, c], finite[n, c] = found.rest, found.finite
            if spectrum is not None:
                spectrum[c] += _spectrum_sum(rows, work, found)
        if rest is None or finite is None:
            once = Moments.of_equals(mean)
            by_value = once.repeated(length)
            sums[3] = samples
        else:
            once = Moments.of(mean, rest, (finite > 0).double())
            by_value = Moments.of(mean, rest, finite)
            sums[2] = (length - finite).sum(0)
            sums[3] = (finite == length).sum(0)
        dc = Moments(*(torch.stack(pair) for pair in zip(once, by_value, strict=True)))
        return cls(inputs=samples, length=length, dc=dc, sums=sums, spectrum=spectrum)

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
            sums=self.sums + other.sums,
            spectrum=spectrum,
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
    if x.is_meta:
        return "a tensor without values"
    if type(x).__torch_dispatch__ != Tensor.__torch_dispatch__:
        return f"{type(x).__name__} is a tensor of its own kind"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "inside a torch.func transform"
    return None


def _spectrum_sum(rows: Tensor, work: Tensor, found: RowMoments) -> Tensor:
    """Sum over the inputs of their power spectra, leaving out those that aren't finite throughout.

    The mean is taken out first and put back exactly: it may be far larger than the rest.
    """
    torch.sub(rows, found.mean.unsqueeze(-1), out=work)
    power = power_spectrum(work)
    power[..., 0] = found.mean.square()
    if found.finite is not None:
        power = power.where((found.finite == rows.shape[-1]).unsqueeze(-1), 0)
    return power.sum(0)


_buffers = threading.local()


def _scratch(block: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """`block` as float64 rows ``[n, c, T]``, and a tensor of the same shape to work in.

    On the CPU both lie in memory that the thread keeps: to fault in fresh pages for every block
    would cost more than what is done with them.
    """
    size = block.numel()
    if not block.is_cpu or size > budget:
        both = block.new_empty(2, size, dtype=torch.float64)
    else:
        if not hasattr(_buffers, "both"):
            # Not made under inference_mode, or it couldn't be written to outside of that.
            with torch.inference_mode(False):
                _buffers.both = torch.empty(2, budget, dtype=torch.float64)
        both = _buffers.both
    shape = (*block.shape[:2], -1)
    rows, work = (part[:size].view(block.shape) for part in both)
    rows.copy_(block)
    return rows.view(shape), work.view(shape)


def _chunks(samples: int, channels: int, length: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Slices over the samples, and over the channels where one sample alone exceeds `budget`."""
    c_step = max(1, min(channels, budget // length))
    n_step = max(1, budget // (length * channels))
    for n in range(0, samples, n_step):
        for c in range(0, channels, c_step):
            yield slice(n, n + n_step), slice(c, c + c_step)
