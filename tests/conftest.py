"""Models and data that several tests look at, and the number of threads."""

import gc
import os

# Two test processes on two cores: more threads would wait for each other. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from helpers import REFERENCE

import spectroscope

# Imports and collected tests are hundreds of thousands of objects that stay: reading through them
# for garbage, again and again, takes seconds.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def kid_ppg():
    try:
        return spectroscope.specimen("kid-ppg")
    except spectroscope.RequestError as error:
        pytest.skip(f"needs the kid-ppg wheel: {error}")


@pytest.fixture(scope="session")
def golden():
    path = REFERENCE / "kid_ppg_golden.npz"
    if not path.exists():
        pytest.skip("needs TensorFlow's reference activations of KID-PPG, which aren't here")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    """For tests of what only several threads can break."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
