"""The Python of README and docs works as it stands there."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import spectroscope
from spectroscope.schema import markdown

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/**/*.md"))


def code_of(path):
    return "\n".join(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, with NumPy 2
def test_the_python_of_the_docs_runs(path, tmp_path, monkeypatch, request):
    if 'specimen("kid-ppg")' in code_of(path):
        request.getfixturevalue("kid_ppg")  # skips, with the reason, where it can't be had
    if "import keras" in code_of(path):
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        pytest.importorskip("keras", reason="Keras (the extra [keras]) isn't installed")
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(code_of(path), path.name, "exec"), {})
    finally:
        plt.close("all")


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(ROOT / "README.md"), "README.md", "exec"), {})
    assert "layer1.0.relu#1" in capsys.readouterr().out
    assert len(spectroscope.load("out/").sites()) == 17


def test_the_recipe_of_a_statistic_runs(capsys):
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    recipe = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(recipe[1], "CONTRIBUTING.md", "exec"), {})
    assert "peak_out" in capsys.readouterr().out


def test_the_docs_definitions_are_the_codes():
    # python -c "from spectroscope.schema import markdown; print(markdown(), end='')"
    assert (ROOT / "docs/definitions.md").read_text("utf-8") == markdown()


def test_every_link_of_the_docs_leads_somewhere():
    for path in [*ROOT.glob("*.md"), *DOCS]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_site_shows_every_line_of_the_docs():
    # In MyST, unlike on GitHub, a line that begins with % is a comment.
    for path in [*ROOT.glob("*.md"), *DOCS]:
        text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"^%", text, re.MULTILINE), path.name


def test_the_reference_has_every_public_name():
    text = "".join(path.read_text("utf-8") for path in ROOT.glob("docs/api/*.rst"))
    documented = set(re.findall(r"auto\w+:: (?:[\w.]+\.)?(\w+)", text))
    modules = [spectroscope, spectroscope.plots, spectroscope.theory, spectroscope.run]
    public = {name for module in modules for name in public_names(module)}
    assert not public - documented - {"plots", "theory", "run"}


def public_names(module):
    return getattr(module, "__all__", None) or [
        name for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("spectroscope.")
    ]  # fmt: skip
