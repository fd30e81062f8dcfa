"""Fig. 3 of Kechris et al. (arXiv 2407.16556): harmonics of the heart rate, layer by layer.

    python examples/figure3.py [--weights model_S5.h5] [--out figure3/] [--quick]

The network is the paper's if its weights are given, else KID-PPG, which has the same convolutions
and is fetched. `figure3.png` shows output spectra of 16 filters for one window, after the ReLUs of
the third and the sixth convolution. `figure3.csv` has the amplitude of each harmonic of the true
heart rate relative to DC and to chance, over all windows, in the input and after each of the nine
convolutions.
"""

import argparse
import sys
from typing import Any, NamedTuple

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
from spectroscope.experiments.operations import Firing
from spectroscope.report import Report

HARMONICS = 6
CHANNELS = 16
QUICK = 24  # windows
FS = 32.0
BLOCK = 20  # windows that are resampled together: four times as many as share samples
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
    inputs = inputs_of(specimen)[: QUICK if arguments.quick else None]
    assert specimen.f0 is not None
    heart_rates = specimen.f0[: len(inputs)]  # Hz
    table = harmonics_by_layer(specimen.model, inputs, heart_rates)
    head = (
        f"{name}, {len(inputs)} windows, heart rate {heart_rates.min() * 60:.0f} to "
        f"{heart_rates.max() * 60:.0f} BPM"
    )
    figure = draw(specimen.model, inputs, heart_rates, name)
    return figures.Result(table, figure, f"{head}\n\n{summary(table)}")


def inputs_of(specimen: spectroscope.Specimen) -> Tensor:
    """All inputs of a specimen."""
    return torch.cat([batch for batch in specimen.inputs if isinstance(batch, Tensor)])


def record(model: torch.nn.Module, inputs: Tensor, f0: Array) -> Report:
    """Report on the ReLUs of the nine convolutions, for the window whose heart rate is known."""
    recorder = spectroscope.record(model, fs=FS, select=_sites(inputs), f0=f0, harmonics=HARMONICS)
    with torch.inference_mode(), recorder:
        model(inputs)
    return recorder.report()


