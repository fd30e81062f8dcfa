"""The page of a report in a browser: opened as a file, sorted, filtered, opened, drawn, printed."""

import base64
import json
import re
import shutil

import pytest
import torch
from helpers import html_of, report_of
from torch import nn

from spectroscope import page

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait

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


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    return report_of(Network().eval(), torch.randn(12, CHANNELS, 64), fs=64.0, f0=4.0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture(scope="module")
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


def test_the_page_requests_nothing_but_itself(opened, url):
    layer(opened, 0).click()
    sent = [entry["message"] for entry in opened.get_log("performance")]
    requests = [m for m in sent if '"Network.requestWillBeSent"' in m]
    assert len(requests) == 1
    assert url in requests[0]
    assert js(opened, "performance.getEntriesByType('resource').length") == 0


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
    press(opened, layer(opened, 0))
    assert len(column(opened, "channel", "table.channels")) == 50
    sort(opened, "dc_out", "table.channels")
    dc = report.dc()
    first = dc[dc["site"] == "first#0"].sort_values("dc_out")
    assert column(opened, "channel", "table.channels")[0] == str(first["channel"].iloc[0])
    press(opened, opened.find_element("css selector", "button.more"))
    assert len(column(opened, "channel", "table.channels")) == CHANNELS
    assert not opened.find_element("css selector", "button.more").is_displayed()


def test_an_unknown_column_is_the_last_with_its_definition_on_hover(browser, report, tmp_path):
    dc, describe = report.dc(), report.describe()
    dc.insert(8, "peak_out", 2.5)
    describe.loc[len(describe)] = ["peak_out", "activation", f"largest output {HOSTILE}"]
    html = page.render_report(
        about=report.about, sites=report.sites(), dc=dc, coverage=report.coverage(),
        describe=describe, aliasing=None, harmonics=None, predictions=None,
        spectra=lambda site: None,
    )  # fmt: skip
    page.save(html, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    press(browser, layer(browser, 0))
    heading = browser.find_element("css selector", "table.channels thead th:last-child")
    assert heading.get_attribute("textContent") == "peak_out"
    assert heading.get_attribute("title") == f"largest output {HOSTILE} (activation)"
    assert set(column(browser, "peak_out", "table.channels")) == {"2.5"}
    assert js(browser, "document.querySelectorAll('script').length") == 2
    assert browser.get_log("browser") == []


def lines(browser):
    drawn = browser.find_elements("css selector", ".panel path.line")
    return [path.get_attribute("data-channel") for path in drawn]


def test_a_channel_is_drawn_on_both_sides_and_taken_away(opened):
    press(opened, layer(opened, 0))
    assert len(opened.find_elements("css selector", ".panel path.band")) == 2
    before = lines(opened)
    pick = next(
        b
        for b in opened.find_elements("css selector", "button.pick")
        if b.get_attribute("aria-pressed") == "false"
    )
    press(opened, pick)
    channel = pick.get_attribute("data-channel")
    assert lines(opened).count(channel) == 2
    assert pick.get_attribute("aria-pressed") == "true"
    assert f"channel {channel}" in opened.find_element("css selector", ".legend").text
    path = opened.find_element("css selector", f"path.line[data-channel='{channel}']")
    assert path.get_attribute("d").count("L") == 32  # 33 bins
    press(opened, pick)
    assert lines(opened) == before


def test_the_plotted_line_is_the_spectrum(opened, report):
    press(opened, layer(opened, 1))
    channel = int(lines(opened)[0])
    power = report.spectra(HOSTILE)
    power = power[(power["channel"] == channel) & (power["side"] == "out")]["power"].to_numpy()
    code = """[...document.querySelectorAll('.panel .chart')[1].querySelector('path.line')
        .getAttribute('d').matchAll(/[ML][\\d.]+ ([\\d.]+)/g)].map((m) => Number(m[1]))"""
    heights = js(opened, code)
    # Lower is less; and as far apart as the logarithms are.
    assert heights.index(min(heights)) == power.argmax()
    log = torch.tensor(power).log10()
    drawn = torch.tensor(heights)
    assert torch.corrcoef(torch.stack([log, drawn.double()]))[0, 1] < -0.9999


def test_findings_and_the_chart_lead_to_layers(opened):
    link = opened.find_element("css selector", "#findings a[href='#layer-4']")
    press(opened, link)
    assert layer(opened, 4).get_attribute("aria-expanded") == "true"
    point = opened.find_element("css selector", "#depth-chart a[href='#layer-2']")
    opened.execute_script("arguments[0].focus()", point)
    assert "block.a#0" in opened.find_element("id", "depth-readout").text
    point.send_keys("\ue014")  # to the right
    assert js(opened, "document.activeElement.getAttribute('href')") == "#layer-3"
    opened.switch_to.active_element.send_keys("\ue007")
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
    assert js(opened, "document.querySelectorAll('script').length") == 2


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
            .map((e) => [e.tagName, e.namespaceURI.endsWith("svg") ? getComputedStyle(e).fill
                : getComputedStyle(e).color, behind(e)]);
    })()"""
    result = js(opened, code)
    media(opened)
    paper = luminance(result[0][2])
    assert paper < 0.05 if scheme == "dark" else paper > 0.9
    assert any(tag == "text" for tag, _, _ in result)
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


def test_it_prints_with_the_whole_table(opened):
    layer(opened, 0).click()
    media(opened, "print", "dark")
    assert luminance(js(opened, "getComputedStyle(document.body).backgroundColor")) == 1
    assert js(opened, "getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    sticky = "[...document.querySelectorAll('*')].filter((e) => " \
             "getComputedStyle(e).position === 'sticky').length"  # fmt: skip
    assert js(opened, sticky) == 0
    assert opened.find_element("css selector", ".panel").is_displayed()
    media(opened)
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
    assert js(browser, "document.querySelectorAll('#depth-chart circle').length") > 0
    assert js(browser, "document.documentElement.scrollWidth <= window.innerWidth")
    assert HOSTILE in js(browser, "document.getElementById('layers').textContent")


def test_typed_hashes_and_history_are_followed(opened, url):
    opened.execute_script("location.hash = '#layer-4'")
    waited(opened, "document.querySelector('#layer-4 button').ariaExpanded === 'true'")
    press(opened, opened.find_element("css selector", "#findings a[href='#layer-0']"))
    point = opened.find_element("css selector", "#depth-chart a[href='#layer-2']")
    opened.execute_script("arguments[0].focus()", point)
    point.send_keys("\ue007")
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


def waited(browser, condition):
    WebDriverWait(browser, 5).until(lambda driver: js(driver, condition))


def test_a_finding_followed_twice_is_one_step_and_its_channel_is_gone_back_to(compared):
    browser, _ = compared
    steps = js(browser, "history.length")
    link = browser.find_element("css selector", "#findings a[data-channel='7']")
    press(browser, link)
    press(browser, link)
    assert js(browser, "history.length") == steps + 1
    press(browser, browser.find_element("css selector", "#depth-chart a[href='#layer-3']"))
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


@pytest.mark.parametrize("value", [100, 1000, 12345])
def test_equal_values_beyond_ten_are_drawn(browser, report, tmp_path, value):
    html = html_of(report)
    (text,) = re.findall('id="data">(.*?)</script>', html)
    data = json.loads(text)
    for curve in data["depth"].values():
        curve["values"] = [value] * 5
    (tmp_path / "page.html").write_text(
        html.replace(text, json.dumps(data).replace("<", "\\u003c"))
    )
    browser.get((tmp_path / "page.html").as_uri())
    chart = js(browser, "document.getElementById('depth-chart').innerHTML")
    assert "NaN" not in chart
    assert "Infinity" not in chart
    assert chart.count("<circle") == 15
    assert browser.get_log("browser") == []


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
    js(browser, "document.querySelector('#depth-chart a').focus()")
    for where, text in (
        ("#findings article p", ", had no output"),
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
    for what in ("#depth", ".panel .chart", ".panel .pair", "article"):
        assert js(opened, style, what, "breakInside") == "avoid", what
    for what in ("h2", "h3", "#layer-0", ".panel h3 + p", ".panel .pair"):
        assert js(opened, style, what, "breakAfter") == "avoid", what
    assert js(opened, style, "#layers", "breakBefore") == "page"
    # Two charts are so low that they leave room on a page, which is 186 mm high.
    assert js(opened, "document.querySelector('.panel .chart').offsetHeight") < 80 * 96 / 25.4
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
def test_labels_of_a_chart_do_not_overlap(browser, tmp_path, scale):
    report_of(nn.ReLU(), scale * torch.randn(12, 3, 64), fs=64.0).page(tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    layer(browser, 0).click()
    waited(browser, "document.querySelectorAll('.panel .chart svg').length === 2")
    overlaps = js(
        browser,
        """[...document.querySelectorAll(".panel .chart svg")].map((svg) => {
            const boxes = [...svg.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
            return boxes.filter((a, i) => boxes.some((b, k) => k < i && a.left < b.right &&
                b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length;
        })""",
    )
    assert overlaps == [0, 0]


@pytest.mark.parametrize("least", [0, 5])
def test_zero_has_a_place_on_a_logarithmic_chart(browser, report, tmp_path, least):
    html = html_of(report)
    (text,) = re.findall('id="data">(.*?)</script>', html)
    data = json.loads(text)
    for curve in data["depth"].values():
        curve["values"] = [least, 5, 50, 500, 5000]
    (tmp_path / "page.html").write_text(
        html.replace(text, json.dumps(data).replace("<", "\\u003c"))
    )
    browser.get((tmp_path / "page.html").as_uri())
    assert len(browser.find_elements("css selector", "#depth-chart circle")) == 15
    marks = "[...document.querySelectorAll('#depth-chart .axes text:not([class])')]" \
            ".map((t) => t.textContent).slice(0, 5)"  # fmt: skip
    lowest = ["0"] if least == 0 else []
    assert js(browser, marks) == [*lowest, "10⁰", "10¹", "10²", "10³", "10⁴"][:5]
    assert browser.get_log("browser") == []


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
