"""What merging a batch into the state of a site costs on the CPU: torch's operations, numba's loop.

    python benchmarks/merge.py [--repeats 300]

Medians in µs per call. The DC table of a batch takes about 300 µs a site in all.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from spectroscope.dsp.kernels.dispatch import merge_moments
from spectroscope.dsp.moments import ChannelMoments, LineMoments


def table(channels: int) -> ChannelMoments:
    """Moments of a batch of random activations ``[8, channels, 64]``."""
    x = torch.randn(channels, 8, 1, 64, dtype=torch.float64)
    return LineMoments.of(x, x.relu()).of_channels()


def microseconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def main() -> None:
    """Print a row for each number of channels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    print(f"{torch.get_num_threads()} threads\n{'channels':>8} {'torch':>8} {'numba':>8}")
    for channels in (64, 512, 2048):
        first, second = table(channels), table(channels)
        merge_moments(first, second)  # compiles
        by_torch = microseconds(lambda: first.merge(second), repeats)  # noqa: B023, called at once
        by_numba = microseconds(lambda: merge_moments(first, second), repeats)  # noqa: B023
        print(f"{channels:8} {by_torch:8.1f} {by_numba:8.1f}")


if __name__ == "__main__":
    main()
