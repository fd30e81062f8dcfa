"""Two reports beside each other: what changed, at which site and in which channel."""

import os

import numpy as np
import pandas as pd

from spectroscope.io import output_folder
from spectroscope.report.report import Report
from spectroscope.schema import COLUMNS, OF_COMPARISONS, Column

_SITE = ["site", "module", "function", "call", "kind"]
# What is set side by side of each channel, and of each site.
_OF_CHANNELS = ["dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
                "dc_fraction", "introduced_fraction", "nonfinite", "nonfinite_out"]  # fmt: skip
_OF_SITES = [*_OF_CHANNELS, "dead_fraction", "always_on_fraction"]


class Comparison:
    """What changed from report A to report B, of checkpoints, models with the same sites, or data.

    Sites are matched by name, channels by number. Columns end in ``_a``, ``_b`` and ``_change``,
    which is B − A; :meth:`describe` has unit and definition of each.

    Args:
        a: what it was.
        b: what it has become.
    """

    def __init__(self, a: Report, b: Report):
        self.a, self.b = a, b
        self._sites = a.sites(), b.sites()
        self._unmatched = unmatched(*self._sites, "in A", "in B")
        known = set(self._unmatched["site"])
        self._matched = [site for site in self._sites[0]["site"] if site not in known]

    def __repr__(self) -> str:
        return f"Comparison({len(self._matched)} sites matched, {len(self._unmatched)} not)"

    def channels(self) -> pd.DataFrame:
        """One row per channel of the sites that both have, with the effect size of its DC."""
        table = self._beside(self.a.dc(), self.b.dc(), [*_SITE, "channel"], _OF_CHANNELS)
        a, b = (
            {"n": table[f"n_samples_{side}"], "variance": table[f"dc_out_std_{side}"] ** 2}
            for side in "ab"
        )
        change = table["dc_out_change"]
        few = (a["n"] < 2) | (b["n"] < 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = _over(change, np.sqrt((a["variance"] + b["variance"]) / 2))
            # The sample's variance over n is the population's over n - 1.
            error = np.sqrt(sum(side["variance"] / (side["n"] - 1) for side in (a, b)))
            t = _over(change, error)
        found = {"effect_size": effect.mask(few), "welch_t": t.mask(few)}
        place = table.columns.get_loc("channel") + 1
        for name, values in reversed(found.items()):
            table.insert(place, name, values)
        return table

    def sites(self) -> pd.DataFrame:
        """One row per site that both have: channel means, and the largest effect."""
        table = self._beside(*self._sites, [*_SITE, "channels"], _OF_SITES)
        rows = []
        for _, of_site in self.channels().groupby("site", sort=False):
            effect = of_site["effect_size"]
            largest = effect.abs().idxmax() if effect.notna().any() else None
            active = {side: of_site[f"active_fraction_{side}"] for side in "ab"}
            rows.append(
                {
                    "site": of_site["site"].iloc[0],
                    "effect_rms": np.sqrt(np.square(effect).mean()),
                    "effect_max": np.nan if largest is None else effect[largest],
                    "channel_max": pd.NA if largest is None else of_site["channel"][largest],
                    "died": int(((active["a"] > 0) & (active["b"] == 0)).sum()),  # neither is NaN
                    "revived": int(((active["a"] == 0) & (active["b"] > 0)).sum()),
                }
            )
        columns = ["site", "effect_rms", "effect_max", "channel_max", "died", "revived"]
        effects = pd.DataFrame(rows, columns=columns).astype({"channel_max": "Int64"})
        merged = table.merge(effects, on="site", validate="one_to_one")
        first = [*_SITE, "channels", *columns[1:]]
        return merged[[*first, *merged.columns.drop(first)]]

    def unmatched(self) -> pd.DataFrame:
        """Sites that can't be compared, one row each, and why."""
        return self._unmatched

    def describe(self) -> pd.DataFrame:
        """Unit and definition of every column of every table."""
        tables = (self.channels(), self.sites(), self.unmatched())
        names = dict.fromkeys(name for table in tables for name in table.columns)
        rows = [(name, *_definition(name)) for name in names]
        return pd.DataFrame(rows, columns=["column", "unit", "definition"])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tables into `folder`, ``compare_sites.csv`` and so on, all of them or none.

        Raises:
            RequestError: the folder can't be written to.
        """
        tables = {"channels": self.channels(), "sites": self.sites()}
        tables |= {"unmatched": self.unmatched(), "columns": self.describe()}
        with output_folder(folder) as staging:
            for name, table in tables.items():  # a report's own tables may lie there too
                table.to_csv(staging / f"compare_{name}.csv", index=False)

    def page(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write what changed as one HTML page, as :meth:`Report.page` does.

        Args:
            path: of the file, in a folder that is there.
            title: above the page; None: what was looked at.

        Raises:
            RequestError: it can't be written.
        """
        from spectroscope import page  # one look ahead, as of `Report.page`

        page.save(page.render_comparison(self, title), path)

    def _beside(
        self, a: pd.DataFrame, b: pd.DataFrame, keys: list[str], values: list[str]
    ) -> pd.DataFrame:
        """Rows of both that have the same keys, of matched sites, and the changes."""
        of_both = [
            side.loc[side["site"].isin(self._matched), [*keys, "n_samples", *values]]
            for side in (a, b)
        ]
        table = of_both[0].merge(of_both[1], on=keys, suffixes=("_a", "_b"), validate="one_to_one")
        columns = [*keys, "n_samples_a", "n_samples_b"]
        for name in values:
            table[f"{name}_change"] = table[f"{name}_b"] - table[f"{name}_a"]
            columns += [f"{name}_a", f"{name}_b", f"{name}_change"]
        return table[columns]


def unmatched(a: pd.DataFrame, b: pd.DataFrame, in_a: str, in_b: str) -> pd.DataFrame:
    """Rows of :meth:`Comparison.unmatched`, from the tables of sites of both, and their names."""
    of_a, of_b = a.set_index("site"), b.set_index("site")
    rows = []
    for site in dict.fromkeys([*of_a.index, *of_b.index]):
        if site not in of_b.index or site not in of_a.index:
            rows.append((site, f"only {in_a if site in of_a.index else in_b}"))
            continue
        for name, unit in (("kind", ""), ("channels", " channels")):
            before, after = of_a[name][site], of_b[name][site]
            if before != after:
                rows.append((site, f"{before}{unit} {in_a}, {after}{unit} {in_b}"))
                break
    return pd.DataFrame(rows, columns=["site", "why"])


def _over(change: pd.Series, spread: pd.Series) -> pd.Series:
    """`change` in units of `spread`; nothing in units of nothing is 0."""
    return (change / spread).mask(change == 0, 0.0)


def _definition(name: str) -> Column:
    if name in OF_COMPARISONS:
        return OF_COMPARISONS[name]
    base, _, side = name.rpartition("_")
    if side in ("a", "b", "change") and base in COLUMNS:
        unit, definition = COLUMNS[base]
        of = {"a": "of A: ", "b": "of B: ", "change": "B − A of "}[side]
        return Column(unit, of + (base if side == "change" else definition))
    return COLUMNS[name]
