"""What stands out in a report.

Findings are plain data, computed from the report's frames alone.
"""

import math

import numpy as np
import pandas as pd

from spectroscope.capture.activations import RELU, by_kind
from spectroscope.page.finding import (
    Finding,
    Findings,
    Reference,
    by_name,
    channel_finding,
    if_known,
    references_to,
)
from spectroscope.page.numbers import out_of, percent, quantity, three_digits
from spectroscope.schema import ALIASED

# Thresholds; the text of each finding names its own.
DOMINATED = 0.5  # dc_fraction: DC has as much power as everything else
UNEXPLAINED = 0.5  # |dc_gaussian_residual| over the output's RMS
FEW_INPUTS = 10
_FIRST = 2.0  # severity of what makes other numbers uncertain; shares are at most 1


def findings(sites: pd.DataFrame, dc: pd.DataFrame, aliasing: pd.DataFrame | None) -> Findings:
    """What stands out.

    Args:
        sites: `Report.sites()`.
        dc: `Report.dc()`.
        aliasing: `Report.aliasing()`; None: it has no rows.
    """
    if sites.empty:
        return Findings()
    return Findings.of(
        [
            _inputs(sites),
            _nonfinite(sites),
            _dead(dc),
            _always_on(dc),
            _dominated(sites),
            _global_pooling(sites, dc),
            _aliased(sites, aliasing),
            _unexplained(dc),
        ]
    )


def is_single_value(shape: tuple[int | None, ...]) -> bool:
    """Whether a channel of one input is one number, which is all DC by construction."""
    return all(length == 1 for length in shape[1:])


def _inputs(sites: pd.DataFrame) -> Finding | str:
    few = sites[sites["n_samples"] < FEW_INPUTS]
    if few.empty:
        return if_known(sites["dc_out"], f"values from fewer than {FEW_INPUTS} inputs")
    fewest, everywhere = int(few["n_samples"].min()), len(few) == len(sites)
    subject = "All values" if everywhere else f"Values of {out_of(len(few), len(sites), 'layer')}"
    as_few = "" if (few["n_samples"] == fewest).all() else "as few as "
    precision = "cannot be estimated from one input and reads 0"
    if fewest > 1:
        error = 1 / math.sqrt(2 * (fewest - 1))  # of a standard deviation, of Gaussian values
        precision = f"has a relative error of about {percent(error)}"
    notes = [] if everywhere else [quantity(n, "input") for n in few["n_samples"]]
    references, more = references_to(few, notes)
    return Finding(
        "One input" if fewest == 1 else "Few inputs",
        quantity(fewest, "input"),
        f"{subject} come from {as_few}{quantity(fewest, 'input')}: the standard deviation of a "
        f"channel's DC over inputs (dc_out_std) {precision}.",
        advice=f"Record more inputs: {FEW_INPUTS} or more.",
        references=references,
        more=more,
    )


def _nonfinite(sites: pd.DataFrame) -> Finding | str:
    counts = sites["nonfinite"] + sites["nonfinite_out"]
    bad = sites[counts > 0]
    if bad.empty:
        return "NaN or infinite values"
    given, made = int(bad["nonfinite"].sum()), int(bad["nonfinite_out"].sum())
    references, more = references_to(bad, [quantity(n, "value") for n in counts[bad.index]])
    return Finding(
        "Non-finite values",
        quantity(given + made, "value"),
        f"{quantity(given, 'input value')} and {quantity(made, 'output value')} of activations are "
        f"NaN or ±∞, in {out_of(len(bad), len(sites), 'layer')}.",
        f"They are excluded from all other columns. The first such layer is {bad['site'].iloc[0]}.",
        "Look at the first of these layers: at its inputs, its normalisation and its precision.",
        _FIRST,
        references,
        more,
        "non-finite values",
        by_name(bad, counts[bad.index]),
    )


def _dead(dc: pd.DataFrame) -> Finding | str:
    return channel_finding(
        dc,
        dc["active_fraction"] == 0,
        "Dead channels",
        if_known(dc["active_fraction"], "dead channels"),
        lambda share, where: (
            f"{share}, {where}, had no output above 0: they carry no information for these inputs."
        ),
        advice="If they stay dead on all your data, prune them: report.dead() names their filters.",
    )


def _always_on(dc: pd.DataFrame) -> Finding | str:
    is_relu = dc["kind"] == RELU.kind
    active = dc["active_fraction"]
    return channel_finding(
        dc,
        is_relu & (active == 1),
        "Channels that are always on",
        if_known(active[is_relu], "channels that are always on"),
        lambda share, where: (
            f"{share}, {where}, had only outputs above 0: the ReLU passes their input unchanged."
        ),
        advice="Here the activation is linear: look at the bias and the normalisation before it.",
    )


