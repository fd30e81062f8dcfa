"""The page of a report: findings for models of known behaviour, escaping, and the file."""

import base64
import html.parser
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import html_of, report_of
from torch import nn

import spectroscope
from spectroscope import page, run
from spectroscope.page import comparison as comparison_page
from spectroscope.page import network as maps
from spectroscope.page import numbers, overview, payload
from spectroscope.page import spectra as page_spectra
from spectroscope.page.coverage import summarize_coverage
from spectroscope.page.finding import Findings, Reference
from spectroscope.page.findings import findings

HOSTILE = "<script>alert(1)</script>"


class Parsed(html.parser.HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._raw = [], "", None
        self.raw = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._raw = tag if tag in ("script", "style") else None
        if self._raw:
            self.raw.append("")

    def handle_endtag(self, tag):
        self._raw = None

    def handle_data(self, data):
        if self._raw:
            self.raw[-1] += data
        else:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(report, **options):
    return Parsed(html_of(report, **options))


def embedded(report):
    """The script's data, parsed as in a browser."""
    return json.loads(parsed(report).raw[1])


def findings_of(report):
    try:
        aliasing = report.aliasing()
    except spectroscope.RequestError:
        aliasing = None
    return findings(report.sites(), report.dc(), aliasing)


def finding(report, headline):
    (match,) = [f for f in findings_of(report).present if f.headline == headline]
    return match


@pytest.fixture
def known():
    """12 inputs of 4 channels: never > 0; always; a wave of AC alone; the same on a level of 9."""
    t = torch.arange(32) / 32
    wave = torch.sin(2 * torch.pi * 4 * t)
    x = torch.stack([wave - 2, wave + 2, wave, wave + 9]).expand(12, -1, -1)
    return report_of(nn.ReLU(), x)


def test_dead_and_always_on_channels_are_counted(known):
    dead = finding(known, "Dead channels")
    assert "1 of 4 channels (25.0\u00a0%)" in dead.text
    assert dead.references == (Reference("#0", "1 of 4"),)
    assert "2 of 4 channels (50.0\u00a0%)" in finding(known, "Channels that are always on").text


def test_absent_findings_are_listed_as_checked():
    report = report_of(nn.ReLU(), torch.randn(12, 3, 64))
    results = findings_of(report)
    assert "Dead channels" not in [f.headline for f in results.present]
    assert {"dead channels", "channels that are always on"} <= set(results.absent)
    assert "NaN or infinite values" in results.absent


def test_a_saturated_relu6_is_not_reported_as_always_on():
    report = report_of(nn.ReLU6(), torch.rand(12, 3, 8) + 7)
    assert (report.dc()["active_fraction"] == 1).all()
    assert "Channels that are always on" not in [f.headline for f in findings_of(report).present]


def test_layers_dominated_by_dc_exclude_those_with_one_value_per_channel():
    t = torch.arange(32) / 32
    wave = torch.sin(2 * torch.pi * 4 * t).expand(12, 2, -1)
    # Behind ReLU the DC of 9 + wave has 81 of 81.5; of the wave alone it is (1/π)² of 1/4: 41 %.
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.ReLU())
    result = finding(report_of(model, wave + 9), "Layers dominated by DC")
    assert result.references == (Reference("0#0", "99.4\u00a0%"),)
    assert "all of" not in result.text
    assert "1 layer with one value per channel is excluded" in result.detail
    assert "Layers dominated by DC" not in [
        f.headline for f in findings_of(report_of(model, wave)).present
    ]


def test_non_finite_values_are_counted():
    x = torch.randn(12, 2, 16)
    x[0, 0, :3] = torch.nan
    x[1, 1, 5] = torch.inf
    result = finding(report_of(nn.ReLU(), x), "Non-finite values")
    assert result.text.startswith("4 input values and 4 output values")
    assert result.references == (Reference("#0", "8 values"),)


