"""What a page says of two reports: what changed most, and the numbers that its script draws."""

import math
from typing import Any

import pandas as pd

from spectroscope.page.findings import (
    FEW_INPUTS,
    Finding,
    Findings,
    Reference,
    counted,
    figure,
    if_known,
    of_channels,
)
from spectroscope.page.payload import depth, rounded

# Named in the text that it decides about. Cohen calls it a medium effect.
CHANGED = 0.5  # |effect_size|

DEPTH = {
    "effect_rms": "how far the DC of the channels moved, over its spread among the inputs",
    "effect_largest": "the same of the channel that moved most",
}
_OF_SITES = ["site", "channels", "effect_rms", "effect_max", "channel_max", "died", "revived"]
_SIDE_BY_SIDE = ["dc_out", "dc_out_std", "ac_rms_out", "active_fraction", "dc_fraction",
                 "dead_fraction", "nonfinite", "nonfinite_out"]  # fmt: skip
# Of a channel; channels.csv has the others.
_OF_CHANNELS = ["effect_size", "welch_t", "dc_out_a", "dc_out_b", "dc_out_std_a", "dc_out_std_b",
                "ac_rms_out_a", "ac_rms_out_b", "active_fraction_a", "active_fraction_b",
                "dc_fraction_a", "dc_fraction_b"]  # fmt: skip


def site_table(sites: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.sites()` in the order of the page, without columns in which there is nothing."""
    beside = [f"{name}_{side}" for name in _SIDE_BY_SIDE for side in "ab"]
    table = sites[[*_OF_SITES, *beside]].astype({"channel_max": float})
    counts = [name for name in table if name.startswith("nonfinite")]
    silent = [name for name in counts if not table[name].any()]
    empty = [name for name in table if table[name].isna().all()]
    return table.drop(columns={*silent, *empty} if len(table) else [])


def embedded(sites: pd.DataFrame, channels: pd.DataFrame) -> dict[str, Any]:
    """What the script draws, ready for JSON, of `Comparison.sites()` and `channels()`."""
    of_site = dict(iter(channels.groupby("site", sort=False)))
    layers = [
        {"site": site, "channels": {n: rounded(of_site[site][n]) for n in _OF_CHANNELS}}
        for site in sites["site"]
    ]
    curves = sites.assign(effect_largest=sites["effect_max"].abs())
    return {"layers": layers, "depth": depth(curves, DEPTH)}


def findings(sites: pd.DataFrame, channels: pd.DataFrame) -> Findings:
    """What stands out, of `Comparison.sites()` and `Comparison.channels()`."""
    if sites.empty:
        return Findings((), ())
    active = {side: channels[f"active_fraction_{side}"] for side in "ab"}
    both = active["a"] + active["b"]
    bad = {side: _nonfinite(channels, side) > 0 for side in "ab"}
    looks: list[Finding | str] = [
        _inputs(channels),
        of_channels(
            channels,
            ~bad["a"] & bad["b"],
            "Values that aren't finite any more",
            "values that are NaN or infinite in B and weren't in A",
            lambda share, where: (
                f"{share} had finite values alone in A, and have NaN or ±∞ in B, {where}. Those "
                "are left out of all other figures."
            ),
        ),
        _unknown(channels),
        _changed(channels),
        of_channels(
            channels,
            (active["a"] > 0) & (active["b"] == 0),
            "Channels that died",
            if_known(both, "channels that died"),
            lambda share, where: f"{share} gave values above 0 in A and none in B, {where}.",
        ),
        of_channels(
            channels,
            (active["a"] == 0) & (active["b"] > 0),
            "Channels that came back",
            if_known(both, "channels that came back"),
            lambda share, where: f"{share} gave values above 0 in B and none in A, {where}.",
        ),
    ]
    return Findings(
        tuple(look for look in looks if isinstance(look, Finding)),
        tuple(look for look in looks if isinstance(look, str) and look),
    )


def _nonfinite(channels: pd.DataFrame, side: str) -> "pd.Series[int]":
    return channels[f"nonfinite_{side}"] + channels[f"nonfinite_out_{side}"]


def _unknown(channels: pd.DataFrame) -> Finding | str:
    return of_channels(
        channels,
        channels["effect_size"].isna(),
        "Changes that can't be told",
        "",
        lambda share, where: (
            f"Of {share} it can't be told how much the DC changed, {where}: that takes two finite "
            "inputs or more in both reports."
        ),
    )


def _inputs(channels: pd.DataFrame) -> Finding | str:
    fewest = {side: int(channels[f"n_samples_{side}"].min()) for side in "ab"}
    if min(fewest.values()) >= FEW_INPUTS:
        return f"figures of fewer than {FEW_INPUTS} inputs"
    of = " and ".join(f"{counted(n, 'input')} in {side.upper()}" for side, n in fewest.items())
    return Finding(
        "Few inputs",
        f"Some figures are of {of} only: how much a channel's DC varies from input to input, the "
        "measure of all changes here, is hardly known.",
    )


def _changed(channels: pd.DataFrame) -> Finding | str:
    effect = channels["effect_size"]
    which = effect.abs() > CHANGED
    measure = f"by more than {CHANGED:g} of its spread among the inputs"
    if effect.isna().all():
        return ""  # of none it can be told
    if not which.any():
        return f"channels whose DC changed {measure} (the most is {figure(effect.abs().max())})"
    rose = int((which & (effect > 0)).sum())
    first = channels.loc[effect.abs().idxmax()]
    return of_channels(
        channels,
        which,
        "Channels whose DC changed",
        "",
        lambda share, where: (
            f"The DC of {share} changed {measure} (Cohen's d), {where}. It rose in {rose:,}, and "
            f"fell in {int(which.sum()) - rose:,}. Most changed channel {first['channel']} of "
            f"{first['site']}: from {figure(first['dc_out_a'])} to {figure(first['dc_out_b'])}, "
            f"{_times(abs(first['effect_size']))}."
        ),
        (Reference(first["site"], "changed most", int(first["channel"])),),
    )


def _times(effect: float) -> str:
    return "which didn't vary" if math.isinf(effect) else f"{figure(effect)} times the spread"
