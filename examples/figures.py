"""What the figures' examples share: arguments, files, and the paper beside what came out."""

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
    """What an example makes: numbers, a picture, and what is to be printed."""

    table: pd.DataFrame
    figure: Figure
    text: str


def parser(name: str, doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The arguments that every example has; `quick` says what it leaves out."""
    found = argparse.ArgumentParser(name, description=(doc or "").partition("\n")[0])
    found.add_argument("--out", default=name, metavar="DIR", help=f"default: {name}/")
    found.add_argument("--quick", action="store_true", help=quick)
    return found


def run(
    parser: argparse.ArgumentParser,
    make: Callable[[argparse.Namespace], Result],
    argv: list[str] | None,
) -> int:
    """Write NAME.csv and NAME.png, and print the text; the exit status."""
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


def beside(*claims: tuple[str, str]) -> str:
    """What the paper says, and below each claim what came out."""
    lines = []
    for says, found in claims:
        for head, text in (("Paper: ", says), ("Here:  ", found)):
            lines.append(textwrap.fill(text, 96, initial_indent=head, subsequent_indent=" " * 7))
        lines.append("")
    return "\n".join(lines[:-1])
