"""Figures of the page in a browser: they draw the report's numbers, and answer clicks and keys."""

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from browsing import (
    CHANNELS,
    HOSTILE,
    choose,
    column,
    data_of,
    drawn,
    js,
    layer,
    media,
    press,
    report_of_name,
    unfold,
    waited,
)
from helpers import report_of
from torch import nn

import spectroscope

pytestmark = pytest.mark.slow  # `pytest -m slow tests/browser`


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
