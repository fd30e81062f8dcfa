"""What recording costs a site beside the reading of its values: mostly Python.

    python benchmarks/per_site.py [--rounds 12] [--model resnet50]

Processor time of one thread, of forwards of one 32² image that repeat an earlier one, in turn:
plain; seen, with nothing reduced; with the DC table; with spectra. Printed are the differences from
the plain forward in µs a site, by the least of all rounds, and the ratios to it.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

import spectroscope
from spectroscope.capture.capture import Capture

_FORWARDS = 4


def seconds(model: nn.Module, x: Tensor) -> float:
    """Processor time of a forward that repeats another."""
    model(x)
    start = time.process_time()
    for _ in range(_FORWARDS):
        model(x)
    return (time.process_time() - start) / _FORWARDS


def seen(model: nn.Module, x: Tensor) -> float:
    """The same, with every site seen and none reduced."""
    capture = Capture(model, lambda call: lambda: None)
    capture.attach()
    try:
        return seconds(model, x)
    finally:
        capture.detach()


def recorded(model: nn.Module, x: Tensor, *, spectra: bool) -> float:
    """The same, recorded."""
    with spectroscope.record(model, spectra=spectra):
        return seconds(model, x)


def main() -> None:
    """Print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--model", default="resnet50", help="of torchvision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = torchvision.models.get_model(arguments.model, weights=None).eval()
    x = torch.randn(1, 3, 32, 32)
    runs: dict[str, Callable[[nn.Module, Tensor], float]] = {
        "plain": seconds,
        "seen": seen,
        "DC table": lambda model, x: recorded(model, x, spectra=False),
        "spectra": lambda model, x: recorded(model, x, spectra=True),
    }
    with torch.inference_mode():
        with spectroscope.record(model, spectra=False) as recorder:
            model(x)
        sites = len(recorder.report().sites())
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in tqdm(range(arguments.rounds)):
            for name, run in runs.items():
                times[name].append(run(model, x))
    plain = min(times["plain"])
    print(f"{arguments.model}, {sites} sites, plain {1e3 * plain:.1f} ms")
    for name in list(runs)[1:]:
        best = min(times[name])
        print(f"{name:10} {1e6 * (best - plain) / sites:6.0f} µs a site  ×{best / plain:.2f}")


if __name__ == "__main__":
    main()
