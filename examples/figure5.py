"""Fig. 5 of Kechris et al. (arXiv 2407.16556): one random filter, a ReLU and an average.

    python examples/figure5.py [--out figure5/] [--quick]

Cosines of three classes, 3, 5 and 10 Hz ± 0.1, of any phase, 256 samples at 32 Hz, go through a
random filter of two taps and a ReLU; the average over time is the output. A cosine comes out of the
filter |H(f)| high, so the ReLU makes a DC of |H(f)|/π of it. `figure5.png`: that beside what is
measured, of one filter, and how many filters tell the classes apart. `figure5.csv`: a row for each
filter and class.
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
SPREAD = 0.1  # Hz, either way
FS = 32
SAMPLES = 256
FILTERS, COSINES = 1000, 100
QUICK_FILTERS, QUICK_COSINES = 200, 40
Array = NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, and print what they say; the exit status."""
    quick = f"{QUICK_FILTERS} filters and {QUICK_COSINES} cosines of each class"
    return figures.run(figures.parser("figure5", __doc__, quick), make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """All filters at once, looked at; the figure is of the first."""
    sizes = (QUICK_FILTERS, QUICK_COSINES) if arguments.quick else (FILTERS, COSINES)
    model = network(sizes[0])
    looked = {hz: look(model, *cosines(hz, sizes[1])) for hz in CLASSES}
    table = by_filter(model[0], looked)
    return figures.Result(table, draw(model[0], looked, table), summary(looked, table))


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
    spread, turn = torch.rand(2, count, dtype=torch.float64, generator=generator)
    freq = hz + SPREAD * (2 * spread - 1)
    time = torch.arange(SAMPLES, dtype=torch.float64) / FS
    return freq, torch.cos(2 * math.pi * (freq[:, None] * time + turn[:, None])).unsqueeze(1)


class Looked(NamedTuple):
    """What came of a class of N cosines in F filters.

    Attributes:
        freq: ``[N]``, Hz.
        output: ``[N, F]``, of the network.
        linear: ``[N, F]``, the same without the ReLU.
        predicted: ``[N, F]``, |H(f)|/π.
        dc: rows of `Report.dc()`, one a filter.
    """

    freq: Array
    output: Array
    linear: Array
    predicted: Array
    dc: pd.DataFrame


def look(model: nn.Sequential, freq: Tensor, x: Tensor) -> Looked:
    """One class of cosines through the network, with and without its ReLU."""
    conv, _, *average = model
    recorder = spectroscope.record(model, fs=FS, spectra=False)
    pieces = torch.split(x, 20)  # all of it, in all filters, would be a fifth of a gigabyte
    with torch.inference_mode():
        with recorder:
            output = torch.cat([model(piece) for piece in pieces])
        linear = torch.cat([nn.Sequential(conv, *average)(piece) for piece in pieces])
        taps, places = conv.get_parameter("weight")[:, 0], freq.unsqueeze(-1) / FS
        gain = response(taps, places, dilation=[1], padding=[0]).abs().T
    predicted = spectroscope.theory.cosine_harmonics(gain.numpy(), orders=[0])[..., 0]
    dc = recorder.report().dc()
    return Looked(freq.numpy(), output.numpy(), linear.numpy(), predicted, dc)


def by_filter(conv: nn.Module, looked: dict[int, Looked]) -> pd.DataFrame:
    """A row for each filter and class.

    `dc_out`, `dc_out_std` and `dc_in` are of the ReLU: the output's mean and standard deviation
    over the class, and what the mean were without the ReLU. `predicted` is the mean of |H(f)|/π,
    `lowest` and `highest` the output's range. Of a filter: `ordered`, the classes' means come in
    the order of |H| at 3, 5 and 10 Hz; `separated`, the classes' ranges don't overlap.
    """
    assert isinstance(conv, nn.Conv1d)
    first, second = conv.weight.detach().numpy()[:, 0].T
    lowest = np.stack([found.output.min(0) for found in looked.values()])
    highest = np.stack([found.output.max(0) for found in looked.values()])
    centers = np.abs(first + second * np.exp(2j * np.pi * np.array([CLASSES]).T / FS))
    means = np.stack([found.dc["dc_out"] for found in looked.values()])
    order = np.argsort(means, axis=0)
    ordered = (order == np.argsort(centers, axis=0)).all(0)
    lowest_sorted, highest_sorted = (np.take_along_axis(a, order, 0) for a in (lowest, highest))
    separated = (highest_sorted[:-1] < lowest_sorted[1:]).all(0)
    return pd.concat(
        pd.DataFrame(
            {
                "filter": found.dc["channel"],
                "tap_0": first,
                "tap_1": second,
                "class_hz": hz,
                "gain": centers[number],
                "predicted": found.predicted.mean(0),
                "dc_out": found.dc["dc_out"],
                "dc_out_std": found.dc["dc_out_std"],
                "dc_in": found.dc["dc_in"],
                "lowest": lowest[number],
                "highest": highest[number],
                "ordered": ordered,
                "separated": separated,
            }
        )
        for number, (hz, found) in enumerate(looked.items())
    ).sort_values(["filter", "class_hz"], ignore_index=True)


def deviations(found: Looked) -> tuple[Array, Array, Array]:
    """Output over |H(f)|/π less 1, each ``[N, F]``: all of it, what ½x leaves, what ½|x| does."""
    half = found.linear / 2 / found.predicted
    total = found.output / found.predicted - 1
    return total, half, total - half


def gap(table: pd.DataFrame) -> "pd.Series[float]":
    """Of each filter, how far |H| at 3 Hz and at 5 Hz lie apart, over the larger of both."""
    gains = table.pivot(index="filter", columns="class_hz", values="gain")[list(CLASSES[:2])]
    return (gains.max(axis=1) - gains.min(axis=1)) / gains.max(axis=1)


def summary(looked: dict[int, Looked], table: pd.DataFrame) -> str:
    """What the paper says, and what came out of one filter and of all."""
    first, one = table[table["filter"] == 0], table[table["class_hz"] == CLASSES[0]]
    taps = first[["tap_0", "tap_1"]].iloc[0]
    outputs = ", ".join(f"{row.dc_out:.4f} ± {row.dc_out_std:.4f}" for row in first.itertuples())
    predicted = ", ".join(f"{value:.4f}" for value in first["predicted"])
    rms = {
        name: ", ".join(f"{np.sqrt((deviations(f)[n] ** 2).mean()):.2%}" for f in looked.values())
        for n, name in enumerate(("all", "half", "rest"))
    }
    linear = max(np.abs(found.linear).max() for found in looked.values())
    mean = table["dc_in"].abs().mean() / table["dc_out"].mean()
    falling = int((one["tap_0"] * one["tap_1"] > 0).sum())
    apart = gap(table)
    separated = one["separated"].to_numpy()
    return figures.beside(
        (
            "one random filter, a ReLU and an average order the classes by frequency, because the "
            "filter's response does.",
            f"filter 0 (taps {taps['tap_0']:.3f}, {taps['tap_1']:.3f}) gives {outputs} at 3, 5, "
            f"10 Hz; |H(f)|/π is {predicted}. Of {len(one)} filters the classes' means come in the "
            f"order of |H| in {one['ordered'].sum()}. That of two taps only falls ({falling} "
            f"filters) or only rises ({len(one) - falling}).",
        ),
        (
            "the ReLU turns the amplitude that comes out of the filter into DC.",
            f"|H(f)|/π, off by {rms['all']} (RMS, at 3, 5, 10 Hz, all filters). Most of that is "
            f"no DC of the ReLU's: {rms['half']} are what is left of ½x, for 255 samples aren't "
            f"whole periods. The rest, {rms['rest']}, is what is left of ½|x| likewise, and "
            "harmonics that sampling folds onto DC (10 Hz at 32 Hz has 16 phases only).",
        ),
        (
            "without a ReLU there is nothing for the average to tell the classes by.",
            f"averages are {linear:.3f} at most, for the same reason; the means over a class are "
            f"{mean:.1%} of those with the ReLU.",
        ),
        (
            "so frequency has become a number.",
            f"one that tells any cosine's class in {separated.sum()} of {len(one)} filters; in the "
            "others outputs of two classes overlap. |H| at 3 and at 5 Hz differs by "
            f"{apart[separated].min():.1%} or more in those, and by {apart[~separated].max():.1%} "
            "or less in these: that much is what the window's ends do.",
        ),
    )


def draw(conv: nn.Module, looked: dict[int, Looked], table: pd.DataFrame) -> Figure:
    """The first filter's response and outputs, how far they are off, and all filters."""
    colors = sns.color_palette("colorblind")
    curve = spectroscope.filter_response(conv, channels=[0], fs=FS)
    first = table[table["filter"] == 0]
    with sns.axes_style("ticks"), sns.plotting_context("notebook", font_scale=0.85):
        figure = Figure(figsize=(12.5, 8), layout="constrained")
        grid: Any = figure.subplots(2, 2)
        (filters, outputs), (off, many) = grid
        filters.plot(curve["freq"], curve["gain"], color="k", lw=1)
        outputs.plot(curve["freq"], curve["gain"] / math.pi, color="k", lw=1, label="|H(f)|/π")
        for color, (hz, found) in zip(colors, looked.items(), strict=False):
            gain = first.loc[first["class_hz"] == hz, "gain"]
            filters.plot([hz, hz], [0, gain.item()], color=color, lw=1, ls=":")
            filters.plot(hz, gain, "o", color=color, label=f"{hz} Hz")
            label = "measured, without the ReLU" if hz == CLASSES[0] else None
            outputs.plot(found.freq, found.linear[:, 0], ".", ms=4, color="0.6", label=label)
            outputs.plot(found.freq, found.output[:, 0], ".", ms=4, color=color,
                         label=f"measured, {hz} Hz ± {SPREAD}")  # fmt: skip
            total, _, rest = deviations(found)
            place = CLASSES.index(hz) + 0.15 * (found.freq - hz) / SPREAD
            marks = [None, None] if label is None else ["as measured", "without what is left of ½x"]
            off.plot(place - 0.2, 100 * total[:, 0], ".", color=color, label=marks[0])
            off.plot(place + 0.2, 100 * rest[:, 0], "o", ms=4, mew=0.8, mfc="none", color=color,
                     label=marks[1])  # fmt: skip
        off.axhline(0, color="k", lw=0.8)
        separated = table.loc[table["class_hz"] == CLASSES[0], "separated"].to_numpy()
        apart = 100 * gap(table).to_numpy()
        bins = np.arange(0, math.ceil(apart.max() / 2) * 2 + 1, 2)
        many.hist([apart[separated], apart[~separated]], bins, stacked=True,
                  color=[colors[4], "0.75"],
                  label=[f"{separated.sum()} separate the classes",
                         f"{(~separated).sum()} don't"])  # fmt: skip
        filters.set(
            title="the first filter, two random taps",
            xlabel="frequency (Hz)",
            ylabel="|H(f)|",
            ylim=0,
        )
        outputs.set(title="its ReLU, averaged", xlabel="frequency (Hz)", ylabel="output")
        off.set(title="how far from |H(f)|/π", xlabel="class (Hz)", ylabel="deviation (%)",
                xticks=range(len(CLASSES)), xticklabels=CLASSES)  # fmt: skip
        many.set(title=f"{len(separated)} filters", ylabel="filters",
                 xlabel="difference of |H| at 3 Hz and 5 Hz (% of the larger)")  # fmt: skip
        for axes in (filters, outputs):
            axes.set(xlim=(0, FS / 2), xticks=[0, *CLASSES, 16])
        for axes in grid.flat:
            axes.legend(frameon=False, fontsize="small")
        sns.despine(fig=figure)
    return figure


if __name__ == "__main__":
    sys.exit(main())
