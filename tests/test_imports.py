"""What an import brings with it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_imports_bring_nothing_heavy_and_every_public_name_is_there():
    package, record, report, everything = loaded_by(
        "import spectroscope",
        "from spectroscope import record",
        "from spectroscope import Report",
        "[getattr(spectroscope, name) for name in spectroscope.__all__]",
    )
    assert not package & (HEAVY | {"scipy", "torch"})
    # torch, and scipy's Bessel functions; of scipy.signal only the windows are needed, of some.
    assert not record & (HEAVY | {"scipy.signal"})
    assert {"torch", "scipy.special"} <= record  # the test can fail
    assert report & HEAVY == {"pandas"}
    assert "scipy.signal" not in report
    assert {"seaborn", "matplotlib"} <= everything
    assert {"theory", "plots", "run", "record"} <= set(spectroscope.__all__)
    assert dir(spectroscope) == sorted(spectroscope.__all__)


def test_the_list_of_specimens_needs_nothing_heavy():
    *_, listed = loaded_by("from spectroscope.cli import main; main(['list'])")
    assert not listed & (HEAVY | {"scipy", "torch"})


def test_star_import_binds_every_public_name():
    namespace = {}
    exec("from spectroscope import *", namespace)
    assert set(spectroscope.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = spectroscope.no_such_name


CHECKOUT = Path(__file__).parent.parent
PROGRAM = """
import sys
sys.path += {packages}
import site
site.addsitedir({installed!r})
import spectroscope, spectroscope.adapters.support
from spectroscope import RequestError, specimen  # lazily; none needs torch, which takes seconds
from spectroscope.specimens import catalog
print(spectroscope.__path__[0], spectroscope.adapters.__path__[0], *catalog.adapters())
"""


@pytest.mark.parametrize("kind", ["editable", "wheel"])
def test_imports_work_from_everywhere(kind, tmp_path):
    # Called spectroscope, as `git clone` calls it. In the folder above it Python finds the checkout
    # before an editable install, as a namespace package; and in the checkout itself, before what a
    # wheel has installed, the sources without the adapters.
    checkout, installed = tmp_path / "spectroscope", tmp_path / "installed"
    for name in ("spectroscope", "adapters"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, checkout)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(tmp_path)!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).extractall(installed)
    if kind == "wheel":
        sources = {"spectroscope": installed / "spectroscope",
                   "adapters": installed / "spectroscope/adapters"}  # fmt: skip
        for name, folder in sources.items():
            for path in (checkout / name).rglob("*.*"):
                assert (folder / path.relative_to(checkout / name)).exists(), path
    # Without site (-S), so that the environment's own editable install doesn't answer.
    packages = [path for path in sys.path if "site-packages" in path]
    program = PROGRAM.format(packages=packages, installed=str(installed))
    for folder in (tmp_path if kind == "wheel" else checkout, installed, Path("/")):
        command = [sys.executable, "-S", "-c", program]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{folder}: {done.stderr}"
        assert "kid-ppg" in done.stdout.split()
