"""The page of a report in a browser: opened as a file, sorted, filtered, opened, drawn, printed."""

import base64
import io
import math
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import html_of, report_of
from torch import nn

import spectroscope
from spectroscope import page

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.slow  # `pytest -m slow tests/test_page_in_browser.py`

HOSTILE = "<script>alert(1)</script>"
FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
         "disable-background-networking", "disable-component-update", "disable-sync",
         "window-size=1280,900"]  # fmt: skip
CHANNELS = 60


class Network(nn.Module):
    """Layers of different levels; one that is dead, so that its dc_fraction is NaN."""

    def __init__(self):
        super().__init__()
        for name in ("first", HOSTILE, "block.a", "block.b", "dead"):
            parent, _, child = name.rpartition(".")
            if parent and not hasattr(self, parent):
                self.add_module(parent, nn.Module())
            (getattr(self, parent) if parent else self).add_module(child, nn.ReLU())

    def forward(self, x):
        self.first(x + 10)
        getattr(self, HOSTILE)(x)
        self.block.a(x + 2)
        self.block.b(100 * x + 30)
        return self.dead(-x.abs())


@pytest.fixture(scope="session")
def report():
    torch.manual_seed(0)
    return report_of(Network().eval(), torch.randn(12, CHANNELS, 64), fs=64.0, f0=4.0)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if BROWSER is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="session")
