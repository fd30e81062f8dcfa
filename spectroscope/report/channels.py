"""Figures of a site's channels, from the sums that were kept: arrays of one number per channel."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectroscope.dsp import theory
from spectroscope.dsp.decomposition import RELU_GAIN, band_edge, introduced_power
from spectroscope.dsp.spectra import Transform, Window, noise_bandwidth
from spectroscope.statistics import SideStatistics, SpectralSums
from spectroscope.statistics.recording import SiteRecord

Floats = NDArray[np.float64]


def numpy(tensor: Tensor) -> Floats:
    """A real tensor as float64 on the CPU."""
    return tensor.numpy().astype(np.float64)


class Powers(NamedTuple):
    """Of one side, each ``[C]``; NaN for a channel of which no finite value was seen."""

    mean: Floats
    dc_variance: Floats  # over inputs, each weighted by its number of values
    ac: Floats

    @classmethod
    def of(cls, state: SideStatistics) -> "Powers":
        """Powers from the state of one side."""
        # The second row: each input weighted by its number of values.
        count, mean, m2 = (numpy(t[1]) for t in (state.dc.weight, state.dc.mean, state.dc.m2))
        count[count == 0] = np.nan
        return cls(mean * count / count, m2 / count, numpy(state.ac_power) / count)

    @property
    def dc(self) -> Floats:
        """Mean squared DC."""
        return self.dc_variance + np.square(self.mean)

    @property
    def total(self) -> Floats:
        """Mean square."""
        return self.dc + self.ac

    @property
    def variance(self) -> Floats:
        """Of all values."""
        return self.dc_variance + self.ac


class MeanSpectra(NamedTuple):
    """Averages over inputs, each ``[C, bins]``; over lines and rings, planes included."""

    power_in: Floats
    power_out: Floats
    cross: NDArray[np.complex128]

    @classmethod
    def of(cls, sums: SpectralSums) -> "MeanSpectra":
        """Averages from the sums; NaN for a channel without an input that is finite throughout."""
        inputs = numpy(sums.inputs)[:, None]
        inputs[inputs == 0] = np.nan
        cross = sums.cross
        if len(sums.lengths) == 2:  # of a plane only half is there: its conjugates cancel the rest
            cross = by_ring(sums, cross.real.contiguous()).to(torch.complex128)
        with np.errstate(invalid="ignore"):  # a complex number over NaN
            mean = np.asarray(cross.numpy() / inputs, dtype=np.complex128)
        power_in, power_out = (numpy(by_ring(sums, side)) for side in (sums.input, sums.output))
        return cls(power_in / inputs, power_out / inputs, mean)

    def without_window(self, window: Window, lengths: tuple[int, ...]) -> "MeanSpectra":
        """The same with bins that add up to the AC power: a window counts noise in several."""
        scale = np.full(self.power_in.shape[1], 1 / noise_bandwidth(window, lengths))
        scale[0] = 1
        return MeanSpectra(self.power_in * scale, self.power_out * scale, self.cross * scale)


def by_ring(sums: SpectralSums, values: Tensor) -> Tensor:
    """`values` ``[C, B]`` of `sums` with a plane summed up into rings."""
    if len(sums.lengths) == 1:
        return values
    transform = Transform.of(sums.lengths, "boxcar", values.device)
    if transform.radial_bin is None or values.shape[1] == transform.bins:
        return values
    rings = values.new_zeros(len(values), transform.bins)
    return rings.index_add_(1, transform.radial_bin, values)


def dc_columns(record: SiteRecord, window: Window) -> dict[str, Floats]:
    """Columns of `Report.dc`, each ``[C]``."""
    before, after = record.statistics.input, record.statistics.output
    harmonics = record.statistics.harmonics
    x, y = Powers.of(before), Powers.of(after)
    inputs, values = numpy(after.dc.weight)
    relu = record.site.kind == "ReLU"
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: nothing finite, an all-zero output
        gaussian = _gaussian_dc(record.site.kind, x.mean, np.sqrt(x.variance))
        tone = tonal = np.full_like(x.mean, np.nan)
        if harmonics is not None and relu:
            count, _, _, *dcs = numpy(harmonics.tones)
            tone, tonal = dcs / np.where(count > 0, count, np.nan)
        columns = {
            "dc_in": x.mean,
            "dc_out": y.mean,
            "dc_out_std": np.sqrt(numpy(after.dc.m2)[0] / inputs),
            "ac_rms_in": np.sqrt(x.ac),
            "ac_rms_out": np.sqrt(y.ac),
            "active_fraction": numpy(after.active) / values,
            "dc_fraction": y.dc / y.total,
            "dc_gaussian": gaussian,
            "dc_gaussian_residual": y.mean - gaussian,
            "dc_tone": tone,
            "dc_tone_residual": tonal - tone,
        }
    split = Split.of(record, window)
    columns |= split.fractions("preserved", "introduced")
    counts = {"nonfinite": before.nonfinite, "nonfinite_out": after.nonfinite}
    return columns | {name: numpy(count).astype(np.int64) for name, count in counts.items()}


def extremes(record: SiteRecord) -> dict[str, float]:
    """Fractions of the site's channels, as columns of `Report.sites`."""
    output = record.statistics.output
    values, active = numpy(output.dc.weight[1]), numpy(output.active)
    seen = values > 0
    if not seen.any():
        return {"dead_fraction": np.nan, "always_on_fraction": np.nan}
    return {
        "dead_fraction": float((active[seen] == 0).mean()),
        "always_on_fraction": float((active[seen] == values[seen]).mean()),
    }


