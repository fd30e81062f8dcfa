"""Verdicts on the claims of Kechris et al. (arXiv 2407.16556): docs/paper.csv and docs/paper.md.

    python examples/verdicts.py [--weights model_S5.h5] [--figure4 figure4/figure4.csv]

A row of the CSV is a measurement: of which claim, of what, and the value with its 95 % interval.
The page has the claims with the verdicts, and the measurements. Those of given signals take
seconds. Those of KID-PPG, which pip fetches, take a minute. The paper's own network needs its
weights, and the training runs need the table that `figure4.py` writes: rows of what isn't given
remain as they are in the CSV.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import figure1
import figure2
import figure3
import figure5
import figures
import numpy as np
import pandas as pd
import torch
from scipy import stats

import spectroscope
from spectroscope import run, theory
from spectroscope.report import Report

# Of each claim, in our words: where it is made, the claim, the verdict.
CLAIMS = {
    "series": (
        "Fig. 1", "A Taylor series of |x| with 100 terms is ReLU to a relative RMSE of 0.69 %.",
        "That number is a distance to the input, which any approximation has. The error is 1.00 %, "
        "and falls like a power of the number of terms, because the signal crosses zero."),
    "half": (
        "text", "The output keeps the input's spectrum at half gain, ½X.",
        "If the input is symmetric around zero. Otherwise ½|x| is correlated with x, and the gain "
        "differs: it is far below ½ at most ReLUs of a trained network, where ½x may have more "
        "power than the output."),
    "higher": (
        "abstract", "ReLU introduces higher frequencies.",
        "Holds. How much depends on the input: little where that fills the band."),
    "dc": ("abstract", "ReLU introduces a DC component.", "Holds in every layer."),
    "amplitudes": (
        "text", "The DC depends on the amplitudes alone; its leading term is ½√A.",
        "For tones of independent phase. The leading term is no estimate: it adds amplitudes as if "
        "all peaks coincided, and is 1.1 to 24 times too large."),
    "pooling": (
        "text", "Average pooling cuts the band, and the DC remains.",
        "Holds. But unless the pooling is global more than half of what remains is not DC, and a "
        "part of the power above the new Nyquist frequency folds."),
    "needed": (
        "abstract", "The DC helps to extract features related to the input's frequencies.",
        "The trained network needs the level of the DC at most ReLUs. It needs the variation of "
        "the DC between windows, which alone can carry the heart rate, at few: mostly the last."),
    "band": ("Fig. 2", "With differences and ReLUs the output oscillates over the whole band.",
             "Holds. The first ReLU suffices for most of it."),
    "limited": ("Fig. 2", "With moving averages and ReLUs the output is band-limited.",
                "Holds, by the averages alone: all ReLUs but the first do nothing."),
    "third": (
        "Fig. 3", "After the third convolution's ReLU there are harmonics of the heart rate.",
        "Holds. Harmonics 1 to 3 are in the PPG already; 4 and 5 are not."),
    "sixth": (
        "Fig. 3", "After pooling by 4 and three more convolutions the DC remains.",
        "Holds: it is then as large as the rest. The heart rate itself is there too; of folded "
        "harmonics these data do not tell."),
    "learns": (
        "Fig. 4", "Without ReLU or DC a network before a mean over time does not learn.",
        "Only if no DC at all is left. The paper's cosines leave enough: 8 s are not whole periods "
        "of them."),
    "near": (
        "Fig. 4, abstract", "With DC the weights stay near their initial values.",
        "Says little of ReLU's DC: the DC that is added to the linear network's inputs is the "
        "label, and a network that learns nothing stays nearest."),
    "order": ("Fig. 5", "Filter, ReLU and mean order the classes as the filter's response does.",
              "Holds."),
}  # fmt: skip
KID = "KID-PPG, 214 windows"
BLOCK = 20  # windows that are left out together: four times as many as share samples
SITES = [f"block{block}.{layer}.relu#1" for block in (1, 2, 3) for layer in (0, 1, 2)]
POOLED = {"block1.2.relu#1": 4, "block2.2.relu#1": 2, "block3.2.relu#1": 2}


def row(
    claim: str, measured: str, on: str, value: float, form: str, command: str,
    low: float = math.nan, high: float = math.nan,
) -> dict[str, Any]:  # fmt: skip
    """A measurement. `form` formats the value; without chance there is no interval."""
    return {"claim": claim, "measured": measured, "on": on, "value": float(value),
            "low": float(low), "high": float(high), "form": form, "command": command}  # fmt: skip


def of_signals() -> list[dict[str, Any]]:
    """Rows of given signals."""
    time = np.arange(figure1.SECONDS * figure1.FS) / figure1.FS
    x = np.cos(2 * np.pi * np.array(figure1.TONES)[:, np.newaxis] * time).sum(0)
    relu, errors = np.maximum(x, 0), figure1.errors(x, [50, 100, 200, 400])
    taylor = errors[errors["method"] == "taylor"].set_index("terms")
    table = figure2.make(argparse.Namespace(quick=True)).table.set_index(["network", "relu"])
    dif, avg, given = table.loc[("h_dif", 3)], table.loc[("h_avg", 6)], table.loc[("input", 0)]
    signals = {
        "four tones": [
            ("series", "√(mean((x − series)²)/Σx²), as in the paper", taylor["paper"][100], ".3%"),
            ("series", "the same of ReLU(x) itself",
             theory.approximation_error(x, relu).paper, ".3%"),
            ("series", "RMS of the error over RMS of ReLU(x)", taylor["relative_rms"][100], ".2%"),
            ("series", "exponent of that, 50 to 400 terms",
             figure1.slope(errors, "relative_rms"), ".2f"),
            ("half", "gain, by regression", x @ relu / (x @ x), ".3f"),
            ("higher", "AC power introduced above the input's band",
             table["introduced_above_band_fraction"]["h_dif", 1], ".1%"),
            ("amplitudes", "DC", relu.mean(), ".4f"),
            ("amplitudes", "DC if phases were independent", theory.tones_dc(np.ones(4)), ".4f"),
            ("amplitudes", "leading term over DC", np.sqrt(8) / 2 / relu.mean(), ".2f"),
            ("band", "99 % of the input's AC power is below", given["band_edge_hz"], ".0f Hz"),
            ("band", "99 % of the output's is below, of 512 Hz", dif["band_edge_hz"], ".0f Hz"),
            ("band", "AC power above 100 Hz", dif["above_100_hz"], ".1%"),
            ("band", "the same without ReLUs 2 and 3", dif["filters_above_100_hz"], ".1%"),
            ("limited", "99 % of the AC power is below", avg["band_edge_hz"], ".0f Hz"),
            ("limited", "least gain of ReLUs 2 to 6",
             table["regression_gain"]["h_avg"][1:].min(), ".3f"),
        ],
        "one tone": [("amplitudes", "leading term over DC", np.pi * np.sqrt(2) / 4, ".2f")],
        "Gaussian, μ = 0": [("half", "gain", theory.gaussian_gain(0, 1), ".2f")],
        "Gaussian, μ = −σ": [("half", "gain", theory.gaussian_gain(-1, 1), ".2f")],
    }  # fmt: skip
    of_figures = {"band": "figure2.py", "limited": "figure2.py", "higher": "figure2.py"}
    return [
        row(claim, measured, on, value, form, of_figures.get(claim, "figure1.py"))
        for on, rows in signals.items()
        for claim, measured, value, form in rows
    ]


def of_filters() -> list[dict[str, Any]]:
    """Rows of Fig. 5; of a proportion with Wilson's interval."""
    model, on = figure5.network(figure5.FILTERS), f"{figure5.FILTERS} random filters of two taps"
    outputs = {hz: figure5.run(model, *figure5.cosines(hz, figure5.COSINES))
               for hz in figure5.CLASSES}  # fmt: skip
    table = figure5.by_filter(model[0], outputs).drop_duplicates("filter")
    off = max(np.sqrt((figure5.deviations(o)[0] ** 2).mean()) for o in outputs.values())
    rows = [row("order", "RMS deviation from |H(f)|/π, worst class", on, off, ".2%", "figure5.py")]
    for column, measured in (("ordered", "filters that order the means of the classes so"),
                             ("separated", "filters that separate all cosines")):  # fmt: skip
        test = stats.binomtest(int(table[column].sum()), len(table))
        interval = test.proportion_ci(method="wilson")
        rows.append(row("order", measured, on, table[column].mean(), ".1%", "figure5.py",
                        *interval))  # fmt: skip
    return rows


