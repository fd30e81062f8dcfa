"""Frames with one row per site, or per site and channel."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.capture.activations import by_kind
from spectroscope.report import spectra
from spectroscope.report.channels import (
    Decomposition,
    dc_columns,
    dead_and_always_on,
    statistic_columns,
)
from spectroscope.schema import Column, headline
from spectroscope.statistics.recording import Recording, SiteRecord

SITE_COLUMNS = ["site", "module", "function", "call", "kind"]
# Columns of `dc` that `sites` averages over the channels, and those that it adds up.
_MEANS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
          "dc_fraction", "dc_gaussian", "dc_gaussian_residual", "dc_tone",
          "dc_tone_residual"]  # fmt: skip
_COUNTS = ["nonfinite", "nonfinite_out"]
_COVERAGE = ["place", "module", "function", "kind", "status", "selected", "fired", "reason"]


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
    columns = [*SITE_COLUMNS, "channel", "n_samples", *_MEANS, "preserved_fraction",
               "introduced_fraction", *_COUNTS, *user_columns(recording)]  # fmt: skip
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return _headline_first(table)


def sites(recording: Recording) -> pd.DataFrame:
    """See `Report.sites`."""
    rows = []
    for record in recording.records.values():
        known = not np.isnan(record.decimation)
        fs = spectra.SiteRate.of(recording, record).fs if known else np.nan
        decomposition = Decomposition.of(record, recording.window)
        downsampling = recording.downsamplings.get(record.site.name)
        rows.append(
            _site_columns(record)
            | {
                "channels": record.channels,
                "shape": record.shape,
                "fs": fs,
                "nyquist": fs / 2,
                "decimation": record.decimation,
                "n_samples": record.inputs,
                "preserved_fraction": decomposition.site_fraction("preserved"),
                "introduced_fraction": decomposition.site_fraction("introduced"),
                "above_next_nyquist": spectra.above_next_nyquist(recording, record),
                "feeds_global_pooling": downsampling is not None
                and downsampling.whole
                and downsampling.between == 0,
            }
            | dead_and_always_on(record)
        )
    columns = [*SITE_COLUMNS, "channels", "shape", "fs", "nyquist", "decimation", "n_samples",
               "preserved_fraction", "introduced_fraction", "above_next_nyquist",
               "feeds_global_pooling", "dead_fraction", "always_on_fraction"]  # fmt: skip
    by_site = dc(recording).groupby("site", sort=False)
    means = by_site[[*_MEANS, *user_columns(recording)]].mean()
    table = pd.DataFrame(rows, columns=columns)
    return _headline_first(table.join(means.join(by_site[_COUNTS].sum()), on="site"))


def introduced(recording: Recording) -> pd.DataFrame:
    """See `Report.introduced`."""
    frames = []
    for record in recording.records.values():
        decomposition = Decomposition.of(record, recording.window)
        rate = spectra.SiteRate.of(recording, record)
        bins = np.nan if record.spectra is None else max(record.spectra.axes)
        columns = {
            "channel": range(record.channels),
            "split": "regression" if by_kind(record.site.kind).gain is None else "half",
            "gain": decomposition.gain,
            "regression_gain": decomposition.regression,
            **decomposition.fractions("preserved", "introduced", "introduced_dc",
                                      "introduced_in_band", "introduced_above_band"),
            "band_edge": decomposition.edge * rate.fs / bins,
            "freq_unit": rate.unit,
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
