"""Frames over frequency, one site at a time, in the units of the site's sampling rate."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spectroscope.dsp.decomposition import coherence, introduced_power
from spectroscope.dsp.spectra import Transform, Window, noise_bandwidth
from spectroscope.report.channels import Decomposition, MeanSpectra, amplitude, to_numpy
from spectroscope.statistics import harmonics as rows
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
    # What a bin averages: the components of a ring, of each frame and of each input.
    inputs, components = to_numpy(sums.inputs)[:, np.newaxis], np.ones(mean.power_in.shape[1])
    if len(sums.axes) == 2:
        transform = Transform.of(sums.axes, "boxcar", torch.device("cpu"))
        components = to_numpy(transform.components_per_bin())
    frames = math.prod(length or 1 for length in record.shape[1:]) / math.prod(sums.axes)
    values = {
        "cross_real": mean.cross.real,
        "cross_imag": mean.cross.imag,
        "n_inputs": np.broadcast_to(inputs, mean.power_in.shape).astype(np.int64),
        "coherence": coherence(*mean, inputs * frames * components),
        "preserved": gain**2 * mean.power_in,
        "introduced": introduced_power(mean.power_in, mean.power_out, mean.cross.real, gain),
    }
    freq = _bins(sums.axes, mean.power_in.shape[1], rate)
    yield _frame(record, freq, rate, {}, values)


def planes(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.planes`."""
    sums = record.spectra
    if sums is None or len(record.shape) < 3 or not sums.axes:
        return
    last = record.shape[-2:]  # one of them is 1 where one axis was transformed
    height, width = sums.axes if len(sums.axes) == 2 else (length or 0 for length in last)
    powers = to_numpy(sums.power)
    if width == 1 < height:  # a line, whose frequencies are one-sided
        order = np.abs(np.fft.fftfreq(height, 1 / height)).round().astype(int)
        powers = powers[..., order] / np.where((order == 0) | (2 * order == height), 1, 2)
    if powers.shape[2] != height * (width // 2 + 1):
        return
    rate = SiteRate.of(recording, record)
    fy, fx = np.meshgrid(
        np.fft.fftfreq(height) * rate.fs, np.fft.rfftfreq(width) * rate.fs, indexing="ij"
    )
    inputs = to_numpy(sums.inputs)[:, None]
    inputs[inputs == 0] = np.nan
    for side, total in zip(("in", "out"), powers, strict=True):
        power = total / inputs
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
    noise_count = to_numpy(sums.noise_counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        freq = to_numpy(sums.freq) / inputs * rate.fs
        amplitude = np.sqrt(to_numpy(sums.squares) / count)  # [side, folded, C, K]
        noise, square = to_numpy(sums.noise) / noise_count
        floor, debiased = np.sqrt(noise), np.sqrt(np.maximum(square - noise, 0))
        ratios = _thd_and_sinad(to_numpy(sums.fundamental))
    channels = count.shape[1]
    frames = []
    for folded, order in zip(*np.nonzero(inputs), strict=True):
        cell = folded, slice(None), order
        frames.append(
            pd.DataFrame(
                {
                    "site": record.site.name,
                    "channel": np.arange(channels),
                    "harmonic": order + 1,
                    "freq": freq[folded, order],
                    "freq_unit": rate.unit,
                    "folded": bool(folded),
                    "n_inputs": count[cell].astype(np.int64),
                    "amplitude_in": amplitude[0][cell],
                    "amplitude_out": amplitude[1][cell],
                    "n_inputs_noise": noise_count[cell].astype(np.int64),
                    "noise_floor_in": floor[0][cell],
                    "noise_floor_out": floor[1][cell],
                    "debiased_in": debiased[0][cell],
                    "debiased_out": debiased[1][cell],
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
        total = np.where(above.total > 0, above.total, np.nan)
        fraction, folded = above.power / total, above.folded / total
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
            "folded_fraction": folded,
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
        folded: what of it the average before samples are taken lets pass; NaN if unknown.
        total: at all frequencies.
        peak: frequency with the greatest power above it, in cycles per sample of the site.
    """

    power: Floats
    folded: Floats
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
        folded = np.full(len(power), np.nan)
        if downsampling.whole:
            folded = np.zeros_like(folded)
        elif downsampling.average == 1:
            folded = outside.sum(1)
        elif downsampling.average is not None and len(sums.axes) == 1:
            # Response of the average of k samples: sin(πkf)/(k·sin(πf)).
            response = np.sinc(downsampling.average * cycles) / np.sinc(cycles)
            folded = (outside * response**2).sum(1)
        return cls(outside.sum(1), folded, power.sum(1), peak)


def _thd_and_sinad(sums: Floats) -> dict[str, Floats]:
    """THD and SINAD of both sides and how many inputs they are of, each ``[C]``.

    Args:
        sums: `fundamental` of :class:`spectroscope.statistics.harmonics.HarmonicSums`.
    """
    thd = np.sqrt(sums[rows.COMPLETE_HARMONICS_IN :][:2] / sums[rows.COMPLETE_FUNDAMENTAL_IN :][:2])
    power = sums[rows.FUNDAMENTAL_IN :][:2] / 2
    sinad = 10 * np.log10(power / sums[rows.RESIDUAL_IN :][:2])
    confidence = np.where(sums[rows.CONFIDENCE] > 0, sums[rows.CONFIDENCE], np.nan)
    return {
        "n_inputs_thd": sums[rows.COMPLETE_INPUTS].astype(np.int64),
        "thd_in": thd[0],
        "thd_out": thd[1],
        "n_inputs_sinad": sums[rows.INPUTS].astype(np.int64),
        "sinad_in": sinad[0],
        "sinad_out": sinad[1],
        "f0_confidence": confidence / sums[rows.INPUTS],
    }


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
        return amplitude(power, lengths)
    return power


def _frame(
    record: SiteRecord,
    freq: Floats,
    rate: SiteRate,
    labels: dict[str, str],
    values: dict[str, NDArray[Any]],
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
