"""The tutorials run, and were saved with the outputs of a whole run."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted(Path(__file__).parents[1].glob("examples/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch, request):
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if "outputs" in cell]
    if 'specimen("kid-ppg")' in "".join(cells[0]["source"]):
        request.getfixturevalue("kid_ppg")  # skips, with the reason, where it can't be had
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
        plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_the_outputs_of_one_run(path):
    text = path.read_text("utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if "outputs" in cell]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} <= {
        "display_data", "execute_result", "stream"
    }  # fmt: skip
    assert len(text) < 400_000
    assert "site-packages" not in text  # a warning, with a path of the machine where it ran


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["heart_rate.ipynb", "resnet.ipynb"]