@pytest.mark.parametrize(("inputs", "says"), [(1, "One input"), (3, "Few inputs")])
def test_few_inputs_are_reported(inputs, says):
    report = report_of(nn.ReLU(), torch.randn(inputs, 2, 16))
    assert finding(report, says).text.startswith(f"All values come from {inputs} input")
    # A tenth of 50 %: the standard error of a standard deviation of 51 Gaussian values.
    enough = findings_of(report_of(nn.ReLU(), torch.randn(10, 2, 16)))
    assert says not in [f.headline for f in enough.present]


def test_layers_that_feed_global_pooling_are_named():
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    result = finding(report_of(model, torch.randn(12, 2, 16)), "Only DC passes global pooling")
    assert result.text.startswith("0#0 feeds global pooling directly")


def test_power_discarded_by_global_pooling_is_of_all_channels_together():
    wave = torch.sin(2 * torch.pi * torch.arange(32) / 8)
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    x = torch.stack([wave, 100 * (wave + 9)]).expand(12, -1, -1)  # in the mean of both 68 % is DC
    report = report_of(model, x)
    result = finding(report, "Only DC passes global pooling")
    left = 0.5 / 81.5  # of the second, beside which the first is nothing
    assert report.sites()["above_next_nyquist"][0] == pytest.approx(left, rel=1e-2)
    assert f"and discards {left:.1%} of its power".replace("%", "\u00a0%") in result.text
    assert result.references == (Reference("0#0", f"{1 - left:.1%} is DC".replace("%", "\u00a0%")),)
    # Without spectra there is no `above_next_nyquist`, and the same to be said.
    assert finding(report_of(model, x, spectra=False), "Only DC passes global pooling") == result


def test_checks_that_cannot_be_made_are_not_reported_as_absent():
    finite = findings_of(report_of(nn.ReLU(), torch.randn(12, 3, 64))).absent
    assert len(finite) == 7
    x = torch.full((12, 3, 64), torch.nan)
    assert findings_of(report_of(nn.ReLU(), x)).absent == (
        "layers that feed global pooling directly",
    )
    # Nothing is said of Gaussian input, or of doing nothing, where there is no ReLU.
    clipped = findings_of(report_of(nn.Hardtanh(0, 1), torch.randn(12, 3, 64))).absent
    assert set(finite) - set(clipped) == {finite[3], finite[6]}
    assert "always on" in finite[3]
    assert "Gaussian" in finite[6]
    one_value = findings_of(report_of(nn.ReLU(), torch.randn(12, 3))).absent
    assert not any("half of the output power" in text for text in one_value)


def test_aliasing_names_the_folded_frequency_and_excludes_global_pooling():
    t = torch.arange(64) / 64.0  # 1 s
    tone = 3 + 2.5 * torch.cos(2 * torch.pi * 20 * t).expand(12, 2, -1)
    model = nn.Sequential(nn.ReLU(), nn.AvgPool1d(2))
    result = finding(report_of(model, tone, fs=64.0), "Aliasing")
    # Power 2.5²/2 of 9 + 2.5²/2 at 20 Hz; at 32 samples a second that is 12 Hz. The average of two
    # samples has the response cos(πf/fs).
    above = 3.125 / 12.125
    folded = above * math.cos(math.pi * 20 / 64) ** 2
    as_percent = lambda share: f"{share:.1%}".replace("%", "\u00a0%")  # noqa: E731
    assert result.number == f"{as_percent(folded)} of power"
    assert f"{as_percent(above)} of its output power lies above 16 Hz" in result.detail
    layer = embedded(report_of(model, tone, fs=64.0))["layers"][0]
    assert f"{as_percent(folded)} of the output power folds" in layer["aliasing"]
    # Max pooling has no frequency response: what folds isn't known.
    unknown = finding(
        report_of(nn.Sequential(nn.ReLU(), nn.MaxPool1d(2)), tone, fs=64.0), "Aliasing"
    )
    assert unknown.number == f"{as_percent(above)} of power"
    assert "is not known" in unknown.text
    assert "is at 20 Hz and folds to 12 Hz" in result.detail
    # Named is the channel that loses most power, not the part of one that is all but silent.
    faint = 1e-3 * (2 + torch.cos(2 * torch.pi * 24 * t))
    unequal = torch.stack([faint, tone[0, 0]]).expand(12, -1, -1)
    result = finding(report_of(model, unequal, fs=64.0), "Aliasing")
    assert "in channel 1, is at 20 Hz" in result.detail
    # What folds behind another activation is that one's output.
    two = finding(report_of(nn.Sequential(nn.ReLU(), model), tone, fs=64.0), "Aliasing")
    assert [reference.site for reference in two.references] == ["1.0#0"]
    whole = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    report = report_of(whole, tone, fs=64.0)
    assert "Aliasing" not in [f.headline for f in findings_of(report).present]


