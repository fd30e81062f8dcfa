"""What stands out in a report, as sentences with figures and the places they are about.

Plain data, computed from the report's frames alone: what is said of a model was found in it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

# Each is named in the text that it decides about.
DOMINATED = 0.5  # dc_fraction: DC is as much as all else together
UNEXPLAINED = 0.5  # |dc_gaussian_residual| over the output's RMS
ALIASED = 0.05  # above_next_nyquist of a layer
FEW_INPUTS = 10

_SHOWN = 5


class Reference(NamedTuple):
    """A place that a finding is about.

    Attributes:
        site: its name.
        note: its figure; may be empty.
        channel: one channel of it; None: the site as a whole.
    """

    site: str
    note: str
    channel: int | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        headline: a few words.
        text: sentences with figures.
        references: the places where it is worst, the worst first.
        more: number of sites that it is true of and that `references` doesn't name.
    """

    headline: str
    text: str
    references: tuple[Reference, ...] = ()
    more: int = 0


@dataclass(frozen=True)
class Findings:
    """All that was looked for.

    Attributes:
        found: what there is, in the order of the page.
        absent: in a few words each, what there isn't; not what there was no way to tell.
    """

    found: tuple[Finding, ...]
    absent: tuple[str, ...]


def findings(sites: pd.DataFrame, dc: pd.DataFrame, aliasing: pd.DataFrame | None) -> Findings:
    """What stands out.

    Args:
        sites: `Report.sites()`.
        dc: `Report.dc()`.
        aliasing: `Report.aliasing()`; None: there is none.
    """
    if sites.empty:
        return Findings((), ())
    looks: list[Finding | str] = [
        _inputs(sites),
        _nonfinite(sites),
        _dead(dc),
        _always_on(dc),
        _dominated(sites),
        _global_pooling(sites, dc),
        _aliased(sites, aliasing),
        _unexplained(dc),
    ]
    return Findings(
        tuple(look for look in looks if isinstance(look, Finding)),
        tuple(look for look in looks if isinstance(look, str) and look),
    )


def one_value(shape: tuple[int | None, ...]) -> bool:
    """Whether a channel of one input is one number, so that all of it is DC by construction."""
    return all(length == 1 for length in shape[1:])


def _inputs(sites: pd.DataFrame) -> Finding | str:
    few = sites[sites["n_samples"] < FEW_INPUTS]
    if few.empty:
        return if_known(sites["dc_out"], f"figures of fewer than {FEW_INPUTS} inputs")
    fewest, whole = int(few["n_samples"].min()), len(few) == len(sites)
    whose = "All figures are" if whole else f"Those of {_of(len(few), len(sites), 'layer')} are"
    how = "can't be told from one, and reads 0"
    if fewest > 1:
        error = 1 / math.sqrt(2 * (fewest - 1))  # of a standard deviation, of Gaussian values
        how = f"is known to some {percent(error)} only"
    return Finding(
        "One input" if fewest == 1 else "Few inputs",
        f"{whose} of {counted(fewest, 'input')}{'' if whole else ' or little more'}: how much a "
        f"channel's DC varies from input to input (dc_out_std) {how}.",
        *_worst(few, [] if whole else [counted(n, "input") for n in few["n_samples"]]),
    )


def _nonfinite(sites: pd.DataFrame) -> Finding | str:
    counts = sites["nonfinite"] + sites["nonfinite_out"]
    bad = sites[counts > 0]
    if bad.empty:
        return "values that are NaN or infinite"
    given, made = int(bad["nonfinite"].sum()), int(bad["nonfinite_out"].sum())
    return Finding(
        "Values that aren't finite",
        f"{counted(given, 'value')} on the way into rectifiers and {made:,} on the way out are NaN "
        f"or ±∞, in {_of(len(bad), len(sites), 'layer')}. They are left out of all other figures. "
        f"The first such layer is {bad['site'].iloc[0]}.",
        *_worst(bad, [counted(n, "value") for n in counts[bad.index]]),
    )


def _dead(dc: pd.DataFrame) -> Finding | str:
    return of_channels(
        dc,
        dc["active_fraction"] == 0,
        "Dead channels",
        if_known(dc["active_fraction"], "dead channels"),
        lambda share, where: (
            f"{share} never gave a value above 0, {where}: of these inputs they tell nothing."
        ),
    )


