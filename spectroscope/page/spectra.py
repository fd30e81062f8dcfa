"""Spectra of a layer as the page embeds them: bins merged, a byte each.

Each channel, side and bin has a byte, in steps of half a decibel; quantiles over channels have a
tenth of a decibel.
"""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.page.numbers import Floats, rounded, tenths_of_decibel

# Bytes of spectra, over all sites: more are avoided by merging bins.
BUDGET = 1_500_000
MAX_BINS = 300  # of a spectrum; a chart is not wider
MIN_BINS = 16  # however many channels there are
STEP = 0.5  # dB, of a byte
SILENT, UNKNOWN = 0, 255  # bytes: no power, or less than 127 dB below the greatest; NaN
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Spectra:
    """Spectra of both sides of one site.

    Attributes:
        freq: ``[F]``.
        unit: of `freq`.
        power: ``[C, F]`` of each side.
        bins: number of adjacent bins of the report that make one bin of `power`, their maximum.
    """

    freq: Floats
    unit: str
    power: dict[str, Floats]
    bins: int = 1

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Spectra":
        """From rows of `Report.spectra()`, with at most `MAX_BINS` bins beside DC."""
        channels = frame["channel"].nunique()
        sides = {str(side): rows for side, rows in frame.groupby("side", sort=False)}
        power = {s: rows["power"].to_numpy().reshape(channels, -1) for s, rows in sides.items()}
        freq = sides["out"]["freq"].to_numpy().reshape(channels, -1)[0]
        return cls(freq, str(frame["freq_unit"].iloc[0]), power).merged(MAX_BINS)

    def merged(self, limit: int) -> "Spectra":
        """With at most `limit` bins beside DC."""
        size = max(1, math.ceil((len(self.freq) - 1) / limit))
        return Spectra(
            _merge_bins(self.freq[np.newaxis], size, np.mean)[0],
            self.unit,
            {side: _merge_bins(power, size, np.max) for side, power in self.power.items()},
            self.bins * size,
        )

    def embedded(self) -> dict[str, Any]:
        """For JSON: quantiles over all channels, and all channels in bytes."""
        with np.errstate(divide="ignore"):
            both = 10 * np.log10(np.stack([self.power["in"], self.power["out"]]))
        finite = both[np.isfinite(both)]
        top = float(np.ceil(finite.max() / STEP) * STEP) if len(finite) else 0.0
        sides: dict[str, Any] = {}
        least = top
        for side, power in self.power.items():
            known = power[~np.isnan(power).any(1)]
            band = np.quantile(known, QUANTILES, axis=0) if len(known) else np.empty((0, 0))
            sides[side] = {"band": [tenths_of_decibel(row) for row in band]}
            values = [level for row in sides[side]["band"] for level in row if level is not None]
            least = min([least, *(level / 10 for level in values)])
        return {
            "freq": rounded(self.freq),
            "unit": self.unit,
            "bins": self.bins,
            "top": top,
            "least": least,
            "step": STEP,
            "cells": base64.b64encode(_in_bytes(both, top).tobytes()).decode(),
            **sides,
        }


def _in_bytes(decibels: Floats, top: float) -> NDArray[np.uint8]:
    """254 is `top`, and each lower number `STEP` less."""
    steps = np.rint((np.nan_to_num(decibels, nan=0.0, neginf=-1e9) - top) / STEP) + UNKNOWN - 1
    levels = np.where(steps < 1, SILENT, steps)
    result: NDArray[np.uint8] = np.where(np.isnan(decibels), UNKNOWN, levels).astype(np.uint8)
    return result


def _merge_bins(rows: Floats, size: int, reduce: Any) -> Floats:
    """``[C, F]`` with each `size` adjacent bins reduced to one; the DC bin stays alone."""
    if size == 1:
        return rows
    above_dc = rows[:, 1:]
    missing = -above_dc.shape[1] % size
    above_dc = np.concatenate([above_dc, np.repeat(above_dc[:, -1:], missing, axis=1)], axis=1)
    reduced = reduce(above_dc.reshape(len(rows), -1, size), axis=2)
    merged: Floats = np.concatenate([rows[:, :1], reduced], axis=1)
    return merged


def bins_within_budget(shapes: list[tuple[int, ...]]) -> int:
    """Most bins of a spectrum beside DC, so that the spectra of all sites fit into `BUDGET`."""
    limit = MAX_BINS
    while limit > MIN_BINS and sum(2 * c * min(f, limit + 1) for c, f in shapes) > BUDGET:
        limit //= 2
    return limit
