"""Quantities of a site's channels, computed from its state: arrays of one number per channel."""

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
from spectroscope.statistics.harmonics import INPUTS, OUTPUT_DC, TONE_DC
from spectroscope.statistics.moments import DCMoments
from spectroscope.statistics.recording import SiteRecord
from spectroscope.statistics.spectra import SpectralSums

Floats = NDArray[np.float64]


def to_numpy(tensor: Tensor) -> Floats:
    """A real tensor as float64 on the CPU."""
    return tensor.numpy().astype(np.float64)


class MeanSpectra(NamedTuple):
    """Spectra averaged over inputs, each ``[C, bins]``; of images in radial bins."""

    power_in: Floats
    power_out: Floats
    cross: NDArray[np.complex128]

    @classmethod
    def of(cls, sums: SpectralSums) -> "MeanSpectra":
        """Averages from the sums; NaN for a channel without an input that is entirely finite."""
        inputs = to_numpy(sums.inputs)[:, None]
        inputs[inputs == 0] = np.nan
        cross = sums.cross
        if len(sums.axes) == 2:  # in radial bins the imaginary parts of conjugates cancel
            cross = sum_radial_bins(sums, cross.real.contiguous()).to(torch.complex128)
        with np.errstate(invalid="ignore"):  # a complex number over NaN
            mean = np.asarray(cross.numpy() / inputs, dtype=np.complex128)
        power_in, power_out = (to_numpy(sum_radial_bins(sums, side)) for side in sums.power)
        return cls(power_in / inputs, power_out / inputs, mean)

    def without_window(self, window: Window, lengths: tuple[int, ...]) -> "MeanSpectra":
        """A copy whose bins add up to the AC power: a window spreads noise over several bins."""
        scale = np.full(self.power_in.shape[1], 1 / noise_bandwidth(window, lengths))
        scale[0] = 1
        return MeanSpectra(self.power_in * scale, self.power_out * scale, self.cross * scale)


def amplitude(power: Floats, lengths: tuple[int, ...]) -> Floats:
    """Amplitudes of cosines with these powers: √(2·power), but √power at DC and Nyquist.

    Args:
        power: ``[..., bins]``, one-sided.
        lengths: of the transformed axes.
    """
    double = np.full(power.shape[-1], 2.0)
    double[0] = 1
    if len(lengths) == 1 and lengths[0] % 2 == 0:
        double[-1] = 1
    amplitudes: Floats = np.sqrt(double * power)
    return amplitudes


def sum_radial_bins(sums: SpectralSums, values: Tensor) -> Tensor:
    """`values` ``[C, B]`` with an image's components summed into radial bins."""
    if len(sums.axes) == 1:
        return values
    transform = Transform.of(sums.axes, "boxcar", values.device)
    if not transform.radial or values.shape[1] == transform.bins:
        return values
    return transform.sum_kept(values)


def statistic_columns(statistic: Statistic, record: SiteRecord) -> dict[str, NDArray[Any]]:
    """The columns of a statistic, each ``[C]``; NaN if it has no state at the site.

    Raises:
        RequestError: it computes other columns than it declares, or of another shape.
    """
    state = record.state.get(statistic.name)
    if state is None:
        return {name: np.full(record.channels, np.nan) for name in statistic.columns}
    try:
        computed = statistic.compute(**state)
    except TypeError as error:
        arrays = ", ".join(state)
        raise RequestError(f"{statistic.name}.compute: {error}; its arrays are {arrays}") from error
    columns = {name: values.numpy() for name, values in computed.items()}
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
    """The built-in columns of `Report.dc`, each ``[C]``."""
    activation = activations.by_kind(record.site.kind)
    columns = statistic_columns(DCMoments(), record)
    mean, variance = (to_numpy(t) for t in (record.input.mean, record.input.variance))
    gaussian = tone = tone_output = np.full(record.channels, np.nan)
    harmonics = record.harmonics
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: no finite value
        if activation.gaussian_dc is not None:
            gaussian = activation.gaussian_dc(mean, np.sqrt(variance))
        if harmonics is not None and activation.tones:
            sums = to_numpy(harmonics.fundamental)
            inputs = np.where(sums[INPUTS] > 0, sums[INPUTS], np.nan)
            tone, tone_output = sums[TONE_DC] / inputs, sums[OUTPUT_DC] / inputs
    counts = {name: columns.pop(name) for name in ("nonfinite", "nonfinite_out")}
    columns |= {
        "dc_gaussian": gaussian,
        "dc_gaussian_residual": to_numpy(record.output.mean) - gaussian,
        "dc_tone": tone,
        "dc_tone_residual": tone_output - tone,
    }
    fractions = Decomposition.of(record, window).fractions("preserved", "introduced")
    return columns | fractions | counts