def of_kid_ppg() -> list[dict[str, Any]]:
    """Rows of KID-PPG."""
    specimen = spectroscope.specimen("kid-ppg")
    reports = []
    for batch in torch.split(figure3.inputs_of(specimen), BLOCK):
        recorder = spectroscope.record(specimen.model, fs=specimen.fs, select=SITES)
        with torch.inference_mode(), recorder:
            specimen.model(batch)
        reports.append(recorder.report())
    table = figures.jackknife(reports, measure)
    first, second, last = SITES[0], SITES[1], SITES[-1]
    rows = [
        row(claim, f"{measured}, {site}", KID, table.loc[(name, site), "value"], form,
            "verdicts.py", *table.loc[(name, site), ["low", "high"]])
        for claim, name, measured, form, sites in (
            ("half", "gain", "gain, median channel", ".2f", (first, second, last)),
            ("half", "ratio", "power of ½x over the output's, median channel", ".2f",
             (first, second, last)),
            ("higher", "higher", "AC power introduced above the input's band, median channel",
             ".1%", (first, second, SITES[4])),
            ("dc", "dc", "DC of the output's power", ".0%", (second, SITES[6], last)),
            ("amplitudes", "leading", "leading term over DC", ".1f", (first, second, SITES[7])),
            ("pooling", "above", "power above the next Nyquist frequency", ".1%", POOLED),
            ("pooling", "folded", "power that folds", ".1%", POOLED),
            ("pooling", "pooled", "DC of the power after the pooling", ".0%", POOLED),
        )
        for site in sites
    ]  # fmt: skip
    changes = run.ablate(specimen).set_index(["operation", "site"])
    for operation, measured in (
        ("remove_dc", "of 19 ReLUs, where the error grows (interval above 0) without the DC"),
        ("mean_dc", "likewise with the mean DC of all windows"),
        ("only_dc", "likewise with nothing but the DC"),
    ):
        worse = (changes.loc[operation, "change_low"] > 0).sum()
        rows.append(row("needed", measured, KID, worse, ".0f", "spectroscope ablate kid-ppg"))
    for site in (last, "dense_relu#0"):
        values = changes.loc[("mean_dc", site), ["change", "change_low", "change_high"]]
        rows.append(row("needed", f"change of the error with the mean DC, {site}", KID,
                        values.iloc[0], ".1f BPM", "spectroscope ablate kid-ppg",
                        *values.iloc[1:]))  # fmt: skip
    return rows


