"""What an import brings with it, and that nothing imports what stands to its right."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Left to right, as the data flows. `errors` and `files` are for everybody.
ORDER = ["dsp", "filters", "sites", "rectifiers", "door", "inventory", "rates", "downsampling",
         "calls", "capture", "statistics", "fundamentals", "parts", "recording", "site_axes",
         "provenance", "recorder", "storage", "report", "trackers", "lightning", "operations",
         "interventions", "batches", "replay", "metrics", "ablation", "by_sample", "probes",
         "plots", "page", "specimens", "checkpoints", "own", "catalog", "run", "adapters",
         "cli"]  # fmt: skip


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


def imports_of(path):
    """Modules of the package that `path` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spectroscope"):
            base = node.module.split(".")[1:]
            for name in node.names:
                yield (base or [name.name])[0]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("spectroscope."):
                    yield name.name.split(".")[1]


def room(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "adapters" if parts[0] == "adapters" else parts[1]


def test_no_module_imports_what_stands_to_its_right():
    seen = set()
    for path in [*ROOT.glob("spectroscope/**/*.py"), *ROOT.glob("adapters/*.py")]:
        here = room(path)
        if here in ("__init__", "__main__"):
            continue
        for there in imports_of(path):
            if there not in ORDER and there not in ("errors", "files"):
                continue  # `from spectroscope import record`
            if here in ("errors", "files"):
                assert there == "errors", f"{path.name} imports {there}"
            elif there not in ("errors", "files"):
                # `Recorder.report()` hands over to the report, `Report.page()` to the page: the
                # contract's looks ahead.
                if (here, there) not in {("recorder", "report"), ("report", "page")}:
                    assert ORDER.index(there) <= ORDER.index(here), f"{path.name} imports {there}"
                seen.add((here, there))
    assert ("report", "storage") in seen  # the test looks at something
    assert not {there for here, there in seen if here == "dsp"} - {"dsp"}
