"""Fig. 5 of Kechris et al. (arXiv 2407.16556): one random filter, a ReLU and an average.

    python examples/figure5.py [--out figure5/] [--quick]

The inputs are cosines of three classes, 3, 5 and 10 Hz ± 0.1, with random phase, 256 samples at
32 Hz. The network is a random filter of two taps, a ReLU and the average over time. The filter
gives a cosine of amplitude |H(f)|, which the ReLU turns into a DC of |H(f)|/π. `figure5.png`
compares that with the measured DC of one filter, and counts the filters that separate the classes.
`figure5.csv` has a row per filter and class.
"""

import argparse
import math
import sys
from typing import Any, NamedTuple

import figures
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

import spectroscope
from spectroscope.dsp.frequency_response import response

CLASSES = (3, 5, 10)  # Hz
SPREAD = 0.1  # ± Hz
FS = 32
SAMPLES = 256
FILTERS, COSINES = 1000, 100
QUICK_FILTERS, QUICK_COSINES = 200, 40
Array = NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, print a summary, and return the exit status."""
    quick = f"{QUICK_FILTERS} filters and {QUICK_COSINES} cosines of each class"
    return figures.run(figures.parser("figure5", __doc__, quick), make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """Record all filters at once; the figure shows the first."""
    sizes = (QUICK_FILTERS, QUICK_COSINES) if arguments.quick else (FILTERS, COSINES)
    model = network(sizes[0])
    outputs = {hz: run(model, *cosines(hz, sizes[1])) for hz in CLASSES}
    table = by_filter(model[0], outputs)
    return figures.Result(table, draw(model[0], outputs, table), summary(outputs, table))


def network(filters: int) -> nn.Sequential:
    """Convolution ``[1, filters, 2]`` with torch's random weights, ReLU, average over time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(1, filters, 2, bias=False, dtype=torch.float64),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def cosines(hz: float, count: int) -> tuple[Tensor, Tensor]:
    """Frequencies ``[count]`` of a class, Hz, and the cosines ``[count, 1, T]``."""
    generator = torch.Generator().manual_seed(round(hz))
    spread, phase = torch.rand(2, count, dtype=torch.float64, generator=generator)
    freq = hz + SPREAD * (2 * spread - 1)
    time = torch.arange(SAMPLES, dtype=torch.float64) / FS
    return freq, torch.cos(2 * math.pi * (freq[:, None] * time + phase[:, None])).unsqueeze(1)


class Outputs(NamedTuple):
    """Outputs of F filters for a class of N cosines.

    Attributes:
        freq: ``[N]``, in Hz.
        output: ``[N, F]``, outputs of the network.
        linear: ``[N, F]``, the same without the ReLU.
        predicted: ``[N, F]``, |H(f)|/π.
        dc: rows of `Report.dc()`, one per filter.
    """

    freq: Array
    output: Array
    linear: Array
    predicted: Array
    dc: pd.DataFrame


def run(model: nn.Sequential, freq: Tensor, x: Tensor) -> Outputs:
    """Run the network with and without the ReLU on one class of cosines."""
    conv, _, *average = model
    recorder = spectroscope.record(model, fs=FS, spectra=False)
    batches = torch.split(x, 20)  # in one batch the activations would take 0.2 GB
    with torch.inference_mode():
        with recorder:
            output = torch.cat([model(batch) for batch in batches])
        linear = torch.cat([nn.Sequential(conv, *average)(batch) for batch in batches])
        taps, normalised = conv.get_parameter("weight")[:, 0], freq.unsqueeze(-1) / FS
        gain = response(taps, normalised, dilation=[1], padding=[0]).abs().T
    predicted = spectroscope.theory.cosine_harmonics(gain.numpy(), orders=[0])[..., 0]
    dc = recorder.report().dc()
    return Outputs(freq.numpy(), output.numpy(), linear.numpy(), predicted, dc)


