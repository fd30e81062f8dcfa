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

from spectroscope.errors import RequestError, UnfinishedError

if TYPE_CHECKING:
    from spectroscope.run.loop import Inspection
    from spectroscope.specimens.specimen import Specimen

# Torch, pandas and seaborn are imported where they are needed: `--help` and a misspelt name don't
# wait for them.

# Columns of the per-layer table that fit a terminal; sites.csv has all of them.
SHOWN = ["site", "shape", "fs", "dc_in", "dc_out", "dc_out_std", "dc_gaussian", "ac_rms_in",
         "ac_rms_out", "active_fraction", "dc_fraction", "above_next_nyquist"]  # fmt: skip

# Of a comparison, likewise.
COMPARED = ["site", "channels", "dc_out_a", "dc_out_b", "effect_rms", "effect_max", "channel_max",
            "active_fraction_a", "active_fraction_b", "died", "revived"]  # fmt: skip

# Of spectroscope.experiments.metrics, those that take no more than the outputs.
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

# How to run it; of `inspect` alone.
RUNNING = {
    "device": (str, "DEVICE", "cpu, cuda, cuda:0, mps; default: where the model is"),
    "dtype": (str, "TYPE", "bfloat16, float16, float32 or float64, of model and inputs"),
    "limit": (int, "N", "run the first N inputs alone"),
    "workers": (int, "N", "processes that load data, where a DataLoader or a data set is read"),
    "shard": (str, "I/N", "run one of N shares alone, I from 1 to N; see `merge`"),
    "checkpoint-every": (int, "N", "every N batches keep the state in DIR, to resume from"),
}
SWITCHES = {
    "channels-last": "images lie in memory with the channels last",
    "resume": "go on from the checkpoint in DIR; the report will be the same to the bit",
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
    for option, (kind, metavar, what) in RUNNING.items():
        inspect.add_argument(f"--{option}", type=kind, metavar=metavar, help=what)
    for option, what in SWITCHES.items():
        inspect.add_argument(f"--{option}", action="store_true", help=what)
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
    merge = commands.add_parser("merge", help="put the reports of a run's shards together")
    merge.set_defaults(run=_merge)
    merge.add_argument("folders", nargs="+", metavar="DIR", help="of a report")
    merge.add_argument("--out", metavar="DIR", required=True, help="write tables there")
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
    except UnfinishedError as error:
        print(f"spectroscope: {error}", file=sys.stderr)
        return 1
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
    from spectroscope.specimens.catalog import adapters

    for name, entry in adapters().items():
        try:
            about = (entry.load().__doc__ or "").partition("\n")[0]
        except Exception as error:  # somebody else's adapter mustn't hide the others
            about = f"can't be loaded: {error!r}"
        print(f"{name:20} {about}")


def _specimen(arguments: argparse.Namespace) -> "Specimen":
    from spectroscope.specimens.catalog import specimen

    given = {name: getattr(arguments, name) for name in OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    return specimen(arguments.specimen, **given)


def _compare(arguments: argparse.Namespace) -> None:
    from spectroscope.io import output_folder
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
    from spectroscope.io import output_folder

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
    from spectroscope.io import output_folder

    out = arguments.out
    for option in ("checkpoint_every", "resume"):
        if getattr(arguments, option) and out is None:
            raise RequestError(f"--{option.replace('_', '-')} takes --out DIR, where they are kept")
    if arguments.parquet:
        from spectroscope.report.export import needs

        needs("pyarrow", "--parquet", "parquet")
        if out is None:
            raise RequestError("--parquet writes files: it takes --out DIR")
    # That it can't be written to is better said before the work; of several processes by the
    # first, before the others can have come any further.
    if out is not None and os.environ.get("RANK", "0") == "0":
        with output_folder(out):
            pass
    # Deferred: a misspelt name needn't wait for pandas.
    subject = _specimen(arguments)
    from spectroscope import run

    shard = run.Shard() if arguments.shard is None else run.Shard.parse(arguments.shard)
    distributed = run.is_distributed()
    if distributed and arguments.shard is not None:
        raise RequestError("torchrun's processes have a shard each: leave --shard out")
    checkpoint = None
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
            found = run.inspect(
                subject,
                spectra=out is not None,
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
            # All is written before a line is printed: a closed pipe must not cost it.
            if out is not None and not quiet:
                with output_folder(out) as staging:
                    run.export(subject, found.report, staging, parquet=arguments.parquet)
                    written = sorted(file.name for file in staging.iterdir())
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
    if quiet:
        return
    print(f"{subject.name}: {subject.description} ({subject.license})\n")
    _print(found)
    if out is not None:
        print(f"wrote {', '.join(written)} to {Path(out)}")


def _merge(arguments: argparse.Namespace) -> None:
    from spectroscope import run
    from spectroscope.io import output_folder

    with output_folder(arguments.out) as staging:
        found = run.merge(arguments.folders)
        run.export_merged(found.report, staging)
        written = sorted(file.name for file in staging.iterdir())
    _print(found)
    print(f"wrote {', '.join(written)} to {Path(arguments.out)}")


def _print(found: "Inspection") -> None:
    table = found.report.sites()[SHOWN].dropna(axis=1, how="all")  # without spectra, without fs
    print(table.to_string(index=False, float_format="{:.4g}".format))
    print()
    for label in found.labels:
        print(label)
    inputs = found.report.sites()["n_samples"].max()
    if found.labels and inputs > len(found.labels):
        print(f"… and {inputs - len(found.labels)} more")
    for what, value in found.scores.items():
        print(f"{what}: {value:.2f}")
