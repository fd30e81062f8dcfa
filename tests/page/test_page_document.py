"""The page as a document: its sections, texts, file and policy; reports in notebooks."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import html_of, report_of
from pages import HOSTILE, REPORTS, Parsed, T, parsed
from torch import nn

import spectroscope
from spectroscope import page, run
from spectroscope.page import network as maps
from spectroscope.page import overview, payload
from spectroscope.page.coverage import summarize_coverage


def test_names_are_text_everywhere(hostile, tmp_path):
    hostile.page(tmp_path / "page.html", title="<h1>&")
    text = (tmp_path / "page.html").read_text("utf-8")
    result = Parsed(text)
    assert [attributes.get("id") for attributes in result.all("script")] == ["data", None, None]
    assert not result.all("img")
    assert not result.all("i")
    assert f"{HOSTILE}#0" in result.text
    assert "<!--" not in text.partition('id="data"')[2].partition("</script>")[0]
    assert "\u2028" not in result.raw[1]
    assert [layer["site"] for layer in json.loads(result.raw[1])["layers"]][:2] == [
        f"{HOSTILE}#0",
        "</script><!--\u2028\u2029&amp;'\"#0",
    ]


def test_the_page_loads_nothing_and_its_policy_allows_no_other_script(known):
    text = html_of(known)
    result = Parsed(text)
    text = text.replace(result.raw[2], "")  # Bokeh's own script, which the policy keeps inside
    for _, attributes in result.elements:
        for name in ("src", "srcset", "action", "data", "style", "poster"):
            assert name not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in text
    assert "url(" not in text
    assert "innerHTML" not in text
    (policy,) = [m["content"] for m in result.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; ")
    scripts = re.findall(r"script-src (.*?);", policy)[0].split()
    assert scripts == [f"'{page._hash(script)}'" for script in result.raw[2:]]


def test_the_table_of_layers_is_there_without_the_script(known):
    result = parsed(known)
    rows = [attributes for attributes in result.all("tr") if "data-layer" in attributes]
    assert len(rows) == len(known.sites())
    values = {float(cell["data-value"]) for cell in result.all("td") if "data-value" in cell}
    assert any(np.isclose(v, known.sites()["dc_out"][0], rtol=1e-8) for v in values)


def test_headings_landmarks_and_labels(known):
    result = parsed(known)
    assert result.all("html") == [{"lang": "en"}]
    for tag in ("header", "main", "footer", "nav", "h1"):
        assert len(result.all(tag)) == 1
    assert result.elements[result.elements.index(("body", {})) + 1] == (
        "a",
        {"class": "skip", "href": "#main"},
    )
    assert len(result.all("caption")) == len(result.all("table"))
    assert all(th["scope"] in ("col", "row") for th in result.all("th"))
    labels = {label["for"] for label in result.all("label")}
    assert {field["id"] for field in result.all("input")} == labels
    ids = [attributes["id"] for _, attributes in result.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in result.all("a")}
    assert targets <= set(ids)


def test_headings_have_definitions_and_the_glossary_has_all(known):
    result = parsed(known)
    described = known.describe().set_index("column")
    titles = [th["title"] for th in result.all("th") if "title" in th]
    assert described.loc["active_fraction", "definition"] in titles
    for definition in described["definition"]:
        assert definition in result.text


def test_sections_are_in_order_and_run_details_are_escaped():
    report = report_of(nn.ReLU(), torch.randn(3, 2, 8), about={"data": "a & b"})
    text = html_of(report)
    order = ['id="depth"', 'id="findings"', 'id="layers"', "a &amp; b", 'id="coverage"',
             'id="definitions"']  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for value in report.about.values():
        assert value in Parsed(text).text


@pytest.mark.filterwarnings("ignore:.*not recorded in full", "ignore:.*torch.jit")
def test_missed_activations_have_a_reason():
    model = nn.Sequential(nn.ReLU(), torch.jit.script(nn.ReLU()), nn.ReLU())
    report = report_of(model, torch.randn(3, 2, 8))
    assert report.coverage()["status"].tolist() == ["fired", "cannot be seen", "fired"]
    text = parsed(report).text
    assert "1 activation cannot be seen. Reason: " in text
    assert "2 other activations fired, 2 calls in total." in text
    assert report.coverage()["reason"][1] in text
    whole = parsed(report_of(nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(3, 2, 8))).text
    assert "All 2 activations fired, 2 calls in total. None was missed." in whole


def test_an_activation_that_never_fired_is_missed():
    model = nn.Sequential(nn.ReLU())
    model.unused = nn.ReLU()
    model.forward = lambda x: model[0](x)
    summary = summarize_coverage(report_of(model, torch.randn(3, 2, 8)).coverage())
    assert summary.missed["place"].tolist() == ["unused"]
    assert summary.missed["status"].tolist() == ["never fired"]


def test_unselected_activations_are_not_missed():
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    summary = summarize_coverage(report_of(model, torch.randn(3, 2, 8), select="0").coverage())
    assert summary.missed.empty
    assert summary.text == (
        "The only selected activation fired, 1 call in total. None was missed. "
        "1 more was not selected."
    )


@pytest.mark.filterwarnings("ignore:.*nothing was recorded")
@pytest.mark.parametrize("name", REPORTS)
def test_any_report_has_a_page_and_a_summary(name):
    report = REPORTS[name]()
    text = html_of(report)
    assert len(json.loads(Parsed(text).raw[1])["layers"]) == len(report.sites())
    assert not re.search(r">(nan|inf|None|<NA>)<", text)
    assert f"{len(report.sites())} sites" in Parsed(report._repr_html_()).text


def test_preserved_fraction_which_follows_from_introduced_is_not_shown():
    table = payload.site_table(REPORTS["GELU"]().sites())
    assert "introduced_fraction" in table
    assert "preserved_fraction" not in table


def test_layers_of_another_unit_are_named_below_the_overview(known):
    frame = payload.cells(known.spectrogram())
    assert overview.caption(frame).endswith("a white line is at its Nyquist frequency.")
    other = frame.assign(site="other", freq_unit="cycles/pixel")
    none = other.assign(site="none", freq=np.nan)
    text = overview.caption(pd.concat([frame, frame.assign(site="second"), other, none]))
    assert "of 1 layer with frequencies in cycles/pixel and of 1 layer without spectra" in text


@pytest.mark.parametrize(("spectra", "title"), [(True, "Spectrogram"), (False, "DC")])
def test_the_overview_is_named_for_what_it_shows(spectra, title):
    html = html_of(report_of(nn.ReLU(), torch.randn(12, 2, 32), spectra=spectra))
    assert f'<h2 id="depth-title">{title} through depth</h2>' in html
    assert ("white line" in html) == spectra


def test_the_map_has_every_node_and_where_what_happens():
    model = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.ReLU6())
    with torch.no_grad():
        model[0].bias[0] = -100.0  # a dead channel
    report = report_of(model, T(4, 2, 32))
    html = Parsed(html_of(report))
    nodes, columns = json.loads(html.raw[1])["network"].values()
    frame, sites = report.network(), report.sites()
    assert [node["name"] for node in nodes] == frame["node"].tolist()
    assert [tuple(node["inputs"]) for node in nodes] == frame["inputs"].tolist()
    assert [n["layer"] for n in nodes if n["layer"] is not None] == [0, 1]
    assert {n["name"]: n["above"] for n in nodes if n["above"] is not None} == {
        "2/max_pool1d@0": sites["above_next_nyquist"][0]
    }
    assert columns["dc_out"]["values"] == pytest.approx(sites["dc_out"].tolist(), rel=1e-3)
    assert ("×", "has dead channels") in maps.legend(frame, sites)
    assert "Table of 6 nodes" in html.text


def test_a_report_without_a_network_says_why_there_is_no_map(known):
    without = spectroscope.Report(replace(known._recording, network={}))
    assert without.network().empty
    text = Parsed(html_of(without)).text
    assert "There is no map: a version of spectroscope without it recorded this report." in text


def test_a_failing_write_leaves_the_old_page(known, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr(page, "_embeddable", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        known.page(path)
    monkeypatch.undo()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(spectroscope.RequestError, match=r"cannot write .*No space left"):
        known.page(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error_and_not_created(known, tmp_path):
    with pytest.raises(spectroscope.RequestError, match="does not exist"):
        known.page(tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(spectroscope.RequestError, match="there is a folder of that name"):
        known.page(tmp_path)


def test_the_title(known):
    assert "mine" in parsed(known, title="mine").text
    assert "ReLU · spectroscope" in parsed(known).text


def test_inspect_writes_a_page(tmp_path):
    model, inputs = nn.ReLU(), [torch.randn(3, 2, 8)]
    specimen = spectroscope.Specimen("name-of-it", "what it does", "MIT", model, inputs, 3)
    run.export(specimen, run.inspect(specimen).report, tmp_path)
    assert "name-of-it: what it does" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_the_page_imports_no_matplotlib(tmp_path):
    code = """
