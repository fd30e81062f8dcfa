"""Time of `importance`, as a ratio to one whole forward for each row of its table.

    python benchmarks/ablation.py [--rounds 3] [--only resnet18|googlenet|kid_ppg]

Both run in turn, round by round. Results and conclusions: docs/performance.md.
"""

import argparse
import glob
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

import spectroscope
from spectroscope import importance, intervene, only_dc, remove_dc

OPERATIONS = (remove_dc, only_dc)


def resnet18() -> tuple[nn.Module, Tensor]:
    """17 sites, in place, two calls a module."""
    return torchvision.models.resnet18(weights=None).eval(), torch.randn(8, 3, 224, 224)


def googlenet() -> tuple[nn.Module, Tensor]:
    """57 sites, functional."""
    model = torchvision.models.googlenet(weights=None, init_weights=False)
    return model.eval(), torch.randn(4, 3, 224, 224)


def kid_ppg() -> tuple[nn.Module, Tensor]:
    """19 sites; the blocks run twice."""
    specimen = spectroscope.specimen("kid-ppg")
    return specimen.model, torch.as_tensor(next(iter(specimen.inputs)))


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_by_one(model: nn.Module, x: Tensor, sites: list[str]) -> None:
    """A whole forward for each site and operation."""
    with torch.inference_mode():
        model(x)
        for site in sites:
            for operation in OPERATIONS:
                with intervene(model, glob.escape(site), operation):
                    model(x)


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["resnet18", "googlenet", "kid_ppg"])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{arguments.rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':10} rows  plain forward (s)  a whole forward each (s)  importance (s)  ratio")
    for make in (resnet18, googlenet, kid_ppg):
        if arguments.only not in (None, make.__name__):
            continue
        model, x = make()
        rows = importance(model, [x], "relative_l2")

        sites = list(rows["site"].unique())
        plain, whole, cached = [], [], []
        for _ in range(arguments.rounds):
            with torch.inference_mode():
                plain.append(seconds(lambda: model(x)))  # noqa: B023, called at once
            whole.append(seconds(lambda: one_by_one(model, x, sites)))  # noqa: B023
            cached.append(seconds(lambda: importance(model, [x], "relative_l2")))  # noqa: B023
        ratio = statistics.median(a / b for a, b in zip(cached, whole, strict=True))
        print(f"{make.__name__:10} {len(rows):4}  {statistics.median(plain):17.3f}  "
              f"{statistics.median(whole):24.2f}  {statistics.median(cached):14.2f}  "
              f"{ratio:5.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
