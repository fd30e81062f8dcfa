"""Figures of a site's channels, from the sums that were kept: arrays of one number per channel."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectroscope.capture import activations
from spectroscope.dsp.decomposition import band_edge, introduced_power
from spectroscope.dsp.spectra import Transform, Window, noise_bandwidth
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Statistic
from spectroscope.statistics.moments import DCMoments
from spectroscope.statistics.recording import SiteRecord
from spectroscope.statistics.spectra import SpectralSums

Floats = NDArray[np.float64]


def numpy(tensor: Tensor) -> Floats:
    """A real tensor as float64 on the CPU."""
    return tensor.numpy().astype(np.float64)


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
        if len(sums.axes) == 2:  # of a plane only half is there: its conjugates cancel the rest
            cross = by_ring(sums, cross.real.contiguous()).to(torch.complex128)
        with np.errstate(invalid="ignore"):  # a complex number over NaN
            mean = np.asarray(cross.numpy() / inputs, dtype=np.complex128)
        power_in, power_out = (numpy(by_ring(sums, side)) for side in sums.power)
        return cls(power_in / inputs, power_out / inputs, mean)

    def without_window(self, window: Window, lengths: tuple[int, ...]) -> "MeanSpectra":
        """The same with bins that add up to the AC power: a window counts noise in several."""
        scale = np.full(self.power_in.shape[1], 1 / noise_bandwidth(window, lengths))
        scale[0] = 1
        return MeanSpectra(self.power_in * scale, self.power_out * scale, self.cross * scale)


def by_ring(sums: SpectralSums, values: Tensor) -> Tensor:
    """`values` ``[C, B]`` of `sums` with a plane summed up into rings."""
    if len(sums.axes) == 1:
        return values
    transform = Transform.of(sums.axes, "boxcar", values.device)
    if transform.radial_bin is None or values.shape[1] == transform.bins:
        return values
    rings = values.new_zeros(len(values), transform.bins)
    return rings.index_add_(1, transform.radial_bin, values)


def computed(statistic: Statistic, record: SiteRecord) -> dict[str, NDArray[Any]]:
    """The columns of a statistic, each ``[C]``; NaN where it has nothing at the site.

    Raises:
        RequestError: what it computes isn't what it declares.
    """
    state = record.state.get(statistic.name)
    if state is None:
        return {name: np.full(record.channels, np.nan) for name in statistic.columns}
    columns = {name: values.numpy() for name, values in statistic.compute(**state).items()}
    if statistic.columns and columns.keys() != statistic.columns.keys():
        raise RequestError(
            f"{statistic.name}.compute returns {sorted(columns)}, not {sorted(statistic.columns)}"
        )
    for name, values in columns.items():
        if values.shape != (record.channels,):
            raise RequestError(
                f"{statistic.name}.compute returns {name!r} of shape {list(values.shape)}; "
                f"{record.site.name} has {record.channels} channels"
            )
    return columns


def dc_columns(record: SiteRecord, window: Window) -> dict[str, Floats]:
    """Columns of `Report.dc` that come with every report, each ``[C]``."""
    activation = activations.by_kind(record.site.kind)
    columns = computed(DCMoments(), record)
    mean, variance = (numpy(t) for t in (record.input.mean, record.input.variance))
    gaussian = tone = tonal = np.full(record.channels, np.nan)
    harmonics = record.harmonics
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: nothing finite
        if activation.gaussian_dc is not None:
            gaussian = activation.gaussian_dc(mean, np.sqrt(variance))
        if harmonics is not None and activation.tones:
            count, _, _, *dcs = numpy(harmonics.tones)
            tone, tonal = dcs / np.where(count > 0, count, np.nan)
    counts = {name: columns.pop(name) for name in ("nonfinite", "nonfinite_out")}
    columns |= {
        "dc_gaussian": gaussian,
        "dc_gaussian_residual": columns["dc_out"] - gaussian,
        "dc_tone": tone,
        "dc_tone_residual": tonal - tone,
    }
    return columns | Split.of(record, window).fractions("preserved", "introduced") | counts


def extremes(record: SiteRecord) -> dict[str, float]:
    """Fractions of the site's channels, as columns of `Report.sites`."""
    output = record.output
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
        joint, sums = record.moments.joint, record.spectra
        weight = numpy(joint.weight)
        weight[weight == 0] = np.nan
        (x, y), (x_m2, y_m2, product) = numpy(joint.mean), numpy(joint.m2) / weight
        x_power, y_power = x**2 + x_m2, y**2 + y_m2
        with np.errstate(invalid="ignore", divide="ignore"):
            regression = product / x_m2
        exact = activations.by_kind(record.site.kind).gain
        gain = regression if exact is None else np.full_like(regression, exact)
        unknown = np.full_like(regression, np.nan)
        mean = None if sums is None else MeanSpectra.of(sums).without_window(window, sums.axes)
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