def test_only_channels_far_from_gaussian_are_reported():
    # One value in 64 is 8, the rest −1: the DC is 8/64, the RMS 1. μ and σ of the input give more.
    x = torch.randn(12, 3, 64)
    x[:, 1] = -1
    x[:, 1, 0] = 8
    report = report_of(nn.ReLU(), x)
    row = report.dc().loc[1]
    assert abs(row["dc_gaussian"] - 0.125) < 0.5 < 1  # below the threshold
    assert "DC far" not in str([f.headline for f in findings_of(report).present])
    x[:, 1] = -1
    x[:, 1, 0] = 1  # μ = −31/32, σ = 0.248: Gaussian input would give all but nothing
    x[:, 2] = torch.where(torch.arange(64) == 0, -40.0, 0.5)
    report = report_of(nn.ReLU(), x)
    result = finding(report, "DC far from the Gaussian prediction")
    row = report.dc().loc[2]
    ratio = abs(row["dc_gaussian"] - row["dc_out"]) / np.hypot(row["dc_out"], row["ac_rms_out"])
    assert "1 of 3 channels" in result.text
    assert f"a difference of {ratio:.3g} times" in result.detail
    assert result.references[0] == Reference("#0", "largest difference", 2)


@pytest.mark.filterwarnings("ignore:.*nothing was recorded")
def test_no_site_no_finding():
    report = REPORTS["no sites"]()
    assert findings_of(report) == Findings()


def test_names_with_braces_and_markup_pass_through_findings():
    model = nn.Sequential()
    model.add_module("{share}<b>", nn.ReLU())
    report = report_of(model, -torch.rand(12, 2, 8))
    assert "all in {share}<b>#0" in finding(report, "Dead channels").text


# ---- The page itself ----


@pytest.fixture
def hostile():
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.ReLU())
    model.add_module("</script><!--\u2028\u2029&amp;'\"", nn.ReLU())
    about = {"<i>key</i>": "<img src=x onerror=alert(2)>", "half of a pair": "\ud800"}
    return report_of(model, torch.randn(3, 2, 16), about=about)


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
    assert "1 activation cannot be seen, is incomplete or never fired." in text
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


# ---- What is embedded ----


