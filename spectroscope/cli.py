"""The command `spectroscope`. Everything is called from here, nothing is computed here.

Exit status: 0 done; 2 the request was wrong (one line on standard error); 1 anything else.
"""

import argparse
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from spectroscope.errors import RequestError

if TYPE_CHECKING:
    from spectroscope.specimens import Specimen

# Torch, pandas and seaborn are imported where they are needed: `--help` and a misspelt name don't
# wait for them.

# Columns of the per-layer table that fit a terminal; sites.csv has all of them.
SHOWN = ["site", "shape", "fs", "dc_in", "dc_out", "dc_out_std", "dc_gaussian", "ac_rms_in",
         "ac_rms_out", "active_fraction", "dc_fraction", "above_next_nyquist"]  # fmt: skip

# Of a comparison, likewise.
COMPARED = ["site", "channels", "dc_out_a", "dc_out_b", "effect_rms", "effect_max", "channel_max",
            "active_fraction_a", "active_fraction_b", "died", "revived"]  # fmt: skip

MOST_LABELS = 10

# Of spectroscope.metrics, those that take no more than the outputs.
METRICS = ("agreement", "kl", "relative_l2")

# Each is passed on to the adapter if it is given; what it doesn't take it refuses.
OPTIONS = {
    "weights": ("WHICH", "a file of weights; of torchvision models also DEFAULT, a name, or none"),
    "input": ("PATH", "your data: a folder of images, a file of PPG, or an array [N, ...]"),
    "fs": ("HZ", "sampling rate of the input"),
    "column": ("NAME", "which column of the input"),
    "checkpoint": ("PATH", "weights of your own model, a state_dict"),
    "channel_axis": ("AXIS", "axis of the channels in its activations; default 1"),
}


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
    inspect.add_argument("--parquet", action="store_true",
                         help="write the tables as Parquet too, and the spectra")  # fmt: skip
    inspect.set_defaults(run=_inspect)
    ablate = commands.add_parser("ablate", help="take the DC away, or all else, ReLU by ReLU")
    ablate.add_argument("--metric", choices=METRICS, help="default: the specimen's own error, or "
                        "relative_l2 against the untouched model")  # fmt: skip
    ablate.set_defaults(run=_ablate)
    for command in (inspect, ablate):
        command.add_argument(
            "specimen",
            metavar="SPECIMEN",
            help="see `spectroscope list`; torchvision:resnet18; or package.module:callable",
        )
        command.add_argument("--out", metavar="DIR", help="write tables and figures there")
        for option, (metavar, what) in OPTIONS.items():
            kind = {"fs": float, "channel_axis": int}.get(option, str)
            name = f"--{option.replace('_', '-')}"
            command.add_argument(name, metavar=metavar, type=kind, help=what)
    compare = commands.add_parser("compare", help="what changed between two saved reports")
    compare.set_defaults(run=_compare)
    compare.add_argument("a", metavar="A", help="folder of the report on what was")
    compare.add_argument("b", metavar="B", help="and of that on what has become of it")
    compare.add_argument("--out", metavar="DIR", help="write tables and a page there")
    arguments = parser.parse_args(argv)
    arguments.command = shlex.join(["spectroscope", *(sys.argv[1:] if argv is None else argv)])
    # A σ or × must not cost a finished run where the terminal's encoding has none.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    warnings.formatwarning = _one_line
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


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the place in our code that it comes from."""
    return f"spectroscope: warning: {message}\n"


def _list(arguments: argparse.Namespace) -> None:
    from spectroscope.catalog import adapters

    for name, entry in adapters().items():
        try:
            about = (entry.load().__doc__ or "").partition("\n")[0]
        except Exception as error:  # somebody else's adapter mustn't hide the others
            about = f"can't be loaded: {error!r}"
        print(f"{name:20} {about}")


def _specimen(arguments: argparse.Namespace) -> "Specimen":
    from spectroscope.catalog import specimen

    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    return specimen(arguments.specimen, **given)


def _compare(arguments: argparse.Namespace) -> None:
    from spectroscope.files import output_folder
    from spectroscope.report import load

    found = load(arguments.a).compare(load(arguments.b))
    if arguments.out is not None:
        with output_folder(arguments.out) as out:
            found.save(out)
            found.page(out / "compare.html")
            written = sorted(file.name for file in out.iterdir())
    table = found.sites()
    if table.empty:
        print("no site is in both")
    else:
        print(table[COMPARED].to_string(index=False, float_format="{:.4g}".format))
    for row in found.unmatched().itertuples():
        print(f"{row.site}: {row.why}")
    if arguments.out is not None:
        print(f"wrote {', '.join(written)} to {Path(arguments.out)}")


def _ablate(arguments: argparse.Namespace) -> None:
    from spectroscope.files import output_folder

    to_folder = arguments.out is not None
    with output_folder(arguments.out) if to_folder else nullcontext() as out:
        subject = _specimen(arguments)
        from spectroscope import run

        table = run.ablate(subject, metric=arguments.metric, progress=sys.stderr is not None)
        if out is not None:
            run.export_ablation(subject, table, out)
            written = sorted(file.name for file in out.iterdir())
    print(f"{subject.name}: {subject.description} ({subject.license})\n")
    wide = table.pivot(index="site", columns="operation", values=["value"])["value"]
    wide = wide.loc[table["site"].unique(), table["operation"].unique()].reset_index()
    print(f"{table['metric'].iloc[0]}, {table['n_samples'].max()} inputs, "
          f"one ReLU changed at a time; {table['baseline'].iloc[0]:.4g} with none")  # fmt: skip
    print(wide.to_string(index=False, float_format="{:.4g}".format))
    if to_folder:
        print(f"wrote {', '.join(written)} to {Path(arguments.out)}")


def _inspect(arguments: argparse.Namespace) -> None:
    from spectroscope.files import output_folder

    # The folder is opened first: that it can't be written to is better said before the work.
    # All is written before a line is printed: a closed pipe must not cost it.
    to_folder = arguments.out is not None
    if arguments.parquet:
        from spectroscope.report.exports import needs

        needs("pyarrow", "--parquet", "parquet")
        if not to_folder:
            raise RequestError("--parquet writes files: it takes --out DIR")
    with output_folder(arguments.out) if to_folder else nullcontext() as out:
        subject = _specimen(arguments)
        from spectroscope import run

        report, scores, labels = run.inspect(
            subject,
            spectra=to_folder,
            about={"command": arguments.command},
            progress=sys.stderr is not None,
        )
        if out is not None:
            run.export(subject, report, out, parquet=arguments.parquet)
            written = sorted(file.name for file in out.iterdir())
    print(f"{subject.name}: {subject.description} ({subject.license})\n")
    table = report.sites()[SHOWN].dropna(axis=1, how="all")  # without spectra, without fs
    print(table.to_string(index=False, float_format="{:.4g}".format))
    print()
    for label in labels[:MOST_LABELS]:
        print(label)
    if len(labels) > MOST_LABELS:
        print(f"… and {len(labels) - MOST_LABELS} more")
    for what, value in scores.items():
        print(f"{what}: {value:.2f}")
    if to_folder:
        print(f"wrote {', '.join(written)} to {Path(arguments.out)}")
