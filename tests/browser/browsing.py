"""What several tests of the page in a browser need."""

from helpers import report_of
from torch import nn

HOSTILE = "<script>alert(1)</script>"

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


def choose(browser, label, value):
    select = browser.find_element("css selector", f"select[aria-label='{label}']")
    select.find_element("css selector", f"option[value='{value}']").click()


def media(browser, kind="", scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": kind, "features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def luminance(color):
    rgb = [int(part.strip(" rgba()")) / 255 for part in color.split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def waited(browser, condition, *arguments):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 10).until(lambda driver: js(driver, condition, *arguments))


BIDI = "a\u202eb"


def report_of_name(x, name=BIDI):
    model = nn.Sequential()
    model.add_module(name, nn.ReLU())
    return report_of(model.eval(), x)
