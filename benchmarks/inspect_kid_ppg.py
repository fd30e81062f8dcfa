"""Time of `spectroscope inspect kid-ppg`, beside that of the imports it needs.

    python benchmarks/inspect_kid_ppg.py [--runs 7]

Both commands run in turn, so a machine that slows down slows both. The first run of each is not
counted: it fetches the weights and warms the caches.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

IMPORTS = [sys.executable, "-c", "import torch, pandas, seaborn"]


def seconds(command: list[str]) -> float:
    """Wall time of one run of `command`."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print medians and ranges of both commands and of their difference, pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as out:
        inspect = [sys.executable, "-m", "spectroscope", "inspect", "kid-ppg", "--out", out]
        pairs = [(seconds(inspect), seconds(IMPORTS)) for _ in range(runs + 1)][1:]
    rows = {
        "inspect kid-ppg": [a for a, _ in pairs],
        "import torch, pandas, seaborn": [b for _, b in pairs],
        "difference": [a - b for a, b in pairs],
    }
    print(f"{runs} interleaved pairs, seconds{'':17} median    min    max")
    for name, values in rows.items():
        print(f"{name:40} {statistics.median(values):9.2f} {min(values):6.2f} {max(values):6.2f}")


if __name__ == "__main__":
    main()