def harmonics_by_layer(model: torch.nn.Module, inputs: Tensor, f0: Array) -> pd.DataFrame:
    """Amplitude of DC (harmonic 0) and of each harmonic, in the input and after each layer.

    The amplitude is the root of the powers summed over channels and windows; `over_dc` and
    `over_std` are relative to DC and standard deviation of the same windows. `over_chance` is
    relative to the amplitude that the same windows have at the heart rates of others, half the
    recording away: the level at similar but wrong frequencies. (It is overestimated, because those
    heart rates are not very different.) `low` and `high` are its 95 % interval over windows; of
    the DC that of `over_std`. `folded` harmonics lie above the layer's Nyquist frequency and are
    measured where they appear. All of a row is of the `windows` in which the harmonic is
    distinguished at both heart rates, and folded at both or at neither. `freq_bpm` is their mean.
    """
    signals = {"input": _ppg(inputs).unsqueeze(1), **outputs_of(model, inputs)}
    other = np.roll(f0, len(f0) // 2)
    rows = []
    for layer, (site, x) in enumerate(signals.items()):
        fs = FS * x.shape[-1] / inputs.shape[1]
        here, there = (PerWindow.of(x, rates / fs) for rates in (f0, other))
        low, high = figures.ratio_interval(here.dc, here.ac, BLOCK)
        rows.append(
            {"convolution": layer, "site": site, "nyquist_bpm": 30 * fs, "harmonic": 0,
             "folded": False, "freq_bpm": 0.0, "windows": len(x), "over_dc": 1.0,
             "over_std": np.sqrt(here.dc.sum() / here.ac.sum()),
             "low": np.sqrt(low), "high": np.sqrt(high)}
        )  # fmt: skip
        for order in range(HARMONICS):
            for folded in (False, True):
                usable = [w.usable[:, order] & (w.folded[:, order] == folded)
                          for w in (here, there)]  # fmt: skip
                both = usable[0] & usable[1]
                if not both.any():
                    continue
                power, chance = here.power[both, order], there.power[both, order]
                low, high = figures.ratio_interval(power, chance, BLOCK)
                rows.append(
                    {
                        **rows[-1],
                        "harmonic": order + 1,
                        "folded": folded,
                        "freq_bpm": 60 * fs * here.freq[both, order].mean(),
                        "windows": both.sum(),
                        "over_std": np.sqrt(power.sum() / here.ac[both].sum()),
                        "over_dc": np.sqrt(power.sum() / here.dc[both].sum()),
                        "over_chance": np.sqrt(power.sum() / chance.sum()),
                        "low": np.sqrt(low),
                        "high": np.sqrt(high),
                    }
                )
    return pd.DataFrame(rows)


def outputs_of(model: torch.nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Outputs ``[N, C, T]`` of the ReLUs of the nine convolutions, by site."""
    outputs = {}

    def keep(output: Tensor, firing: Firing) -> Tensor:
        outputs[firing.name] = output.clone()
        return output

    with torch.inference_mode(), spectroscope.intervene(model, _sites(inputs), keep):
        model(inputs)
    return outputs


class PerWindow(NamedTuple):
    """Powers of N windows, of all channels together.

    Attributes:
        dc: ``[N]``, squared DC.
        ac: ``[N]``, variance.
        power: ``[N, K]``, squared amplitude of each harmonic.
        freq: ``[N, K]``, cycles per sample, folded.
        folded: ``[N, K]``, above the Nyquist frequency.
        usable: ``[N, K]``, can be distinguished from DC and the other harmonics.
    """

    dc: Array
    ac: Array
    power: Array
    freq: Array
    folded: NDArray[np.bool_]
    usable: NDArray[np.bool_]

    @classmethod
    def of(cls, x: Tensor, f0: Array) -> "PerWindow":
        """Of signals ``[N, C, T]`` with these fundamentals ``[N]``, in cycles per sample."""
        x = x.double()
        mean, variance = x.mean(-1), x.var(-1, correction=0)
        harmonics = Harmonics.of(torch.from_numpy(f0), HARMONICS, x.shape[-1])
        amplitude = fit(x, harmonics, mean, variance).amplitude
        of_channels = mean.square(), variance, amplitude.square()
        of_windows = (*(values.sum(1) for values in of_channels), *harmonics[1:3], harmonics.usable)
        return cls(*(values.numpy() for values in of_windows))


def summary(table: pd.DataFrame) -> str:
    """The table as text, a line per convolution, and the harmonics that stand out in four."""
    usual = table.sort_values("windows").groupby(["convolution", "harmonic"]).tail(1)
    usual = usual.sort_values("harmonic")
    lines = [
        "Amplitude over chance, with 95 % interval; ~ folded (in most windows).",
        "".join(f"{head:>22}" for head in ["", "DC / std", *range(1, HARMONICS + 1)]),
    ]
    for number, rows in usual.groupby("convolution"):
        cells = [f"convolution {number}" if number else "input",
                 f"{rows['over_std'].iloc[0]:.2f}"]  # fmt: skip
        known = rows.set_index("harmonic")
        for order in range(1, HARMONICS + 1):
            if order not in known.index:
                cells.append("can't be measured")
                continue
            row = known.loc[order]
            interval = f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] >= 0 else ""
            cells.append(f"{'~' if row['folded'] else ''}{row['over_chance']:.2f}{interval}")
        lines.append("".join(f"{cell:>22}" for cell in cells))
    lines.append("")
    for number in (0, 3, 6, 9):
        all_rows = usual[(usual["convolution"] == number) & (usual["harmonic"] > 0)]
        rows = all_rows[all_rows["low"] > 1]
        harmonics = [f"{'~' if row.folded else ''}{row.harmonic}" for row in rows.itertuples()]
        few = all_rows.loc[all_rows["low"].isna(), "harmonic"]
        if len(few):
            harmonics.append(f"unknown for {', '.join(map(str, few))} (too few windows)")
        nyquist = table.loc[table["convolution"] == number, "nyquist_bpm"].iloc[0]
        where = f"After convolution {number}" if number else "In the input"
        lines.append(f"{where} (up to {nyquist:.0f} BPM), above chance: "
                     f"{', '.join(harmonics) or 'none'}")  # fmt: skip
    return "\n".join(lines)


def draw(model: torch.nn.Module, inputs: Tensor, f0: Array, name: str) -> Figure:
    """Draw output spectra of one window after the third and the sixth convolution, as in Fig. 3.

    The window is not a typical one: it has the largest fraction of power at the heart rate and the
    next two harmonics, so that they can be followed. Amplitudes are relative to the standard
    deviation of each signal.
    """
    ppg = _ppg(inputs).double()
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


def _sites(inputs: Tensor) -> str:
    """KID-PPG runs each convolution twice; the second call is for the current window."""
    return f"block*#{1 if inputs.dim() == 3 else 0}"


def _ppg(inputs: Tensor) -> Tensor:
    """The current window of each input, ``[N, 256]``."""
    return inputs[..., 1] if inputs.dim() == 3 else inputs


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
