"""Measured DC beside the DC predicted from the input's mean, power and spectrum."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.capture.activations import by_kind
from spectroscope.dsp import theory
from spectroscope.report.channels import MeanSpectra, amplitude, dc_columns, to_numpy
from spectroscope.statistics import harmonics as rows
from spectroscope.statistics.recording import Recording, SiteRecord

Floats = NDArray[np.float64]

# A bin with more than this fraction of the AC power is a tone for `tones_dc`; others are noise.
_TONE_FRACTION = 0.01


def predictions(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.predictions`, one frame per assumption that applies to the site."""
    columns = dc_columns(record, recording.window)
    measured = columns["dc_out"]
    # By assumption: measured and predicted DC, and the number of inputs of the prediction.
    inputs = np.full(record.channels, record.inputs)
    harmonics = record.harmonics
    with_tone = inputs if harmonics is None else to_numpy(harmonics.fundamental)[rows.INPUTS]
    dcs = {
        "gaussian": (
            columns["dc_gaussian"] + columns["dc_gaussian_residual"],
            columns["dc_gaussian"],
            inputs,
        ),
        "tone": (columns["dc_tone"] + columns["dc_tone_residual"], columns["dc_tone"], with_tone),
    }
    sums = record.spectra
    # A radial bin of an image's spectrum has many components, and is no tone.
    if sums is not None and len(sums.axes) == 1 and by_kind(record.site.kind).tones:
        mean = MeanSpectra.of(sums).without_window(recording.window, sums.axes)
        power, dc_in = mean.power_in, columns["dc_in"]
        of = to_numpy(sums.inputs)  # fewer after spectra_every
        dcs["tones"] = (measured, _tones_dc(power, dc_in, sums.axes[0]), of)
        amplitudes = np.abs(dc_in) + amplitude(power, sums.axes)[:, 1:].sum(1)
        dcs["series"] = (measured, 0.5 * dc_in + 0.5 * amplitudes / np.sqrt(2), of)
    for assumption, (dc_out, predicted, number) in dcs.items():
        if not np.isnan(predicted).all():
            yield pd.DataFrame(
                {
                    "site": record.site.name,
                    "channel": np.arange(record.channels),
                    "assumption": assumption,
                    "n_inputs": number.astype(np.int64),
                    "dc_out": dc_out,
                    "dc_predicted": predicted,
                    "dc_residual": dc_out - predicted,
                }
            )


def _tones_dc(power: Floats, mean: Floats, length: int) -> Floats:
    """Output DC of each channel if strong bins are tones of independent phase, the others noise.

    All bins could be tones, but the sum of thousands of weak ones is Gaussian, at less cost. A
    tone at the Nyquist frequency has no phase: it adds its amplitude to every other sample, and
    takes it from the others.

    Args:
        power: ``[C, bins]``, of the input, bin 0 the DC.
        mean: ``[C]``, of the input.
        length: T.
    """
    dc = np.full(len(power), np.nan)
    for channel, (bins, mu) in enumerate(zip(power, mean, strict=True)):
        if not np.isfinite(bins).all():
            continue
        strong = bins[1:] > _TONE_FRACTION * bins[1:].sum()
        slow = max(bins[0] - mu**2, 0.0)  # variance of the DC over the inputs
        noise = np.sqrt(bins[1:][~strong].sum() + slow)
        tones, sizes = strong.copy(), amplitude(bins, (length,))[1:]
        alternating = 0.0
        if length % 2 == 0 and strong[-1]:
            tones[-1], alternating = False, sizes[-1]
        offsets = mu + alternating * np.array([1, -1])
        dc[channel] = theory.tones_dc(sizes[tones], offsets, noise).mean()
    return dc
