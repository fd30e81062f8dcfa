"""Fig. 2 of Kechris et al. (arXiv 2407.16556): ReLUs alternating with differences or averages.

    python examples/figure2.py [--out figure2/] [--quick]

The input of both networks is four tones. h_dif is a ReLU, then twice a difference times fs and a
ReLU. h_avg is a ReLU, then five times a 9-point moving average and a ReLU. A ReLU makes kinks; a
difference turns kinks into steps, and the next difference turns steps into impulses. `figure2.png`
shows the outputs of the ReLUs, and what they would be with only the first ReLU. `figure2.csv` has a
row per ReLU.

Filters are circular over whole periods: there are no borders and no spectral leakage.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import figures
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

import spectroscope
from spectroscope.dsp.decomposition import band_edge

TONES = (5, 10, 20, 40)  # Hz, amplitude 1
FS = 1024
SECONDS = 8
LINES = 5  # Hz: sums and differences of the tones are multiples of 5 Hz, unless they fold
HIGH = 100  # Hz
DRAWN = {"h_dif": (1, 2, 3), "h_avg": (1, 2, 6)}
FLOOR = -120  # dB
Array = NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, print a summary, and return the exit status."""
    quick = "one second of the signal instead of eight; whole periods too"
    return figures.run(figures.parser("figure2", __doc__, quick), make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """Record both networks."""
    x = tones(1 if arguments.quick else SECONDS)
    networks = {"h_dif": stages(h_dif(), x), "h_avg": stages(h_avg(), x)}
    table = pd.DataFrame(
        {"network": name, "relu": number, **stage.numbers()}
        for name, outputs in networks.items()
        for number, stage in enumerate(outputs, start=1)
    )
    return figures.Result(table, draw(networks), summary(table))


def tones(seconds: int) -> Tensor:
    """The input, ``[1, 1, T]``."""
    time = torch.arange(seconds * FS, dtype=torch.float64) / FS
    return torch.stack([torch.cos(2 * torch.pi * f * time) for f in TONES]).sum(0).view(1, 1, -1)


def h_dif() -> nn.Sequential:
    """ReLU, then twice: difference of adjacent samples times fs, ReLU."""
    return _relu_then([-FS, FS], times=2)


def h_avg() -> nn.Sequential:
    """ReLU, then five times: moving average over 9 points, ReLU."""
    return _relu_then([1 / 9] * 9, times=5)


def _relu_then(kernel: list[float], times: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ReLU()]
    for _ in range(times):
        conv = nn.Conv1d(1, 1, len(kernel), padding="same", padding_mode="circular", bias=False)
        conv.weight.data = torch.tensor(kernel, dtype=torch.float64).view(1, 1, -1)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass
class Stage:
    """The output of a ReLU.

    Attributes:
        signal: ``[T]``, the output.
        freq: ``[F]``, in Hz.
        power: ``[F]``, power spectrum of the output.
        filtered: ``[F]``, power spectrum of the first ReLU's output after all filters up to this
            ReLU, without the ReLUs between them.
        split: row of `Report.introduced()`.
    """

    signal: Array
    freq: Array
    power: Array
    filtered: Array
    split: "pd.Series[Any]"

    @property
    def folded(self) -> NDArray[np.bool_]:
        """``[F]``, bins that contain only components folded at the Nyquist frequency."""
        is_folded: NDArray[np.bool_] = np.arange(len(self.freq)) % round(LINES / self.freq[1]) != 0
        return is_folded

    def numbers(self) -> dict[str, Any]:
        """Columns of the table; fractions are of the AC power."""
        ac, high = self.power[1:].sum(), self.freq > HIGH
        kept = ["regression_gain", "preserved_fraction", "introduced_fraction",
                "introduced_in_band_fraction", "introduced_above_band_fraction"]  # fmt: skip
        return {
            "dc": np.sqrt(self.power[0]),
            "ac_rms": np.sqrt(ac),
            "band_edge_hz": self.freq[band_edge(self.power)],
            "above_100_hz": self.power[high].sum() / ac,
            "filters_above_100_hz": self.filtered[high].sum() / self.filtered[1:].sum(),
            "off_filters": np.abs(np.sqrt(self.power) - np.sqrt(self.filtered)).max() / np.sqrt(ac),
            "folded": self.power[self.folded].sum() / ac,
            **self.split[kept],
        }


def stages(network: nn.Sequential, x: Tensor) -> list[Stage]:
    """Record a network, and return the output of each ReLU."""
    with torch.inference_mode(), spectroscope.record(network, fs=FS) as recorder:
        network(x)
    report = recorder.report()
    spectra = report.spectra().query("side == 'out'")
    outputs: list[Stage] = []
    for _, split in report.introduced().iterrows():
        rows = spectra[spectra["site"] == split["site"]]
        freq, power = rows["freq"].to_numpy(), rows["power"].to_numpy()
        layers = network[: int(split["module"]) + 1]
        filters = [layer for layer in layers if isinstance(layer, nn.Conv1d)]
        filtered = power
        if filters:
            response = spectroscope.filter_response(filters, fs=FS, points=len(freq))
            filtered = outputs[0].power * response["gain"].to_numpy() ** 2
        with torch.inference_mode():
            signal = layers(x).flatten().numpy()
        outputs.append(Stage(signal, freq, power, filtered, split))
    return outputs


def summary(table: pd.DataFrame) -> str:
    """Statements of the paper on both networks, each followed by our result, and the table."""
    dif, avg = (table[table["network"] == name] for name in ("h_dif", "h_avg"))
    after = avg[1:]

    def join(rows: pd.DataFrame, column: str, form: str) -> str:
        return ", ".join(format(value, form) for value in rows[column])

    claims = figures.compared(
        (
            "h_dif: the output oscillates over the whole band.",
            f"true. 99% of the AC power is below {join(dif, 'band_edge_hz', '.0f')} Hz "
            f"after ReLU 1, 2, 3, of {FS // 2} Hz; {join(dif, 'above_100_hz', '.1%')} of it is "
            f"above {HIGH} Hz. A ReLU is necessary for that, but the first one suffices: with the "
            f"differences alone, without ReLUs 2 and 3, {dif['filters_above_100_hz'].iloc[-1]:.1%} "
            f"would be above. {dif['folded'].iloc[-1]:.1%} is at frequencies where no sum or "
            "difference of the tones lies: it is folded from above the Nyquist frequency.",
        ),
        (
            "h_avg: the output is band-limited.",
            f"true. Of the AC power {join(avg, 'above_100_hz', '.0e')} is above {HIGH} Hz; "
            f"99% is below {join(avg, 'band_edge_hz', '.0f')} Hz. But ReLUs 2 to 6 have no "
            "effect: an average of values ≥ 0 is ≥ 0, so output equals input (gain "
            f"{after['regression_gain'].min():.3f}). The amplitudes are those of the first ReLU's "
            f"output times |H| of the averages, to {after['off_filters'].max():.0e} of the "
            f"standard deviation, and the DC does not change ({avg['dc'].min():.4f} to "
            f"{avg['dc'].max():.4f}).",
        ),
    )
    shown = table[["network", "relu", "dc", "ac_rms", "band_edge_hz", "above_100_hz",
                   "filters_above_100_hz", "folded", "regression_gain",
                   "introduced_fraction"]]  # fmt: skip
    return f"{claims}\n\n{shown.to_string(index=False, float_format='{:.4g}'.format)}"


def draw(networks: dict[str, list[Stage]]) -> Figure:
    """Signals and spectra after three ReLUs of both networks."""
    line, folded = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[1]
    with sns.axes_style("ticks"), sns.plotting_context("paper"):
        figure = Figure(figsize=(15, 7.4), layout="constrained")
        halves: Any = figure.subfigures(1, 2, wspace=0.04)
        for half, (name, outputs) in zip(halves, networks.items(), strict=True):
            between = "difference times fs" if name == "h_dif" else "9-point moving average"
            half.suptitle(f"{name}: {between}, and a ReLU, {len(outputs) - 1} times after a ReLU")
            grid: Any = half.subplots(3, 2, sharex="col", width_ratios=[1, 2.2])
            for (left, right), number in zip(grid, DRAWN[name], strict=True):
                stage = outputs[number - 1]
                ms = np.arange(2 * FS // LINES) / FS * 1000
                left.plot(ms, stage.signal[: len(ms)], color=line, lw=1)
                left.set_title(f"after ReLU {number}", loc="left", pad=3)
                left.set_ylabel("output")
                left.ticklabel_format(axis="y", scilimits=(-2, 3))
                _lines(right, stage, line, folded)
                right.set_ylabel("amplitude / std (dB)")
            grid[-1][0].set(xlabel="time (ms)", xticks=[0, 200, 400])
            grid[-1][1].set(xlabel="frequency (Hz)", xticks=range(0, FS // 2 + 1, 128))
            sns.despine(fig=half)
        handles = halves[0].axes[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _lines(axes: Any, stage: Stage, line: Any, folded: Any) -> None:
    """Draw a line spectrum, and dots for the first ReLU's output after the filters alone."""
    ac = stage.power[1:].sum()
    with np.errstate(divide="ignore"):
        levels, filtered = (10 * np.log10(2 * p / ac) for p in (stage.power, stage.filtered))
    shown = (levels > FLOOR) & (stage.freq > 0)
    for bins, color, width, label in (
        (~stage.folded, line, 1.6, "sums and differences of the tones"),
        (stage.folded, folded, 0.8, "the same, folded at the Nyquist frequency"),
    ):
        selected = bins & shown
        axes.vlines(stage.freq[selected], FLOOR, levels[selected], color=color, lw=width,
                    label=label, zorder=width)  # fmt: skip
    dots = ~stage.folded & (filtered > FLOOR) & (stage.freq > 0)
    axes.plot(stage.freq[dots], filtered[dots], ".", ms=3, color="k",
              label="first ReLU's output through the filters alone")  # fmt: skip
    axes.set(ylim=(FLOOR, 10), yticks=range(FLOOR, 1, 40), xlim=(0, FS / 2 + 4))


if __name__ == "__main__":
    sys.exit(main())
