"""The command `spectroscope`. Everything is called from here, nothing is computed here.

Exit status: 0 done; 2 the request was wrong (one line on standard error); 1 anything else.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

from spectroscope.errors import RequestError

# Torch, pandas and seaborn are imported where they are needed: `--help` and a misspelt name don't
# wait for them.

# Columns of the per-layer table that fit a terminal; sites.csv has all of them.
SHOWN = ["site", "shape", "fs", "dc_in", "dc_out", "dc_out_std", "dc_gaussian", "ac_rms_in",
         "ac_rms_out", "active_fraction", "dc_fraction", "above_next_nyquist"]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="spectroscope", description="See what the ReLUs of a trained CNN do to its signals."
    )
    parser.add_argument("--version", action="version", version=version("relu-spectroscope"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="list the specimens that are installed")
    listing.set_defaults(run=_list)
    inspect = commands.add_parser("inspect", help="run a specimen and report on its ReLUs")
    inspect.add_argument("specimen", metavar="SPECIMEN", help="see `spectroscope list`")
    inspect.add_argument("--out", metavar="DIR", help="write tables, report and figure there")
    inspect.add_argument("--weights", metavar="PATH", help="weights file, or the wheel with them")
    inspect.set_defaults(run=_inspect)
    arguments = parser.parse_args(argv)
    # A σ or × must not cost a finished run where the terminal's encoding has none.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except RequestError as error:
        print(f"spectroscope: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spectroscope: interrupted, nothing written", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _list(arguments: argparse.Namespace) -> None:
    from spectroscope.specimens import adapters

    for name, entry in adapters().items():
        try:
            about = (entry.load().__doc__ or "").partition("\n")[0]
        except Exception as error:  # somebody else's adapter mustn't hide the others
            about = f"can't be loaded: {error!r}"
        print(f"{name:20} {about}")


def _inspect(arguments: argparse.Namespace) -> None:
    from spectroscope.files import output_folder
    from spectroscope.specimens import specimen

    # The folder is opened first: that it can't be written to is better said before the work.
    # All is written before a line is printed: a closed pipe must not cost it.
    to_folder = arguments.out is not None
    with output_folder(arguments.out) if to_folder else nullcontext() as out:
        subject = specimen(arguments.specimen, weights=arguments.weights)
        from spectroscope import run

        report, scores = run.inspect(subject, spectra=to_folder, progress=sys.stderr is not None)
        if out is not None:
            run.export(subject, report, out)
            written = sorted(file.name for file in out.iterdir())
    print(f"{subject.name}: {subject.description} ({subject.license})\n")
    print(report.sites()[SHOWN].to_string(index=False, float_format="{:.4g}".format))
    print()
    for what, value in scores.items():
        print(f"{what}: {value:.2f}")
    if to_folder:
        print(f"wrote {', '.join(written)} to {Path(arguments.out)}")
