"""Cost of recording, compared with other ways to observe every ReLU, in one run.

    python benchmarks/peers.py [--pairs 15] [--only resnet18] [--grow] [--device cuda]

A row for each model and way: time as a ratio to the plain forward, run in turn with it (median and
quartiles of the ratios, round by round); peak memory, measured in a separate process (on a GPU, of
the memory that torch allocates); and how many of the ReLU calls that torch dispatches were
observed. `--grow` shows instead how time grows with batch, channels and resolution. The row of
torchlens needs the extra `[bench]`.

The ways besides `spectroscope.record`:

* extractor, means: torchvision's `create_feature_extractor` returns input and output of each ReLU
  that `torch.fx` can trace; NumPy takes mean and mean square over each channel;
* extractor, SciPy: likewise, with power spectra of both sides and the cross-spectrum, in float32;
* hooks that store: a hook on each `nn.ReLU` keeps a copy of both sides;
* torchlens: a trace of the forward, which keeps every activation.

Results and conclusions: docs/performance.md.
"""

import argparse
import copy
import gc
import importlib.util
import json
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
import scipy.fft
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor
from tqdm import tqdm

import spectroscope


class Way(NamedTuple):
    """A way to observe a model's ReLUs.

    Attributes:
        run: one observed forward.
        seen: number of ReLU calls that it observed.
    """

    run: Callable[[], object]
    seen: Callable[[], int]


def resnet50() -> tuple[nn.Module, Tensor]:
    """ResNet-50 on 4 images of 224²."""
    return torchvision.models.resnet50(weights=None).eval(), torch.randn(4, 3, 224, 224)


def googlenet() -> tuple[nn.Module, Tensor]:
    """GoogLeNet, whose ReLUs are all functional, on 8 images of 224²."""
    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False)
    return model.eval(), torch.randn(8, 3, 224, 224)


def kid_ppg() -> tuple[nn.Module, Tensor]:
    """KID-PPG with trained weights, on 64 of its own pairs of windows."""
    specimen = spectroscope.specimen("kid-ppg")
    windows: Any = next(iter(specimen.inputs))
    return specimen.model.eval(), windows


MODELS = {
    "resnet18": record.resnet18,
    "resnet50": resnet50,
    "googlenet": googlenet,
    "kid-ppg": kid_ppg,
    "stack": record.stack,
}


def recorded(spectra: bool) -> Callable[[nn.Module, Tensor], Way]:
    """`spectroscope.record`."""

    def prepare(model: nn.Module, x: Tensor) -> Way:
        recorder = spectroscope.record(model, spectra=spectra)

        def run() -> None:
            with recorder:
                model(x)

        return Way(run, lambda: len(recorder.recording().records))

    return prepare


def is_relu(model: nn.Module, node: Any) -> bool:
    """Whether a node of `torch.fx` is a call of a ReLU."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), nn.ReLU)
    return node.target in (F.relu, torch.relu, torch.relu_, "relu", "relu_")


def extracted(
    reduce: Callable[[np.ndarray, np.ndarray], None],
) -> Callable[[nn.Module, Tensor], Way]:
    """Both sides by torchvision's extractor.

    In a copy of the model without in-place modules, whose input the extractor could not return. For
    an in-place function it returns the output twice, which takes as long.
    """

    def prepare(model: nn.Module, x: Tensor) -> Way:
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        tracer = NodePathTracer()
        nodes = [node for node in tracer.trace(model).nodes if is_relu(model, node)]
        name_of = tracer.node_to_qualname
        pairs = [(name_of[node.args[0]], name_of[node]) for node in nodes]
        names = sorted({name for pair in pairs for name in pair})
        extractor = create_feature_extractor(model, names)

        def run() -> None:
            activations = extractor(x)
            for pair in pairs:
                before, after = (activations[name].cpu().numpy() for name in pair)
                reduce(before, after)

        return Way(run, lambda: len(pairs))

    return prepare


def means(before: np.ndarray, after: np.ndarray) -> None:
    """Mean and mean square over each input and channel."""
    for side in (before, after):
        rows = side.reshape(*side.shape[:2], -1)
        rows.mean(-1, dtype=np.float64)
        np.einsum("nct,nct->nc", rows, rows, dtype=np.float64)


def spectra(before: np.ndarray, after: np.ndarray) -> None:
    """Power and cross-spectra, summed over the inputs."""
    axes = tuple(range(2, before.ndim))
    x, y = (scipy.fft.rfftn(side, axes=axes, workers=-1) if axes else side for side in
            (before, after))  # fmt: skip
    for spectrum in (x, y):
        (spectrum.real**2 + spectrum.imag**2).sum(0)
    (x.conj() * y).sum(0)


def stored(model: nn.Module, x: Tensor) -> Way:
    """A hook on each `nn.ReLU` that keeps copies."""
    kept: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept.append(args[0].detach().clone())

    def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output.detach().clone())

    def run() -> None:
        kept.clear()
        handles = []
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(after))
        model(x)
        for handle in handles:
            handle.remove()

    return Way(run, lambda: len(kept) // 2)


def torchlens(model: nn.Module, x: Tensor) -> Way:
    """The trace by torchlens."""
    import torchlens

    model = copy.deepcopy(model)  # torchlens sets attributes on the modules

    def run() -> Any:
        return torchlens.trace(model, x)

    def seen() -> int:
        return sum("relu" in str(label) for label in run().layer_labels)

    return Way(run, seen)


WAYS: dict[str, Callable[[nn.Module, Tensor], Way]] = {
    "DC table": recorded(spectra=False),
    "spectra and cross-spectrum": recorded(spectra=True),
    "extractor, means": extracted(means),
    "extractor, SciPy": extracted(spectra),
    "hooks that store": stored,
}
if importlib.util.find_spec("torchlens"):
    WAYS["torchlens"] = torchlens


class Counting(TorchDispatchMode):
    """Counts the ReLU calls that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        relus = torch.ops.aten.relu, torch.ops.aten.relu_
        self.calls += int(function.overloadpacket in relus)
        return function(*args, **(kwargs or {}))


