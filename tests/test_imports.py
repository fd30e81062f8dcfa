"""What an import brings with it."""

import subprocess
import sys

import pytest

import spectroscope


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"jinja2", "numba", "pandas", "seaborn", "matplotlib", "torchvision", "h5py", "lightning",
         "xarray"}  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import spectroscope", HEAVY | {"scipy", "torch"}),
        ("from spectroscope import record", HEAVY),  # torch; scipy for the windows of spectra
    ],
)
def test_import_brings_nothing_heavy(statement, unwanted):
    assert not loaded_by(statement) & unwanted


def test_the_import_test_can_fail():
    assert loaded_by("from spectroscope import Report") & HEAVY == {"pandas"}


def test_every_public_name_is_there():
    done = "import spectroscope; [getattr(spectroscope, name) for name in spectroscope.__all__]"
    assert {"pandas", "scipy"} <= loaded_by(done)
    assert {"theory", "plots", "run", "record"} <= set(spectroscope.__all__)
    assert dir(spectroscope) == sorted(spectroscope.__all__)


def test_star_import_binds_every_public_name():
    namespace = {}
    exec("from spectroscope import *", namespace)
    assert set(spectroscope.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = spectroscope.no_such_name
