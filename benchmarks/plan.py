"""Time and disk space of a long run, extrapolated from a few batches.

    python benchmarks/plan.py [--rounds 9] [--device cuda --times 16]

For ResNet-50 on images of 224² and for KID-PPG on windows of 8 s: seconds per input of the plain
forward, with the DC table and with spectra (medians of interleaved rounds), the size of a
checkpoint, which does not grow, and of each input's own DC as Parquet, which does. Then the same
for ImageNet's 1,281,167 images and for 10⁹ windows, on one machine; n machines take an n-th. A GPU
needs larger batches: `--times` repeats the inputs.

Results: docs/long_runs.md.
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import record
import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

import spectroscope
from spectroscope.statistics import storage

DURATIONS = [("s", 60.0), ("min", 60.0), ("h", 24.0), ("days", 365.25), ("years", 1e9)]
BYTES = [("B", 1e3), ("kB", 1e3), ("MB", 1e3), ("GB", 1e3), ("TB", 1e9)]


def resnet50() -> tuple[nn.Module, Tensor, int]:
    """ResNet-50, a batch of 16 images, and the size of ImageNet's training set."""
    return torchvision.models.resnet50(weights=None).eval(), torch.randn(16, 3, 224, 224), 1_281_167


def kid_ppg() -> tuple[nn.Module, Tensor, int]:
    """KID-PPG, its own windows, and a run of 10⁹ windows."""
    specimen = spectroscope.specimen("kid-ppg")
    return specimen.model, torch.cat([torch.as_tensor(x) for x in specimen.inputs]), 10**9


def in_unit(value: float, units: list[tuple[str, float]]) -> str:
    """`value` in the largest unit that leaves it at least 1."""
    for unit, factor in units[:-1]:
        if value < factor:
            return f"{value:.3g} {unit}"
        value /= factor
    return f"{value:.3g} {units[-1][0]}"


def main() -> None:
    """Measure, extrapolate and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args()
    for make in (resnet50, kid_ppg):
        model, x, total = make()
        x = x.repeat(arguments.times, *[1] * (x.dim() - 1)).to(arguments.device)
        model = model.to(arguments.device)
        runs: dict[str, Callable[[], object]] = {
            "plain": lambda: model(x),  # noqa: B023, called before the next
            "DC table": record.recorded(model, x, spectra=False),
            "with spectra": record.recorded(model, x, spectra=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        with torch.inference_mode():
            for _ in tqdm(range(arguments.rounds + 2), leave=False):
                for name, run in runs.items():
                    seconds[name].append(record.seconds(run, arguments.device) / len(x))
        print(f"{make.__name__}: batches of {len(x)}, {total:,} inputs")
        for name, times in seconds.items():
            each = statistics.median(times[2:])
            print(f"  {name:14} {1e3 * each:7.3g} ms each"
                  f"  {in_unit(total * each, DURATIONS):>10} in all")  # fmt: skip
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, spectra in (("DC table", False), ("with spectra", True)):
                recorder = spectroscope.record(model, spectra=spectra)
                with torch.inference_mode(), recorder:
                    model(x)
                file = Path(folder) / "state.npz"
                storage.write(recorder.recording(), file)
                print(f"  state, {name}: {in_unit(file.stat().st_size, BYTES)}")
            file = Path(folder) / "dc.parquet"
            spectroscope.dc_by_sample(model, torch.split(x, 16), path=file)
            each = file.stat().st_size / len(x)
            print(f"  DC of each input: {in_unit(each, BYTES)} each, "
                  f"{in_unit(total * each, BYTES)} in all")  # fmt: skip


if __name__ == "__main__":
    main()