def by_filter(conv: nn.Module, outputs: dict[int, Outputs]) -> pd.DataFrame:
    """A row per filter and class.

    `dc_out` and `dc_out_std` are mean and standard deviation of the ReLU's output over the class,
    `dc_in` is the mean of the ReLU's input, `predicted` the mean of |H(f)|/π, `lowest` and
    `highest` the range of the output. Per filter: `ordered`, the means of the classes have the
    order of |H| at 3, 5 and 10 Hz; `separated`, the ranges of the classes do not overlap.
    """
    assert isinstance(conv, nn.Conv1d)
    first, second = conv.weight.detach().numpy()[:, 0].T
    lowest = np.stack([o.output.min(0) for o in outputs.values()])
    highest = np.stack([o.output.max(0) for o in outputs.values()])
    centers = np.abs(first + second * np.exp(2j * np.pi * np.array([CLASSES]).T / FS))
    means = np.stack([o.dc["dc_out"] for o in outputs.values()])
    order = np.argsort(means, axis=0)
    ordered = (order == np.argsort(centers, axis=0)).all(0)
    lowest_sorted, highest_sorted = (np.take_along_axis(a, order, 0) for a in (lowest, highest))
    separated = (highest_sorted[:-1] < lowest_sorted[1:]).all(0)
    return pd.concat(
        pd.DataFrame(
            {
                "filter": of_class.dc["channel"],
                "tap_0": first,
                "tap_1": second,
                "class_hz": hz,
                "gain": centers[number],
                "predicted": of_class.predicted.mean(0),
                "dc_out": of_class.dc["dc_out"],
                "dc_out_std": of_class.dc["dc_out_std"],
                "dc_in": of_class.dc["dc_in"],
                "lowest": lowest[number],
                "highest": highest[number],
                "ordered": ordered,
                "separated": separated,
            }
        )
        for number, (hz, of_class) in enumerate(outputs.items())
    ).sort_values(["filter", "class_hz"], ignore_index=True)


def deviations(outputs: Outputs) -> tuple[Array, Array, Array]:
    """Output over |H(f)|/π − 1, ``[N, F]``: the total, the part of ½x, and the part of ½|x|."""
    half = outputs.linear / 2 / outputs.predicted
    total = outputs.output / outputs.predicted - 1
    return total, half, total - half


def gap(table: pd.DataFrame) -> "pd.Series[float]":
    """Difference of |H| at 3 Hz and at 5 Hz, relative to the larger one, per filter."""
    gains = table.pivot(index="filter", columns="class_hz", values="gain")[list(CLASSES[:2])]
    return (gains.max(axis=1) - gains.min(axis=1)) / gains.max(axis=1)


def summary(outputs: dict[int, Outputs], table: pd.DataFrame) -> str:
    """Statements of the paper, each followed by our result for one filter and for all."""
    first, one = table[table["filter"] == 0], table[table["class_hz"] == CLASSES[0]]
    taps = first[["tap_0", "tap_1"]].iloc[0]
    measured = ", ".join(f"{row.dc_out:.4f} ± {row.dc_out_std:.4f}" for row in first.itertuples())
    predicted = ", ".join(f"{value:.4f}" for value in first["predicted"])
    rms = {
        name: ", ".join(f"{np.sqrt((deviations(f)[n] ** 2).mean()):.2%}" for f in outputs.values())
        for n, name in enumerate(("total", "half", "abs"))
    }
    linear = max(np.abs(o.linear).max() for o in outputs.values())
    mean = table["dc_in"].abs().mean() / table["dc_out"].mean()
    falling = int((one["tap_0"] * one["tap_1"] > 0).sum())
    apart = gap(table)
    separated = one["separated"].to_numpy()
    return figures.compared(
        (
            "one random filter, a ReLU and an average order the classes by frequency, because the "
            "filter's response does.",
            f"filter 0 (taps {taps['tap_0']:.3f}, {taps['tap_1']:.3f}) gives {measured} at 3, 5, "
            f"10 Hz; |H(f)|/π is {predicted}. Of {len(one)} filters the classes' means come in the "
            f"order of |H| in {one['ordered'].sum()}. The response of "
            f"two taps is monotonic: falling in {falling} filters, rising in {len(one) - falling}.",
        ),
        (
            "the ReLU turns the amplitude that comes out of the filter into DC.",
            f"|H(f)|/π, with a deviation of {rms['total']} (RMS, at 3, 5, 10 Hz, all filters). "
            f"Most of it is not made by the ReLU: {rms['half']} is the mean of ½x, because 255 "
            f"samples are not whole periods. The remainder, {rms['abs']}, is the same for ½|x|, "
            "and harmonics that sampling folds onto DC (10 Hz at 32 Hz has only 16 phases).",
        ),
        (
            "without a ReLU the average contains nothing to distinguish the classes.",
            f"averages are at most {linear:.3f}, for the same reason; the means over a class are "
            f"{mean:.1%} of those with the ReLU.",
        ),
        (
            "frequency has become a number.",
            f"true; it identifies the class of every cosine in {separated.sum()} of {len(one)} "
            "filters; in the others the outputs of two classes overlap. |H| at 3 and at 5 Hz "
            f"differs by at least {apart[separated].min():.1%} in the former, and by at most "
            f"{apart[~separated].max():.1%} in the latter: the deviation from incomplete periods "
            "is of that size.",
        ),
    )


