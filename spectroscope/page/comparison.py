"""The page of two reports: what changed most, and the numbers that its script draws."""

import math
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.page.finding import Finding, Findings, Reference, channel_finding, if_known
from spectroscope.page.findings import FEW_INPUTS
from spectroscope.page.numbers import packed, quantity, three_digits
from spectroscope.page.payload import FrameOf, depth
from spectroscope.page.spectra import Spectra, bins_within_budget

CHANGED = 0.5  # |effect_size|, a medium effect according to Cohen; named in the finding's text

DEPTH = {
    "effect_rms": "change of DC in units of its spread over inputs, RMS over channels",
    "effect_largest": "largest change of a channel, in the same unit",
}
_SITE_COLUMNS = ["site", "channels", "effect_rms", "effect_max", "channel_max", "died", "revived"]
_SIDE_BY_SIDE = ["dc_out", "dc_out_std", "ac_rms_out", "active_fraction", "dc_fraction",
                 "dead_fraction", "nonfinite", "nonfinite_out"]  # fmt: skip
# Of a channel; channels.csv has the others.
_CHANNEL_COLUMNS = ["effect_size", "welch_t", "dc_out_a", "dc_out_b", "dc_out_std_a",
                    "dc_out_std_b", "ac_rms_out_a", "ac_rms_out_b", "active_fraction_a",
                    "active_fraction_b", "dc_fraction_a", "dc_fraction_b"]  # fmt: skip


