"""The command `spectroscope`: arguments, messages and exit statuses. Nothing is computed here.

Exit status: 0 done; 2 wrong request (one line on standard error); 1 anything else.
"""

import argparse
import io
import os
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectroscope.errors import RequestError, UnfinishedError
from spectroscope.options import (
    DATA,
    LIMITS,
    MEASUREMENTS,
    METRIC,
    OUT,
    PARQUET,
    PROCESSES,
    SITES,
    Options,
    Parser,
)

if TYPE_CHECKING:
    from spectroscope.specimens.specimen import Specimen

# torch, pandas and seaborn are imported in the functions that need them: `--help`, `list` and a
# misspelt name are answered without.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit status."""
    arguments = _parser().parse_args(argv)
    arguments.command = shlex.join(["spectroscope", *(sys.argv[1:] if argv is None else argv)])
    # A σ or × must not fail a finished run on a terminal that can't encode it.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    warnings.formatwarning = _one_line
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except (RequestError, UnfinishedError) as error:
        print(f"spectroscope: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        print("spectroscope: interrupted, nothing written", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, such as `| head`, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="spectroscope", description="See what the ReLUs of a trained CNN do to its signals."
    )
    parser.add_argument("--version", action="version", version=version("relu-spectroscope"))
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", title="commands", parser_class=Parser
    )

    def command(name: str, run: Callable[..., None], text: str) -> Parser:
        subparser: Parser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            prog=f"spectroscope {name}",
        )
        subparser.set_defaults(run=run)
        return subparser

    specimen = (
        "see `spectroscope list`; torchvision:resnet18; package.module:callable; or model.keras"
    )
    command("list", _list, "list the installed specimens")
    inspect = command("inspect", _inspect, "run a specimen and report on its ReLUs")
    inspect.add_argument("specimen", metavar="SPECIMEN", help=specimen)
    inspect.add("model and data", DATA)
    inspect.add("what is recorded", SITES | MEASUREMENTS)
    inspect.add("how it runs", PROCESSES)
    inspect.add("output", OUT | PARQUET)
    ablate = command("ablate", _ablate, "remove the DC, or all but the DC, at one ReLU at a time")
    ablate.add_argument("specimen", metavar="SPECIMEN", help=specimen)
    ablate.add("model and data", DATA)
    ablate.add("what is measured", SITES | METRIC)
    ablate.add("output", OUT)
    compare = command("compare", _compare, "compare two saved reports")
    compare.add_argument("a", metavar="A", help="folder of the first report")
    compare.add_argument("b", metavar="B", help="folder of the second report")
    compare.add("for continuous integration", LIMITS)
    compare.add("output", OUT)
    merge = command("merge", _merge, "merge reports from shards of a run, or on more data")
    merge.add_argument("folders", nargs="+", metavar="DIR", help="folder of a report")
    merge.add_argument("--out", metavar="DIR", required=True, help="write tables and a page to DIR")
    return parser


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without its position in our code."""
    return f"spectroscope: warning: {message}\n"


def _list(arguments: argparse.Namespace) -> None:
    from spectroscope.specimens.catalog import adapters, summary

    for name, entry in adapters().items():
        try:
            text = summary(entry)
        except Exception as error:  # a broken adapter must not hide the others
            text = f"can't be loaded: {error!r}"
        width = shutil.get_terminal_size().columns
        print(textwrap.fill(text, width, initial_indent=f"{name:12} ", subsequent_indent=13 * " ",
                            break_on_hyphens=False))  # fmt: skip


def _given(arguments: argparse.Namespace, options: Options) -> dict[str, Any]:
    """Those of the options that were given, by name of the parameter."""
    names = [name.replace("-", "_") for name in options]
    return {name: v for name in names if (v := getattr(arguments, name)) is not None}


def _specimen(arguments: argparse.Namespace) -> "Specimen":
    from spectroscope.specimens.catalog import specimen

    return specimen(arguments.specimen, **_given(arguments, DATA))


def _compare(arguments: argparse.Namespace) -> None:
    from spectroscope.report import assert_close, load

    comparison = load(arguments.a).compare(load(arguments.b))
    changed = ""
    if arguments.fail_above is not None:
        share = 0.01 if arguments.allow is None else arguments.allow
        try:
            assert_close(comparison.b, comparison.a, effect=arguments.fail_above, share=share)
        except AssertionError as error:
            changed = str(error)

    def write(folder: Path) -> None:
        comparison.save(folder)
        comparison.page(folder / "compare.html")

    files = _written(arguments.out, write)
    print(comparison, end=f"\n{files}")
    if changed:
        raise UnfinishedError(changed)


def _ablate(arguments: argparse.Namespace) -> None:
    _written(arguments.out)
    specimen = _specimen(arguments)
    from spectroscope import run
    from spectroscope.run import text

    table = run.ablate(
        specimen, progress=sys.stderr is not None, **_given(arguments, SITES | METRIC)
    )
    files = _written(arguments.out, lambda folder: run.export_ablation(specimen, table, folder))
    print(text.of_specimen(specimen), text.of_ablation(table), sep="\n", end=f"\n{files}")


def _inspect(arguments: argparse.Namespace) -> None:
    out = arguments.out
    for option in ("checkpoint-every", "resume", "parquet"):
        if out is None and getattr(arguments, option.replace("-", "_")):
            raise RequestError(f"--{option} takes --out DIR, the folder of its files")
    if arguments.parquet:
        from spectroscope.report.export import needs

        needs("pyarrow", "--parquet", "parquet")
    if os.environ.get("RANK", "0") == "0":  # of several processes the first checks the folder
        _written(out)
    specimen = _specimen(arguments)
    from spectroscope import run
    from spectroscope.run import text

    shard = run.Shard() if arguments.shard is None else run.Shard.parse(arguments.shard)
    distributed = run.is_distributed()
    if distributed and arguments.shard is not None:
        raise RequestError("torchrun assigns the shards: leave --shard out")
    measured = _given(arguments, SITES | MEASUREMENTS)
    checkpoint = None
    files = ""
    try:
        with run.process_group(arguments.device) if distributed else nullcontext() as group:
            quiet = group is not None and not group.is_main
            if quiet:
                warnings.simplefilter("ignore")
            if out is not None:
                checkpoint = run.Checkpoint(
                    out,
                    shard if group is None else group.shard,
                    every=arguments.checkpoint_every,
                    resume=arguments.resume,
                    keep=group is not None,
                )
            inspection = run.inspect(
                specimen,
                spectra=not measured.pop("no_spectra"),
                **measured,
                about={"command": arguments.command},
                progress=sys.stderr is not None and not quiet,
                device=arguments.device if group is None else group.device,
                dtype=arguments.dtype,
                channels_last=arguments.channels_last,
                limit=arguments.limit,
                workers=arguments.workers,
                shard=shard,
                checkpoint=checkpoint,
                group=group,
            )
            # Files are written before anything is printed: a closed pipe must not lose them.
            if not quiet:
                report, parquet = inspection.report, arguments.parquet
                files = _written(out, lambda f: run.export(specimen, report, f, parquet=parquet))
    except UnfinishedError as error:
        world = int(os.environ["WORLD_SIZE"])
        kept = "nothing was kept" if out is None else run.resume_hint(out, world)
        raise UnfinishedError(f"{error}; {kept}") from None
    except KeyboardInterrupt:
        if checkpoint is None or not checkpoint.path.exists():
            raise
        raise UnfinishedError(f"interrupted; --resume goes on from {checkpoint.path}") from None
    if checkpoint is not None:
        checkpoint.remove()
    if not quiet:
        lines = text.of_specimen(specimen), text.of_inspection(inspection)
        more = "All columns, channels and spectra, and a page to look at: --out DIR\n"
        print(*lines, sep="\n", end=f"\n{files or more}")
        if inspection.report.sites().empty:
            raise UnfinishedError(f"{specimen.name}: no activation was recorded")


def _merge(arguments: argparse.Namespace) -> None:
    from spectroscope import run
    from spectroscope.run import text

    _written(arguments.out)
    inspection = run.merge(arguments.folders)
    files = _written(arguments.out, lambda folder: run.export_merged(inspection.report, folder))
    print(text.of_inspection(inspection), end=f"\n{files}")


def _written(out: str | None, write: Callable[[Path], None] = lambda folder: None) -> str:
    """Write files into `out`, all or none; return a line that lists them. Default: only check."""
    if out is None:
        return ""
    from spectroscope.io import output_folder

    with output_folder(out) as staging:
        write(staging)
        names = sorted(file.name for file in staging.iterdir())
    return f"wrote {', '.join(names)} to {Path(out)}\n"