def unpacked(column):
    """Values of a column as page.js reads it."""
    if isinstance(column, list):
        return column
    data = base64.b64decode(column)
    m, e = (
        np.frombuffer(data[: len(data) // 3 * 2], "<i2"),
        np.frombuffer(data, "i1")[-len(data) // 3 :],
    )
    special = {-32768: None, 10000: "Infinity", -10000: "-Infinity"}
    return [special.get(a, float(f"{a}e{b}")) for a, b in zip(m.tolist(), e.tolist(), strict=True)]


def test_columns_have_every_digit_in_three_bytes_a_number():
    generator = np.random.default_rng(0)
    values = generator.normal(size=500) * 10.0 ** generator.integers(-40, 40, 500)
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 9999.5, 99995.0, -1e-9, 1e120, 5e-125]
    column = pd.Series([*special, *values])
    assert isinstance(numbers.packed(column), str)
    assert len(numbers.packed(column)) == 4 * len(column)
    assert unpacked(numbers.packed(column)) == numbers.rounded(column)
    # What text says in fewer characters, what isn't a float or is too small, is a list.
    for other in (pd.Series([0.0] * 9), pd.Series([12345, 2]), pd.Series([True]),
                  pd.Series([1.234567e-300] * 9)):  # fmt: skip
        assert numbers.packed(other) == numbers.rounded(other)


def test_channels_and_spectra_are_those_of_the_report():
    x = torch.randn(6, 12, 64)
    report = report_of(nn.ReLU(), x, fs=64.0)
    (layer,) = embedded(report)["layers"]
    dc, spectra = report.dc(), report.spectra()
    np.testing.assert_allclose(unpacked(layer["channels"]["dc_out"]), dc["dc_out"], rtol=6e-4)
    assert layer["spectra"]["unit"] == "Hz"
    np.testing.assert_allclose(layer["spectra"]["freq"], np.arange(33))
    for side in ("in", "out"):
        power = spectra[spectra["side"] == side]["power"].to_numpy().reshape(12, 33)
        band = np.quantile(power, [0.1, 0.5, 0.9], axis=0)
        drawn = 10 ** (np.array(layer["spectra"][side]["band"]) / 100)
        np.testing.assert_allclose(drawn, band, rtol=0.0117)  # half of a tenth of a decibel
        cells = decibels(layer["spectra"], 12)[side]
        np.testing.assert_allclose(cells, 10 * np.log10(power), atol=page_spectra.STEP / 2 + 1e-9)
    assert layer["first"] == dc["dc_out_std"].idxmax()


def test_a_tone_is_not_lost_in_a_spectrum_with_more_bins_than_are_drawn():
    t = torch.arange(8192) / 8192
    report = report_of(nn.ReLU(), torch.cos(2 * torch.pi * 2001 * t).expand(2, 1, -1), fs=8192.0)
    spectra = embedded(report)["layers"][0]["spectra"]
    assert len(spectra["freq"]) <= page_spectra.MAX_BINS + 1
    line = decibels(spectra, 1)["in"][0]
    assert line.max() == pytest.approx(10 * np.log10(0.5), abs=page_spectra.STEP / 2)
    assert abs(spectra["freq"][line.argmax()] - 2001) < spectra["bins"]


def test_of_many_channels_bins_are_merged_and_no_channel_is_missing(monkeypatch):
    monkeypatch.setattr(page_spectra, "BUDGET", 2 * 40 * 76)
    spectra = embedded(report_of(nn.ReLU(), torch.randn(5, 40, 512)))["layers"][0]["spectra"]
    assert len(spectra["freq"]) == 65  # 256 bins and DC, merged by four
    assert spectra["bins"] == 4
    assert decibels(spectra, 40)["out"].shape == (40, 65)


def test_silent_and_unknown_power_are_not_numbers():
    x = torch.randn(5, 3, 16)
    x[:, 1] = -1
    x[:, 2] = torch.nan
    out = decibels(embedded(report_of(nn.ReLU(), x))["layers"][0]["spectra"], 3)["out"]
    assert np.isfinite(out[0]).all()
    assert (out[1] == -np.inf).all()
    assert np.isnan(out[2]).all()


def decibels(spectra, channels):
    """The bytes of a layer's spectra, decoded as figures.js does."""
    levels = np.frombuffer(base64.b64decode(spectra["cells"]), np.uint8)
    levels = levels.reshape(2, channels, -1).astype(float)
    values = spectra["top"] - (254 - levels) * spectra["step"]
    values[levels == page_spectra.SILENT], values[levels == page_spectra.UNKNOWN] = -np.inf, np.nan
    return dict(zip(("in", "out"), values, strict=True))


def test_numbers_that_json_cannot_represent():
    text = json.dumps(numbers.rounded([np.nan, np.inf, -np.inf, 1.23456e-9, 123456.0, True, 7]))
    assert json.loads(text) == [None, "Infinity", "-Infinity", 1.235e-9, 123500, True, 7]
    assert page.formatted(float("nan"), "dc_in") == "—"
    assert page.formatted(-float("inf"), "dc_in") == "−∞"
    known = pd.array([True, False, None], "boolean")
    assert [page.formatted(value, "folded") for value in known] == ["yes", "no", "—"]
    assert numbers.tenths_of_decibel(np.array([0.0, 10.0, np.nan])) == [None, 100, None]


def test_harmonics_and_predictions_are_embedded():
    t = torch.arange(1024) / 1024
    scales = torch.tensor([1.0, 2.0, 9.0])  # of which the median is 2
    tones = (scales[:, None] * torch.cos(2 * torch.pi * 4 * t)).expand(3, -1, -1)
    layer = embedded(report_of(nn.ReLU(), tones, fs=1024.0, f0=4.0))["layers"][0]
    amplitude = dict(
        zip(layer["harmonics"]["harmonic"], layer["harmonics"]["amplitude_out"], strict=True)
    )
    assert amplitude[1] == 2 * 0.5
    assert amplitude[2] == pytest.approx(2 * 2 / (3 * np.pi), rel=1e-3)
    table = pd.DataFrame(layer["predictions"]).set_index("assumption").loc[["gaussian", "tone"]]
    predicted = np.array([1 / np.sqrt(4 * np.pi), 1 / np.pi])  # of a cosine of amplitude 1
    np.testing.assert_allclose(table["dc_out"], 4 / np.pi, rtol=1e-3)
    np.testing.assert_allclose(table["dc_predicted"], 4 * predicted, rtol=1e-3)
    rms = np.sqrt((1 + 4 + 81) / 3) * (1 / np.pi - predicted)
    np.testing.assert_allclose(table["rms_residual"], rms, rtol=1e-3, atol=1e-4)


T = torch.randn
REPORTS = {
    "no spectra": lambda: report_of(nn.ReLU(), T(3, 2, 8), spectra=False),
    "no sites": lambda: report_of(nn.Linear(2, 2), T(3, 2)),
    "never run": lambda: spectroscope.record(nn.ReLU()).report(),
    "one value": lambda: report_of(nn.ReLU(), T(3, 2)),
    "images": lambda: report_of(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), T(3, 2, 8, 9)),
    "planes": lambda: report_of(nn.ReLU(), T(3, 2, 8, 8), spectra="plane"),
    "1-D with f0": lambda: report_of(nn.ReLU(), T(3, 2, 64), fs=64.0, f0=4.0),
    "merged": lambda: report_of(nn.ReLU(), T(3, 2, 8)).merge(report_of(nn.ReLU(), T(3, 2, 8))),
    "NaN alone": lambda: report_of(nn.ReLU(), torch.full((3, 2, 8), torch.nan)),
    "zeros": lambda: report_of(nn.ReLU(), torch.zeros(3, 2, 8)),
    "GELU": lambda: report_of(nn.GELU(), T(3, 2, 8), kinds=["GELU"]),
}


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


def test_unknown_columns_come_last_with_their_definition(known, hostile):
    """A user's statistic adds columns to `dc()`, `sites()` and `describe()`."""
    for report in (known, hostile):
        sites, dc, describe = report.sites(), report.dc(), report.describe()
        position = list(dc).index("dc_in")
        dc.insert(position, "peak_out", np.arange(1, len(dc) + 1) / 8)
        sites.insert(4, "peak_out", dc.groupby("site", sort=False)["peak_out"].mean().to_numpy())
        definition = f"largest output {HOSTILE}"
        describe.loc[len(describe)] = ["peak_out", "activation", definition]
        html = page.render_report(
            about=report.about, sites=sites, dc=dc, coverage=report.coverage(), describe=describe,
            aliasing=None, harmonics=None, predictions=None, spectrogram=None,
            network=report.network()[:0], spectra=lambda site: None, examples=lambda site: None,
        )  # fmt: skip
        assert HOSTILE not in html
        result = Parsed(html)
        assert len(result.all("script")) == 3
        titles = [th.get("title") for th in result.all("th")]
        number = len(payload.site_table(sites).columns)
        assert titles.index(f"{definition} (activation)") == number - 1  # the last of the layers
        data = json.loads(result.raw[1])
        assert data["definitions"]["peak_out"] == f"{definition} (activation)"
        tables = [layer["channels"] for layer in data["layers"]]
        assert [list(columns)[-1] for columns in tables] == ["peak_out"] * len(sites)
        peaks = [peak for columns in tables for peak in unpacked(columns["peak_out"])]
        assert peaks == dc["peak_out"].tolist()
        assert definition in result.text  # of the definitions at the end


def test_spectra_are_asked_for_site_by_site():
    report = report_of(nn.Sequential(nn.ReLU(), nn.ReLU()), T(3, 2, 8))
    asked = []

    def spectra(site):
        asked.append(site)
        return report.spectra(site) if site == "0#0" else None

    html = page.render_report(
        about=report.about, sites=report.sites(), dc=report.dc(), coverage=report.coverage(),
        describe=report.describe(), aliasing=None, harmonics=None, predictions=None,
        spectrogram=None, network=report.network(), spectra=spectra, examples=lambda site: None,
    )  # fmt: skip
    first, second = json.loads(Parsed(html).raw[1])["layers"]
    assert asked == ["0#0", "1#0"]
    assert "spectra" in first
    assert second["note"] == payload.NO_SPECTRA


def values_of(panel, dtype):
    steps = np.frombuffer(base64.b64decode(panel["cells"]), dtype).astype(float)
    steps[steps == np.iinfo(dtype).min] = np.nan
    return (steps / np.iinfo(dtype).max * panel["greatest"]).reshape(2, -1)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.randn(3, 4, 100), np.int16),
        (torch.randn(3, 4, 2000), np.int16),
        (torch.randn(3, 4, 80, 20), np.int8),
    ],
)
def test_examples_are_those_of_the_report(x, dtype):
    x[0, 0].view(-1)[0] = torch.nan
    model = nn.ReLU()
    with spectroscope.record(model, fs=None if x.dim() == 4 else 10.0, examples=2) as recorder:
        model(x)
    report = recorder.report()
    frame, layer = report.examples(), embedded(report)["layers"][0]["examples"]
    assert layer["images"] == (x.dim() == 4)
    assert len(layer["panels"]) == frame.groupby(["input", "channel"]).ngroups
    for panel in layer["panels"]:
        of = frame[(frame["input"] == panel["input"]) & (frame["channel"] == panel["channel"])]
        exact = np.stack([of[of["side"] == side]["value"] for side in ("in", "out")])
        step = panel["greatest"] / np.iinfo(dtype).max
        values = values_of(panel, dtype)
        np.testing.assert_allclose(values, exact, rtol=1e-3, atol=0.5 * step * 1.01)
        assert (values[exact == 0] == 0).all()
        if layer["images"]:
            assert panel["size"] == [52, 13]  # of 128 KiB, for two inputs
        else:
            positions = of[of["side"] == "in"]["position"].to_numpy()
            x_of = panel["x"]
            x_of = x_of if isinstance(x_of, list) else x_of * np.arange(len(positions))
            np.testing.assert_allclose(x_of, positions, rtol=1e-5)


