"""`Report`: what was measured, as tidy pandas frames with units."""

import difflib
import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from spectroscope.capture.activations import by_kind
from spectroscope.errors import RequestError
from spectroscope.io import output_folder
from spectroscope.report import channels, export, predictions, spectra
from spectroscope.schema import COLUMNS, Column
from spectroscope.statistics import storage
from spectroscope.statistics.base import Statistic
from spectroscope.statistics.recording import Recording, SiteRecord

if TYPE_CHECKING:
    import xarray

    from spectroscope.report.comparison import Comparison

FILE = "report.npz"

_SITE = ["site", "module", "function", "call", "kind"]
_MEANS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
          "dc_fraction", "dc_gaussian", "dc_gaussian_residual", "dc_tone",
          "dc_tone_residual"]  # fmt: skip
# What is saved: what has a row a channel or fewer; and what has many.
_SAVED = ["dc", "sites", "introduced", "coverage", "aliasing", "harmonics"]
_LONG = ["spectra", "cross_spectra"]
# What is missing where there are no spectra, and what they take.
_SPECTRA = ("spectra were recorded", "spectra=True and inputs of one length, longer than 1")
_COUNTS = ["nonfinite", "nonfinite_out"]


class Report:
    """Tables of a recording. The unit and definition of every column is in :meth:`describe`."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self._records = list(recording.records.values())
        # Columns of a user's own statistics, with unit and definition.
        self._own = {
            name: Column(*pair)
            for statistic in recording.statistics.values()
            for name, pair in statistic.columns.items()
        }

    def __repr__(self) -> str:
        channels = sum(record.channels for record in self._records)
        return f"Report({len(self._records)} sites, {channels} channels)"

    def compare(self, other: "Report | str | os.PathLike[str]") -> "Comparison":
        """What changed from this report (A) to another (B), by site and channel.

        Args:
            other: it, or the folder where it was saved.

        Raises:
            RequestError: it can't be read.
        """
        from spectroscope.report.comparison import Comparison

        return Comparison(self, other if isinstance(other, Report) else load(other))

    @property
    def about(self) -> dict[str, str]:
        """What was looked at: `model`, `recorded` (UTC), `versions`, and what `record` was told.

        Of reports that were merged each text that differs, with semicolons between.
        """
        return {key: "; ".join(texts) for key, texts in self._recording.about.items()}

    def dc(self) -> pd.DataFrame:
        """DC and AC on both sides of the activations, one row per site × channel."""
        frames = [
            pd.DataFrame(
                _site_columns(record)
                | {"channel": range(record.channels), "n_samples": record.inputs}
                | channels.dc_columns(record, self._recording.window)
                | self._own_columns(record)
            )
            for record in self._records
        ]
        columns = [*_SITE, "channel", "n_samples", *_MEANS, "preserved_fraction",
                   "introduced_fraction", *_COUNTS, *self._own]  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def sites(self) -> pd.DataFrame:
        """One row per site: channel means of :meth:`dc` (NaN left out), counts added up.

        Fractions preserved, introduced and above the next Nyquist frequency are of the power of all
        channels together: in a mean a channel that is all but dead would outweigh the others.
        """
        rows = []
        for record in self._records:
            fs, unit = spectra.Rate.of(self._recording, record)
            if math.isnan(record.decimation) or (self._recording.fs is not None and unit != "Hz"):
                fs = math.nan
            split = channels.Split.of(record, self._recording.window)
            above = spectra.above_next_nyquist(self._recording, record)
            after = self._recording.downsamplings.get(record.site.name)
            to_head = after is not None and after.whole and after.between == 0
            rows.append(
                _site_columns(record)
                | {"channels": record.channels, "channel_axis": record.layout.channel}
                | {"shape": record.shape, "fs": fs, "nyquist": fs / 2}
                | {"decimation": record.decimation, "n_samples": record.inputs}
                | {f"{name}_fraction": split.of_site(name) for name in ("preserved", "introduced")}
                | {"above_next_nyquist": above, "feeds_global_pooling": to_head}
                | channels.extremes(record)
            )
        columns = [*_SITE, "channels", "channel_axis", "shape", "fs", "nyquist", "decimation",
                   "n_samples", "preserved_fraction", "introduced_fraction", "above_next_nyquist",
                   "feeds_global_pooling", "dead_fraction", "always_on_fraction"]  # fmt: skip
        table = pd.DataFrame(rows, columns=columns)
        by_site = self.dc().groupby("site", sort=False)
        totals = by_site[[*_MEANS, *self._own]].mean().join(by_site[_COUNTS].sum())
        return table.join(totals, on="site")

    def introduced(self) -> pd.DataFrame:
        """What each activation kept of its input, and what it added, and where in frequency.

        One row per site × channel. Powers of ½x and ½|x| for ReLU; for other kinds of gain·x and
        y − gain·x, the gain by regression. Shares in frequency take spectra; NaN without.
        """
        frames = []
        for record in self._records:
            split = channels.Split.of(record, self._recording.window)
            rate = spectra.Rate.of(self._recording, record)
            sums = record.spectra
            bins = np.nan if sums is None else max(sums.axes)
            columns = {
                "channel": range(record.channels),
                "split": "regression" if by_kind(record.site.kind).gain is None else "half",
                "gain": split.gain,
                "regression_gain": split.regression,
                **split.fractions("preserved", "introduced", "introduced_dc",
                                  "introduced_in_band", "introduced_above_band"),
                "band_edge": split.edge * rate.fs / bins,
                "freq_unit": rate.unit,
            }  # fmt: skip
            frames.append(pd.DataFrame(_site_columns(record) | columns))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_SITE)

    def spectra(
        self,
        select: str | Iterable[str] | None = None,
        *,
        scaling: Literal["spectrum", "density", "amplitude"] = "spectrum",
    ) -> pd.DataFrame:
        """Power spectra, one row per site, channel, side and frequency.

        Args:
            select: a glob or globs over module names or sites; None: all sites with a spectrum.
            scaling: ``"spectrum"``: column `power`; ``"density"``: its density, column `density`;
                ``"amplitude"``: the amplitude of a cosine of that power, column `amplitude`.

        Raises:
            RequestError: no site fits, or none of those that fit has a spectrum.
        """
        if scaling not in ("spectrum", "density", "amplitude"):
            raise RequestError(f"{scaling=} must be 'spectrum', 'density' or 'amplitude'")
        return self._over_frequency(
            lambda record: spectra.spectra(self._recording, record, scaling),
            select,
            *_SPECTRA,
        )

    def cross_spectra(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Input against output: cross-spectrum, coherence, power preserved and introduced.

        One row per site, channel and frequency. Arguments and errors as of :meth:`spectra`.
        """
        return self._over_frequency(
            lambda record: spectra.cross_spectra(self._recording, record),
            select,
            *_SPECTRA,
        )

    def planes(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Power spectra of images, not summed over rings: one row per site, channel, side, fy, fx.

        Arguments and errors as of :meth:`spectra`; takes ``record(..., spectra="plane")``.
        """
        return self._over_frequency(
            lambda record: spectra.planes(self._recording, record),
            select,
            "planes were recorded",
            'spectra="plane" and images of one size',
        )

    def harmonics(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Amplitudes at the multiples of f0 on both sides, with THD and SINAD of the channel.

        One row per site, channel and harmonic; two where it is folded in some inputs only.
        Arguments and errors as of :meth:`spectra`; takes ``record(..., f0=...)``.
        """
        return self._over_frequency(
            lambda record: spectra.harmonics(self._recording, record),
            select,
            "harmonics were recorded",
            "f0 and activations [N, C, T] whose sampling rate is known",
        )

    def predictions(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Measured DC beside what theory predicts, under each assumption about the input.

        One row per site, channel and assumption; see `assumption` in :meth:`describe`. Arguments
        and errors as of :meth:`spectra`.
        """
        return self._over_frequency(
            lambda record: predictions.predictions(self._recording, record),
            select,
            "predictions can be made",
            "ReLUs that fired",
        )

    def aliasing(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Output power above the Nyquist frequency of the next downsampling, the worst first.

        What global pooling leaves out comes last: all but the DC, and none of it folds.

        One row per site and channel. Arguments and errors as of :meth:`spectra`.
        """
        table = self._over_frequency(
            lambda record: spectra.aliasing(self._recording, record),
            select,
            "downsampling follows, or no spectra were recorded,",
            "spectra=True and a pooling or stride behind",
        )
        return table.sort_values(
            ["global_pooling", "above_next_nyquist"], ascending=[True, False], ignore_index=True
        )

    def coverage(self) -> pd.DataFrame:
        """Every place with activations, and what can't be looked into, one row each."""
        columns = ["place", "module", "function", "kind", "status", "selected", "fired", "reason"]
        rows = [
            {**asdict(row), "place": row.place, "status": row.status}
            for row in self._recording.coverage.values()
        ]
        return pd.DataFrame(rows, columns=columns)

    def describe(self) -> pd.DataFrame:
        """Unit and definition of every column of every table."""
        rows = [(name, *column) for name, column in {**COLUMNS, **self._own}.items()]
        return pd.DataFrame(rows, columns=["column", "unit", "definition"])

    def to_xarray(self, select: str | Iterable[str] | None = None) -> "dict[str, xarray.Dataset]":
        """Spectra and cross-spectra as arrays, with units: a dataset for each site, by its name.

        Not one tree, in whose paths ``relu#0`` (a module) and ``/relu#0`` (``F.relu`` in the model
        itself) would be the same. Of models that don't have both, ``xarray.DataTree.from_dict`` of
        it is one.

        Each has `power` ``(side, channel, freq)``, and the columns of :meth:`cross_spectra`
        ``(channel, freq)``; the site, its `fs` and the window are attributes.

        Args:
            select: as of :meth:`spectra`.

        Raises:
            RequestError: as for :meth:`spectra`; or xarray isn't there (extra ``[xarray]``).
        """
        export.needs("xarray", "to_xarray", "xarray")
        spectra = self.spectra(select).groupby("site", sort=False)
        cross = self.cross_spectra(select).groupby("site", sort=False)
        sites = self.sites().set_index("site", drop=False)
        found = {}
        for name, rows in spectra:
            attributes = sites.loc[name, [*_SITE, "fs"]].to_dict()
            attributes["window"] = str(self._recording.window)
            found[str(name)] = export.dataset(rows, cross.get_group(name), attributes)
        return found

    def save(self, folder: str | os.PathLike[str], *, parquet: bool = False) -> None:
        """Write the report and its tables (CSV) into `folder`, all of them or none.

        `columns.csv` is the data dictionary: :meth:`describe`.

        Args:
            folder: is made if it isn't there.
            parquet: write the tables as Parquet too, and :meth:`spectra` and :meth:`cross_spectra`,
                which are long, as Parquet only: each column's unit and definition is metadata of
                its field. Takes pyarrow (extra ``[parquet]``).

        Raises:
            RequestError: the folder can't be written to, or pyarrow isn't there.
        """
        if parquet:
            export.needs("pyarrow", "Parquet", "parquet")
        with output_folder(folder) as staging:
            storage.write(self._recording, staging / FILE)
            self.describe().to_csv(staging / "columns.csv", index=False)
            for name, table in self._tables(_SAVED):
                table.to_csv(staging / f"{name}.csv", index=False)
            for name, table in self._tables([*_SAVED, *_LONG] if parquet else []):
                export.write_parquet(table, staging / f"{name}.parquet", {**COLUMNS, **self._own})

    def page(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the report as one self-contained HTML page that needs no network.

        It has run details, coverage, findings, tables of layers and channels, their spectra, and
        the definition of every column. It follows the system's dark mode and can be printed.

        Args:
            path: of the file, in an existing folder. An existing file is replaced, or left as it
                was if writing fails.
            title: heading of the page; None: the specimen's name, or the model's.

        Raises:
            RequestError: the file cannot be written.
        """
        from spectroscope import page  # deferred: reading tables needs no jinja2

        def optional(table: Callable[..., pd.DataFrame], *select: str) -> pd.DataFrame | None:
            with suppress(RequestError):  # nothing of the kind was recorded
                return table(*select)
            return None

        html = page.render_report(
            title=title,
            about=self.about,
            sites=self.sites(),
            dc=self.dc(),
            coverage=self.coverage(),
            describe=self.describe(),
            aliasing=optional(self.aliasing),
            harmonics=optional(self.harmonics),
            predictions=optional(self.predictions),
            spectra=lambda site: optional(self.spectra, glob.escape(site)),
        )
        page.save(html, path)

    def _repr_html_(self) -> str:
        from spectroscope import page

        return page.summary(about=self.about, sites=self.sites(), coverage=self.coverage())

    def merge(self, other: "Report") -> "Report":
        """The report on both data sets, as if one recorder had seen them.

        Raises:
            RequestError: the recordings differ in fs, or in a site's channels or axes.
        """
        return Report(self._recording.merge(other._recording))

    def _own_columns(self, record: SiteRecord) -> dict[str, Any]:
        statistics = [s for s in self._recording.statistics.values() if s.columns]
        return {
            name: values
            for statistic in statistics
            for name, values in channels.computed(statistic, record).items()
        }

    def _tables(self, names: Iterable[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Those of the tables that there are, by name."""
        for name in names:
            with suppress(RequestError):  # no downsampling, no f0
                yield name, getattr(self, name)()

    def _over_frequency(
        self,
        frames_of: Callable[[SiteRecord], Iterator[pd.DataFrame]],
        select: str | Iterable[str] | None,
        what: str,
        takes: str,
    ) -> pd.DataFrame:
        """The frames of those sites that fit `select`, or an error that says why there are none."""
        fitting = self._records
        if select is not None:
            globs = [select] if isinstance(select, str) else list(select)
            fitting = [r for r in self._records if any(r.site.matches(glob) for glob in globs)]
            if not fitting:
                names = [record.site.name for record in self._records]
                near = ", ".join(difflib.get_close_matches(str(select), names, n=3, cutoff=0))
                raise RequestError(f"no site fits {select!r}; there are, for example, {near}")
        frames = [frame for record in fitting for frame in frames_of(record)]
        if not frames:
            sites = ", ".join(record.site.name for record in fitting[:3])
            raise RequestError(f"no {what} at {sites or 'any site'}: that takes {takes}")
        return pd.concat(frames, ignore_index=True)


def load(path: str | os.PathLike[str], *, statistics: Iterable[Statistic] = ()) -> Report:
    """The report that :meth:`Report.save` wrote into the folder `path`.

    Args:
        path: the folder, or its ``report.npz``.
        statistics: your own that were recorded: what is loaded can then be merged with others.

    Raises:
        RequestError: there is none, or it isn't one that this version reads.
    """
    path = Path(path)
    return Report(storage.read(path / FILE if os.path.isdir(path) else path, statistics))


def _site_columns(record: SiteRecord) -> dict[str, Any]:
    return {"site": record.site.name, **record.site._asdict()}
