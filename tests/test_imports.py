"""What an import brings with it."""

import subprocess
import sys

import pytest


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"jinja2", "numba", "pandas", "seaborn", "matplotlib", "torchvision", "h5py", "lightning",
         "xarray"}  # fmt: skip


@pytest.mark.parametrize("statement", ["import spectroscope", "from spectroscope import record"])
def test_import_brings_nothing_heavy(statement):
    assert not loaded_by(statement) & HEAVY


def test_the_import_test_can_fail():
    assert loaded_by("from spectroscope import Report") & HEAVY == {"pandas"}
