"""Frames over frequency, one site at a time, in the units of the site's sampling rate."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spectroscope.dsp.decomposition import coherence, introduced_power
from spectroscope.dsp.spectra import Transform, Window, noise_bandwidth
from spectroscope.report.channels import Decomposition, MeanSpectra, to_numpy
from spectroscope.statistics.harmonics import INPUTS, RESIDUAL_IN, RESIDUAL_OUT
from spectroscope.statistics.recording import Recording, SiteRecord

Floats = NDArray[np.float64]


class SiteRate(NamedTuple):
    """Sampling rate of a site, and the unit of its frequencies.

    Attributes:
        fs: samples of the site per second, per sample or per pixel of the model's input.
        unit: as in the column `freq_unit`.
    """

    fs: float
    unit: str

    @classmethod
    def of(cls, recording: Recording, record: SiteRecord) -> "SiteRate":
        """The rate of a site, in Hz if `fs` was given and the transformed axis is time."""
        axes = len(record.layout.transformed)
        known = not math.isnan(record.decimation)
        if known and record.layout.is_time and recording.fs is not None:
            return cls(recording.fs / record.decimation, "Hz")
        unit = "cycles/sample" if axes < 2 else "cycles/pixel"
        return cls(1 / record.decimation, unit) if known else cls(1.0, f"{unit} of the site")


def spectra(recording: Recording, record: SiteRecord, scaling: str) -> Iterator[pd.DataFrame]:
    """Rows of `Report.spectra`, one frame per side."""
    sums = record.spectra
    if sums is None:
        return
    rate = SiteRate.of(recording, record)
    mean = MeanSpectra.of(sums)
    freq = _bins(sums.axes, mean.power_in.shape[1], rate)
    for side, power in (("in", mean.power_in), ("out", mean.power_out)):
        values = _scaled(power, scaling, recording.window, sums.axes, rate)
        name = {"spectrum": "power"}.get(scaling, scaling)
        yield _frame(record, freq, rate, {"side": side}, {name: values})


def cross_spectra(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.cross_spectra`."""
    sums = record.spectra
    if sums is None:
        return
    rate = SiteRate.of(recording, record)
    mean = MeanSpectra.of(sums)
    gain = Decomposition.of(record, recording.window).gain[:, np.newaxis]
    values = {
        "cross_real": mean.cross.real,
        "cross_imag": mean.cross.imag,
        "coherence": coherence(*mean),
        "preserved": gain**2 * mean.power_in,
        "introduced": introduced_power(mean.power_in, mean.power_out, mean.cross.real, gain),
    }
    freq = _bins(sums.axes, mean.power_in.shape[1], rate)
    yield _frame(record, freq, rate, {}, values)


