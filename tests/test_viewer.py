"""`show` and what objects say of themselves, without a browser."""

import html
import re
import sys
import types
import webbrowser
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import torch
from helpers import nothing_is_left
from torch import nn

import spectroscope
from spectroscope import viewer


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU()).eval()


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    return addresses


X = torch.randn(4, 1, 64)


def test_show_opens_the_page_and_returns_the_report(model, opened, capsys):
    report = spectroscope.show(model, X, fs=32.0, f0=4.0)
    (address,) = opened
    page = Path(url2pathname(urlparse(address).path))
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert report.sites()["fs"].item() == 32
    assert report.harmonics()["freq"][0] == 4
    assert capsys.readouterr().out == ""
    assert nothing_is_left()


def test_without_a_browser_the_path_is_printed(model, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    spectroscope.show(model, X, path=tmp_path / "own.html")
    assert str(tmp_path / "own.html") in capsys.readouterr().out
    assert (tmp_path / "own.html").exists()


def test_in_a_notebook_the_page_is_below_the_cell(model, monkeypatch, opened):
    shown = []
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    display.display = lambda data, raw: shown.append(data)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    spectroscope.show(model, X)
    assert opened == []
    (data,) = shown
    (page,) = re.findall('^<iframe srcdoc="([^"]*)" [^<>]*></iframe>$', data["text/html"])
    page = html.unescape(page)
    assert page.startswith("<!doctype html>")
    assert '<head><base href="about:srcdoc">' in page  # else its links would leave it
    assert "base-uri" not in page.partition("<base")[0]
    ipython.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal
    spectroscope.show(model, X)
    assert len(opened) == 1


def test_show_takes_several_arguments_and_leaves_the_model_as_it_was(opened):
    class Two(nn.Module):
        def forward(self, x, y):
            return torch.relu(x + y)

    report = spectroscope.show(Two().eval(), (X, X))
    assert report.sites()["site"].to_list() == ["/relu#0"]
    training = Two()
    with pytest.raises(spectroscope.RequestError, match=r"call model\.eval\(\)"):
        spectroscope.show(training, (X, X))
    assert training.training
    assert viewer._in_notebook() is False


def test_objects_say_what_they_are(model):
    recorder = spectroscope.record(model)
    with recorder:
        model(X)
        assert repr(recorder) == "Recorder(Sequential: 1 call of 1 activations recorded so far)"
        model(X)
    assert repr(recorder) == (
        "Recorder(Sequential: 2 calls of 1 activations recorded; report() has the tables)"
    )
    assert repr(recorder.report()) == "Report(Sequential: 1 site, 3 channels, 8 inputs)"
    with spectroscope.intervene(model, "1", spectroscope.remove_dc) as intervention:
        model(X)
    assert repr(intervention) == "Intervention(Sequential: 1 call of 1 activations changed)"
    specimen = spectroscope.Specimen("own", "a test", "MIT", model, [X], 4, fs=32.0)
    assert repr(specimen) == "Specimen('own': Sequential, 4 inputs, fs=32 Hz)"
    tracker = spectroscope.Tracker(model)
    with tracker.epoch():
        model(X)
    assert repr(tracker) == "Tracker(Sequential: 1 epochs)"
    comparison = recorder.report().compare(recorder.report())
    assert repr(comparison) == "Comparison(Sequential: 1 sites matched, 0 unmatched)"
    assert "<td>1#0</td>" in comparison._repr_html_()


def test_names_in_the_html_of_a_comparison_are_text():
    hostile = nn.Sequential()
    hostile.add_module("<script>alert(1)</script>", nn.ReLU())
    with spectroscope.record(hostile) as recorder:
        hostile(X)
    report = recorder.report()
    assert "<script" not in report.compare(report)._repr_html_()


def test_a_summary_is_ten_sentences_at_most_and_findings_are_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 9, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(9, 4, 3),
                          nn.ReLU(), nn.AdaptiveAvgPool1d(1)).eval()  # fmt: skip
    with torch.no_grad():
        model[0].bias[:2] = torch.tensor([-100.0, 100.0])
    with torch.inference_mode(), spectroscope.record(model) as recorder:
        model(torch.randn(3, 1, 64))
    report = recorder.report()
    report.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Sequential: 2 sites, 13 channels, 3 inputs."
    assert len(lines) <= 10
    findings = report.findings()
    assert len(findings) > 4
    assert lines[3:7] == findings[:4]
    assert f"{len(findings) - 4} more: report.findings()." in lines
    assert any(line.startswith("Dead channels: ") for line in findings)
    assert 'report.page("report.html")' in lines[-1]


def test_an_empty_report_has_a_summary(capsys):
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Flatten())
    report = spectroscope.record(model).report()
    report.summary()
    assert "0 sites" in capsys.readouterr().out
    assert "Report(Sequential: 0 sites, 0 channels, 0 inputs)" in str(report)
    assert report.findings() == []
