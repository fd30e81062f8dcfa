"""Two reports side by side: what changed, at which site and in which channel."""

import html
import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spectroscope.io import output_folder
from spectroscope.report import export, text
from spectroscope.schema import COLUMNS, COMPARISON_COLUMNS, Column

if TYPE_CHECKING:
    from spectroscope.report.report import Report

_SITE = ["site", "module", "function", "call", "kind"]
# Columns compared for each channel, and for each site.
_CHANNEL_COLUMNS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out",
                    "active_fraction", "dc_fraction", "introduced_fraction", "nonfinite",
                    "nonfinite_out"]  # fmt: skip
_SITE_COLUMNS = [*_CHANNEL_COLUMNS, "dead_fraction", "always_on_fraction"]


class Comparison:
    """Changes from report A to report B: two checkpoints, models with the same sites, or data sets.

    Sites are matched by name, channels by number. Columns end in ``_a``, ``_b`` and ``_change``,
    which is B − A; :meth:`describe` has the unit and definition of each.

    Args:
        a: the report before the change.
        b: the report after it.
    """

    def __init__(self, a: "Report", b: "Report"):
        self.a, self.b = a, b
        self._sites = a.sites(), b.sites()
        self._unmatched = unmatched(*self._sites, "in A", "in B")
        excluded = set(self._unmatched["site"])
        self._matched = [site for site in self._sites[0]["site"] if site not in excluded]

    def __repr__(self) -> str:
        names = " and ".join(dict.fromkeys(text.subject(side.about) for side in (self.a, self.b)))
        return (
            f"Comparison({names}: {len(self._matched)} sites matched, "
            f"{len(self._unmatched)} unmatched)"
        )

    def __str__(self) -> str:
        from spectroscope.page import comparison  # deferred, as in `page`

        sites = self.sites()
        lines = [repr(self)]
        if not sites.empty:
            found = comparison.findings(sites, self.channels())
            lines += [
                *map(text.filled, text.sentences(found) or ["Nothing stands out."]),
                "",
                text.changes_table(sites),
                text.LEGEND + ".",
            ]
        lines += [f"{row.site}: {row.why}" for row in self._unmatched.itertuples()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        table: str = self.sites()[text.CHANGES].to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{html.escape(repr(self))}</p>{table}"

    def channels(self) -> pd.DataFrame:
        """One row per channel of the matched sites, with the effect size of its change of DC."""
        table = self._side_by_side(self.a.dc(), self.b.dc(), [*_SITE, "channel"], _CHANNEL_COLUMNS)
        a, b = (
            {"n": table[f"n_samples_{side}"], "variance": table[f"dc_out_std_{side}"] ** 2}
            for side in "ab"
        )
        change = table["dc_out_change"]
        few = (a["n"] < 2) | (b["n"] < 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = _ratio(change, np.sqrt((a["variance"] + b["variance"]) / 2))
            # The sample's variance over n is the population's over n - 1.
            error = np.sqrt(sum(side["variance"] / (side["n"] - 1) for side in (a, b)))
            t = _ratio(change, error)
        position = table.columns.get_loc("channel") + 1
        table.insert(position, "effect_size", effect.mask(few))
        table.insert(position + 1, "welch_t", t.mask(few))
        return table

    def sites(self) -> pd.DataFrame:
        """One row per matched site: channel means, and the largest effect size."""
        table = self._side_by_side(*self._sites, [*_SITE, "channels"], _SITE_COLUMNS)
        rows = []
        for site, channels in self.channels().groupby("site", sort=False):
            effect = channels["effect_size"]
            largest = effect.abs().idxmax() if effect.notna().any() else None
            active = {side: channels[f"active_fraction_{side}"] for side in "ab"}
            rows.append(
                {
                    "site": site,
                    "effect_rms": np.sqrt(np.square(effect).mean()),
                    "effect_max": np.nan if largest is None else effect[largest],
                    "channel_max": pd.NA if largest is None else channels["channel"][largest],
                    "died": int(((active["a"] > 0) & (active["b"] == 0)).sum()),  # NaN: neither
                    "revived": int(((active["a"] == 0) & (active["b"] > 0)).sum()),
                }
            )
        columns = ["site", "effect_rms", "effect_max", "channel_max", "died", "revived"]
        effects = pd.DataFrame(rows, columns=columns).astype({"channel_max": "Int64"})
        merged = table.merge(effects, on="site", validate="one_to_one")
        first = [*_SITE, "channels", *columns[1:]]
        return merged[[*first, *merged.columns.drop(first)]]

    def unmatched(self) -> pd.DataFrame:
        """One row per site that cannot be compared, with the reason."""
        return self._unmatched

    def describe(self) -> pd.DataFrame:
        """Unit and definition of every column of every table."""
        tables = (self.channels(), self.sites(), self.unmatched())
        names = dict.fromkeys(name for table in tables for name in table.columns)
        rows = [(name, *_definition(name)) for name in names]
        return pd.DataFrame(rows, columns=["column", "unit", "definition"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tables into `folder` (``compare_sites.csv`` etc.), all of them or none.

        Raises:
            RequestError: the folder cannot be written to.
        """
        tables = {"channels": self.channels(), "sites": self.sites()}
        tables |= {"unmatched": self.unmatched(), "columns": self.describe()}
        with output_folder(folder) as staging:
            for name, table in tables.items():  # prefixed: a report may be saved there too
                export.write_csv(table, staging / f"compare_{name}.csv")

    def page(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the comparison as one HTML page, as :meth:`Report.page` does.

        Args:
            path: of the file, in an existing folder.
            title: heading of the page; None: made of the specimens' or models' names.

        Raises:
            RequestError: the file cannot be written.
        """
        from spectroscope import page  # deferred, as in `Report.page`

        a, b = (export.recorded(report.spectrogram) for report in (self.a, self.b))
        content = page.render_comparison(
            title=title,
            about=(self.a.about, self.b.about),
            sites=self.sites(),
            channels=self.channels(),
            unmatched=self.unmatched(),
            describe=self.describe(),
            spectrograms=None if a is None or b is None else (a, b),
            spectra=(self.a._spectra_of, self.b._spectra_of),
        )
        page.save(content, path)

    def _side_by_side(
        self, a: pd.DataFrame, b: pd.DataFrame, keys: list[str], values: list[str]
    ) -> pd.DataFrame:
        """`values` of A and B and their difference, for rows of matched sites with equal `keys`."""
        before, after = (
            frame.loc[frame["site"].isin(self._matched), [*keys, "n_samples", *values]]
            for frame in (a, b)
        )
        table = before.merge(after, on=keys, suffixes=("_a", "_b"), validate="one_to_one")
        columns = [*keys, "n_samples_a", "n_samples_b"]
        for name in values:
            table[f"{name}_change"] = table[f"{name}_b"] - table[f"{name}_a"]
            columns += [f"{name}_a", f"{name}_b", f"{name}_change"]
        return table[columns]


def unmatched(a: pd.DataFrame, b: pd.DataFrame, in_a: str, in_b: str) -> pd.DataFrame:
    """Sites that are in one report only, or differ in kind or number of channels.

    Args:
        a: `Report.sites()` of the first report.
        b: `Report.sites()` of the second.
        in_a: words for the first report, such as "in A".
        in_b: words for the second.
    """
    a, b = a.set_index("site"), b.set_index("site")
    rows = []
    for site in dict.fromkeys([*a.index, *b.index]):
        if site not in b.index or site not in a.index:
            rows.append((site, f"only {in_a if site in a.index else in_b}"))
            continue
        for name, unit in (("kind", ""), ("channels", " channels")):
            before, after = a[name][site], b[name][site]
            if before != after:
                rows.append((site, f"{before}{unit} {in_a}, {after}{unit} {in_b}"))
                break
    return pd.DataFrame(rows, columns=["site", "why"])


def _ratio(change: pd.Series, spread: pd.Series) -> pd.Series:
    """`change` over `spread`; 0 if both are 0."""
    return (change / spread).mask(change == 0, 0.0)


def _definition(name: str) -> Column:
    if name in COMPARISON_COLUMNS:
        return COMPARISON_COLUMNS[name]
    base, _, side = name.rpartition("_")
    if side in ("a", "b", "change") and base in COLUMNS:
        unit, definition = COLUMNS[base]
        prefix = {"a": "in A: ", "b": "in B: ", "change": "B − A of "}[side]
        return Column(unit, prefix + (base if side == "change" else definition))
    return COLUMNS[name]
