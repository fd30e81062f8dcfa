"""Peak memory of a recorded forward, as a ratio to the plain one: ResNet-18 on 8 images of 224².

    python benchmarks/memory.py

Each is a process of its own, of which the largest resident set is printed. `numba` is the plain
forward in a process that has recorded something tiny: what the compiled loops themselves take.
"""

import argparse
import resource
import subprocess
import sys

import torch
from record import resnet18
from torch import nn

import spectroscope

MODES = ("plain", "numba", "DC table", "spectra")


def peak(mode: str) -> int:
    """Largest resident set of this process after four forwards, in MiB."""
    model, x = resnet18()
    with torch.inference_mode():
        if mode == "numba":
            with spectroscope.record(nn.ReLU()) as recorder:
                recorder._capture._model(torch.zeros(1, 1, 4, 4))
        if mode in MODES[:2]:
            for _ in range(4):
                model(x)
        else:
            with spectroscope.record(model, spectra=mode == "spectra"):
                for _ in range(4):
                    model(x)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Print a row for each, or the peak of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, help="measure this one in this process")
    mode = parser.parse_args().mode
    if mode:
        print(peak(mode))
        return
    peaks = {}
    for name in MODES:
        command = [sys.executable, __file__, "--mode", name]
        peaks[name] = int(subprocess.run(command, check=True, capture_output=True).stdout)
        print(f"{name:10} {peaks[name]:6} MiB  ×{peaks[name] / peaks['plain']:.3f}")


if __name__ == "__main__":
    main()
