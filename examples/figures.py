"""Shared by the figure examples: arguments, output files, and comparison with the paper."""

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from spectroscope import RequestError
from spectroscope.io import output_folder


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


def compared(*claims: tuple[str, str]) -> str:
    """Pairs of a statement of the paper and our result, as text."""
    lines = []
    for claim, result in claims:
        for head, text in (("Paper: ", claim), ("Here:  ", result)):
            lines.append(textwrap.fill(text, 96, initial_indent=head, subsequent_indent=" " * 7))
        lines.append("")
    return "\n".join(lines[:-1])
