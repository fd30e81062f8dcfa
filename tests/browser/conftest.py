"""A page in a browser, if there is one."""

import shutil

import pytest
import torch
from browsing import CHANNELS, Network
from helpers import report_of

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

FLAGS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
         "disable-background-networking", "disable-component-update", "disable-sync",
         "window-size=1280,900"]  # fmt: skip


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