def _always_on(dc: pd.DataFrame) -> Finding | str:
    active = dc["active_fraction"].where(dc["kind"] == "ReLU")
    return of_channels(
        dc,
        active == 1,
        "Channels that are always on",
        if_known(active, "channels that are always on"),
        lambda share, where: (
            f"{share} gave nothing but values above 0, {where}: there the ReLU "
            "lets all of its input pass, and does nothing."
        ),
    )


def _unexplained(dc: pd.DataFrame) -> Finding | str:
    # A dead channel has no RMS to measure by, and is told of already.
    rms = np.sqrt(_dc_power(dc) + dc["ac_rms_out"] ** 2)
    ratio = dc["dc_gaussian_residual"].abs() / rms.where(rms > 0)
    which = ratio > UNEXPLAINED
    if not which.any():
        return if_known(
            ratio,
            "channels whose DC is far from that of Gaussian input (by more than "
            f"{UNEXPLAINED:g} of the output's RMS)",
        )
    more = int((which & (dc["dc_gaussian_residual"] > 0)).sum())
    worst = dc.loc[ratio[which].idxmax()]
    return of_channels(
        dc,
        which,
        "Channels that Gaussian theory doesn't explain",
        "",
        lambda share, where: (
            f"The DC of {share} is off what Gaussian input of the same mean and "
            f"standard deviation would make, by more than {UNEXPLAINED:g} of the output's RMS, "
            f"{where}. It is greater in {more:,}, and smaller in {int(which.sum()) - more:,}. "
            f"Furthest off is channel {worst['channel']} of {worst['site']}: "
            f"{figure(worst['dc_out'])} against {figure(worst['dc_gaussian'])}, a difference of "
            f"{figure(ratio[which].max())} times its output's RMS."
        ),
        (Reference(worst["site"], "furthest off", int(worst["channel"])),),
    )


def _dominated(sites: pd.DataFrame) -> Finding | str:
    single = sites["shape"].map(one_value)
    fraction = sites["dc_fraction"].where(~single)
    which = fraction > DOMINATED
    waves = int(fraction.count())
    if not which.any():
        absent = f"layers where DC is more than half of the output's power (of {waves:,})"
        return if_known(fraction, absent)
    worst = sites[which].sort_values("dc_fraction", ascending=False, kind="stable")
    first = worst.iloc[0]
    left_out = int(single.sum())
    aside = ""
    if left_out:
        aside = (
            f" Left out {'is' if left_out == 1 else 'are'} {counted(left_out, 'layer')} with one "
            "value a channel, which is all DC by construction."
        )
    return Finding(
        "Layers that are mostly DC",
        f"In {_of(len(worst), waves, 'layer')} DC is more than half of the output's power, in the "
        f"mean of the channels (dc_fraction > {DOMINATED:g}). It is most at {first['site']}, with "
        f"{percent(first['dc_fraction'])}.{aside}",
        *_worst(worst, [percent(part) for part in worst["dc_fraction"]]),
    )


def _global_pooling(sites: pd.DataFrame, dc: pd.DataFrame) -> Finding | str:
    feeding = sites[sites["feeds_global_pooling"].astype(bool)]
    if feeding.empty:
        return "layers that feed global pooling directly"
    one = len(feeding) == 1
    # Of the power of all channels together, which a mean of their fractions is not.
    power = pd.DataFrame({"dc": _dc_power(dc), "ac": dc["ac_rms_out"] ** 2})
    total = power.groupby(dc["site"]).sum().loc[feeding["site"]]
    kept = total["dc"] / total.sum(axis=1)
    lost = 1 - kept.iloc[0]
    what = f"{feeding['site'].iloc[0]} feeds" if one else f"{len(feeding)} layers feed"
    also = (
        "" if math.isnan(lost) or not one else f", and {percent(lost)} of its power is left behind"
    )
    return Finding(
        "Only the DC goes on",
        f"{what} global pooling directly, which is a mean over time or space: of the output the "
        f"DC alone goes on{also}.",
        *_worst(feeding, [f"{percent(part)} is DC" for part in kept]),
    )