def test_a_channel_without_a_finite_value_is_no_example():
    x = torch.randn(2, 5, 40)
    x[:, 3] = math.nan
    with spectroscope.record(model := nn.Sequential(nn.ReLU()), examples=2) as recorder:
        model(x)
    layer = embedded(recorder.report())["layers"][0]["examples"]
    assert layer["blank"] == [3]
    assert 3 not in {panel["channel"] for panel in layer["panels"]}
    # It is drawn where it has values.
    x[1, 3] = 1
    with spectroscope.record(model, examples=2) as recorder:
        model(x)
    layer = embedded(recorder.report())["layers"][0]["examples"]
    assert (layer["blank"], [p["channel"] for p in layer["panels"]].count(3)) == ([], 1)


def test_without_examples_there_are_none(known):
    assert all("examples" not in layer for layer in embedded(known)["layers"])


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


# ---- The file ----


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


# ---- In notebooks ----


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


# ---- Of two reports ----


def moved(x, **channels):
    for name, by in channels.items():
        x[:, int(name[1:])] += by
    return report_of(nn.ReLU(), x)


@pytest.fixture
def changed():
    """Of 5 channels the first moves, the second dies, the third comes to life."""
    torch.manual_seed(0)
    x, y = torch.rand(12, 5, 32), torch.rand(12, 5, 32)
    return moved(x, c2=-9).compare(moved(y, c0=0.3, c1=-9))