def site_table(sites: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.sites()` with the columns in the order of the page, without empty ones."""
    side_by_side = [f"{name}_{side}" for name in _SIDE_BY_SIDE for side in "ab"]
    table = sites[[*_SITE_COLUMNS, *side_by_side]].astype({"channel_max": float})
    if table.empty:
        return table
    zero = [name for name in table if name.startswith("nonfinite") and not table[name].any()]
    empty = [name for name in table if table[name].isna().all()]
    return table.drop(columns={*zero, *empty})


def embedded(
    sites: pd.DataFrame, channels: pd.DataFrame, spectra: tuple[FrameOf, FrameOf]
) -> dict[str, Any]:
    """Data for the script, ready for JSON; arguments as of `render_comparison`."""
    channels_of = dict(iter(channels.groupby("site", sort=False)))
    both = {site: _outputs(*(of(site) for of in spectra)) for site in sites["site"]}
    known = {site: Spectra.of(frame) for site, frame in both.items() if frame is not None}
    bins = bins_within_budget([pair.power["out"].shape for pair in known.values()])
    layers = []
    for site in sites["site"]:
        table = channels_of[site]
        layer = {"site": site, "channels": {n: packed(table[n]) for n in _CHANNEL_COLUMNS}}
        if site in known:
            layer["spectra"] = known[site].merged(bins).embedded()
            effect = table["effect_size"].abs()
            layer["first"] = int(
                table["channel"][effect.idxmax() if effect.any() else table.index[0]]
            )
        else:
            layer["note"] = "No spectra, or of other frequencies in A than in B."
        layers.append(layer)
    curves = sites.assign(effect_largest=sites["effect_max"].abs())
    titles = {"spectrum": "Output spectra of A and B", "in": "A", "out": "B"}
    return {"layers": layers, "depth": depth(curves, DEPTH), "titles": titles}


def _outputs(a: pd.DataFrame | None, b: pd.DataFrame | None) -> pd.DataFrame | None:
    """The output spectra of A and B as the two sides of one frame, if their bins are the same."""
    if a is None or b is None:
        return None
    a, b = (frame[frame["side"] == "out"] for frame in (a, b))
    bins = ["channel", "freq", "freq_unit"]
    if not a[bins].reset_index(drop=True).equals(b[bins].reset_index(drop=True)):
        return None
    return pd.concat([a.assign(side="in"), b])


def cells(sites: pd.DataFrame, spectrograms: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Change of the output power from A to B in dB, in the cells that both have."""
    a, b = (frame[frame["site"].isin(sites["site"])] for frame in spectrograms)
    key = ["site", "freq", "freq_unit"]
    same = a.merge(b, on=[*key, "nyquist"], suffixes=("_a", "_b"))
    missing = a[~a["site"].isin(same["site"])].drop_duplicates("site")
    table = pd.concat([same, missing[[*key, "nyquist"]].assign(freq=np.nan)])
    rank = {site: number for number, site in enumerate(sites["site"])}
    table = table.sort_values("site", key=lambda names: names.map(rank), kind="stable")
    with np.errstate(invalid="ignore"):  # ∞ − ∞: no power in either
        return table.assign(
            power=(table["power_db_b"] - table["power_db_a"]).clip(-100, 100),
            dc=(table["dc_db_b"] - table["dc_db_a"]).clip(-100, 100),
        )


def panels(sites: pd.DataFrame) -> dict[str, list[float]]:
    """Beside the overview, by title."""
    names = {"effect_rms": "effect size", "dc_fraction_a": "DC in A", "dc_fraction_b": "DC in B"}
    return {title: sites[name].astype(float).tolist() for name, title in names.items()}


def findings(sites: pd.DataFrame, channels: pd.DataFrame) -> Findings:
    """What stands out in `Comparison.sites()` and `Comparison.channels()`."""
    if sites.empty:
        return Findings()
    active = {side: channels[f"active_fraction_{side}"] for side in "ab"}
    both = active["a"] + active["b"]  # NaN where either is
    bad = {side: _nonfinite(channels, side) > 0 for side in "ab"}
    return Findings.of(
        [
            _inputs(channels),
            channel_finding(
                channels,
                ~bad["a"] & bad["b"],
                "New non-finite values",
                "values that are NaN or infinite in B only",
                lambda share, where: (
                    f"{share}, {where}, had only finite values in A and have NaN or ±∞ in B."
                ),
                detail="These values are excluded from all other columns.",
            ),
            _unknown(channels),
            _changed(channels),
            channel_finding(
                channels,
                (active["a"] > 0) & (active["b"] == 0),
                "Channels that died",
                if_known(both, "channels that died"),
                lambda share, where: f"{share}, {where}, had outputs above 0 in A and none in B.",
                advice="If B was trained further, look at its learning rate and weight decay.",
            ),
            channel_finding(
                channels,
                (active["a"] == 0) & (active["b"] > 0),
                "Channels that revived",
                if_known(both, "channels that revived"),
                lambda share, where: f"{share}, {where}, had outputs above 0 in B and none in A.",
            ),
        ]
    )


def _nonfinite(channels: pd.DataFrame, side: str) -> "pd.Series[int]":
    return channels[f"nonfinite_{side}"] + channels[f"nonfinite_out_{side}"]


def _unknown(channels: pd.DataFrame) -> Finding | str:
    return channel_finding(
        channels,
        channels["effect_size"].isna(),
        "Unknown changes",
        "",
        lambda share, where: (
            f"The change of DC is unknown for {share}, {where}: "
            "both reports need at least two finite inputs."
        ),
        advice="Record more inputs.",
    )


def _inputs(channels: pd.DataFrame) -> Finding | str:
    fewest = {side: int(channels[f"n_samples_{side}"].min()) for side in "ab"}
    if min(fewest.values()) >= FEW_INPUTS:
        return f"values from fewer than {FEW_INPUTS} inputs"
    inputs = " and ".join(f"{quantity(n, 'input')} in {side.upper()}" for side, n in fewest.items())
    return Finding(
        "Few inputs",
        quantity(min(fewest.values()), "input"),
        f"Some values come from only {inputs}: the spread of a channel's DC over inputs, in units "
        "of which changes are measured, is uncertain.",
        advice=f"Record more inputs: {FEW_INPUTS} or more.",
    )


def _changed(channels: pd.DataFrame) -> Finding | str:
    effect = channels["effect_size"]
    which = effect.abs() > CHANGED
    threshold = f"by more than {CHANGED:g} times its spread over inputs"
    if not which.any():
        largest = three_digits(effect.abs().max())
        absent = f"channels whose DC changed {threshold} (largest change: {largest})"
        return if_known(effect, absent)
    rose = int((which & (effect > 0)).sum())
    worst = channels.loc[effect.abs().idxmax()]
    return channel_finding(
        channels,
        which,
        "Channels whose DC changed",
        "",
        lambda share, where: f"The DC of {share}, {where}, changed {threshold} (Cohen's d).",
        (Reference(worst["site"], "largest change", int(worst["channel"])),),
        f"It rose in {rose:,} and fell in {int(which.sum()) - rose:,}. Channel {worst['channel']} "
        f"of {worst['site']} changed most: from {three_digits(worst['dc_out_a'])} to "
        f"{three_digits(worst['dc_out_b'])}, {_times(abs(worst['effect_size']))}.",
        "Start at the first of these layers: what changes there is passed on.",
    )


def _times(effect: float) -> str:
    if math.isinf(effect):
        return "with no spread over inputs"
    return f"{three_digits(effect)} times the spread"
