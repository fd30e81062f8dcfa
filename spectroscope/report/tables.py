"""Frames with one row per site, or per site and channel."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.report import spectra
from spectroscope.report.channels import (
    Decomposition,
    dc_columns,
    dead_and_always_on,
    statistic_columns,
    to_numpy,
)
from spectroscope.report.sources import source
from spectroscope.schema import Column, headline
from spectroscope.statistics.recording import Recording, SiteRecord

SITE_COLUMNS = ["site", "module", "function", "call", "kind"]
# Columns of `dc` that `sites` averages over the channels, and those that it adds up.
_MEANS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
          "dc_gaussian", "dc_gaussian_residual", "dc_tone",
          "dc_tone_residual"]  # fmt: skip
_COUNTS = ["nonfinite", "nonfinite_out"]
_COVERAGE = ["place", "module", "function", "kind", "status", "selected", "fired", "reason",
             "remark"]  # fmt: skip


def user_columns(recording: Recording) -> dict[str, Column]:
    """Unit and definition of the columns of the user's own statistics, by name."""
    return {
        name: Column(*pair)
        for statistic in recording.statistics.values()
        for name, pair in statistic.columns.items()
    }


def dc(recording: Recording) -> pd.DataFrame:
    """See `Report.dc`."""
    frames = [
        pd.DataFrame(
            _site_columns(record)
            | {"channel": range(record.channels), "n_samples": record.inputs}
            | dc_columns(record, recording.window)
            | _values_of_user_columns(recording, record)
        )
        for record in recording.records.values()
    ]
    columns = [*SITE_COLUMNS, "channel", "n_samples", *_MEANS, "dc_fraction", "preserved_fraction",
               "introduced_fraction", *_COUNTS, *user_columns(recording)]  # fmt: skip
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return _headline_first(table)


def sites(recording: Recording) -> pd.DataFrame:
    """See `Report.sites`."""
    rows = []
    for record in recording.records.values():
        fs, unit = spectra.SiteRate.of(recording, record)
        if np.isnan(record.decimation) or (recording.fs is not None and unit != "Hz"):
            fs = np.nan
        decomposition = Decomposition.of(record, recording.window)
        rows.append(
            _site_columns(record)
            | {
                "source": source(recording, record),
                "channels": record.channels,
                "channel_axis": record.layout.channel,
                "shape": record.shape,
                "fs": fs,
                "nyquist": fs / 2,
                "decimation": record.decimation,
                "n_samples": record.inputs,
                "dc_fraction": _dc_fraction(record),
                "preserved_fraction": decomposition.site_fraction("preserved"),
                "introduced_fraction": decomposition.site_fraction("introduced"),
                "above_next_nyquist": spectra.above_next_nyquist(recording, record),
                "feeds_global_pooling": recording.only_mean.get(record.site.name),
            }
            | dead_and_always_on(record)
        )
    columns = [*SITE_COLUMNS, "source", "channels", "channel_axis", "shape", "fs", "nyquist",
               "decimation", "n_samples", "dc_fraction", "preserved_fraction",
               "introduced_fraction", "above_next_nyquist",
               "feeds_global_pooling", "dead_fraction", "always_on_fraction"]  # fmt: skip
    by_site = dc(recording).groupby("site", sort=False)
    means = by_site[[*_MEANS, *user_columns(recording)]].mean()
    table = pd.DataFrame(rows, columns=columns).astype({"feeds_global_pooling": "boolean"})
    return _headline_first(table.join(means.join(by_site[_COUNTS].sum()), on="site"))


def _dc_fraction(record: SiteRecord) -> float:
    """Fraction of the output power of all channels together that is in the inputs' DCs."""
    dc, ac = (np.nansum(to_numpy(part)) for part in (record.output.dc_power, record.output.ac))
    return float(dc / (dc + ac)) if dc + ac > 0 else np.nan


def introduced(recording: Recording) -> pd.DataFrame:
    """See `Report.introduced`."""
    frames = []
    for record in recording.records.values():
        decomposition = Decomposition.of(record, recording.window)
        rate = spectra.SiteRate.of(recording, record)
        bins = np.nan if record.spectra is None else max(record.spectra.axes)
        columns = {
            "channel": range(record.channels),
            "regression_gain": decomposition.gain,
            **decomposition.fractions("preserved", "introduced",
                                      "introduced_in_band", "introduced_above_band"),
            "band_edge": decomposition.edge * rate.fs / bins,
            "freq_unit": rate.unit,
            "half_x_ratio": decomposition.half_x_ratio,
            "half_abs_ratio": decomposition.half_abs_ratio,
        }  # fmt: skip
        frames.append(pd.DataFrame(_site_columns(record) | columns))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SITE_COLUMNS)


def coverage(recording: Recording) -> pd.DataFrame:
    """See `Report.coverage`."""
    rows = [
        {**asdict(row), "place": row.place, "status": row.status}
        for row in recording.coverage.values()
    ]
    return pd.DataFrame(rows, columns=_COVERAGE)


def _headline_first(table: pd.DataFrame) -> pd.DataFrame:
    first = headline(table.columns)
    return table[[*first, *table.columns.drop(first)]]


def _site_columns(record: SiteRecord) -> dict[str, Any]:
    return {"site": record.site.name, **record.site._asdict()}


def _values_of_user_columns(recording: Recording, record: SiteRecord) -> dict[str, Any]:
    return {
        name: values
        for statistic in recording.statistics.values()
        if statistic.columns
        for name, values in statistic_columns(statistic, record).items()
    }
