"""What recording costs, as a ratio to the plain forward in the same run.

    python benchmarks/record.py [--pairs 15] [--only resnet18|stack] [--device cuda]

Plain and recorded forwards run in turn, so that a machine that slows down slows both; the figures
are the median and the quartiles of the ratios, pair by pair. On a GPU a forward has run when all
its kernels have; the peer takes its activations to the CPU.

What was learned here is at the end of this file.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

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
    """Wall time of one call, until what it has left to a GPU is done."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def recorded(model: nn.Module, x: Tensor, *, spectra: bool) -> Callable[[], object]:
    """A forward that is recorded."""
    recorder = spectroscope.record(model, spectra=spectra)

    def run() -> None:
        with recorder:
            model(x)

    return run


def extracted(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """The same by torchvision's feature extractor and SciPy: both sides' spectra, and the cross.

    Of one copy of the model whose ReLUs aren't in place, for of those it can't have the input.
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
        found = extractor(x)
        for pair in pairs:
            sides = [found[name].cpu().numpy() for name in pair]
            axes = tuple(range(2, sides[0].ndim))
            before, after = (
                scipy.fft.rfftn(side, axes=axes, norm="forward", workers=2) for side in sides
            )
            for spectrum in (before, after):
                (spectrum.real**2 + spectrum.imag**2).sum(0)
            (before.conj() * after).sum(0)

    return run


def main() -> None:
    """Print a row for each model and each of: the DC table alone, spectra too, the peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", choices=["resnet18", "stack"])
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    device = arguments.device
    on = f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        on = torch.cuda.get_device_name(device)
    print(f"{arguments.pairs} interleaved rounds, {on}")
    print(f"{'':32} median  quartiles")
    for make in (resnet18, stack):
        if arguments.only not in (None, make.__name__):
            continue
        model, x = make()
        model, x = model.to(device), x.to(device)
        runs = {
            "DC table": recorded(model, x, spectra=False),
            "spectra and cross-spectrum": recorded(model, x, spectra=True),
            "extractor and SciPy": extracted(model, x),
        }
        found: dict[str, list[float]] = {name: [] for name in runs}
        with torch.inference_mode():
            for _ in tqdm(range(arguments.pairs + 3), leave=False):
                for name, run in runs.items():
                    plain = seconds(lambda: model(x), device)  # noqa: B023, called at once
                    found[name].append(seconds(run, device) / plain)
        for name, ratios in found.items():
            low, middle, high = statistics.quantiles(ratios[3:], n=4)
            print(f"{make.__name__ + ', ' + name:36} {middle:6.3f}  {low:.3f} … {high:.3f}")


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
#   tables where every value is finite would halve the excess: 1.3 … 1.4 and, in one run and another
#   on the same machine, 1.6 … 2.0.
# - `(x > 0).sum(-1)` of a bool tensor is ten times slower than `torch.gt(x, 0, out=float64)` and a
#   sum of that; `bmm` for sums of squares three times slower than `linalg.vector_norm`. The norm
#   adds one by one: over 50,176 values at mean 20 and standard deviation 1 it left 1e-11 of M2; in
#   pieces of at most 1,024 it leaves 1e-13, and costs the same.
# - What is left is four passes over float64 (convert, sum, norm, count). In float32 the same sums
#   cost a fifth, but then a table depends on how the data was split at 1e-7, not 1e-15. The aim of
#   1.03 and 1.10 takes a kernel that reads float32 once and adds in float64.
# - The plain forward of the 1-D stack takes 35 or 65 ms with the state of malloc: 28,000 page
#   faults a forward (110 MiB of fresh activations) or none. That, not the recorder, is why its
#   ratios jump from run to run; compare within one.
# - Both sides and the cross-spectrum, in float64: first 2.44 and 2.86 (4.1 in a slow run). A ReLU's
#   output is computed where its input is read, block by block, so that neither side is read twice
#   and the input's transform isn't kept until the output comes. Predicted that the transforms would
#   be most of it; they are 45 % (rfft2: 1.7 ns a value on 2 cores), the sums of products 25 %,
#   moments 15 %. `components.sum(-1)` over real and imaginary parts, an axis of 2, took as long as
#   a transform; adding two slices does not: 2.15. Blocks of 2^17 values are best by a tenth, but
#   2^18 has half as many parallel regions, each of which waits for a core (4 ms) when another
#   process has them all: then a forward of many small blocks takes twenty times as long.
# - The same by the extractor and SciPy, which works in float32 and keeps all activations: 2.1 and
#   3.0, beside our 2.3 and 3.2 with moments, rings and non-finite values looked for. A transform in
#   float32 takes 70 % of the time of one in float64 here, and would put the floor of a spectrum at
#   -140 dB of its peak, which the input of a PPG network's first ReLU has bins near. The aim of
#   1.25 and 1.30 isn't reached.
#
# Since loops that numba compiles read an activation once (spectroscope/dsp/kernels/cpu). Other work
# had the 2 cores most of the time, so these are of processor time with one thread, disturbed
# least by that; medians of 7 … 25 interleaved ratios. They don't compare with the wall times above.
#
#   DC table alone, now      ResNet-18 1.11   1-D stack 1.23   (before: not measured this way)
#   spectra and the cross    ResNet-18 2.14 -> 1.75   1-D stack 3.42 -> 2.7, in runs of 2.4 … 2.8
#                            (before: the DC already by the loops, spectra as above)
#
# - The reading itself takes 0.21 ns a value and thread from the cache; in a network 0.3 … 0.6. The
#   0.6 is just behind some convolutions and goes once zmm16 … 31 have been cleared for a while, so
#   perhaps it is the core's clock; not settled. Rows of 32 or 49 values cost 20 ns each on top.
# - Indices that might be negative made numba gather value by value: 0.5 … 1 ns. `max(x, 0.0)` is
#   vectorised, `x if x > 0 else 0.0` isn't. An unsigned index, and a slice first, are the cure.
# - Sums over the samples of [N, C] by torch are dozens of small calls, many of them parallel
#   regions, each of which waits for a core that another process has: 4 ms. In one compiled call:
#   0.1 ms for 512 × 32 … 64. Likewise the threads are ours, and who hasn't begun isn't waited for;
#   torch's own (GOMP_parallel) cost 5 … 8 ms a call while another process worked.
# - `rfft2(x, norm="forward", out=...)` takes 1.5 … 4 times as long as `rfft2(x)`: to 2.1 ns a value
#   and thread instead of 1.2 at 112², to 4.8 instead of 1.0 at 7². The scale goes into the sums.
# - Predicted that both sides packed into one complex transform, x + iy, would halve the transforms.
#   It doesn't: a complex one takes 1.64 ns where two real ones take 1.2 (2 threads, 112²), and has
#   to be unpacked.
# - Products of both sides are summed in one reading, the sums of a chunk in the nearest cache.
#   Blocks of 2^18 values are best still (2^16: +10 %).
# - What is left of the spectra is the transforms, half of it: 37 million values a forward of
#   ResNet-18 at 0.6 ns (2 threads) are a quarter of the forward. 1.25 can't be had in float64.
# - Beside busy processes the 2-thread ratio of the spectra was 4.7 in one run, and 1.57 in another.
#   The transforms are parallel regions of torch; threads of our own were not tried.
# - numba, once loaded, takes 100 MiB: of a process of 850 MiB that runs ResNet-18, the DC table
#   makes one of 1,020 (benchmarks/peers.py), spectra 1,060. The aim of 15 % isn't reached there.
# - The same machine with nothing else running, 2 threads, wall time, 15 rounds: DC table 1.14
#   (0.94 … 1.20) and 1.33 (1.27 … 1.35), spectra and cross 2.30 and 4.58, the extractor and SciPy
#   2.01 and 4.17. The plain forwards were faster than in the first runs above, so all ratios are
#   larger. benchmarks/peers.py gave another picture of ResNet-18 in 5 rounds: DC table 1.04,
#   spectra 3.04, extractor and SciPy 1.18, where several ways run in one process: not understood.
#   Merely to see costs KID-PPG 6 ms of 55 (38 calls), the reading 10, sums over samples 5, merging
#   3.
#
# On a GPU (H100, torch 2.11, float32 with TensorFloat-32), first run there ever:
#
#                                       DC table     spectra and cross   extractor and SciPy
#   ResNet-18, batch 8, plain 2.1 ms    23 -> 6.7        33 -> 15               110
#   1-D stack, batch 512, plain 1 ms    26 -> 6.8        43 -> 18               163
#   ResNet-50, batch 64, plain 11 ms    22 -> 4.4 … 6    31 -> 24               not measured
#   ResNet-50, batch 256 (plan.py)      1.9              5.1                    not measured
#
# - The first version made 219 launches a site (3,723 a forward of ResNet-18), at 15 … 20 µs each:
#   the GPU was busy for 8.6 of 77 ms. Predicted that kernels by Triton (one that reads, one that
#   sums over the inputs, one that merges) would leave three launches and a ninth of the bytes: 10
#   launches a site, and the GPU is busy for 1.2 ms, the forward itself included.
# - What is left of the DC table is Python: 16 ms for the 89 functions, 76 modules and 17 sites of a
#   ResNet-18, a third of it carrying rates and origins along. That is the same for any batch.
# - Products of spectra by one kernel instead of 24: ResNet-50 at batch 64 has 4,700 launches where
#   it had 15,900. Pieces of 2^22 values are too many launches for large batches, so they are of
#   2^24: up to 0.5 GiB to work in. Double-precision transforms and their bytes are the rest.
# - Peak memory, of what torch allocates: DC table 1.00 … 1.03 of the plain forward's; spectra 1.0
#   at batch 64 with pieces of 2^22, and 1.6 … 1.8 for small batches, where the pieces are all.
# - f0 was copied to the GPU at every call, and waited for; now only copied. Nothing else waits
#   (tests/test_cuda.py asks torch).
#
# Squares of float32 values don't round by chance: an odd number's is 1 modulo 8, so that sums of
# many of nearly the same size all round down. 2,048 at a time lost 13 units in the last place of
# every piece, on a processor whose vectors are short; 512 lose none.