def measure(report: Report) -> "pd.Series[float]":
    """What the rows of KID-PPG say, by name and site."""
    sites, aliasing = report.sites().set_index("site"), report.aliasing(list(POOLED))
    median = report.introduced().groupby("site").median(numeric_only=True)
    predicted = report.predictions().query("assumption == 'series'").groupby("site")
    series = {
        "gain": median["regression_gain"],
        "ratio": median["half_x_ratio"],
        "higher": median["introduced_above_band_fraction"],
        "dc": sites["dc_fraction"],
        "leading": predicted["dc_predicted"].sum() / predicted["dc_out"].sum(),
    }
    values = {(name, site): s[site] for name, s in series.items() for site in SITES}
    for site, length in POOLED.items():
        rows = aliasing[aliasing["site"] == site]
        total = rows["power_above"] / rows["above_next_nyquist"]
        values["above", site] = rows["power_above"].sum() / total.sum()
        values["folded", site] = (rows["folded_fraction"] * total).sum() / total.sum()
        power = report.spectra(site).query("side == 'out'").groupby("freq")["power"].sum()
        cycles = power.index.to_numpy() / sites["fs"][site]
        power *= (np.sinc(length * cycles) / np.sinc(cycles)) ** 2  # response of the average
        values["pooled", site] = power[0.0] / power.sum()
    return pd.Series(values)


