"""Fig. 3 of Kechris et al. (arXiv 2407.16556): harmonics of the heart rate, layer by layer.

    python examples/figure3.py [--weights model_S5.h5] [--out figure3/] [--quick]

The network is the paper's if its weights are given, else KID-PPG, which has the same convolutions
and is fetched. `figure3.png` shows output spectra of 16 filters for one window, after the ReLUs of
the third and the sixth convolution. `figure3.csv` has the amplitude of each harmonic of the true
heart rate relative to DC, over all windows, after each of the nine convolutions.
"""

import argparse
import sys
from typing import Any

import figures
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import periodogram
from torch import Tensor

import spectroscope
from spectroscope.dsp.harmonics import Harmonics, fit
from spectroscope.report import Report

HARMONICS = 6
CHANNELS = 16
QUICK = 24  # windows
STANDS_OUT = 1.25  # times chance
Array = NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, print a summary, and return the exit status."""
    parser = figures.parser("figure3", __doc__, quick=f"only the first {QUICK} windows")
    parser.add_argument("--weights", help="Keras file of the paper's network; default: KID-PPG")
    return figures.run(parser, make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """Record the network."""
    name = "kid-ppg" if arguments.weights is None else "paper-ppg"
    specimen = spectroscope.specimen(name, weights=arguments.weights)
    batches = [batch for batch in specimen.inputs if isinstance(batch, Tensor)]
    inputs = torch.cat(batches)[: QUICK if arguments.quick else None]
    assert specimen.f0 is not None
    heart_rates = specimen.f0[: len(inputs)]  # Hz
    table = harmonics_by_layer(specimen.model, inputs, heart_rates)
    head = (
        f"{name}, {len(inputs)} windows, heart rate {heart_rates.min() * 60:.0f} to "
        f"{heart_rates.max() * 60:.0f} BPM"
    )
    figure = draw(specimen.model, inputs, heart_rates, name)
    return figures.Result(table, figure, f"{head}\n\n{summary(table)}")


def record(model: torch.nn.Module, inputs: Tensor, f0: Array) -> Report:
    """Report on the ReLUs of the nine convolutions, for the window whose heart rate is known."""
    # KID-PPG runs each convolution twice; the second call is for the current window.
    call = 1 if inputs.dim() == 3 else 0
    recorder = spectroscope.record(
        model, fs=32.0, select=f"block*#{call}", f0=f0, harmonics=HARMONICS
    )
    with torch.inference_mode(), recorder:
        model(inputs)
    return recorder.report()


def harmonics_by_layer(model: torch.nn.Module, inputs: Tensor, f0: Array) -> pd.DataFrame:
    """Amplitude of DC (harmonic 0) and of each harmonic, over all channels of a layer.

    The amplitude is the root of the summed powers of the channels; `over_dc` and `over_std` are
    relative to that of the DC and to the standard deviation. `chance` is `over_dc` at the heart
    rates of other windows, half the recording away: the level at similar but wrong frequencies. (It
    is overestimated, because those heart rates are not very different.) `folded` harmonics lie
    above the layer's Nyquist frequency and are measured at the frequency to which they fold.
    `freq_bpm` is the mean over the windows.
    """
    report = record(model, inputs, f0)
    other = record(model, inputs, np.roll(f0, len(f0) // 2))
    channels = report.dc()
    channels["dc"] = channels["dc_out"] ** 2 + channels["dc_out_std"] ** 2
    channels["ac"] = channels["ac_rms_out"] ** 2
    dc, std = np.sqrt(channels.groupby("site", sort=False)[["dc", "ac"]].sum()).to_numpy().T
    sites = report.sites()[["site", "nyquist"]].assign(dc=dc, std=std)
    sites.insert(0, "convolution", range(1, len(sites) + 1))

    keys = ["site", "harmonic", "folded"]
    chance = _over_channels(other.harmonics())["amplitude"].rename("amplitude_chance")
    rows = _over_channels(report.harmonics()).join(chance).reset_index()
    zeroth = sites.assign(harmonic=0, folded=False, freq=0.0, windows=len(inputs), amplitude=dc)
    rows = pd.concat([zeroth[[*keys, "freq", "windows", "amplitude"]], rows])
    table = sites.merge(rows, on="site").sort_values(["convolution", *keys[1:]], ignore_index=True)
    return pd.DataFrame(
        {
            "convolution": table["convolution"],
            "site": table["site"],
            "nyquist_bpm": table["nyquist"] * 60,
            "harmonic": table["harmonic"],
            "folded": table["folded"],
            "freq_bpm": table["freq"] * 60,
            "windows": table["windows"],
            "over_std": table["amplitude"] / table["std"],
            "over_dc": table["amplitude"] / table["dc"],
            "chance": table["amplitude_chance"] / table["dc"],
        }
    )


def _over_channels(harmonics: pd.DataFrame) -> pd.DataFrame:
    """Amplitude per site and harmonic: the root of the summed powers of all channels."""
    known = harmonics[harmonics["n_inputs"] > 0].assign(power=lambda t: t["amplitude_out"] ** 2)
    rows = known.groupby(["site", "harmonic", "folded"]).agg(
        freq=("freq", "first"), windows=("n_inputs", "max"), power=("power", "sum")
    )
    rows["amplitude"] = np.sqrt(rows.pop("power"))
    return rows


def summary(table: pd.DataFrame) -> str:
    """The table as text, a line per convolution, and the harmonics that stand out in three."""
    usual = table.sort_values("windows").groupby(["convolution", "harmonic"]).tail(1)
    usual = usual.assign(ratio=usual["over_dc"] / usual["chance"]).sort_values("harmonic")
    lines = [
        "Amplitude over DC, in brackets over chance; ~ folded (in most windows).",
        "".join(f"{head:>14}" for head in ["", "DC / std", *range(1, HARMONICS + 1)]),
    ]
    for number, rows in usual.groupby("convolution"):
        cells = [f"convolution {number}", f"{rows['over_std'].iloc[0]:.2f}"]
        for row in rows[1:].itertuples():
            cells.append(f"{'~' if row.folded else ''}{row.over_dc:.2f} ({row.ratio:.1f})")
        lines.append("".join(f"{cell:>14}" for cell in cells))
    lines.append("")
    for number in (3, 6, 9):
        rows = usual[(usual["convolution"] == number) & (usual["harmonic"] > 0)]
        harmonics = [f"{'~' if row.folded else ''}{row.harmonic}" for row in rows.itertuples()
                 if row.ratio > STANDS_OUT]  # fmt: skip
        nyquist = rows["nyquist_bpm"].iloc[0]
        lines.append(f"After convolution {number} (up to {nyquist:.0f} BPM), more than {STANDS_OUT}"
                     f" times chance: {', '.join(harmonics) or 'none'}")  # fmt: skip
    return "\n".join(lines)


def draw(model: torch.nn.Module, inputs: Tensor, f0: Array, name: str) -> Figure:
    """Draw output spectra of one window after the third and the sixth convolution, as in Fig. 3.

    The window is not a typical one: it has the largest fraction of power at the heart rate and the
    next two harmonics, so that they can be followed. Amplitudes are relative to the standard
    deviation of each signal.
    """
    ppg = (inputs[..., 1] if inputs.dim() == 3 else inputs).double()
    number = int(_periodic(ppg, f0).argmax())
    report = record(model, inputs[number : number + 1], f0[number : number + 1])
    freq, power = periodogram(ppg[number].numpy(), fs=32.0, detrend=False, scaling="spectrum")
    ppg_over_std = _over_std(power)
    line, shade = sns.color_palette("colorblind")[0], "0.75"
    with sns.axes_style("ticks"), sns.plotting_context("paper"):
        figure = Figure(figsize=(15, 7.4), layout="constrained")
        halves: Any = figure.subfigures(1, 2, wspace=0.04)
        for half, convolution in zip(halves, (3, 6), strict=True):
            site = report.sites()["site"][convolution - 1]
            frame = report.spectra(site)
            frame = frame[(frame["side"] == "out") & (frame["channel"] < CHANNELS)]
            nyquist = frame["freq"].max()
            marks = np.arange(1, HARMONICS + 1) * f0[number]
            marks = marks[marks <= nyquist]
            half.suptitle(f"convolution {convolution}: up to {nyquist * 60:.0f} BPM ({site})")
            grid: Any = half.subplots(4, 4, sharex=True, sharey=True)
            for axes, (channel, rows) in zip(grid.flat, frame.groupby("channel"), strict=True):
                bpm, inside = rows["freq"].to_numpy() * 60, freq <= nyquist
                over_std = _over_std(rows["power"].to_numpy())
                axes.fill_between(freq[inside] * 60, ppg_over_std[inside], color=shade, lw=0,
                                  label="PPG, the network's input")  # fmt: skip
                axes.plot(bpm, over_std, color=line, lw=1, label="output of the ReLU")
                axes.plot(bpm[0], over_std[0], "s", ms=4, color=line, label="DC of the output")
                if over_std.any():
                    heights = np.interp(marks * 60, bpm, over_std)
                    axes.plot(marks * 60, heights, "o", ms=7, mew=1, mfc="none", mec="C3",
                              label="heart rate and harmonics")  # fmt: skip
                else:
                    axes.text(0.5, 0.5, "silent", transform=axes.transAxes, ha="center")
                axes.set_title(f"filter {channel}", fontsize="small", pad=2)
                axes.margins(x=0.04)
                sns.despine(ax=axes)
            for axes in grid[-1]:
                axes.set(xlabel="frequency (BPM)", xticks=np.arange(4) * (nyquist * 15))
            half.supylabel("amplitude / standard deviation", fontsize="small")
        handles = halves[0].axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{name}, window {number}: heart rate {f0[number] * 60:.0f} BPM")
    return figure


def _periodic(ppg: Tensor, f0: Array) -> Array:
    """Fraction of each window's AC power at the heart rate and the next two harmonics."""
    mean, power = ppg.mean(1, keepdim=True), ppg.var(1, keepdim=True, correction=0)
    harmonics = Harmonics.of(torch.from_numpy(f0) / 32, 3, ppg.shape[1])
    amplitude = fit(ppg.unsqueeze(1), harmonics, mean, power).amplitude[:, 0]
    fraction: Array = (amplitude.square().sum(1) / 2 / power[:, 0]).numpy()
    return fraction


def _over_std(power: Array) -> Array:
    """Amplitudes of cosines and DC from a one-sided power spectrum, over the signal's std.

    0 for a filter that is silent in this window, whose std is 0.
    """
    factor = np.where(np.arange(len(power)) == 0, 1.0, 2.0)
    std = np.sqrt(power[1:].sum())
    over_std: Array = np.sqrt(factor * power) / (std if std > 0 else 1.0)
    return over_std


if __name__ == "__main__":
    sys.exit(main())
