"""Specimens for tests of long runs; as a script, a run with checkpoints."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spectroscope import run
from spectroscope.specimens.specimen import Specimen

INPUTS, BATCH = 50, 4  # the last batch has 2


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread: two small ones wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Module, functional and repeated ReLUs, strides, and a little noise from torch's generator."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first = nn.Conv1d(1, 6, 5, padding=2)
            self.second = nn.Conv1d(6, 6, 3, stride=2, padding=1)
            self.norm = nn.BatchNorm1d(6)
            self.never = nn.ReLU()
            self.head = nn.Linear(6, 2)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.norm(self.second(x) + 0.01 * torch.randn_like(x[..., :1])))
        return self.head(torch.relu(x - 0.1).mean(-1))


class Waves(Dataset):
    """Cosines ``[1, 64]`` with noise, computed when read; `loaded` lists the indices read."""

    def __init__(self, inputs=INPUTS, labelled=False):
        self.inputs, self.labelled, self.loaded = inputs, labelled, []

    def __len__(self):
        return self.inputs

    def __getitem__(self, index):
        self.loaded.append(index)
        time.sleep(float(os.environ.get("SLOW", 0)))
        noise = torch.randn(64, generator=torch.Generator().manual_seed(index))
        wave = torch.cos(2 * torch.pi * (2 + index % 5) * torch.arange(64) / 64) + 0.1 * noise
        return (wave[None], float(index)) if self.labelled else wave[None]


def scores(outputs: Tensor, targets: Tensor | None):
    out = outputs[:, 0].double()
    by_name = {
        "first output, {n} inputs": out,
        "of {n} above -0.05": out.where(out > -0.05, torch.nan),
    }
    if targets is not None:
        by_name["product, {n} inputs"] = out * targets.double()
    return by_name


def of(inputs, n_inputs=INPUTS, **more):
    """A specimen of the network with `inputs`, and with f0 and a target for each input."""
    given = {
        "targets": torch.arange(n_inputs, dtype=torch.float64) ** 2,
        "metric": scores,
        "labels": lambda outputs, first: [f"input {first + i}" for i in range(len(outputs))],
        "fs": 64.0,
        "f0": (2.0 + torch.arange(n_inputs) % 5).double().numpy(),
    }
    return Specimen("waves", "a test", "BSD-3-Clause", Net().eval(), inputs, n_inputs,
                    **(given | more))  # fmt: skip


def waves():
    """Batches of a DataLoader."""
    return of(DataLoader(Waves(), BATCH))


def shuffled():
    return of(DataLoader(Waves(), BATCH, shuffle=True))


def listed():
    """The same batches in a list."""
    return of([batch for batch in DataLoader(Waves(), BATCH)])


def dies():
    """Gets the signal SIGNAL in its second batch, on rank DIES (environment variables)."""
    made = waves()
    if os.environ.get("RANK", "none") == os.environ.get("DIES"):
        made.model.first.register_forward_hook(lambda *_: next(_death))
    return made


def _dying():
    yield None
    os.kill(os.getpid(), int(os.environ.get("SIGNAL", 9)))
    while True:
        time.sleep(1)


_death = _dying()


def main(folder: str, *options: str) -> None:
    """Run `waves` with a checkpoint after every batch, and save the report."""
    resume = "resume" in options
    checkpoint = run.Checkpoint(folder, every=1, resume=resume)
    result = run.inspect(waves(), checkpoint=checkpoint)
    result.report.save(Path(folder))
    checkpoint.remove()


if __name__ == "__main__":
    main(*sys.argv[1:])
