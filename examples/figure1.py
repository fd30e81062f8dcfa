"""Fig. 1 of Kechris et al. (arXiv 2407.16556): ReLU of four tones, and the paper's series.

    python examples/figure1.py [--out figure1/] [--quick]

`figure1.png` shows input, ReLU and series in time and in frequency, and the error against the
number of terms. `figure1.csv` has a row per polynomial and number of terms, with the error as the
paper defines it and as RMS over RMS.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import figures
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import periodogram
from torch import nn

import spectroscope
from spectroscope import theory

TONES = (5, 10, 20, 40)  # Hz, amplitude 1
FS, SECONDS = 1024, 8
TERMS = [1, 2, 5, 10, 20, 50, 100, 200, 400, 800, 1600]
SHOWN = 100  # terms, as under the paper's figure
OFFSET = 6.0  # added to the tones, so that they never cross zero
Array = NDArray[np.float64]


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, print a summary, and return the exit status."""
    quick = f"at most {SHOWN * 4} terms"
    return figures.run(figures.parser("figure1", __doc__, quick), make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """Compute the signal, its approximations and their errors."""
    time = np.arange(SECONDS * FS) / FS
    x = np.cos(2 * np.pi * np.array(TONES)[:, np.newaxis] * time).sum(0)
    terms = [n for n in TERMS if not arguments.quick or n <= SHOWN * 4]
    table = errors(x, terms)
    return figures.Result(table, draw(time, x, table), summary(x, table))


def errors(x: Array, terms: list[int]) -> pd.DataFrame:
    """Error of each polynomial: the paper's series, Chebyshev's, and the series where |g| < 1."""
    shifted = OFFSET + x
    middle = (np.min(shifted**2) + np.max(shifted**2)) / 2  # so that −ρ ≤ g ≤ ρ
    a = len(TONES) ** 2 / 2  # ½·(Σ amplitudes)²
    methods: dict[str, tuple[Array, Callable[[int], Array]]] = {
        "taylor": (x, lambda n: theory.relu_series(x, n, a)),
        "chebyshev": (x, lambda n: theory.relu_chebyshev(x, n)),
        "taylor, no zero crossing": (shifted, lambda n: theory.relu_series(shifted, n, middle)),
    }
    rows = []
    for method, (signal, approximate) in methods.items():
        for n in terms:
            approximation = approximate(n)
            error = theory.approximation_error(signal, approximation)
            largest = np.abs(approximation - np.maximum(signal, 0)).max()
            rows.append({"method": method, "terms": n, "degree": 2 * (n - 1), **error._asdict(),
                         "largest": largest})  # fmt: skip
    return pd.DataFrame(rows)


def slope(table: pd.DataFrame, column: str) -> float:
    """Exponent p of an error ∝ terms^p of the paper's series, from 50 terms on."""
    rows = table[(table["method"] == "taylor") & (table["terms"] >= 50)]
    return float(np.polyfit(np.log(rows["terms"]), np.log(rows[column].abs()), 1)[0])


def summary(x: Array, table: pd.DataFrame) -> str:
    """The table as text, then statements of the paper, each followed by our result."""
    taylor, chebyshev, shifted = (rows.set_index("terms") for _, rows in
                           table.groupby("method", sort=False))  # fmt: skip
    heads = ("series: RMS", "DC", "the paper’s", "Chebyshev: RMS", "no zero crossing: RMS")
    lines = ["Errors relative to ReLU(x)"]
    lines.append(f"{'terms':>6}" + "".join(f"{head:>{len(head) + 8}}" for head in heads))
    for n, row in taylor.iterrows():
        values = (row["relative_rms"], row["dc"], row["paper"], chebyshev["relative_rms"][n])
        cells = [*(f"{value:.3%}" for value in values), f"{shifted['relative_rms'][n]:.1e}"]
        columns = zip(cells, heads, strict=True)
        lines.append(f"{n:6}" + "".join(f"{cell:>{len(head) + 8}}" for cell, head in columns))
    paper_relu = theory.approximation_error(x, np.maximum(x, 0))
    ratio = (shifted["relative_rms"][20] / shifted["relative_rms"][10]) ** 0.1
    dc = np.maximum(x, 0).mean()
    row = taylor.loc[SHOWN]
    return "\n".join(lines) + "\n\n" + figures.compared(
        (
            f"the approximation with {SHOWN} terms has a relative RMSE of 0.69 %.",
            f"√(mean((x − approximation)²)/Σx²) is {row['paper']:.3%}. But x is the input: "
            f"ReLU(x) itself has {paper_relu.paper:.3%}, and 10 terms {taylor['paper'][10]:.3%}. "
            f"RMS of approximation − ReLU(x) over RMS of ReLU(x) is "
            f"{row['relative_rms']:.2%}; the DC is {row['dc']:.2%} off.",
        ),
        (
            "with A = ½(Σ amplitudes)², −1 ≤ g ≤ 1, and the series converges.",
            f"true. It converges exponentially if |g| < 1: with {OFFSET:g} added, the signal never "
            f"crosses zero, and each further term multiplies the error by {ratio:.2f}; but there "
            "ReLU does nothing. At a zero crossing g = −1, and the error is a power of the number "
            f"of terms, with exponents {slope(table, 'relative_rms'):.2f} (RMS), "
            f"{slope(table, 'largest'):.2f} (largest), {slope(table, 'dc'):.2f} (DC); theory: "
            "−¾, −½, −1. Chebyshev's polynomial of the same degree: "
            f"{chebyshev['relative_rms'][SHOWN]:.2%} at {SHOWN} terms.",
        ),
        (
            "ReLU makes a DC that depends on the amplitudes; the leading term is ½√A.",
            f"the DC is {dc:.5f}; ½√A is {np.sqrt(8) / 2:.3f}. For tones of independent phase it "
            f"is {theory.tones_dc(np.ones(4)):.5f}, for Gaussian noise of the same power "
            f"{theory.gaussian_dc(0, np.sqrt(2)):.5f}.",
        ),
    )  # fmt: skip


def draw(time: Array, x: Array, table: pd.DataFrame) -> Figure:
    """Draw signals over time, spectra, and errors."""
    relu = nn.ReLU()
    with spectroscope.record(relu, fs=FS) as recorder:
        relu(torch.from_numpy(x).view(1, 1, -1))
    spectra = recorder.report().spectra()
    series = theory.relu_series(x, SHOWN, len(TONES) ** 2 / 2)
    freq, power = periodogram(series, FS, detrend=False, scaling="spectrum")
    series_spectrum = pd.DataFrame({"freq": freq, "power": power})
    gray, orange, blue = "0.6", *(sns.color_palette("colorblind")[i] for i in (1, 0))
    with sns.axes_style("ticks"), sns.plotting_context("paper"):
        figure = Figure(figsize=(13, 4), layout="constrained")
        left, middle, right = panels = figure.subplots(1, 3)
        first = time < 0.4  # s
        left.plot(time[first], x[first], color=gray, lw=1, label="input")
        left.plot(time[first], np.maximum(x, 0)[first], color=blue, lw=2.5, label="ReLU")
        left.plot(time[first], series[first], color=orange, lw=1, label=f"series, {SHOWN} terms")
        left.set(xlabel="time (s)", ylabel="activation", ylim=(None, 5), title="Four tones")
        left.legend(frameon=False, loc="upper center", ncols=3)
        lines: Any = {
            "ReLU": (spectra[spectra["side"] == "out"], blue, "o", 5),
            f"series, {SHOWN} terms": (series_spectrum, orange, ".", 5),
            "input": (spectra[spectra["side"] == "in"], gray, "x", 7),
        }
        for label, (rows, color, marker, size) in lines.items():
            rows = rows[rows["power"] > 1e-12]  # without rounding errors: multiples of 5 Hz
            level = 10 * np.log10(rows["power"])
            middle.plot(rows["freq"], level, marker, color=color, ms=size, label=label)
        middle.set(xlabel="frequency (Hz); folded at 512 Hz: all but multiples of 5 Hz",
                   ylabel="power (dB re activation²)", xlim=(-8, 300), ylim=(-125, 15),
                   title="DC and sums and differences are new")  # fmt: skip
        middle.legend(frameon=False, loc="upper center", ncols=3)
        styles = zip(table.groupby("method", sort=False), (orange, blue, gray), "os^", strict=True)
        for (method, rows), color, marker in styles:
            rows = rows[rows["relative_rms"] > 1e-15]
            right.loglog(rows["terms"], rows["relative_rms"], marker, ls="-", color=color, ms=4,
                         label=f"{method}: RMS")  # fmt: skip
        rows = table[table["method"] == "taylor"]
        right.loglog(rows["terms"], rows["dc"].abs(), "o", ls=":", color=orange, ms=3, mfc="w",
                     label="taylor: DC")  # fmt: skip
        right.set(xlabel="terms", ylabel="error relative to ReLU(x)", ylim=(1e-9, 1e3),
                  title="Error")  # fmt: skip
        right.legend(frameon=False, loc="upper right")
        for axes in panels:
            sns.despine(ax=axes)
    return figure


if __name__ == "__main__":
    sys.exit(main())
