"""`Report`: the tables of a recording, as tidy pandas frames with units."""

import difflib
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.io import output_folder
from spectroscope.report import (
    examples,
    export,
    network,
    predictions,
    sources,
    spectra,
    spectrogram,
    tables,
    text,
)
from spectroscope.schema import COLUMNS
from spectroscope.statistics import storage
from spectroscope.statistics.base import Statistic
from spectroscope.statistics.recording import Recording, SiteRecord

if TYPE_CHECKING:
    import xarray

    from spectroscope.report.comparison import Comparison

FILE = "report.npz"

# Tables that `Report.save` writes as CSV, and those too long for CSV.
_CSV_TABLES = ["dc", "sites", "introduced", "coverage", "dead", "aliasing", "harmonics",
               "spectrogram", "network"]  # fmt: skip
_LONG_TABLES = ["spectra", "cross_spectra"]
# What is missing at sites without spectra, and what recording them needs.
_SPECTRA = ("spectra were recorded", "spectra=True and inputs of one length, longer than 1")


class Report:
    """Tables of a recording. :meth:`describe` has the unit and definition of every column."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self._columns = {**COLUMNS, **tables.user_columns(recording)}

    def __repr__(self) -> str:
        return f"Report({text.subject(self.about)}: {text.totals(self.sites())})"

    def __str__(self) -> str:
        sites = self.sites()
        lines = [repr(self)]
        if not sites.empty:
            lines += [text.sites_table(sites), text.filled(
                f"{text.LEGEND}. All columns: report.sites(), report.dc(). Definitions: "
                "report.describe()."
            )]  # fmt: skip
        return "\n".join([*lines, *text.gaps(self.coverage())])

    def summary(self) -> None:
        """Print what stands out, in ten sentences at most. ``print(report)`` prints the layers."""
        print(text.summary(self.about, self.sites(), self.coverage(), self.findings()))

    def findings(self) -> list[str]:
        """What stands out: dead channels, aliasing and others, each in a sentence with a number."""
        from spectroscope.page import findings  # deferred, as in `page`

        aliasing = export.recorded(self.aliasing)
        return text.sentences(findings.findings(self.sites(), self.dc(), aliasing))

    def compare(self, other: "Report | str | os.PathLike[str]") -> "Comparison":
        """The changes from this report (A) to another (B), by site and channel.

        Args:
            other: report B, or the folder where it was saved.

        Raises:
            RequestError: report B can't be read.
        """
        from spectroscope.report.comparison import Comparison

        return Comparison(self, other if isinstance(other, Report) else load(other))

    @property
    def about(self) -> dict[str, str]:
        """Run details by name (`model`, `recorded` in UTC, `versions`), and `about` of `record`.

        In a merged report, texts that differ are joined with semicolons.
        """
        return {key: "; ".join(texts) for key, texts in self._recording.about.items()}

    def dc(self) -> pd.DataFrame:
        """DC and AC on both sides of the activations, one row per site × channel."""
        return self._titled(tables.dc(self._recording))

    def sites(self) -> pd.DataFrame:
        """One row per site: channel means of :meth:`dc` without NaN, and sums of its counts.

        DC, preserved and introduced fraction and the fraction above the next Nyquist frequency are
        ratios of the power of all channels together: in a mean, channels with almost no power
        would weigh as much as the others.
        """
        return self._titled(tables.sites(self._recording))

    def introduced(self) -> pd.DataFrame:
        """What each activation preserved of its input, what it added, and at which frequencies.

        One row per site × channel. The output y is split into gain·x and y − gain·x, with
        Bussgang's gain, by regression: then the powers of the parts add up. For ReLU the powers of
        the paper's ½x and ½|x| are given too. Fractions by frequency need spectra; otherwise they
        are NaN.
        """
        return tables.introduced(self._recording)

    def spectra(
        self,
        select: str | Iterable[str] | None = None,
        *,
        scaling: Literal["spectrum", "density", "amplitude"] = "spectrum",
    ) -> pd.DataFrame:
        """Power spectra, one row per site, channel, side and frequency.

        Args:
            select: a glob or globs over module names or sites; those that match none, over the
                layers in the column `source` of :meth:`sites`. None: all sites with a spectrum.
            scaling: ``"spectrum"``: column `power`; ``"density"``: power per frequency, column
                `density`; ``"amplitude"``: amplitude of a cosine of that power, column `amplitude`.

        Raises:
            RequestError: no site matches, or no matching site has a spectrum.
        """
        if scaling not in ("spectrum", "density", "amplitude"):
            raise RequestError(f"{scaling=} must be 'spectrum', 'density' or 'amplitude'")
        return self._select(
            lambda record: spectra.spectra(self._recording, record, scaling),
            select,
            *_SPECTRA,
        )

    def cross_spectra(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Cross-spectrum of input and output, coherence, preserved and introduced power.

        One row per site, channel and frequency. Arguments and errors as in :meth:`spectra`.
        """
        return self._select(
            lambda record: spectra.cross_spectra(self._recording, record),
            select,
            *_SPECTRA,
        )

    def spectrogram(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Output power of every layer over frequency, in dB: a spectrogram through depth.

        One row per site and frequency. Sites with the same `freq_unit` share one grid of at most
        128 cells of equal width. A site without a spectrum has one row, with `freq` and `power_db`
        NaN.

        Args:
            select: as in :meth:`spectra`.

        Raises:
            RequestError: no site matches, or there is none.
        """
        frames = spectrogram.frames(self._recording)
        return self._select(
            lambda record: iter([frames[record.site.name]]),
            select,
            "outputs were recorded",
            "an activation that fires",
        )

    def planes(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """2-D power spectra of images, one row per site, channel, side, fy and fx.

        Needs ``record(..., spectra="plane")``. Arguments and errors as in :meth:`spectra`.
        """
        return self._select(
            lambda record: spectra.planes(self._recording, record),
            select,
            "planes were recorded",
            'spectra="plane" and images of one size',
        )

    def harmonics(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Amplitudes at the multiples of f0 on both sides, with THD and SINAD of the channel.

        One row per site, channel and harmonic; two if it is folded in some inputs only. Needs
        ``record(..., f0=...)``. Arguments and errors as in :meth:`spectra`.
        """
        searched = "; ".join(self._recording.about.get("f0", ()))
        here = f" (here: {searched}; unknown in inputs without one)" if searched else ""
        rows = self._recording.coverage.values()
        reasons = (row.reason.partition("no harmonics: ")[2] for row in rows)
        reason = next((f"; here {reason}" for reason in reasons if reason), "")
        return self._select(
            lambda record: spectra.harmonics(self._recording, record),
            select,
            "harmonics were recorded",
            f"f0{here} and activations [N, C, T] whose sampling rate is known{reason}",
        )

    def predictions(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Measured DC beside the DC that theory predicts under each assumption about the input.

        One row per site, channel and assumption; :meth:`describe` defines `assumption`. Arguments
        and errors as in :meth:`spectra`.
        """
        return self._select(
            lambda record: predictions.predictions(self._recording, record),
            select,
            "predictions can be made",
            "ReLUs that fired",
        )

    def aliasing(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Output power above the Nyquist frequency of the next downsampling.

        Sites directly before a downsampling come first: of others a later convolution decides what
        folds. Those before global pooling come last, where only the DC remains and nothing folds.
        In each of the three groups the greatest power is first. `folded_fraction` is what passes
        the downsampling's own average, and folds, where that is known.

        One row per site and channel. Arguments and errors as in :meth:`spectra`.
        """
        table = self._select(
            lambda record: spectra.aliasing(self._recording, record),
            select,
            "downsampling follows, or no spectra were recorded,",
            "spectra=True and a later pooling or stride",
        )
        direct = (table["activations_between"] == 0) & ~table["global_pooling"]
        order = table.assign(direct=direct).sort_values(
            ["global_pooling", "direct", "power_above"], ascending=[True, False, False]
        )
        return table.loc[order.index].reset_index(drop=True)

    def examples(self, select: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Input and output of activations for the first inputs: lines, and thumbnails of images.

        One row per site, input, channel, side, and position or row and column. The channels are
        those with the largest, median and smallest output DC in the first batch, in this order.
        Lines have 512 points at most, of longer ones the extremes; thumbnails 64 × 64. In a merged
        report they are of the first report's inputs. Needs ``record(..., examples=n)``. Arguments
        and errors as in :meth:`spectra`.
        """
        return self._select(
            lambda record: examples.examples(self._recording, record),
            select,
            "examples were recorded",
            "examples=1 or more",
        )

    def coverage(self) -> pd.DataFrame:
        """Every place with activations, and every part of the model that can't be observed."""
        return tables.coverage(self._recording)

    def network(self) -> pd.DataFrame:
        """What feeds what in the model: one row per node, in the order of the first forward.

        Nodes are inputs, convolutions, linear layers and the like, activations, poolings and other
        changes of the sampling rate, joins, and outputs. What else a tensor went through isn't a
        node. A module that is called several times is a node for each call. `inputs` has the
        names of the nodes before. What a tensor comes from may be unknown, as behind NumPy or a
        scripted module; the node before is then an ``unknown`` one. Without rows: the report was
        saved by a version that recorded no network.
        """
        return network.network(self._recording)

    def dead(self) -> pd.DataFrame:
        """Channels whose output was never > 0, with the filter that makes each.

        One row per channel and layer: where outputs of several layers are added, all of them. A
        channel can be pruned by removing its filters. `source` and `filter` are NA where unknown.
        """
        return sources.dead(self._recording)

    def describe(self) -> pd.DataFrame:
        """Unit and definition of every column of every table."""
        rows = [(name, *column) for name, column in self._columns.items()]
        return pd.DataFrame(rows, columns=["column", "unit", "definition"])

    def to_xarray(self, select: str | Iterable[str] | None = None) -> "dict[str, xarray.Dataset]":
        """Spectra and cross-spectra as arrays with units: one dataset per site, by site name.

        Each dataset has `power` ``(side, channel, freq)`` and the columns of :meth:`cross_spectra`
        ``(channel, freq)``; attributes are the site, its `fs` and the window.

        The result isn't a tree, because ``relu#0`` (a module) and ``/relu#0`` (``F.relu`` in the
        model itself) would be the same path. ``xarray.DataTree.from_dict`` makes one for models
        that don't have both.

        Args:
            select: as in :meth:`spectra`.

        Raises:
            RequestError: as in :meth:`spectra`; or xarray isn't installed (extra ``[xarray]``).
        """
        export.needs("xarray", "to_xarray", "xarray")
        spectra_by_site = self.spectra(select).groupby("site", sort=False)
        cross_by_site = self.cross_spectra(select).groupby("site", sort=False)
        sites = self.sites().set_index("site", drop=False)
        datasets = {}
        for name, rows in spectra_by_site:
            attributes = sites.loc[name, [*tables.SITE_COLUMNS, "fs"]].to_dict()
            attributes["window"] = str(self._recording.window)
            datasets[str(name)] = export.dataset(rows, cross_by_site.get_group(name), attributes)
        return datasets

    def save(self, folder: str | os.PathLike[str], *, parquet: bool = False) -> None:
        """Write the report and its tables (CSV) into `folder`, all of them or none.

        CSV has 7 significant digits; the report itself and Parquet have every bit.
        `columns.csv` is the data dictionary: :meth:`describe`.

        Args:
            folder: created if it doesn't exist.
            parquet: write the tables as Parquet too, and the long tables :meth:`spectra` and
                :meth:`cross_spectra` as Parquet only. Unit and definition of each column are
                metadata of its field. Needs pyarrow (extra ``[parquet]``).

        Raises:
            RequestError: the folder can't be written to, or pyarrow isn't installed.
        """
        if parquet:
            export.needs("pyarrow", "Parquet", "parquet")
        with output_folder(folder) as staging:
            storage.write(self._recording, staging / FILE)
            self.describe().to_csv(staging / "columns.csv", index=False)
            for name, table in self._available(_CSV_TABLES):
                export.write_csv(table, staging / f"{name}.csv")
            for name, table in self._available([*_CSV_TABLES, *_LONG_TABLES] if parquet else []):
                export.write_parquet(table, staging / f"{name}.parquet", self._columns)

    def page(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the report as one self-contained HTML page that needs no network.

        It has a spectrogram through depth, a map of the network, findings, spectra, examples and
        tables of layers and channels, run details, coverage, and the definition of every column. It
        follows the system's dark mode and can be printed. Bokeh draws its figures, and is in the
        file.

        Args:
            path: of the file, in an existing folder. An existing file is replaced; if writing fails
                it is left unchanged.
            title: heading of the page; None: the specimen's name, or the model's.

        Raises:
            RequestError: the file cannot be written.
        """
        from spectroscope import page  # deferred: reading tables needs no jinja2

        html = page.render_report(
            title=title,
            about=self.about,
            sites=self.sites(),
            dc=self.dc(),
            coverage=self.coverage(),
            describe=self.describe(),
            aliasing=export.recorded(self.aliasing),
            harmonics=export.recorded(self.harmonics),
            predictions=export.recorded(self.predictions),
            spectrogram=export.recorded(self.spectrogram),
            network=self.network(),
            spectra=self._spectra_of,
            examples=self._examples_of,
        )
        page.save(html, path)

    def _spectra_of(self, site: str) -> pd.DataFrame | None:
        return export.recorded(self.spectra, glob.escape(site))

    def _examples_of(self, site: str) -> pd.DataFrame | None:
        return export.recorded(self.examples, glob.escape(site))

    def _repr_html_(self) -> str:
        from spectroscope import page

        return page.summary(about=self.about, sites=self.sites(), coverage=self.coverage())

    def merge(self, other: "Report") -> "Report":
        """The report of both data sets, as if one recorder had recorded them.

        Of which weights they are is a hash in `about`. It is unknown of a model that was trained
        while it was recorded, or before its report; then they are merged.

        Raises:
            RequestError: the recordings differ in fs, or in a site's channels or axes; or they are
                runs of different models or weights.
        """
        return Report(self._recording.merge(other._recording))

    def _available(self, names: Iterable[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Names and tables, without the tables that this recording doesn't have."""
        for name in names:
            with suppress(RequestError):  # no downsampling, no f0
                yield name, getattr(self, name)()

    def _select(
        self,
        frames_of: Callable[[SiteRecord], Iterator[pd.DataFrame]],
        select: str | Iterable[str] | None,
        missing: str,
        needs: str,
    ) -> pd.DataFrame:
        """The frames of the sites that match `select`.

        Raises:
            RequestError: no site matches, or there are no frames: `missing` and `needs` are parts
                of the message.
        """
        records = list(self._recording.records.values())
        if select is not None:
            globs = [select] if isinstance(select, str) else list(select)
            names = [record.site.name for record in records]
            records = sources.matching(self._recording, globs)
            if not records:
                near = ", ".join(difflib.get_close_matches(str(select), names, n=3, cutoff=0))
                raise RequestError(f"no site matches {select!r}; there are, for example, {near}")
        frames = [frame for record in records for frame in frames_of(record)]
        if not frames:
            sites = ", ".join(record.site.name for record in records[:3])
            raise RequestError(f"no {missing} at {sites or 'any site'}: that needs {needs}")
        table = pd.concat(frames, ignore_index=True)
        return self._titled(table)

    def _titled(self, table: pd.DataFrame) -> pd.DataFrame:
        """`table` with the titles of its sites, for plots."""
        table.attrs["titles"] = sources.titles(self._recording)
        return table


def load(path: str | os.PathLike[str], *, statistics: Iterable[Statistic] = ()) -> Report:
    """Load a report that :meth:`Report.save` wrote.

    Args:
        path: the folder, or its ``report.npz``.
        statistics: instances of your own statistics that were recorded: the report can then be
            merged with others.

    Raises:
        RequestError: the file can't be read, or isn't a report of this version's format.
    """
    path = Path(path)
    return Report(storage.read(path / FILE if os.path.isdir(path) else path, statistics))
