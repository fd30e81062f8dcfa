"""Measured DC beside what theory predicts of the input's mean, power and spectrum."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.capture.activations import by_kind
from spectroscope.dsp import theory
from spectroscope.report.channels import MeanSpectra, dc_columns
from spectroscope.statistics.recording import Recording, SiteRecord

Floats = NDArray[np.float64]

# Part of the AC power from which on a bin is a tone to `tones_dc`, and not noise.
_A_TONE = 0.01


def predictions(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.predictions`, one frame for each assumption that can be made."""
    columns = dc_columns(record, recording.window)
    measured = columns["dc_out"]
    found = {
        "gaussian": (measured, columns["dc_gaussian"]),
        "tone": (columns["dc_tone"] + columns["dc_tone_residual"], columns["dc_tone"]),
    }
    sums = record.spectra
    # A ring of an image's spectrum is many components: no line.
    if sums is not None and len(sums.axes) == 1 and by_kind(record.site.kind).tones:
        mean = MeanSpectra.of(sums).without_window(recording.window, sums.axes)
        lines, dc = mean.power_in, columns["dc_in"]
        found["tones"] = (measured, _tones(lines, dc))
        amplitudes = np.abs(dc) + np.sqrt(2 * lines[:, 1:]).sum(1)
        found["series"] = (measured, 0.5 * dc + 0.5 * amplitudes / np.sqrt(2))
    for assumption, (out, predicted) in found.items():
        if not np.isnan(predicted).all():
            yield pd.DataFrame(
                {
                    "site": record.site.name,
                    "channel": np.arange(record.channels),
                    "assumption": assumption,
                    "dc_out": out,
                    "dc_predicted": predicted,
                    "dc_residual": out - predicted,
                }
            )


def _tones(power: Floats, mean: Floats) -> Floats:
    """DC of each channel, the strongest bins tones of independent phase and the rest noise.

    All bins could be tones, but thousands of weak ones are Gaussian together, and cost more.
    """
    dc = np.full(len(power), np.nan)
    for channel, (bins, mu) in enumerate(zip(power, mean, strict=True)):
        if not np.isfinite(bins).all():
            continue
        strong = bins[1:] > _A_TONE * bins[1:].sum()
        slow = max(bins[0] - mu**2, 0.0)  # the DC itself varies over the inputs
        noise = np.sqrt(bins[1:][~strong].sum() + slow)
        dc[channel] = theory.tones_dc(np.sqrt(2 * bins[1:][strong]), mu, noise)
    return dc
