"""Time of a recorded forward, as a ratio to the plain forward in the same run.

    python benchmarks/record.py [--pairs 15] [--only resnet18|stack] [--device cuda]

Plain and recorded forwards run in turn, so a machine that slows down slows both. Printed are the
median and the quartiles of the ratios, pair by pair. On a GPU a forward ends when its kernels have
ended; the feature extractor copies its activations to the CPU.

Results and conclusions: docs/performance.md.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import scipy.fft
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor
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


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, GPU kernels included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def recorded(model: nn.Module, x: Tensor, **options: Any) -> Callable[[], float]:
    """Wall time of a recorded forward that repeats another, as all of a data set but the first."""
    recorder = spectroscope.record(model, **options)

    def run() -> float:
        with recorder:
            model(x)
            return seconds(lambda: model(x), x.device)

    return run


def extracted(model: nn.Module, x: Tensor) -> Callable[[], float]:
    """Spectra of both sides and the cross-spectrum by torchvision's extractor and SciPy.

    In a copy of the model without in-place ReLUs, whose input the extractor could not return.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    tracer = NodePathTracer()
    graph = tracer.trace(model)
    name_of = tracer.node_to_qualname
    pairs = [
        (name_of[node.args[0]], name_of[node])
        for node in graph.nodes
        if node.op == "call_module" and isinstance(model.get_submodule(node.target), nn.ReLU)
    ]
    extractor = create_feature_extractor(model, sorted({name for pair in pairs for name in pair}))

    def run() -> None:
        activations = extractor(x)
        for pair in pairs:
            sides = [activations[name].cpu().numpy() for name in pair]
            axes = tuple(range(2, sides[0].ndim))
            before, after = (
                scipy.fft.rfftn(side, axes=axes, norm="forward", workers=2) for side in sides
            )
            for spectrum in (before, after):
                (spectrum.real**2 + spectrum.imag**2).sum(0)
            (before.conj() * after).sum(0)

    return lambda: seconds(run, x.device)


def main() -> None:
    """Print a row for each model and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", choices=["resnet18", "stack"])
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = arguments.device
    machine = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    print(f"{arguments.pairs} interleaved rounds, {machine}")
    print(f"{'':32} median  quartiles")
    for make in (resnet18, stack):
        if arguments.only not in (None, make.__name__):
            continue
        model, x = make()
        model, x = model.to(device), x.to(device)
        runs = {
            "DC table": recorded(model, x, spectra=False),
            "spectra and cross-spectrum": recorded(model, x),
            "the same, spectra_every=8": recorded(model, x, spectra_every=8),
            "extractor and SciPy": extracted(model, x),
        }
        ratios: dict[str, list[float]] = {name: [] for name in runs}
        with torch.inference_mode():
            for _ in tqdm(range(arguments.pairs + 3), leave=False):
                for name, run in runs.items():
                    plain = seconds(lambda: model(x), device)  # noqa: B023, called at once
                    ratios[name].append(run() / plain)
        for name, each in ratios.items():
            low, middle, high = statistics.quantiles(each[3:], n=4)
            print(f"{make.__name__ + ', ' + name:36} {middle:6.3f}  {low:.3f} … {high:.3f}")


if __name__ == "__main__":
    main()