def _unexplained(dc: pd.DataFrame) -> Finding | str:
    # A dead channel has no RMS to compare with, and a finding of its own.
    rms = np.sqrt(_dc_power(dc) + dc["ac_rms_out"] ** 2)
    ratio = dc["dc_gaussian_residual"].abs() / rms.where(rms > 0)
    which = ratio > UNEXPLAINED
    difference = f"by more than {UNEXPLAINED:g} of the output RMS"
    if not which.any():
        predicted = dc["kind"].map(lambda kind: by_kind(kind).gaussian_dc is not None)
        return if_known(
            ratio[predicted & (rms != 0)],
            f"channels whose DC differs from the Gaussian prediction {difference}",
        )
    number, higher = int(which.sum()), int((which & (dc["dc_gaussian_residual"] > 0)).sum())
    if higher in (0, number):
        sign = "Higher" if higher else "Lower"
        direction = f"{sign} than predicted{f' in all {number:,}' if number > 1 else ''}."
    else:
        direction = f"Higher than predicted in {higher:,}, lower in {number - higher:,}."
    worst = dc.loc[ratio[which].idxmax()]
    return channel_finding(
        dc,
        which,
        "DC far from the Gaussian prediction",
        "",
        lambda share, where: (
            f"The DC of {share}, {where}, differs {difference} from the prediction for Gaussian "
            "input of the same mean and standard deviation."
        ),
        (Reference(worst["site"], "largest difference", int(worst["channel"])),),
        f"{direction} Channel "
        f"{worst['channel']} of {worst['site']} is worst: DC {three_digits(worst['dc_out'])}, "
        f"prediction {three_digits(worst['dc_gaussian'])}, a difference of "
        f"{three_digits(ratio[which].max())} times the output RMS.",
        "Do not estimate these channels' DC from mean and standard deviation: measure it.",
    )


def _dominated(sites: pd.DataFrame) -> Finding | str:
    single = sites["shape"].map(is_single_value)
    fraction = sites["dc_fraction"].where(~single)
    which = fraction > DOMINATED
    checked = int(fraction.count())
    if not which.any():
        absent = f"layers with DC above half of the output power ({checked:,} checked)"
        return if_known(fraction[~single], absent)
    worst = sites[which].sort_values("dc_fraction", ascending=False, kind="stable")
    first = worst.iloc[0]
    excluded = ""
    if number := int(single.sum()):
        excluded = (
            f" {quantity(number, 'layer')} with one value per channel "
            f"{'is' if number == 1 else 'are'} excluded: all DC by construction."
        )
    references, more = references_to(worst, [percent(part) for part in worst["dc_fraction"]])
    return Finding(
        "Layers dominated by DC",
        f"{len(worst):,} of {quantity(checked, 'layer')}",
        f"In {out_of(len(worst), checked, 'layer')}, DC is more than half of the output power "
        f"(dc_fraction > {DOMINATED:g}).",
        f"{first['site']} has the most: {percent(first['dc_fraction'])}.{excluded}",
        "Ask whether the model needs it: spectroscope ablate, or importance(), takes the DC away.",
        len(worst) / checked,
        references,
        more,
        "DC over output power",
        by_name(worst, worst["dc_fraction"]),
    )


def _global_pooling(sites: pd.DataFrame, dc: pd.DataFrame) -> Finding | str:
    known = sites["feeds_global_pooling"]
    feeding = sites[known.fillna(False).astype(bool)]
    if feeding.empty:
        return if_known(known, "layers that feed global pooling directly")
    one = len(feeding) == 1
    # Of the power of all channels together: a mean of fractions would weight them all equally.
    power = pd.DataFrame({"dc": _dc_power(dc), "ac": dc["ac_rms_out"] ** 2})
    total = power.groupby(dc["site"]).sum().loc[feeding["site"]]
    kept = total["dc"] / total.sum(axis=1)
    lost = 1 - kept.iloc[0]
    subject = f"{feeding['site'].iloc[0]} feeds" if one else f"{len(feeding)} layers feed"
    discarded = (
        f" and discards {percent(lost)} of its power" if one and not math.isnan(lost) else ""
    )
    references, more = references_to(feeding, [f"{percent(part)} is DC" for part in kept])
    return Finding(
        "Only DC passes global pooling",
        f"{percent(kept.iloc[0])} is DC" if one else quantity(len(feeding), "layer"),
        f"{subject} global pooling directly, a mean over time or space: it passes only the DC of "
        f"the output{discarded}.",
        advice="Compare per-input DC with the labels: probe() says what it alone can decode.",
        references=references,
        more=more,
        measure="DC over output power",
        values=dict(zip(feeding["site"], kept, strict=True)),
    )


