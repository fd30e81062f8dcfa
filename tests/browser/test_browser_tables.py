"""Tables, links and texts of the page in a browser: sorted, filtered, opened, followed."""

import re

import pytest
import torch
from browsing import (
    BIDI,
    CHANNELS,
    HOSTILE,
    column,
    data_of,
    head,
    js,
    layer,
    press,
    report_of_name,
    sort,
    unfold,
    waited,
)
from helpers import html_of, report_of
from torch import nn

from spectroscope import page

pytestmark = pytest.mark.slow  # `pytest -m slow tests/browser`


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
