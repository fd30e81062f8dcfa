"""Models and data that several tests look at."""

from pathlib import Path

import numpy as np
import pytest
import torch

import spectroscope

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "heart_rate"


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
