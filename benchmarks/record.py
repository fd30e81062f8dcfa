"""What recording costs, as a ratio to the plain forward in the same run.

    python benchmarks/record.py [--pairs 15] [--only resnet18|stack]

Plain and recorded forwards run in turn, so that a machine that slows down slows both; the figures
are the median and the quartiles of the ratios, pair by pair.

What was learned here is at the end of this file.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

import spectroscope


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18 on 8 images of 224²."""
    return torchvision.models.resnet18(weights=None).eval(), torch.randn(8, 3, 224, 224)


def stack() -> tuple[nn.Module, Tensor]:
    """Nine 1-D convolutions of KID-PPG's sizes, each with a ReLU, on 512 windows of 256."""
    layers: list[nn.Module] = []
    channels = 1
    for filters, pool in ((32, 4), (48, 2), (64, 2)):
        for _ in range(3):
            layers += [nn.Conv1d(channels, filters, 5, dilation=2, padding=4), nn.ReLU()]
            channels = filters
        layers.append(nn.AvgPool1d(pool))
    return nn.Sequential(*layers).eval(), torch.randn(512, 1, 256)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(model: nn.Module, x: Tensor, pairs: int, *, spectra: bool) -> list[float]:
    """Time of a recorded forward over that of a plain one, pair by pair."""
    recorder = spectroscope.record(model, spectra=spectra)

    def recorded() -> None:
        with recorder:
            model(x)

    found = []
    with torch.inference_mode():
        for _ in tqdm(range(pairs + 3), leave=False):
            plain = seconds(lambda: model(x))
            found.append(seconds(recorded) / plain)
    return found[3:]


def main() -> None:
    """Print a row for each model and each of: the DC table alone, spectra too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", choices=["resnet18", "stack"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{arguments.pairs} interleaved pairs, {torch.get_num_threads()} threads")
    print(f"{'':30} median  quartiles")
    for make in (resnet18, stack):
        if arguments.only in (None, make.__name__):
            model, x = make()
            for spectra in (False, True):
                found = ratios(model, x, arguments.pairs, spectra=spectra)
                low, middle, high = statistics.quantiles(found, n=4)
                name = f"{make.__name__}, {'spectra' if spectra else 'DC table'}"
                print(f"{name:30} {middle:6.3f}  {low:.3f} … {high:.3f}")


if __name__ == "__main__":
    main()

# What was learned (2 cores, medians of ratios):
#
# - Seeing is cheap: with an observer that does nothing, 1.00 and 1.05 before the sampling rates
#   were carried along, 1.04 … 1.07 and 1.05 since: about 2 ms for the 89 functions and 76 modules
#   of a ResNet-18. All of the rest is reduction.
# - First version, blocks of 1 MiB in float64, two passes (mean out, then square), tables of
#   everything per input and channel: 1.65 and 2.60. Predicted that one pass (sum and norm, and two
#   for the rows alone where that loses digits), blocks of 4 MiB in memory that is kept, and no
#   tables where every value is finite would halve the excess: 1.3 … 1.4 and, in one run and
#   another on the same machine, 1.6 … 2.0.
# - `(x > 0).sum(-1)` of a bool tensor is ten times slower than `torch.gt(x, 0, out=float64)` and a
#   sum of that; `bmm` for sums of squares three times slower than `linalg.vector_norm`. The norm
#   adds one by one: over 50,176 values at mean 20 and standard deviation 1 it left 1e-11 of M2;
#   in pieces of at most 1,024 it leaves 1e-13, and costs the same.
# - What is left is four passes over float64 (convert, sum, norm, count). In float32 the same sums
#   cost a fifth, but then a table depends on how the data was split at 1e-7, not 1e-15. The aim of
#   1.03 and 1.10 takes a kernel that reads float32 once and adds in float64.