def draw(conv: nn.Module, outputs: dict[int, Outputs], table: pd.DataFrame) -> Figure:
    """Draw the first filter's response, outputs and deviations, and a histogram of all filters."""
    colors = sns.color_palette("colorblind")
    curve = spectroscope.filter_response(conv, channels=[0], fs=FS)
    first = table[table["filter"] == 0]
    with sns.axes_style("ticks"), sns.plotting_context("notebook", font_scale=0.85):
        figure = Figure(figsize=(12.5, 8), layout="constrained")
        grid: Any = figure.subplots(2, 2)
        (curves, averages), (deviation, histogram) = grid
        curves.plot(curve["freq"], curve["gain"], color="k", lw=1)
        averages.plot(curve["freq"], curve["gain"] / math.pi, color="k", lw=1, label="|H(f)|/π")
        for color, (hz, of_class) in zip(colors, outputs.items(), strict=False):
            gain = first.loc[first["class_hz"] == hz, "gain"]
            curves.plot([hz, hz], [0, gain.item()], color=color, lw=1, ls=":")
            curves.plot(hz, gain, "o", color=color, label=f"{hz} Hz")
            label = "measured, without the ReLU" if hz == CLASSES[0] else None
            averages.plot(of_class.freq, of_class.linear[:, 0], ".", ms=4, color="0.6", label=label)
            averages.plot(of_class.freq, of_class.output[:, 0], ".", ms=4, color=color,
                          label=f"measured, {hz} Hz ± {SPREAD}")  # fmt: skip
            total, _, remainder = deviations(of_class)
            place = CLASSES.index(hz) + 0.15 * (of_class.freq - hz) / SPREAD
            marks = [None, None] if label is None else ["as measured", "without the mean of ½x"]
            deviation.plot(place - 0.2, 100 * total[:, 0], ".", color=color, label=marks[0])
            deviation.plot(place + 0.2, 100 * remainder[:, 0], "o", ms=4, mew=0.8, mfc="none",
                           color=color, label=marks[1])  # fmt: skip
        deviation.axhline(0, color="k", lw=0.8)
        separated = table.loc[table["class_hz"] == CLASSES[0], "separated"].to_numpy()
        apart = 100 * gap(table).to_numpy()
        bins = np.arange(0, math.ceil(apart.max() / 2) * 2 + 1, 2)
        histogram.hist([apart[separated], apart[~separated]], bins, stacked=True,
                       color=[colors[4], "0.75"],
                       label=[f"{separated.sum()} separate the classes",
                              f"{(~separated).sum()} don't"])  # fmt: skip
        curves.set(
            title="the first filter, two random taps",
            xlabel="frequency (Hz)",
            ylabel="|H(f)|",
            ylim=0,
        )
        averages.set(title="average after the ReLU", xlabel="frequency (Hz)", ylabel="output")
        deviation.set(title="deviation from |H(f)|/π", xlabel="class (Hz)", ylabel="deviation (%)",
                      xticks=range(len(CLASSES)), xticklabels=CLASSES)  # fmt: skip
        histogram.set(title=f"{len(separated)} filters", ylabel="filters",
                      xlabel="difference of |H| at 3 Hz and 5 Hz (% of the larger)")  # fmt: skip
        for axes in (curves, averages):
            axes.set(xlim=(0, FS / 2), xticks=[0, *CLASSES, 16])
        for axes in grid.flat:
            axes.legend(frameon=False, fontsize="small")
        sns.despine(fig=figure)
    return figure


if __name__ == "__main__":
    sys.exit(main())
