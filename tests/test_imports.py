"""What an import brings with it."""

import subprocess
import sys

import pytest

import spectroscope


def loaded_by(*statements):
    """The modules loaded after each statement, all in one new process."""
    code = "".join(f"{statement}; print(*sys.modules)\n" for statement in statements)
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code], capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in done.stdout.splitlines()]


HEAVY = {"jinja2", "numba", "pandas", "seaborn", "matplotlib", "torchvision", "h5py", "lightning",
         "xarray"}  # fmt: skip


def test_import_brings_nothing_heavy():
    package, record, report = loaded_by(
        "import spectroscope", "from spectroscope import record", "from spectroscope import Report"
    )
    assert not package & (HEAVY | {"scipy", "torch"})
    # torch, and scipy's Bessel functions; of scipy.signal only the windows are needed, of some.
    assert not record & (HEAVY | {"scipy.signal"})
    assert {"torch", "scipy.special"} <= record  # the test can fail
    assert report & HEAVY == {"pandas"}


def test_every_public_name_is_there():
    done = "import spectroscope; [getattr(spectroscope, name) for name in spectroscope.__all__]"
    (loaded,) = loaded_by(done)
    assert {"pandas", "scipy"} <= loaded
    assert {"theory", "plots", "run", "record"} <= set(spectroscope.__all__)
    assert dir(spectroscope) == sorted(spectroscope.__all__)


def test_star_import_binds_every_public_name():
    namespace = {}
    exec("from spectroscope import *", namespace)
    assert set(spectroscope.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = spectroscope.no_such_name