def _aliased(sites: pd.DataFrame, aliasing: pd.DataFrame | None) -> Finding | str:
    if aliasing is None:
        return ""  # not looked for
    # Behind another rectifier it is another signal that folds.
    next_is_pooling = ~aliasing["global_pooling"].astype(bool) & (
        aliasing["rectifiers_between"] == 0
    )
    folding = aliasing[next_is_pooling]
    of_site = sites.set_index("site")["above_next_nyquist"]
    of_site = of_site[of_site.index.isin(folding["site"])].dropna()
    worst = of_site[of_site > ALIASED].sort_values(ascending=False, kind="stable")
    least = f"more than {100 * ALIASED:g}\u00a0%"
    if worst.empty:
        return f"aliasing ({least} of a layer's power above the next Nyquist frequency)"
    # The channel that loses most, not one that is all but silent.
    rows = folding[folding["site"] == worst.index[0]]
    row = rows.loc[rows["power_above"].idxmax()]
    unit = row["freq_unit"]
    folds = ""
    along = " along one axis" if unit.startswith("cycles/pixel") else ""
    if not math.isnan(row["folds_to"]):
        folds = (
            f" Its strongest component there, in channel {row['channel']}, is at "
            f"{figure(row['peak_freq'])} {unit}{along}, and folds to {figure(row['folds_to'])} "
            f"{unit} as far as it is let through."
        )
    count = _of(len(worst), len(of_site), "layer")
    return Finding(
        "Aliasing",
        f"{count[0].upper()}{count[1:]} right before a stride or pooling "
        f"{'has' if len(worst) == 1 else 'have'} {least} of the output's power above the next "
        f"Nyquist frequency: it must be removed there, or folds. Most has {worst.index[0]}, with "
        f"{percent(worst.iloc[0])} above {figure(row['next_nyquist'])} {unit}, where "
        f"{row['downsampling']} lowers the rate by {figure(row['factor'])}.{folds}",
        *_worst(worst.reset_index(), [percent(part) for part in worst]),
    )


def of_channels(
    dc: pd.DataFrame,
    which: "pd.Series[bool]",
    headline: str,
    absent: str,
    sentence: Callable[[str, str], str],
    also: tuple[Reference, ...] = (),
) -> Finding | str:
    """A finding about channels; the sites where it is true of the greatest part come first."""
    if not which.any():
        return absent
    table = pd.DataFrame(
        {
            "hit": which.groupby(dc["site"], sort=False).sum(),
            "of": dc.groupby("site", sort=False).size(),
        }
    )
    table = table[table["hit"] > 0]
    share = table["hit"] / table["of"]
    table = table.loc[share.sort_values(ascending=False, kind="stable").index]
    number, total = int(which.sum()), len(dc)
    first = table.iloc[0]
    where = f"all in {table.index[0]}"
    if len(table) > 1:
        where = (
            f"in {_of(len(table), dc['site'].nunique(), 'layer')}, the greatest share at "
            f"{table.index[0]} ({first['hit']:,} of {first['of']:,})"
        )
    notes = [f"{hit:,} of {of:,}" for hit, of in zip(table["hit"], table["of"], strict=True)]
    references, more = _worst(table.reset_index(), notes)
    share_text = f"{number:,} of {counted(total, 'channel')} ({percent(number / total)})"
    return Finding(headline, sentence(share_text, where), also + references, more)


def _dc_power(dc: pd.DataFrame) -> "pd.Series[float]":
    """Mean squared DC of the output of each channel."""
    power: pd.Series[float] = dc["dc_out"] ** 2 + dc["dc_out_std"] ** 2
    return power


def if_known(figures: "pd.Series[float]", absent: str) -> str:
    """`absent`, unless all `figures` that would have told are NaN."""
    return absent if figures.notna().any() else ""


def _worst(rows: pd.DataFrame, notes: Sequence[str]) -> tuple[tuple[Reference, ...], int]:
    """The first of the sites in `rows` with their notes, and how many are left."""
    pairs = list(zip(rows["site"], notes, strict=False))
    return tuple(Reference(*pair) for pair in pairs[:_SHOWN]), max(len(pairs) - _SHOWN, 0)


def figure(value: float) -> str:
    """Three significant digits, for people: 1.23e-05 where they need an exponent."""
    return f"{value:,.3g}" if not 1e3 <= abs(value) < 1e6 else f"{value:,.0f}"


def counted(number: int, what: str) -> str:
    """``1 layer``, ``2,048 layers``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _of(number: int, total: int, what: str) -> str:
    if number == total > 1:
        return f"all {counted(total, what)}"
    return f"{number:,} of {counted(total, what)}"


def percent(share: float) -> str:
    """With one decimal; a little isn't nothing, and almost all not all."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    if 0.9995 <= share < 1:
        return "over 99.9\u00a0%"
    return f"{share:.1%}".replace("%", "\u00a0%")