def findings_of_changes(comparison):
    return comparison_page.findings(comparison.sites(), comparison.channels())


def test_changes_name_the_worst_channel(changed):
    by_headline = {result.headline: result for result in findings_of_changes(changed).present}
    table = changed.channels()
    worst = table.loc[table["effect_size"].abs().idxmax()]
    text = by_headline["Channels whose DC changed"]
    assert f"Channel {worst['channel']} of #0" in text.detail
    assert text.references[0] == Reference("#0", "largest change", int(worst["channel"]))
    count = int((table["effect_size"].abs() > 0.5).sum())
    rose = int((table["effect_size"] > 0.5).sum())
    assert text.text.startswith(f"The DC of {count} of 5 channels")
    assert f"rose in {rose} and fell in {count - rose}" in text.detail
    assert by_headline["Channels that died"].text.startswith("1 of 5 channels")
    assert by_headline["Channels that revived"].text.startswith("1 of 5 channels")
    assert "Few inputs" not in by_headline


def test_a_report_compared_with_itself_has_no_findings(known):
    result = findings_of_changes(known.compare(known))
    assert result.present == ()
    assert any("DC changed" in text for text in result.absent)


def test_a_channel_that_became_nan_is_reported():
    x = torch.rand(12, 3, 32)
    y = x.clone()
    y[:, 1] = torch.nan
    result = findings_of_changes(report_of(nn.ReLU(), x).compare(report_of(nn.ReLU(), y)))
    by_headline = {f.headline: f.text for f in result.present}
    assert by_headline["New non-finite values"].startswith("1 of 3 channels")
    assert by_headline["Unknown changes"].startswith(
        "The change of DC is unknown for 1 of 3 channels"
    )


