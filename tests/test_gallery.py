"""The gallery shows what its code makes."""

import re
import runpy

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_readme import ROOT

from spectroscope import RequestError, plots

GALLERY = runpy.run_path(str(ROOT / "examples/gallery.py"))
FUNCTIONS = {name for name in vars(plots) if callable(getattr(plots, name))} - {"save"}


@pytest.fixture(scope="module")
def text():
    return (ROOT / "docs/gallery.md").read_text("utf-8")


def test_every_plot_has_its_picture_and_code(text):
    with mpl.rc_context({"backend": "Agg", "figure.max_open_warning": 0}):
        made = GALLERY["pictures"](text)
        assert made.keys() == set(re.findall(r"!\[.*\]\((.*)\)", text))
        for picture, ax in made.items():
            path = ROOT / "docs" / picture
            assert path.stat().st_size <= 60_000
            width, height = np.ravel(ax)[0].figure.get_size_inches() * 100
            assert plt.imread(path).shape[:2] == pytest.approx((height, width), abs=2)
        plt.close("all")
    assert set(re.findall(r"plots\.(\w+)\(", text)) - {"save"} == FUNCTIONS


@pytest.mark.parametrize(
    ("ending", "text"), [("pdf", b"/FontFile2"), ("svg", b">frequency (Hz)</text>")]
)
def test_saved_text_can_be_edited(ending, text, tmp_path):
    ax = mpl.figure.Figure().subplots()
    ax.set_xlabel("frequency (Hz)")
    path = tmp_path / f"figure.{ending}"
    plots.save(np.array([ax]), path)
    content = path.read_bytes()
    assert text in content
    assert b"/Type3" not in content


def test_what_can_not_be_saved_is_said(tmp_path):
    ax = mpl.figure.Figure().subplots()
    for name, message in (("figure", "has no format"), ("nowhere/a.pdf", "does not exist")):
        with pytest.raises(RequestError, match=message) as error:
            plots.save(ax, tmp_path / name)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