@dataclass(frozen=True)
class Split:
    """The output as gain·x and the rest, each ``[C]``; NaN what isn't known.

    Attributes:
        gain: ½ for a ReLU, `regression` for others.
        regression: covariance of output and input over the input's variance.
        output: power of the output, DC included, like the others.
        preserved: of gain·x.
        introduced: of the rest.
        introduced_dc: of that, the DC of each input.
        introduced_in_band: up to `edge`, without DC.
        introduced_above_band: the rest of the rest.
        edge: bin up to which 99 % of the input's AC power lies.
    """

    gain: Floats
    regression: Floats
    output: Floats
    preserved: Floats
    introduced: Floats
    introduced_dc: Floats
    introduced_in_band: Floats
    introduced_above_band: Floats
    edge: Floats

    @classmethod
    def of(cls, record: SiteRecord, window: Window) -> "Split":
        """The split of each channel, over the inputs that are finite throughout on both sides."""
        joint, sums = record.statistics.joint, record.statistics.spectra
        weight = numpy(joint.weight)
        weight[weight == 0] = np.nan
        (x, y), (x_m2, y_m2, product) = numpy(joint.mean), numpy(joint.m2) / weight
        x_power, y_power = x**2 + x_m2, y**2 + y_m2
        with np.errstate(invalid="ignore", divide="ignore"):
            regression = product / x_m2
        relu = record.site.kind == "ReLU"
        gain = np.full_like(regression, RELU_GAIN) if relu else regression
        unknown = np.full_like(regression, np.nan)
        mean = None if sums is None else MeanSpectra.of(sums).without_window(window, sums.lengths)
        dc, in_band, above_band, edge = unknown, unknown, unknown, unknown
        if mean is not None:
            rest = introduced_power(
                mean.power_in, mean.power_out, mean.cross.real, gain[:, np.newaxis]
            )
            found = band_edge(np.nan_to_num(mean.power_in))
            above = np.arange(rest.shape[1]) > found[:, np.newaxis]
            dc = rest[:, 0]
            in_band = np.where(above, 0, rest)[:, 1:].sum(1)
            above_band = np.where(above, rest, 0)[:, 1:].sum(1)
            edge = found.astype(np.float64)
        return cls(
            gain=gain,
            regression=regression,
            output=y_power,
            preserved=gain**2 * x_power,
            introduced=introduced_power(x_power, y_power, product + x * y, gain),
            introduced_dc=dc,
            introduced_in_band=in_band,
            introduced_above_band=above_band,
            edge=edge,
        )

    def fractions(self, *names: str) -> dict[str, Floats]:
        """Powers over the output's, as columns; NaN where the output is all zero."""
        output = np.where(self.output > 0, self.output, np.nan)
        return {f"{name}_fraction": getattr(self, name) / output for name in names}

    def of_site(self, name: str) -> float:
        """Power of all channels together over that of their outputs."""
        output = np.nansum(self.output)
        return float(np.nansum(getattr(self, name)) / output) if output > 0 else np.nan


def _gaussian_dc(kind: str, mean: Floats, std: Floats) -> Floats:
    if kind not in ("ReLU", "ReLU6"):
        return np.full_like(mean, np.nan)
    dc: Floats = theory.gaussian_dc(mean, std)
    # min(ReLU(x), 6) = ReLU(x) − ReLU(x − 6)
    return dc if kind == "ReLU" else dc - theory.gaussian_dc(mean - 6, std)