import sys, torch, spectroscope
with spectroscope.record(torch.nn.ReLU()) as recorder:
    pass
recorder.report().page(sys.argv[1])
assert "bokeh" in sys.modules
print({"matplotlib", "seaborn"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "page_of_nothing.html"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "set()", done.stderr


def test_a_report_in_a_notebook_is_escaped_and_short(hostile):
    result = Parsed(hostile._repr_html_())
    assert not result.all("script")
    assert HOSTILE in result.text
    assert "2 sites, 4 channels, 3 inputs" in result.text
    many = report_of(nn.Sequential(*[nn.ReLU() for _ in range(20)]), T(3, 2, 8))
    assert len(Parsed(many._repr_html_()).all("tr")) == 1 + payload.SUMMARY_ROWS
    assert "and 14 more" in Parsed(many._repr_html_()).text


def test_a_specimen_in_a_notebook_is_escaped_and_does_not_run():
    class Model(nn.Module):
        def forward(self, x):
            raise AssertionError

    def inputs():
        raise AssertionError
        yield

    specimen = spectroscope.Specimen("<b>", HOSTILE, "MIT", Model(), inputs(), 7, fs=32.0)
    result = Parsed(specimen._repr_html_())
    assert not result.all("script")
    assert not result.all("b")
    for part in ("<b>", HOSTILE, "MIT", "Model", "7", "32 Hz"):
        assert part in result.text


def test_frames_are_not_modified(known):
    before = known.sites()
    html_of(known)
    pd.testing.assert_frame_equal(known.sites(), before)
