"""The options of the command `spectroscope`, by group, and the parser that reads them."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from spectroscope.schema import METRICS


def _items(text: str) -> list[str]:
    return text.split(",")


def frequency(text: str) -> Any:
    """A number, ``auto``, or ``auto,LOW,HIGH``; argparse names this function where it is none."""
    name, *ends = text.split(",")
    if name != "auto":
        return float(text)
    return (name, *map(float, ends)) if ends else name


def _metric(text: str) -> str:
    if text not in METRICS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(METRICS)}")
    return text


def _window(text: str) -> Any:
    name, *numbers = text.split(",")
    return (name, *map(float, numbers)) if numbers else name


# Options of each command by group: type, placeholder and help. Without a type it is a switch.
Options = dict[str, tuple[Callable[[str], Any] | None, str, str]]
# Passed to the adapter, which refuses those that it doesn't have.
DATA: Options = {
    "weights": (str, "WHICH", "file of weights; for torchvision models also DEFAULT, a name, none"),
    "input": (str, "PATH", "your data: a folder of images, a file of PPG, or an array [N, ...]"),
    "column": (str, "NAME", "column of the input"),
    "fs": (float, "HZ", "sampling rate of the input"),
    "channel-axis": (
        int,
        "AXIS",
        "channel axis of the model's activations [N, ...]; default: automatic",
    ),
    "time-axis": (int, "AXIS", "time axis of the input [N, ...]; default: automatic"),
}
SITES: Options = {
    "select": (_items, "GLOBS", "only these modules or calls: 'layer1.*,*#0'"),
    "kinds": (_items, "KINDS", "activations beyond the ReLU family: GELU,SiLU, or all"),
}
MEASUREMENTS: Options = {
    "f0": (frequency, "HZ", "fundamental, for harmonics: a number; auto, the strongest tone of "
           "each input; or auto,0.7,3.5, that from 0.7 to 3.5 Hz; default: the specimen's own"),
    "harmonics": (int, "K", "number of harmonics, the fundamental included; default: 8"),
    "window": (_window, "NAME", "window of the spectra: hann, or kaiser,8.6; default: boxcar"),
    "examples": (int, "N", "keep both sides of each activation of the first N inputs, for the "
                 "page"),
    "spectra-every": (int, "K", "spectra and harmonics of every K-th input only; DC of all"),
    "no-spectra": (None, "", "only the DC table, which is faster"),
}  # fmt: skip
PROCESSES: Options = {
    "device": (str, "DEVICE", "cpu, cuda, cuda:0, mps; default: the model's device"),
    "dtype": (str, "TYPE", "bfloat16, float16, float32 or float64, for model and inputs"),
    "channels-last": (None, "", "use the memory format channels_last for images"),
    "limit": (int, "N", "run only the first N inputs"),
    "workers": (int, "N", "processes that load data, for a DataLoader or a data set"),
    "shard": (str, "I/N", "run only shard I of N, I from 1 to N; see `merge`"),
    "checkpoint-every": (int, "N", "save the state in DIR every N batches, to resume from"),
    "resume": (None, "", "resume from the checkpoint in DIR; the report will be bit-identical"),
}
OUT: Options = {"out": (str, "DIR", "write tables, and a page or a picture, to DIR")}
PARQUET: Options = {"parquet": (None, "", "also write the tables, and the spectra, as Parquet")}
METRIC: Options = {
    "metric": (_metric, "NAME", f"{', '.join(METRICS)}; default: the specimen's own error, or "
               "relative_l2 against the unchanged model"),
}  # fmt: skip
LIMITS: Options = {
    "fail-above": (float, "EFFECT", "exit with 1 if the DC of a channel changed by more than "
                   "EFFECT standard deviations over A's inputs (see assert_close); 0.5 is "
                   "moderate"),
    "allow": (float, "SHARE", "with --fail-above: fraction of the channels that may; default: "
              "0.01"),
}  # fmt: skip
EXAMPLES = {
    "": ["inspect kid-ppg --out report/", "inspect torchvision:resnet50 --input photos/ --out "
         "report/", "inspect package.module:network --input x.npy --fs 50"],
    "list": ["list"],
    "inspect": ["inspect kid-ppg --out report/",
                "inspect torchvision:resnet18 --weights none --select 'layer4.*'",
                "inspect package:network --input x.npy --fs 50 --f0 auto,0.7,3.5"],
    "ablate": ["ablate kid-ppg --out ablation/",
               "ablate torchvision:resnet18 --metric kl --select 'layer4.*'"],
    "compare": ["compare before/ after/ --out changes/", "compare before/ after/ --fail-above 0.5"],
    "merge": ["merge part1/ part2/ --out merged/"],
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Refuses a wrong request in one line, and shows examples below its help."""

    def __init__(self, **kwargs: Any):
        name = kwargs["prog"].partition(" ")[2]
        examples = "\n".join(f"  spectroscope {line}" for line in EXAMPLES[name])
        raw = argparse.RawDescriptionHelpFormatter
        # Without abbreviations: the next option would change what they mean.
        super().__init__(**kwargs, epilog=f"examples:\n{examples}", formatter_class=raw,
                         allow_abbrev=False)  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Print one line on standard error, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def add(self, group: str, options: Options) -> None:
        """Add options in a group of the help."""
        added = self.add_argument_group(group)
        for name, (kind, placeholder, text) in options.items():
            if kind is None:
                added.add_argument(f"--{name}", action="store_true", help=text)
            else:
                added.add_argument(f"--{name}", type=kind, metavar=placeholder, help=text)