def calls_of(model: nn.Module, x: Tensor) -> int:
    """Number of ReLU calls in one forward."""
    with Counting() as counting:
        model(x)
    return int(counting.calls)


def ratios(
    model: nn.Module, runs: dict[str, Callable[[], object]], x: Tensor, pairs: int
) -> Iterator[tuple[str, float, float, float]]:
    """Name, median and quartiles of the time of each run, as a ratio to the plain forward."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in tqdm(range(pairs + 2), leave=False):
        for name, run in runs.items():
            plain = record.seconds(lambda: model(x), x.device)
            taken = record.seconds(run, x.device)
            gc.collect()  # reference cycles of other tools, before the next run is timed
            if number >= 2:
                times[name].append(taken / plain)
    for name, each in times.items():
        low, middle, high = statistics.quantiles(each, n=4)
        yield name, middle, low, high


def peak(name: str, way: str, device: torch.device) -> float:
    """Peak memory in MiB while a model runs three times: of this process, or allocated on a GPU."""
    model, x = MODELS[name]()
    model, x = model.to(device), x.to(device)
    with torch.inference_mode():
        run = WAYS[way](model, x).run if way else lambda: model(x)
        for _ in range(3):
            run()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start with that of the parent process
        match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(match[1]) / 2**10 if match else float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def peak_in_subprocess(name: str, way: str, device: torch.device) -> float:
    """:func:`peak` in a separate process; NaN if that fails."""
    command = [sys.executable, __file__, "--device", str(device), "--peak", name, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(json.loads(done.stdout)) if done.returncode == 0 else float("nan")


def table(names: list[str], pairs: int, device: torch.device) -> None:
    """Print the table of all ways."""
    print(f"{'':37}  time  quartiles       peak MiB        seen")
    for name in names:
        model, x = MODELS[name]()
        model, x = model.to(device), x.to(device)
        runs: dict[str, Callable[[], object]] = {}
        seen: dict[str, int] = {}
        with torch.inference_mode():
            calls = calls_of(model, x)
            for way, prepare in WAYS.items():
                try:
                    ready = prepare(model, x)
                    ready.run()
                    runs[way], seen[way] = ready.run, ready.seen()
                except Exception as error:  # of another tool; becomes a row of the table
                    print(f"{name + ', ' + way:37}  {type(error).__name__}: {str(error)[:50]!r}")
            measured = list(ratios(model, runs, x, pairs))
        plain = peak_in_subprocess(name, "", device)
        print(f"{name + ', plain forward':37} {1:5.2f}  {plain:24.0f}")
        for way, middle, low, high in measured:
            most = peak_in_subprocess(name, way, device)
            label = f"{name}, {way}"
            print(
                f"{label:37} {middle:5.2f}  {low:5.2f} … {high:5.2f}  {most:7.0f} "
                f"({most / plain:4.2f}×)  {seen[way]} of {calls}"
            )


def convolutions(channels: int, size: int, batch: int) -> tuple[nn.Module, Tensor]:
    """Four 3 × 3 convolutions with ReLUs, on square images."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval(), torch.randn(batch, channels, size, size)


def growth(pairs: int, device: torch.device) -> None:
    """Print the ratios of recording for other batches, channels and resolutions."""
    print(f"{'batch × channels × height × width':38} {'DC table':>20}   spectra and cross")
    sizes = [(64, 28, batch) for batch in (1, 4, 16, 64)]
    sizes += [(channels, 28, 8) for channels in (8, 32, 128, 256)]
    sizes += [(32, size, 8) for size in (14, 28, 56, 112)]
    for channels, size, batch in sizes:
        model, x = convolutions(channels, size, batch)
        model, x = model.to(device), x.to(device)
        with torch.inference_mode():
            runs = {way: WAYS[way](model, x).run for way in list(WAYS)[:2]}
            measured = ratios(model, runs, x, pairs)
            figures = [f"{mid:5.2f} ({low:.2f} … {high:.2f})" for _, mid, low, high in measured]
        shape = " × ".join(map(str, x.shape))
        print(f"{shape:38} {figures[0]:>20} {figures[1]:>20}")


def main() -> None:
    """Print the table, or the growth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", choices=list(MODELS), action="append")
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.peak:
        name, way = arguments.peak
        print(peak(name, way, arguments.device))
        return
    machine = f"{torch.get_num_threads()} threads"
    if arguments.device.type == "cuda":
        machine = torch.cuda.get_device_name(arguments.device)
    print(f"{arguments.pairs} interleaved rounds, {machine}, torch {torch.__version__}")
    if arguments.grow:
        growth(arguments.pairs, arguments.device)
    else:
        table(arguments.only or list(MODELS), arguments.pairs, arguments.device)


if __name__ == "__main__":
    main()
