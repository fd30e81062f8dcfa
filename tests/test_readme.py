"""The README's Python works as it stands there."""

import re
from pathlib import Path

import spectroscope

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "layer1.0.relu#1" in capsys.readouterr().out
    assert len(spectroscope.load("out/").sites()) == 17
