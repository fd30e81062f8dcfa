"""Shared by the figure examples: arguments, output files, and comparison with the paper."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from spectroscope import RequestError
from spectroscope.io import output_folder
from spectroscope.report import Report


class Result(NamedTuple):
    """Result of an example: a table, a figure, and a text to print."""

    table: pd.DataFrame
    figure: Figure
    text: str


def parser(name: str, doc: str | None, quick: str) -> argparse.ArgumentParser:
    """Parser with the arguments of every example; `quick` is the help text of `--quick`."""
    arguments = argparse.ArgumentParser(name, description=(doc or "").partition("\n")[0])
    arguments.add_argument("--out", default=name, metavar="DIR", help=f"default: {name}/")
    arguments.add_argument("--quick", action="store_true", help=quick)
    return arguments


def run(
    parser: argparse.ArgumentParser,
    make: Callable[[argparse.Namespace], Result],
    argv: list[str] | None,
) -> int:
    """Write NAME.csv and NAME.png, print the text, and return the exit status."""
    arguments, name = parser.parse_args(argv), parser.prog
    try:
        with output_folder(arguments.out) as folder:
            table, figure, text = make(arguments)
            table.to_csv(folder / f"{name}.csv", index=False)
            figure.savefig(folder / f"{name}.png", dpi=110)
    except RequestError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(f"{text}\n\nwrote {name}.csv, {name}.png to {Path(arguments.out)}")
    return 0


def ratio_interval(
    above: NDArray[np.float64], below: NDArray[np.float64], block: int
) -> tuple[float, float]:
    """95 % interval of sum(above) / sum(below), of neighbours that depend on each other.

    By the jackknife of the ratio's logarithm, which leaves out one block of consecutive values at a
    time (H. R. Künsch, "The jackknife and the bootstrap for general stationary observations",
    *Annals of Statistics* 17, 1989), and Student's t. NaN with fewer than 5 blocks.
    """
    count = len(above) // block
    if count < 5:
        return np.nan, np.nan
    parts = [np.array_split(values, count) for values in (above, below)]
    sums = np.array([[part.sum() for part in values] for values in parts])
    total = sums.sum(1, keepdims=True)
    left = np.log(total[0] - sums[0]) - np.log(total[1] - sums[1])
    error = np.sqrt((count - 1) * left.var()) * stats.t.ppf(0.975, count - 1)
    centre = float(np.log(total[0] / total[1])[0])
    return float(np.exp(centre - error)), float(np.exp(centre + error))


def jackknife(reports: list[Report], measure: Callable[[Report], "pd.Series[float]"]) -> Any:
    """Measures, all positive, of the merged reports, and their 95 % intervals.

    Leaves out one report at a time (H. R. Künsch, *Annals of Statistics* 17, 1989).
    """

    def merged(reports: list[Report]) -> Report:
        return reports[0] if len(reports) == 1 else reports[0].merge(merged(reports[1:]))

    count = len(reports)
    left_out = [measure(merged(reports[:k] + reports[k + 1 :])) for k in range(count)]
    spread = np.log(left_out).var(0)
    factor = np.exp(np.sqrt((count - 1) * spread) * stats.t.ppf(0.975, count - 1))
    value = measure(merged(reports))
    return pd.DataFrame({"value": value, "low": value / factor, "high": value * factor})


def compared(*claims: tuple[str, str]) -> str:
    """Pairs of a statement of the paper and our result, as text."""
    lines = []
    for claim, result in claims:
        for head, text in (("Paper: ", claim), ("Here:  ", result)):
            lines.append(textwrap.fill(text, 96, initial_indent=head, subsequent_indent=" " * 7))
        lines.append("")
    return "\n".join(lines[:-1])