def url(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.page(path)
    return path.as_uri()


@pytest.fixture
def opened(browser, url):
    """The page, fresh; in the end it has logged nothing."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(url)
    yield browser
    assert browser.get_log("browser") == []


def js(browser, code, *arguments):
    return browser.execute_script(f"return {code}", *arguments)


def column(browser, name, table="sites"):
    """Numbers of a column, top to bottom, of those rows that are shown."""
    code = """((name, id) => {
        const table = document.getElementById(id) ?? document.querySelector(id);
        const at = [...table.tHead.rows[0].cells].findIndex((h) => h.textContent === name);
        return [...table.tBodies[0].rows]
            .filter((r) => !r.classList.contains("detail") && !r.hidden)
            .map((r) => r.cells[at].dataset.value ?? r.cells[at].textContent);
    })(arguments[0], arguments[1])"""
    return js(browser, code, name, table)


def head(browser, name, table="#sites"):
    heads = browser.find_elements("css selector", f"{table} > thead th")
    return next(h for h in heads if h.get_attribute("textContent") == name)


def press(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def sort(browser, name, table="#sites"):
    result = head(browser, name, table)
    press(browser, result.find_element("css selector", "button"))
    return result.get_attribute("aria-sort")


def layer(browser, number):
    return browser.find_element("css selector", f"#layer-{number} button")


def unfold(browser, number):
    """Open a layer, and its table of channels."""
    press(browser, layer(browser, number))
    browser.execute_script("document.querySelector('.panel > details').open = true")


def data_of(browser, name):
    """Columns of a data source of the figures that were drawn, waited for."""
    code = """Bokeh.documents.map((d) => d.get_model_by_name(arguments[0])).filter(Boolean)
        .filter((source) => Object.values(source.data).some((column) => column.length))
        .map(({ data }) => Object.fromEntries(Object.entries(data).map(
            ([key, column]) => [key, Array.from(column, (v) => v?.shape ? [...v] : v)])))[0]"""
    waited(browser, code, name)
    return js(browser, code, name)


def drawn(browser, figures=2):
    """Wait until the overview, and as many figures in a layer, are on the page."""
    selector = "document.querySelectorAll('.panel .figure > *').length"
    waited(browser, f"{selector} >= {figures}")


def test_the_page_requests_nothing_but_itself(opened, url):
    layer(opened, 0).click()
    sent = [entry["message"] for entry in opened.get_log("performance")]
    requests = [
        message for message in sent
        if '"Network.requestWillBeSent"' in message and '"url":"data:' not in message
        and '"documentURL":"chrome://' not in message  # the browser's own start page
    ]  # fmt: skip
    assert len(requests) == 1
    assert url in requests[0]
    resources = js(opened, "performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in resources if not name.startswith("data:")] == []


def test_the_policy_forbids_what_is_injected(browser, url):
    browser.get(url)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.run = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'https://x.invalid/';"
    )
    assert js(browser, "window.run") is None
    assert "Content Security Policy" in str(browser.get_log("browser"))


def test_a_column_is_sorted_by_value_and_back_nan_last(opened, report):
    values = report.sites().set_index("site")["dc_fraction"]
    assert values.isna().sum() == 1
    assert sort(opened, "dc_fraction") == "ascending"
    expected = values.sort_values(na_position="last")
    assert column(opened, "site") == expected.index.tolist()
    assert sort(opened, "dc_fraction") == "descending"
    expected = values.sort_values(ascending=False, na_position="last")
    assert column(opened, "site") == expected.index.tolist()
    # 2 is before 10, and −0.8 before 0: as text they would not be.
    assert sort(opened, "dc_in") == "ascending"
    assert column(opened, "site") == report.sites().sort_values("dc_in")["site"].tolist()
    assert head(opened, "dc_fraction").get_attribute("aria-sort") is None


def test_every_column_sorts(opened):
    heads = js(opened, "[...document.querySelector('#sites').tHead.rows[0].cells].map("
               "(h) => h.textContent)")  # fmt: skip
    for name in heads:
        assert sort(opened, name) == "ascending"


def test_a_detail_goes_with_its_row(opened):
    layer(opened, 2).click()
    sort(opened, "dc_out")
    assert js(opened, "document.getElementById('layer-2').nextElementSibling.id") == "detail-2"


@pytest.mark.parametrize(
    ("text", "left"),
    [("block", 2), ("BLOCK.A", 1), ("block.*", 2), ("*a#0", 1), ("?irst#0", 1), ("(", 1),
     ("relu", 5), ("nothing", 0), ("", 5)],
)  # fmt: skip
def test_layers_are_filtered_by_part_and_by_pattern(opened, text, left):
    field = opened.find_element("id", "sites-filter")
    assert js(opened, "arguments[0].labels.length", field) == 1
    field.send_keys(text)
    assert len(column(opened, "site")) == left
    if text:
        status = opened.find_element("css selector", ".filter [role=status]").text
        assert status == f"{left} of 5 shown"


def test_a_layer_opens_by_mouse_and_by_keyboard(opened):
    button = layer(opened, 0)
    assert button.get_attribute("aria-expanded") == "false"
    press(opened, button)
    assert button.get_attribute("aria-expanded") == "true"
    detail = opened.find_element("id", button.get_attribute("aria-controls"))
    assert detail.is_displayed()
    for key in ("\ue007", " "):  # Enter
        before = button.get_attribute("aria-expanded")
        button.send_keys(key)
        assert button.get_attribute("aria-expanded") != before
        assert detail.is_displayed() == (before == "false")


def test_channels_are_capped_until_all_are_asked_for_and_sort(opened, report):
    unfold(opened, 0)
    assert len(column(opened, "channel", "table.channels")) == 50
    sort(opened, "dc_out", "table.channels")
    dc = report.dc()
    first = dc[dc["site"] == "first#0"].sort_values("dc_out")
    assert column(opened, "channel", "table.channels")[0] == str(first["channel"].iloc[0])
    press(opened, opened.find_element("css selector", "details button.more"))
    assert len(column(opened, "channel", "table.channels")) == CHANNELS
    assert not opened.find_element("css selector", "details button.more").is_displayed()


def test_an_unknown_column_is_the_last_with_its_definition_on_hover(browser, report, tmp_path):
    dc, describe = report.dc(), report.describe()
    dc.insert(8, "peak_out", 2.5)
    describe.loc[len(describe)] = ["peak_out", "activation", f"largest output {HOSTILE}"]
    html = page.render_report(
        about=report.about, sites=report.sites(), dc=dc, coverage=report.coverage(),
        describe=describe, aliasing=None, harmonics=None, predictions=None,
        spectrogram=None, network=report.network(), spectra=lambda site: None,
        examples=lambda site: None,
    )  # fmt: skip
    page.save(html, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    unfold(browser, 0)
    heading = browser.find_element("css selector", "table.channels thead th:last-child")
    assert heading.get_attribute("textContent") == "peak_out"
    assert heading.get_attribute("title") == f"largest output {HOSTILE} (activation)"
    assert set(column(browser, "peak_out", "table.channels")) == {"2.5"}
    assert js(browser, "document.querySelectorAll('script').length") == 3
    assert browser.get_log("browser") == []


def channels_of(browser):
    return [label for label in data_of(browser, "lines")["label"]]


def test_a_channel_is_drawn_on_both_sides_and_taken_away(opened):
    unfold(opened, 0)
    before = channels_of(opened)
    assert len(before) == 2  # in and out of the most variable
    pick = next(
        b
        for b in opened.find_elements("css selector", "button.pick")
        if b.get_attribute("aria-pressed") == "false"
    )
    press(opened, pick)
    channel = pick.get_attribute("data-channel")
    assert channels_of(opened)[2:] == [f"channel {channel}, in", f"channel {channel}, out"]
    assert pick.get_attribute("aria-pressed") == "true"
    assert f"channel {channel}" in opened.find_element("css selector", ".panel .legend").text
    assert len(data_of(opened, "lines")["xs"][2]) == 33  # bins
    press(opened, pick)
    assert channels_of(opened) == before


def test_the_plotted_lines_and_cells_are_the_spectrum(opened, report):
    press(opened, layer(opened, 1))
    lines = data_of(opened, "lines")
    channel = int(lines["label"][1].split()[1].strip(","))
    power = report.spectra(HOSTILE)
    power = power[power["side"] == "out"]["power"].to_numpy().reshape(CHANNELS, 33)
    expected = 10 * np.log10(power)
    np.testing.assert_allclose(lines["ys"][1], expected[channel], atol=0.251)
    band = np.array([data_of(opened, "bands")[f"out_{i}"] for i in range(3)])
    quantiles = np.quantile(power, [0.1, 0.5, 0.9], axis=0)
    np.testing.assert_allclose(band, 10 * np.log10(quantiles), atol=0.051)
    order = column(opened, "channel", "table.channels")
    assert len(order) == 50
    (cells,) = data_of(opened, "cells_of_channels")["image"]
    cells = np.array(cells).reshape(CHANNELS, 33)
    np.testing.assert_allclose(cells[:50], expected[[int(c) for c in order]], atol=0.251)


def choose(browser, label, value):
    select = browser.find_element("css selector", f"select[aria-label='{label}']")
    select.find_element("css selector", f"option[value='{value}']").click()


def test_power_is_linear_or_in_decibels_and_frequency_logarithmic(opened):
    press(opened, layer(opened, 0))
    decibels = np.array(data_of(opened, "bands")["out_1"])
    choose(opened, "power", "linear")
    np.testing.assert_allclose(data_of(opened, "bands")["out_1"], 10 ** (decibels / 10))
    choose(opened, "frequency", "log")
    kinds = "Bokeh.documents.map((d) => d.get_model_by_name('bands') && d.roots()[0].x_scale.type)"
    waited(opened, f"{kinds}.includes('LogScale')")


def test_channels_are_sorted_by_what_is_chosen(opened, report):
    unfold(opened, 0)
    drawn(opened)
    dc = report.dc().query("site == 'first#0'")
    for value, column_of in (("active_fraction", "active_fraction"), ("channel", "channel")):
        choose(opened, "sorted by", value)
        order = dc.sort_values(column_of, ascending=value == "channel", kind="stable")
        assert column(opened, "channel", "table.channels")[:9] == [
            str(channel) for channel in order["channel"][:9]
        ]


def test_what_is_seen_is_saved_as_csv(opened):
    press(opened, layer(opened, 0))
    drawn(opened)
    opened.execute_script(
        "window.saved = []; URL.createObjectURL = (blob) => {"
        "blob.text().then((text) => saved.push(text)); return 'blob:null/x'; };"
        "HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };"
    )
    (button,) = opened.find_elements("css selector", ".tools button")
    press(opened, button)
    waited(opened, "saved.length === 2")
    name, text = sorted(js(opened, "saved"), key=len)
    assert name == "first#0.csv"
    table = pd.read_csv(io.StringIO(text))
    assert list(table)[:4] == ["frequency (Hz)", "in 10 %", "in median", "in 90 %"]
    np.testing.assert_allclose(table["frequency (Hz)"], np.arange(33))
    assert table["out median"].tolist() == data_of(opened, "bands")["out_1"]


def test_examples_are_drawn_and_another_input_is_chosen(browser, tmp_path):
    x = torch.randn(3, 4, 50)
    model = nn.ReLU()
    with spectroscope.record(model, fs=10.0, examples=2) as recorder:
        model(x)
    recorder.report().page(tmp_path / "examples.html")
    browser.get((tmp_path / "examples.html").as_uri() + "#layer-0")
    frame = recorder.report().examples()
    channel = frame["channel"].iloc[0]
    for number in (0, 1):
        choose(browser, "input", str(number))
        data = data_of(browser, "waveform")
        np.testing.assert_allclose(data["in"], x[number, channel], atol=1e-3)
        np.testing.assert_allclose(data["out"], x[number, channel].relu(), atol=1e-3)
        np.testing.assert_allclose(data["x"], np.arange(50) / 10, atol=1e-6)
    dc = data_of(browser, "dc_of_example")["y"][0]
    assert dc == pytest.approx(float(x[1, channel].relu().mean()), rel=1e-3)
    assert browser.get_log("browser") == []


def test_findings_and_the_chart_lead_to_layers(opened):
    link = opened.find_element("css selector", "#findings a[href='#layer-4']")
    press(opened, link)
    assert layer(opened, 4).get_attribute("aria-expanded") == "true"
    chart = opened.find_element("id", "depth-chart")
    opened.execute_script("arguments[0].focus()", chart)
    readout = opened.find_element("id", "depth-readout")
    assert "first#0" in readout.text
    chart.send_keys("\ue015\ue015")  # down
    assert "block.a#0" in readout.text
    chart.send_keys("\ue015\ue007")
    assert layer(opened, 3).get_attribute("aria-expanded") == "true"


def test_a_click_into_the_overview_opens_the_layer(opened):
    waited(opened, "document.querySelectorAll('.overview .figure > *').length === 2")
    waited(opened, "Bokeh.documents.some((d) => d.get_model_by_name('bars1'))")
    chart = opened.find_element("css selector", "[data-figure=bars]")
    box = chart.rect
    js(opened, "window.scrollTo(0, 0)")
    # The frame is 140 pixels high: in its middle is the third of five layers.
    at = {"x": box["x"] + 60, "y": box["y"] + 4 + 70, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        opened.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})
    waited(opened, "document.querySelector('#layer-2 button').ariaExpanded === 'true'")


def node_of(browser, name):
    return js(browser, "data.network.nodes.findIndex((n) => n.name === arguments[0])", name)


def map_drawn(browser):
    waited(browser, "Bokeh.documents.some((d) => d.get_model_by_name('map')?.inner_width > 0)")
    return browser.find_element("css selector", "#map .map")


def test_the_map_is_coloured_by_what_is_chosen(opened, report):
    map_drawn(opened)
    sites = report.sites().set_index("site")
    shown = [node for node in report.network()["node"] if node in sites.index]
    select = opened.find_element("css selector", "#map select")
    assert len(shown) == 5
    for name in ("dc_out", "dc_fraction"):
        js(opened, "(arguments[0].value = arguments[1], "
           "arguments[0].dispatchEvent(new Event('change')))", select, name)  # fmt: skip
        found = [math.nan if v is None else v for v in data_of(opened, "activations")["value"]]
        np.testing.assert_allclose(found, sites.loc[shown, name], rtol=1e-3)


def test_the_map_is_read_and_opens_layers_by_keys(opened):
    region = map_drawn(opened)
    opened.execute_script("arguments[0].focus()", region)
    readout = opened.find_element("id", "map-readout")
    assert readout.text == "input:x (input)"
    number = node_of(opened, f"{HOSTILE}#0")
    region.send_keys("\ue014" * number)  # right
    assert readout.text.startswith(f"{HOSTILE}#0 (activation)")
    assert "dc_out" in readout.text
    assert readout.text.endswith("; after input:x")
    region.send_keys("\ue007")
    assert layer(opened, 1).get_attribute("aria-expanded") == "true"


def test_a_click_on_the_map_opens_the_layer(opened):
    region = map_drawn(opened)
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", region)
    x, y = js(opened, """(([a, b], box) => {
        const plot = Bokeh.documents.map((d) => d.get_model_by_name("map")).find(Boolean);
        const { left, top } = box.getBoundingClientRect();
        const at = (range, size, v) => 4 + (v - range.start) / (range.end - range.start) * size;
        return [left + at(plot.x_range, plot.inner_width, a),
                top + plot.inner_height + 8 - at(plot.y_range, plot.inner_height, b)];
    })(data.network.nodes[arguments[0]].at, arguments[1].firstElementChild)""",
              node_of(opened, "block.a#0"), region)  # fmt: skip
    for kind in ("mousePressed", "mouseReleased"):
        at = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        opened.execute_cdp_cmd("Input.dispatchMouseEvent", at)
    waited(opened, "document.querySelector('#layer-2 button').ariaExpanded === 'true'")


def test_a_hash_opens_its_layer(browser, url):
    browser.get("about:blank")
    browser.get(f"{url}#layer-1")
    assert layer(browser, 1).get_attribute("aria-expanded") == "true"


def test_a_name_is_text(opened):
    button = layer(opened, 1)
    assert button.text.endswith(f"{HOSTILE}#0")
    press(opened, button)
    assert opened.find_element("css selector", ".panel h3").text == f"{HOSTILE}#0"
    assert js(opened, "document.querySelectorAll('script').length") == 3


def media(browser, kind="", scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": kind, "features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def luminance(color):
    rgb = [int(part.strip(" rgba()")) / 255 for part in color.split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(opened, scheme):
    layer(opened, 0).click()
    media(opened, scheme=scheme)
    code = """(() => {
        const behind = (e) => {
            for (; e; e = e.parentElement) {
                const c = getComputedStyle(e).backgroundColor;
                if (!c.startsWith("rgba")) return c;
            }
        };
        const texts = "p, th, td, a, h1, h2, dt, dd, li, button, text, label";
        return [...document.querySelectorAll(texts)]
            .filter((e) => e.textContent.trim() && e.checkVisibility())
            .map((e) => [e.tagName, getComputedStyle(e).color, behind(e)]);
    })()"""
    result = js(opened, code)
    media(opened)
    paper = luminance(result[0][2])
    assert paper < 0.05 if scheme == "dark" else paper > 0.9
    for tag, color, behind in result:
        low, high = sorted([luminance(color), luminance(behind)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (tag, color, behind)


def test_on_a_phone_only_tables_scroll_sideways(opened):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    layer(opened, 0).click()
    width = js(opened, "document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


PRINTED = "[...document.querySelectorAll('.printed')]"


def printing(browser, event):
    browser.execute_script("dispatchEvent(new Event(arguments[0]))", event)


def test_figures_are_printed_as_drawings_in_colors_of_paper(opened):
    media(opened, scheme="dark")
    layer(opened, 0).click()
    drawn(opened)
    figures = js(opened, "document.querySelectorAll('.figure > *, .thumbnail > *').length")
    assert figures > 4
    listen = """addEventListener("beforeprint", () => {
        const printed = [...document.querySelectorAll(".printed")];
        const parts = printed.flatMap((svg) => [...svg.querySelectorAll("text, path, image")]);
        window.printed = printed.length;
        window.parts = parts.map((part) => [part.tagName, getComputedStyle(part).fill,
            getComputedStyle(part).stroke, part.getAttribute("width")]);
    })"""
    opened.execute_script(listen)
    opened.execute_cdp_cmd("Page.printToPDF", {})
    assert js(opened, "window.printed") == figures
    parts = js(opened, "parts")
    of_texts = {fill for tag, fill, *_ in parts if tag == "text"}
    assert of_texts == {"rgb(0, 0, 0)", "rgb(68, 68, 68)", "none"}
    colors = {color for _, *both, _ in parts for color in both}
    light = {"rgb(0, 114, 178)", "rgb(193, 79, 0)", "rgb(0, 121, 90)"}
    dark = {"rgb(93, 180, 236)", "rgb(240, 140, 75)", "rgb(62, 207, 163)"}
    assert light < colors
    assert not dark & colors
    # Lines of a legend are images, and empty ones of another size until they are painted.
    assert {width for tag, *_, width in parts if tag == "image"} >= {"20"}
    assert "300" not in {width for *_, width in parts}
    assert js(opened, f"{PRINTED}.length") == 0
    assert luminance(js(opened, "getComputedStyle(document.body).backgroundColor")) < 0.05
    media(opened)


def test_drawings_are_as_wide_as_the_paper(opened):
    layer(opened, 0).click()
    drawn(opened)
    printing(opened, "beforeprint")
    printing(opened, "beforeprint")  # some browsers say it twice
    media(opened, "print")
    right = "getBoundingClientRect().right"
    beyond = js(opened, f"{PRINTED}.map((svg) => svg.{right} -"
                        f"svg.parentElement.parentElement.{right})")  # fmt: skip
    # From the top of the drawings of a layer down to the first of their texts.
    above = js(
        opened,
        f"""{PRINTED}.filter((svg) => svg.closest(".panel")).map((svg) =>
        Math.min(...[...svg.querySelectorAll("text")].map((t) => t.getBoundingClientRect().top))
        - svg.getBoundingClientRect().top)""",
    )
    media(opened)
    assert max(beyond) < 1
    assert len(above) == 3
    assert min(above) > -1
    assert max(above) < 17  # a toolbar takes as much
    printing(opened, "afterprint")


def test_what_is_folded_away_is_printed_and_folded_again(opened):
    layer(opened, 0).click()
    folded = "[...document.querySelectorAll('details')].map((details) => details.open)"
    opened.execute_script("document.querySelector('.panel > details').open = true")
    before = js(opened, folded)
    assert True in before
    assert False in before
    printing(opened, "beforeprint")
    assert all(js(opened, folded))
    printing(opened, "afterprint")
    assert js(opened, folded) == before
    opened.execute_cdp_cmd("Page.printToPDF", {})
    assert js(opened, folded) == before


def test_a_bar_does_not_widen_its_column(opened):
    widths = js(
        opened, "[...document.querySelectorAll('#sites .number')].map((e) => e.offsetWidth)"
    )
    assert max(widths) < 200


def test_it_prints_with_the_whole_table(opened):
    layer(opened, 0).click()
    printing(opened, "beforeprint")
    media(opened, "print", "dark")
    assert luminance(js(opened, "getComputedStyle(document.body).backgroundColor")) == 1
    assert js(opened, "getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    sticky = "[...document.querySelectorAll('*')].filter((e) => " \
             "getComputedStyle(e).position === 'sticky').length"  # fmt: skip
    assert js(opened, sticky) == 0
    assert opened.find_element("css selector", ".panel").is_displayed()
    media(opened)
    printing(opened, "afterprint")
    pdf = opened.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")


@pytest.fixture
def compared(browser, report, tmp_path):
    """The page of what changed when one channel of the input moved."""
    torch.manual_seed(0)
    x = torch.randn(12, CHANNELS, 64)
    x[:, 7] += 1
    comparison = report.compare(report_of(Network().eval(), x, fs=64.0, f0=4.0))
    comparison.page(tmp_path / "compare.html")
    browser.get_log("browser")
    browser.get((tmp_path / "compare.html").as_uri())
    yield browser, comparison
    assert browser.get_log("browser") == []


def test_a_comparison_sorts_opens_and_draws(compared):
    browser, comparison = compared
    sites = comparison.sites()
    assert sort(browser, "effect_rms") == "ascending"
    assert column(browser, "site") == sites.sort_values("effect_rms")["site"].tolist()
    shown = js(browser, "document.getElementById('findings').textContent")
    assert "channel 7" in shown
    link = browser.find_element("css selector", "#findings a[data-channel='7']")
    press(browser, link)
    marked = browser.find_element("css selector", "tr.revealed")
    assert marked.get_attribute("data-channel") == "7"
    assert "channel 7, in" in data_of(browser, "lines")["label"]
    assert js(browser, "document.documentElement.scrollWidth <= window.innerWidth")
    assert HOSTILE in js(browser, "document.getElementById('layers').textContent")


def test_typed_hashes_and_history_are_followed(opened, url):
    opened.execute_script("location.hash = '#layer-4'")
    waited(opened, "document.querySelector('#layer-4 button').ariaExpanded === 'true'")
    press(opened, opened.find_element("css selector", "#findings a[href='#layer-0']"))
    chart = opened.find_element("id", "depth-chart")
    chart.send_keys("\ue015\ue015\ue007")
    assert opened.current_url == f"{url}#layer-2"
    press(opened, layer(opened, 0))
    assert layer(opened, 0).get_attribute("aria-expanded") == "false"
    opened.back()
    waited(opened, "document.querySelector('#layer-0 button').ariaExpanded === 'true'")
    assert opened.current_url == f"{url}#layer-0"
    opened.back()
    opened.back()
    waited(opened, "location.hash === ''")
    assert opened.current_url == url


def waited(browser, condition, *arguments):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda driver: js(driver, condition, *arguments))


def test_a_finding_followed_twice_is_one_step_and_its_channel_is_gone_back_to(compared):
    browser, _ = compared
    steps = js(browser, "history.length")
    link = browser.find_element("css selector", "#findings a[data-channel='7']")
    press(browser, link)
    press(browser, link)
    assert js(browser, "history.length") == steps + 1
    browser.find_element("id", "depth-chart").send_keys("\ue015\ue015\ue015\ue007")
    js(browser, "document.querySelector('.revealed').classList.remove('revealed')")
    browser.back()
    waited(browser, "document.querySelector('.revealed')?.dataset.channel === '7'")


def test_the_navigation_leads_to_every_section_there_is(opened, report):
    there = js(opened, "[...document.querySelectorAll('section')].map((s) => '#' + s.id)")
    links = "[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))"
    assert js(opened, links) == there
    assert "#depth" in there
    nav = re.search("<nav.*?</nav>", html_of(report), re.S)[0]
    assert "#depth" not in nav  # where no script runs it is hidden


BIDI = "a\u202eb"


def report_of_name(x, name=BIDI):
    model = nn.Sequential()
    model.add_module(name, nn.ReLU())
    return report_of(model.eval(), x)


@pytest.mark.parametrize("name", [BIDI, "a\u2069\u202eb", "\u05d0"])
def test_a_name_with_bidi_characters_does_not_reverse_a_sentence(browser, tmp_path, name):
    torch.manual_seed(0)
    report_of_name(-torch.rand(12, 2, 32), name).page(tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    js(browser, "document.querySelector('#depth-chart').focus()")
    # A sentence on one line.
    browser.execute_script("document.querySelector('.cards').style.display = 'block'")
    for where, text in (
        ("#findings article .figure-of + p", ", had no output"),
        ("#findings .references li", "2 of 2"),
        ("#depth-readout", "0"),
    ):
        left, right = js(
            browser,
            """((element, text) => {
                const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
                let last; while (walk.nextNode()) last = walk.currentNode;
                const at = last.data.indexOf(text);
                return [0, text.length - 1].map((i) => {
                    const range = document.createRange();
                    range.setStart(last, at + i); range.setEnd(last, at + i + 1);
                    return range.getBoundingClientRect();
                }).map((box, i) => i ? box.right : box.left);
            })(document.querySelector(arguments[0]), arguments[1])""",
            where,
            text,
        )
        name_right = js(
            browser,
            "document.querySelector(arguments[0]).querySelector('bdi').getBoundingClientRect().right",
            where,
        )
        assert name_right <= left < right, where


def test_headings_and_charts_are_printed_together(opened):
    layer(opened, 0).click()
    media(opened, "print")
    style = "getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    for what in ("#depth", ".panel .figure", "article"):
        assert js(opened, style, what, "breakInside") == "avoid", what
    for what in ("h2", "h3", "h4", "#layer-0"):
        assert js(opened, style, what, "breakAfter") == "avoid", what
    assert js(opened, style, "#layers", "breakBefore") == "page"
    media(opened)


def test_rows_of_channels_are_not_printed_under_the_headings_of_layers(opened):
    display = "[arguments[0], '.panel thead'].map((of) => " \
              "getComputedStyle(document.querySelector(of) ?? document.body).display)"  # fmt: skip
    result = []
    for _ in range(3):  # closed, open, closed again
        media(opened, "print")
        result.append(js(opened, display, "#sites > thead"))
        media(opened)
        layer(opened, 0).click()
    repeated, once = "table-header-group", "table-row-group"  # on every page, or at the top alone
    assert [head for head, _ in result] == [repeated, once, repeated]
    assert result[1][1] == repeated


@pytest.mark.parametrize("scale", [1, 1e-6, 1e18])
def test_any_scale_is_in_view(browser, tmp_path, scale):
    report_of(nn.ReLU(), scale * torch.randn(12, 3, 64), fs=64.0).page(tmp_path / "page.html")
    browser.get_log("browser")
    browser.get((tmp_path / "page.html").as_uri())
    layer(browser, 0).click()
    values = data_of(browser, "bands")["out_1"]
    low, high = js(
        browser,
        "Bokeh.documents.filter((d) => d.get_model_by_name('bands'))"
        ".map((d) => d.roots()[0].y_range).map(({ start, end }) => [start, end])[0]",
    )
    assert low < min(values) < max(values) < high
    assert browser.get_log("browser") == []


def test_names_are_no_mathematics_which_bokeh_would_fetch(browser, tmp_path):
    name = r"a$$x$$b\(y\)c\[z\]"
    report_of_name(torch.randn(12, 2, 32), name).page(tmp_path / "page.html")
    browser.get_log("browser")
    browser.get((tmp_path / "page.html").as_uri())
    waited(browser, "document.querySelectorAll('.overview .figure > *').length === 2")
    layer(browser, 0).click()
    drawn(browser)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_have_the_colors_of_the_page(opened, scheme):
    media(opened, scheme=scheme)
    layer(opened, 0).click()
    data_of(opened, "bands")
    color = "Bokeh.documents.filter((d) => d.get_model_by_name('bands'))" \
            ".map((d) => d.roots()[0].below[0].axis_label_text_color)[0]"  # fmt: skip
    ink = js(opened, "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()")
    assert js(opened, color) == ink
    other = {"light": "dark", "dark": "light"}[scheme]
    media(opened, scheme=other)
    waited(opened, f"{color} === getComputedStyle(document.documentElement)"
                   ".getPropertyValue('--ink').trim()")  # fmt: skip
    assert js(opened, color) != ink
    media(opened)


def text_of(html, section):
    result = re.search(f'<section id="{section}".*?</section>', html, re.S)[0]
    return " ".join(re.sub("<[^>]*>", "", result).replace("&#39;", "'").split())


def test_the_sentence_on_matched_layers_for_few_or_none():
    x = torch.randn(12, 2, 32)
    one, other = report_of_name(x), report_of(nn.ReLU(), x)
    with pytest.warns(UserWarning, match="nothing was recorded"):
        none = report_of(nn.Identity(), x)
    same = html_of(one.compare(one))
    assert "The only layer is in both reports." in text_of(same, "coverage")
    for a, b, count in ((one, other, "2 layers"), (one, none, "1 layer")):
        html = html_of(a.compare(b))
        coverage = text_of(html, "coverage")
        assert f"No layer matches: {count} cannot be compared." in coverage
        assert "in both" not in coverage
        assert text_of(html, "findings").endswith("No findings: no layer matches.")
    html = html_of(none.compare(none))
    assert "neither report has a layer" in text_of(html, "coverage")
    assert 'class="good"' not in html
    assert text_of(html_of(none), "findings").endswith("no layer was recorded.")


def test_columns_that_are_not_means_over_channels_are_named(report):
    layers = text_of(html_of(report), "layers")
    assert (
        "except dc_fraction, introduced_fraction: fractions of the power of all its channels "
        "together" in layers
    )
    assert "full at 1 or more" in layers