def dead_and_always_on(record: SiteRecord) -> dict[str, float]:
    """The columns `dead_fraction` and `always_on_fraction` of `Report.sites`."""
    output = record.output
    values, active = to_numpy(output.dc.weight[1]), to_numpy(output.active)
    has_values = values > 0
    if not has_values.any():
        return {"dead_fraction": np.nan, "always_on_fraction": np.nan}
    return {
        "dead_fraction": float((active[has_values] == 0).mean()),
        "always_on_fraction": float((active[has_values] == values[has_values]).mean()),
    }


@dataclass(frozen=True)
class Decomposition:
    """The output's AC y as gain·x + (y − gain·x), two parts without correlation; NaN if unknown.

    x and y are without each input's own DC, as in `ac_rms_in` and `ac_rms_out`. The gain is
    Bussgang's, the regression of y on x, so that the powers of the parts add up to that of y. Each
    is ``[C]``.

    Attributes:
        gain: covariance of output and input over the input's variance.
        output: power of y.
        preserved: power of gain·x.
        introduced: power of y − gain·x.
        introduced_in_band: part of `introduced` up to `edge`.
        introduced_above_band: part of `introduced` above `edge`.
        edge: bin up to which 99 % of the input's AC power lies.
        half_x_ratio: of a ReLU, power of ½x over that of y, both with DC.
        half_abs_ratio: of a ReLU, power of ½|x| over that of y, both with DC.
    """

    gain: Floats
    output: Floats
    preserved: Floats
    introduced: Floats
    introduced_in_band: Floats
    introduced_above_band: Floats
    edge: Floats
    half_x_ratio: Floats
    half_abs_ratio: Floats

    @classmethod
    def of(cls, record: SiteRecord, window: Window) -> "Decomposition":
        """The decomposition over the inputs that are entirely finite on both sides."""
        joint, sums = record.moments.joint, record.spectra
        weight = to_numpy(joint.weight)
        weight[weight == 0] = np.nan
        xx, yy, xy = to_numpy(record.moments.ac) / weight
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = xy / xx
            preserved = np.minimum(gain * xy, yy)
        unknown = np.full_like(gain, np.nan)
        mean = None if sums is None else MeanSpectra.of(sums).without_window(window, sums.axes)
        in_band, above_band, edge = unknown, unknown, unknown
        if mean is not None:
            introduced = introduced_power(
                mean.power_in, mean.power_out, mean.cross.real, gain[:, np.newaxis]
            )[:, 1:]
            edge_bin = band_edge(np.nan_to_num(mean.power_in))
            above = np.arange(1, introduced.shape[1] + 1) > edge_bin[:, np.newaxis]
            in_band = np.where(above, 0, introduced).sum(1)
            above_band = np.where(above, introduced, 0).sum(1)
            edge = edge_bin.astype(np.float64)
        half = activations.by_kind(record.site.kind).gain
        ratios = unknown, unknown
        if half is not None:
            (x, y), (x_m2, y_m2, product) = to_numpy(joint.mean), to_numpy(joint.m2) / weight
            x_power, y_power = x**2 + x_m2, y**2 + y_m2
            total = np.where(y_power > 0, y_power, np.nan)
            rest = introduced_power(x_power, y_power, product + x * y, half)
            ratios = half**2 * x_power / total, rest / total
        return cls(gain, yy, preserved, yy - preserved, in_band, above_band, edge, *ratios)

    def fractions(self, *names: str) -> dict[str, Floats]:
        """Columns ``<name>_fraction``, relative to `output`; NaN where the output has no AC."""
        output = np.where(self.output > 0, self.output, np.nan)
        return {f"{name}_fraction": getattr(self, name) / output for name in names}

    def site_fraction(self, name: str) -> float:
        """Fraction `name` of the output power of all channels together."""
        output = np.nansum(self.output)
        return float(np.nansum(getattr(self, name)) / output) if output > 0 else np.nan