def test_changes_of_one_input_are_unknown():
    one = [report_of(nn.ReLU(), torch.rand(1, 3, 32)) for _ in range(2)]
    result = findings_of_changes(one[0].compare(one[1]))
    assert not any("DC changed" in text for text in result.absent)
    assert "Unknown changes" in {f.headline for f in result.present}


def test_few_inputs_are_reported_of_comparisons(known):
    few = report_of(nn.ReLU(), torch.randn(3, 4, 32))
    (said,) = [
        f for f in findings_of_changes(known.compare(few)).present if f.headline == "Few inputs"
    ]
    assert "12 inputs in A and 3 inputs in B" in said.text


def test_a_comparison_has_both_reports_and_unmatched_sites(known, tmp_path):
    other = report_of(nn.ReLU6(), torch.randn(3, 4, 32), about={"data": HOSTILE})
    for comparison, matched in ((known.compare(other), 0), (known.compare(known), 1)):
        comparison.page(tmp_path / "compare.html")
        result = Parsed((tmp_path / "compare.html").read_text("utf-8"))
        assert len([tr for tr in result.all("tr") if "data-layer" in tr]) == matched
        assert len(json.loads(result.raw[1])["layers"]) == matched
    assert HOSTILE in Parsed(html_of(known.compare(other))).text
    assert "ReLU in A, ReLU6 in B" in Parsed(html_of(known.compare(other))).text
    with pytest.raises(spectroscope.RequestError, match="does not exist"):
        known.compare(known).page(tmp_path / "nowhere" / "x.html")