def planes(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.planes`."""
    sums = record.spectra
    if sums is None or len(sums.axes) != 2:
        return
    height, width = sums.axes
    if sums.power.shape[2] != height * (width // 2 + 1):
        return
    rate = SiteRate.of(recording, record)
    fy, fx = np.meshgrid(
        np.fft.fftfreq(height) * rate.fs, np.fft.rfftfreq(width) * rate.fs, indexing="ij"
    )
    inputs = to_numpy(sums.inputs)[:, None]
    inputs[inputs == 0] = np.nan
    for side, total in zip(("in", "out"), sums.power, strict=True):
        power = to_numpy(total) / inputs
        frame = _frame(record, fy.ravel(), rate, {"side": side}, {"power": power})
        frame = frame.rename(columns={"freq": "freq_y"})
        frame.insert(4, "freq_x", np.tile(fx.ravel(), len(total)))
        yield frame


def harmonics(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.harmonics`."""
    sums = record.harmonics
    if sums is None:
        return
    rate = SiteRate.of(recording, record)
    inputs, count = to_numpy(sums.inputs), to_numpy(sums.counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        freq = to_numpy(sums.freq) / inputs * rate.fs
        amplitude = np.sqrt(to_numpy(sums.squares) / count)  # [side, folded, C, K]
        ratios = _thd_and_sinad(sums.squares.numpy(), count, to_numpy(sums.fundamental))
    channels = count.shape[1]
    frames = []
    for folded, order in zip(*np.nonzero(inputs), strict=True):
        frames.append(
            pd.DataFrame(
                {
                    "site": record.site.name,
                    "channel": np.arange(channels),
                    "harmonic": order + 1,
                    "freq": freq[folded, order],
                    "freq_unit": rate.unit,
                    "folded": bool(folded),
                    "n_inputs": count[folded, :, order].astype(np.int64),
                    "amplitude_in": amplitude[0, folded, :, order],
                    "amplitude_out": amplitude[1, folded, :, order],
                    **ratios,
                }
            )
        )
    if frames:
        yield pd.concat(frames).sort_values(["channel", "harmonic", "folded"], kind="stable")


def aliasing(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.aliasing`."""
    above = PowerAboveNyquist.of(recording, record)
    if above is None:
        return
    rate, downsampling = SiteRate.of(recording, record), recording.downsamplings[record.site.name]
    with np.errstate(invalid="ignore"):
        fraction = above.power / np.where(above.total > 0, above.total, np.nan)
    folds_to = np.full_like(above.peak, np.nan)
    folds = any(name in downsampling.function for name in ("pool", "conv", "getitem"))
    if folds and not downsampling.whole:
        new_fs = 1 / downsampling.factor  # in cycles per sample of the site
        folds_to = np.abs(above.peak - np.round(above.peak / new_fs) * new_fs)
    yield pd.DataFrame(
        {
            "site": record.site.name,
            "channel": np.arange(record.channels),
            "downsampling": downsampling.place,
            "factor": downsampling.factor,
            "activations_between": downsampling.between,
            "global_pooling": downsampling.whole,
            "above_next_nyquist": fraction,
            "power_above": above.power,
            "next_nyquist": 0.5 / downsampling.factor * rate.fs,
            "peak_freq": above.peak * rate.fs,
            "folds_to": folds_to * rate.fs,
            "freq_unit": rate.unit,
        }
    )


def above_next_nyquist(recording: Recording, record: SiteRecord) -> float:
    """Fraction of the output power of all channels together above the next Nyquist frequency."""
    above = PowerAboveNyquist.of(recording, record)
    total = 0.0 if above is None else np.nansum(above.total)
    return math.nan if above is None or not total > 0 else float(np.nansum(above.power) / total)


class PowerAboveNyquist(NamedTuple):
    """Output power above the Nyquist frequency of the next downsampling, each ``[C]``.

    Attributes:
        power: above that Nyquist frequency.
        total: at all frequencies.
        peak: frequency with the greatest power above it, in cycles per sample of the site.
    """

    power: Floats
    total: Floats
    peak: Floats

    @classmethod
    def of(cls, recording: Recording, record: SiteRecord) -> "PowerAboveNyquist | None":
        """The power at a site; None if no downsampling follows, or without spectra."""
        sums, downsampling = record.spectra, recording.downsamplings.get(record.site.name)
        if sums is None or downsampling is None:
            return None
        # In images, power folds if it is above the new Nyquist frequency along either axis.
        total = to_numpy(sums.max_norm_power if len(sums.axes) == 2 else sums.power[1])
        inputs = to_numpy(sums.inputs)[:, None]
        power = total / np.where(inputs > 0, inputs, np.nan)
        power[:, 1:] /= noise_bandwidth(recording.window, sums.axes)
        cycles = np.arange(power.shape[1]) / max(sums.axes)
        above = cycles > 0.5 / downsampling.factor * (1 + 1e-9)
        if math.isnan(downsampling.factor):  # differs between the axes
            power[:] = np.nan
        outside = np.where(above, power, 0)
        peak = cycles[np.argmax(outside, axis=1)]
        peak[~(outside.sum(1) > 0)] = np.nan
        return cls(outside.sum(1), power.sum(1), peak)


def _thd_and_sinad(squares: Floats, count: Floats, sums: Floats) -> dict[str, Floats]:
    """THD and SINAD of both sides, each ``[C]``.

    Args:
        squares: `squares` of :class:`spectroscope.statistics.harmonics.HarmonicSums`.
        count: `counts` of it.
        sums: `fundamental` of it.
    """
    ratios = {}
    inputs = np.where(sums[INPUTS] > 0, sums[INPUTS], np.nan)
    for number, (side, row) in enumerate((("in", RESIDUAL_IN), ("out", RESIDUAL_OUT))):
        # Each harmonic is averaged over the inputs in which it is usable, folded or not.
        power = squares[number].sum(0) / count.sum(0) / 2
        fundamental = squares[number, 0, :, 0] / count[0, :, 0] / 2
        distortion = np.nansum(power[:, 1:], axis=1)
        noise_and_distortion = sums[row] / inputs
        ratios[f"thd_{side}"] = np.sqrt(distortion / fundamental)
        ratios[f"sinad_{side}"] = 10 * np.log10(fundamental / noise_and_distortion)
    return ratios


def _bins(lengths: tuple[int, ...], bins: int, rate: SiteRate) -> Floats:
    freq: Floats = np.arange(bins, dtype=np.float64) * (rate.fs / max(lengths))
    return freq


def _scaled(
    power: Floats, scaling: str, window: Window, lengths: tuple[int, ...], rate: SiteRate
) -> Floats:
    """A power spectrum, or its density or amplitudes, depending on `scaling`."""
    if scaling == "density":
        transform = Transform.of(lengths, "boxcar", torch.device("cpu"))
        # One-sided in one dimension: a bin has the width of one component, not two.
        components = np.ones(power.shape[1])
        if len(lengths) == 2:
            components = to_numpy(transform.components_per_bin())
        width = noise_bandwidth(window, lengths) * math.prod(rate.fs / length for length in lengths)
        density: Floats = power / (components * width)
        return density
    if scaling == "amplitude":
        double = np.full(power.shape[1], 2.0)
        double[0] = 1
        if len(lengths) == 1 and lengths[0] % 2 == 0:
            double[-1] = 1
        amplitude: Floats = np.sqrt(double * power)
        return amplitude
    return power


def _frame(
    record: SiteRecord,
    freq: Floats,
    rate: SiteRate,
    labels: dict[str, str],
    values: dict[str, Floats],
) -> pd.DataFrame:
    """Long frame of values ``[C, F]``."""
    channels = record.channels
    return pd.DataFrame(
        {
            "site": record.site.name,
            "channel": np.repeat(np.arange(channels), len(freq)),
            **labels,
            "freq": np.tile(freq, channels),
            "freq_unit": rate.unit,
            **{name: value.ravel() for name, value in values.items()},
        }
    )
