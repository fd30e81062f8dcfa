"""Output power of every layer over one grid of frequencies: a spectrogram through depth.

Layers have different numbers of bins, of different widths. Here the power of a bin is spread evenly
over its width and summed in cells of equal width, so that the cells of a layer add up to its bins
and the values of different layers can be compared.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spectroscope.report.channels import MeanSpectra, to_numpy
from spectroscope.report.spectra import SiteRate
from spectroscope.statistics.recording import Recording, SiteRecord

Floats = NDArray[np.float64]

MAX_CELLS = 128  # of a layer; a picture has no more rows
_ROUNDING = 1e-9


def frames(recording: Recording) -> dict[str, pd.DataFrame]:
    """Rows of `Report.spectrogram` by site."""
    layers = {name: _Layer.of(recording, record) for name, record in recording.records.items()}
    grids = {unit: _edges(layers.values(), unit) for unit in {x.rate.unit for x in layers.values()}}
    return {
        name: _frame(layer, recording.records[name], grids[layer.rate.unit])
        for name, layer in layers.items()
    }


def decibels(power: Floats | np.float64) -> Floats:
    """Power in dB re 1 activation²; −∞ where there is none."""
    with np.errstate(divide="ignore"):
        result: Floats = 10 * np.log10(power)
    return result


class _Layer(NamedTuple):
    """Spectrum of the output of one layer.

    Attributes:
        rate: of the site.
        width: of a bin; NaN without a spectrum.
        power: ``[F]``, mean over channels; empty without a spectrum.
    """

    rate: SiteRate
    width: float
    power: Floats

    @classmethod
    def of(cls, recording: Recording, record: SiteRecord) -> "_Layer":
        rate, sums = SiteRate.of(recording, record), record.spectra
        if sums is not None:
            mean = MeanSpectra.of(sums).without_window(recording.window, sums.axes).power_out
            known = mean[~np.isnan(mean).any(axis=1)]
            if len(known) and mean.shape[1] > 1:
                return cls(rate, rate.fs / max(sums.axes), known.mean(0))
        return cls(rate, math.nan, np.empty(0))

    @property
    def ends(self) -> Floats:
        """Upper ends of the bins."""
        ends: Floats = self.width * (np.arange(len(self.power), dtype=np.float64) + 0.5)
        return ends


def _edges(layers: Iterable[_Layer], unit: str) -> Floats:
    """Edges of cells from above the DC bin: each is a whole number of the narrowest bins wide."""
    layers = [layer for layer in layers if layer.rate.unit == unit and len(layer.power)]
    if not layers:
        return np.empty(0)
    width, end = min(x.width for x in layers), max(x.ends[-1] for x in layers)
    bins = end / width - 0.5
    cell = width * math.ceil(bins / MAX_CELLS - _ROUNDING)
    edges: Floats = width / 2 + cell * np.arange(math.ceil(bins * width / cell - _ROUNDING) + 1)
    return edges


def _frame(layer: _Layer, record: SiteRecord, edges: Floats) -> pd.DataFrame:
    freq, cells = np.array([np.nan]), np.array([np.nan])
    if len(layer.power):
        reached = edges[:-1] < layer.ends[-1] * (1 - _ROUNDING)
        edges = edges[: reached.sum() + 1]
        freq = (edges[:-1] + edges[1:]) / 2
        below = np.concatenate([[0.0], np.cumsum(layer.power[1:])])
        cells = np.diff(np.interp(edges, layer.ends, below))
    dc, ac = (_mean(to_numpy(part)) for part in (record.output.dc_power, record.output.ac))
    return pd.DataFrame(
        {
            "site": record.site.name,
            "freq": freq,
            "freq_unit": layer.rate.unit,
            "power_db": decibels(cells),
            "dc_db": decibels(np.float64(dc)),
            "total_db": decibels(np.float64(dc + ac)),
            "nyquist": layer.rate.fs / 2,
        }
    )


def _mean(power: Floats) -> float:
    """Mean over the channels that are known; NaN if none is."""
    return float(np.nanmean(power)) if not np.isnan(power).all() else math.nan