def of_paper_network(weights: str) -> list[dict[str, Any]]:
    """Rows of Fig. 3, of the paper's network."""
    specimen = spectroscope.specimen("paper-ppg", weights=weights)
    table = figure3.harmonics_by_layer(
        specimen.model, figure3.inputs_of(specimen), np.asarray(specimen.f0)
    )
    usual = table.sort_values("windows").groupby(["convolution", "harmonic"]).last()
    rows = []
    for claim, layer, order in (
        *(("third", layer, order) for layer in (0, 3) for order in range(1, 6)),
        ("sixth", 6, 1), ("sixth", 6, 2), ("sixth", 9, 2), ("sixth", 3, 0), ("sixth", 6, 0),
    ):  # fmt: skip
        cell, where = usual.loc[(layer, order)], f"after convolution {layer}" if layer else "in PPG"
        measured = f"{'folded ' if cell['folded'] else ''}harmonic {order} {where}, over chance"
        if order == 0:
            measured = f"DC {where}, over standard deviation"
        rows.append(row(claim, measured, f"the paper's network, {cell['windows']} windows",
                        cell["over_chance" if order else "over_std"], ".2f", "figure3.py",
                        cell["low"], cell["high"]))  # fmt: skip
    return rows


def of_training(path: str) -> list[dict[str, Any]]:
    """Rows of Fig. 4; the interval is the range of the repetitions."""
    table = pd.read_csv(path)
    end = table[table["epoch"] == table["epoch"].max()].set_index(["quantity", "network"])
    repetitions = table["repetitions"].max()
    return [
        row(claim, f"{what}, {network}", f"{repetitions} repetitions", cell["mean"], ".2g",
            f"figure4.py --repetitions {repetitions}", cell["min"], cell["max"])
        for claim, quantity, what in (("learns", "loss", "training loss (chance: 1.1)"),
                                      ("near", "conv1", "distance of the first convolution"),
                                      ("near", "conv2", "distance of the second"))
        for network in end.loc[quantity].index
        for cell in [end.loc[(quantity, network)]]
    ]  # fmt: skip


def page(head: str, table: pd.DataFrame) -> str:
    """The page: `head`, up to the first table, and the tables."""
    number = {claim: str(n) for n, claim in enumerate(CLAIMS, start=1)}
    claims = [[number[claim], *texts] for claim, texts in CLAIMS.items()]
    rows = [[number[r.claim], r.measured, r.on, _value(r), f"`{r.command}`"]
            for r in table.itertuples()]  # fmt: skip
    lines = _lines([["", "where", "claim", "verdict"], *claims])
    lines += ["", *_lines([["claim", "measured", "on", "value", "from"], *rows]), ""]
    return head.partition("\n| ")[0] + "\n" + "\n".join(lines)


def _lines(cells: Iterable[list[str]]) -> list[str]:
    heads, *rows = ("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in cells)
    return [heads, "|" + "---|" * (heads.count(" | ") + 1), *rows]


def _value(row: Any) -> str:
    """The value with its interval, as text."""
    form, _, unit = row.form.partition(" ")
    value, low, high = (format(number, form) for number in (row.value, row.low, row.high))
    return f"{value} {unit}".strip() + ("" if math.isnan(row.low) else f" ({low} to {high})")


def main(argv: list[str] | None = None) -> int:
    """Write the table and the page, and return the exit status."""
    parser = argparse.ArgumentParser("verdicts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", help="Keras file of the paper's network")
    parser.add_argument("--figure4", metavar="CSV", help="table that figure4.py wrote")
    docs, arguments = Path(__file__).parents[1] / "docs", parser.parse_args(argv)
    kept = pd.read_csv(docs / "paper.csv").to_dict("records")
    rows = [*of_signals(), *of_filters(), *of_kid_ppg()]
    for given, of, claims in ((arguments.weights, of_paper_network, ("third", "sixth")),
                              (arguments.figure4, of_training, ("learns", "near"))):  # fmt: skip
        rows += of(given) if given else [r for r in kept if r["claim"] in claims]
    rows.sort(key=lambda r: [*CLAIMS].index(r["claim"]))
    pd.DataFrame(rows).to_csv(docs / "paper.csv", index=False, float_format="%.6g")
    text = page((docs / "paper.md").read_text("utf-8"), pd.read_csv(docs / "paper.csv"))
    (docs / "paper.md").write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