def _aliased(sites: pd.DataFrame, aliasing: pd.DataFrame | None) -> Finding | str:
    if aliasing is None:
        return ""  # not checked
    # Behind another activation a different signal folds.
    folding = aliasing[
        ~aliasing["global_pooling"].astype(bool) & (aliasing["activations_between"] == 0)
    ]
    above = sites.set_index("site")["above_next_nyquist"]
    above = above[above.index.isin(folding["site"])]
    rates = sites["decimation"][~sites["shape"].map(is_single_value)]
    known = above.notna().all() and rates.notna().all()
    above = above.dropna()
    by_site = dict(iter(folding.groupby("site", sort=False)))
    folded = pd.Series({site: folded_share(by_site[site], part) for site, part in above.items()})
    # What folds, or where that isn't known, what can at most.
    share = folded.astype(float).fillna(above)
    worst = share[share > ALIASED].sort_values(ascending=False, kind="stable")
    threshold = f"more than {100 * ALIASED:g}\u00a0%"
    beyond = "above the next Nyquist frequency"
    if worst.empty:
        some = "folded, or where that is not known, " if folded.notna().any() else ""
        absent = f"aliasing ({threshold} of a layer's output power {some}{beyond})"
        return absent if known else ""
    certain = folded[worst.index].notna()
    # The channel with the most power to lose; the largest fraction may be of an almost silent one.
    rows = folding[folding["site"] == worst.index[0]]
    row = rows.loc[rows["power_above"].idxmax()]
    unit = row["freq_unit"]
    along = " along one axis" if unit.startswith("cycles/pixel") else ""
    by = "" if math.isnan(row["factor"]) else f" by a factor of {three_digits(row['factor'])}"
    folds = ""
    if not math.isnan(row["folds_to"]):
        folds = (
            f" The strongest component above it, in channel {row['channel']}, is at "
            f"{three_digits(row['peak_freq'])} {unit}{along} and folds to "
            f"{three_digits(row['folds_to'])} {unit}."
        )
    count = out_of(len(worst), len(share), "layer")
    notes = [
        f"{percent(part)} {'folds' if sure else 'above Nyquist'}"
        for part, sure in zip(worst, certain, strict=True)
    ]
    references, more = references_to(worst.rename_axis("site").reset_index(), notes)
    if certain.all():
        fate = "folded by it (folded_fraction)"
    elif certain.any():
        fate = f"folded by it (folded_fraction), or {beyond} where what folds is not known"
    else:
        fate = f"{beyond}, which folds unless filtered out; how much does is not known"
    first = worst.index[0]
    folding_part = f" and {percent(worst.iloc[0])} folds" if certain.iloc[0] else ""
    return Finding(
        "Aliasing",
        f"{percent(worst.iloc[0])} of power",
        f"{count[0].upper()}{count[1:]} directly before a stride or pooling "
        f"{'has' if len(worst) == 1 else 'have'} {threshold} of the output power {fate}.",
        f"{first} is worst: {percent(above[first])} of its output power lies above "
        f"{three_digits(row['next_nyquist'])} {unit}, where {row['downsampling']} lowers the "
        f"sampling rate{by}{folding_part}.{folds}",
        "Blur before the stride (an anti-aliased pooling such as BlurPool).",
        float(worst.iloc[0]),
        references,
        more,
        "power that folds" if certain.all() else f"power that folds, or {beyond}",
        worst.to_dict(),
    )


def folded_share(rows: pd.DataFrame, above: float) -> float:
    """Share of a site's output power that folds, of all channels together; NaN: not known.

    Args:
        rows: of `Report.aliasing()`, of one site.
        above: `above_next_nyquist` of the site, which says how much power there is in total.
    """
    of_channel = rows["above_next_nyquist"]
    if (rows["folded_fraction"].isna() & (of_channel > 0)).any():
        return math.nan
    if not above > 0:
        return above
    folded = (rows["folded_fraction"] / of_channel * rows["power_above"])[of_channel > 0]
    return float(above * folded.sum() / rows["power_above"].sum())


def _dc_power(dc: pd.DataFrame) -> "pd.Series[float]":
    """Mean squared DC of the output of each channel."""
    power: pd.Series[float] = dc["dc_out"] ** 2 + dc["dc_out_std"] ** 2
    return power
