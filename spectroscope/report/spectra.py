"""Frames over frequency, of one site each, in the units that its sampling rate allows."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from spectroscope.dsp.decomposition import coherence, introduced_power
from spectroscope.dsp.spectra import Transform, Window, noise_bandwidth
from spectroscope.report.channels import MeanSpectra, Split, numpy
from spectroscope.statistics.recording import Recording, SiteRecord

Floats = NDArray[np.float64]


class Rate(NamedTuple):
    """Samples of a site per unit of time or space, so that frequencies are in `unit`."""

    fs: float
    unit: str

    @classmethod
    def of(cls, recording: Recording, record: SiteRecord) -> "Rate":
        """The rate at a site: in Hz if `fs` was given, along the time of the model's input."""
        axes = len(record.layout.transformed)
        known = not math.isnan(record.decimation)
        if known and record.layout.is_time and recording.fs is not None:
            return cls(recording.fs / record.decimation, "Hz")
        unit = "cycles/sample" if axes < 2 else "cycles/pixel"
        return cls(1 / record.decimation, unit) if known else cls(1.0, f"{unit} of the site")


def spectra(recording: Recording, record: SiteRecord, scaling: str) -> Iterator[pd.DataFrame]:
    """Rows of `Report.spectra`, side by side."""
    sums = record.spectra
    if sums is None:
        return
    rate = Rate.of(recording, record)
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
    rate = Rate.of(recording, record)
    mean = MeanSpectra.of(sums)
    gain = Split.of(record, recording.window).gain[:, np.newaxis]
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
    rate = Rate.of(recording, record)
    fy, fx = np.meshgrid(
        np.fft.fftfreq(height) * rate.fs, np.fft.rfftfreq(width) * rate.fs, indexing="ij"
    )
    inputs = numpy(sums.inputs)[:, None]
    inputs[inputs == 0] = np.nan
    for side, total in zip(("in", "out"), sums.power, strict=True):
        frame = _frame(record, fy.ravel(), rate, {"side": side}, {"power": numpy(total) / inputs})
        frame = frame.rename(columns={"freq": "freq_y"})
        frame.insert(4, "freq_x", np.tile(fx.ravel(), len(total)))
        yield frame


def harmonics(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.harmonics`."""
    sums = record.harmonics
    if sums is None:
        return
    rate = Rate.of(recording, record)
    inputs, count = numpy(sums.inputs), numpy(sums.counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        freq = numpy(sums.freq) / inputs * rate.fs
        amplitude = np.sqrt(numpy(sums.squares) / count)  # [side, folded, C, K]
        ratios = _ratios(sums.squares.numpy(), count, numpy(sums.tones))
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
    found = _Above.of(recording, record)
    if found is None:
        return
    rate, lower = Rate.of(recording, record), recording.downsamplings[record.site.name]
    with np.errstate(invalid="ignore"):
        fraction = found.power / np.where(found.total > 0, found.total, np.nan)
    folds_to = np.full_like(found.peak, np.nan)
    if not lower.whole and any(name in lower.function for name in ("pool", "conv", "getitem")):
        step = 1 / lower.factor  # the new sampling rate, in cycles per sample of the site
        folds_to = np.abs(found.peak - np.round(found.peak / step) * step)
    yield pd.DataFrame(
        {
            "site": record.site.name,
            "channel": np.arange(record.channels),
            "downsampling": lower.place,
            "factor": lower.factor,
            "activations_between": lower.between,
            "global_pooling": lower.whole,
            "above_next_nyquist": fraction,
            "power_above": found.power,
            "next_nyquist": 0.5 / lower.factor * rate.fs,
            "peak_freq": found.peak * rate.fs,
            "folds_to": folds_to * rate.fs,
            "freq_unit": rate.unit,
        }
    )


def above_next_nyquist(recording: Recording, record: SiteRecord) -> float:
    """Of the output power of all channels together the part above the next Nyquist frequency."""
    found = _Above.of(recording, record)
    total = 0.0 if found is None else np.nansum(found.total)
    return math.nan if found is None or not total > 0 else float(np.nansum(found.power) / total)


class _Above(NamedTuple):
    """Output power above the Nyquist frequency of the next downsampling, each ``[C]``."""

    power: Floats
    total: Floats  # of the output
    peak: Floats  # frequency with the greatest power above, cycles per sample of the site

    @classmethod
    def of(cls, recording: Recording, record: SiteRecord) -> "_Above | None":
        """None if no downsampling follows, or there are no spectra."""
        sums, lower = record.spectra, recording.downsamplings.get(record.site.name)
        if sums is None or lower is None:
            return None
        # What folds in images lies outside a square: above the new Nyquist along either axis.
        by_axis = numpy(sums.shells if len(sums.axes) == 2 else sums.power[1])
        inputs = numpy(sums.inputs)[:, None]
        power = by_axis / np.where(inputs > 0, inputs, np.nan)
        power[:, 1:] /= noise_bandwidth(recording.window, sums.axes)
        cycles = np.arange(power.shape[1]) / max(sums.axes)
        above = cycles > 0.5 / lower.factor * (1 + 1e-9)
        if math.isnan(lower.factor):  # the square is none
            power[:] = np.nan
        outside = np.where(above, power, 0)
        peak = cycles[np.argmax(outside, axis=1)]
        peak[~(outside.sum(1) > 0)] = np.nan
        return cls(outside.sum(1), power.sum(1), peak)


def _ratios(squares: Floats, count: Floats, tones: Floats) -> dict[str, Floats]:
    """THD and SINAD of both sides, each ``[C]``."""
    ratios = {}
    tonal = np.where(tones[0] > 0, tones[0], np.nan)
    for number, side in enumerate(("in", "out")):
        # Each harmonic over the inputs in which it is usable, folded or not.
        power = squares[number].sum(0) / count.sum(0) / 2
        fundamental = squares[number, 0, :, 0] / count[0, :, 0] / 2
        distortion = np.nansum(power[:, 1:], axis=1)
        rest = tones[1 + number] / tonal
        ratios[f"thd_{side}"] = np.sqrt(distortion / fundamental)
        ratios[f"sinad_{side}"] = 10 * np.log10(fundamental / rest)
    return ratios


def _bins(lengths: tuple[int, ...], bins: int, rate: Rate) -> Floats:
    freq: Floats = np.arange(bins, dtype=np.float64) * (rate.fs / max(lengths))
    return freq


def _scaled(
    power: Floats, scaling: str, window: Window, lengths: tuple[int, ...], rate: Rate
) -> Floats:
    """A power spectrum as such, as a density, or as amplitudes."""
    if scaling == "density":
        transform = Transform.of(lengths, "boxcar", torch.device("cpu"))
        # Of a line each bin is one wide, though it counts for its conjugate.
        modes = (
            np.ones(power.shape[1]) if len(lengths) == 1 else numpy(transform.components_per_bin())
        )
        width = noise_bandwidth(window, lengths) * math.prod(rate.fs / length for length in lengths)
        density: Floats = power / (modes * width)
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
    rate: Rate,
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
