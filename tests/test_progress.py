"""Progress: a bar where one can be seen, rare lines in a log, no warning in a notebook."""

import io
import subprocess
import sys

import pytest

from spectroscope import progress
from spectroscope.progress import progress_bar


class Stream(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self._tty = tty

    def isatty(self):
        return self._tty


def written(monkeypatch, *, tty, shown=True):
    """What a bar writes to standard error."""
    # Not in a fixture: pytest replaces the stream before each test.
    monkeypatch.setattr(sys, "stderr", Stream(tty))
    assert len(list(progress_bar(range(5), shown=shown, desc="kid-ppg", unit=" inputs"))) == 5
    return sys.stderr.getvalue()


def test_a_terminal_has_a_bar(monkeypatch):
    assert "\rkid-ppg: 100%|" in written(monkeypatch, tty=True)


def test_a_log_has_nothing_of_what_is_short(monkeypatch):
    assert written(monkeypatch, tty=False) == ""


def test_a_log_of_what_is_long_has_lines(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    *lines, end = written(monkeypatch, tty=False).split("\n")
    assert end == ""
    assert 2 <= len(lines) <= 7
    assert all(line.startswith("kid-ppg: ") and line.isprintable() for line in lines)
    assert "5 of 5 inputs, 00:00 so far" in lines[-1]


@pytest.mark.parametrize("tty", [True, False])
def test_what_is_not_shown_writes_nothing(tty, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    assert written(monkeypatch, tty=tty, shown=False) == ""


def test_no_warning_in_a_notebook_without_ipywidgets():
    code = """
import sys, types
shell = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell)
sys.modules["ipywidgets"] = None
sys.modules["ipykernel.zmqshell"] = types.SimpleNamespace()
from warnings import catch_warnings
with catch_warnings(record=True) as ours:
    import spectroscope.progress
del sys.modules["tqdm.auto"], sys.modules["tqdm.autonotebook"]
with catch_warnings(record=True) as alone:
    import tqdm.auto
print(len(ours), [str(warning.message)[:20] for warning in alone])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 ['IProgress not found.']\n"
