"""The page printed, in the dark and on a phone."""

import base64

import pytest
from browsing import drawn, js, layer, luminance, media

pytestmark = pytest.mark.slow  # `pytest -m slow tests/browser`


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
