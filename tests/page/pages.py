"""What several tests of the page need: its parts, and reports of many kinds."""

import html.parser
import json

import torch
from helpers import html_of, report_of
from torch import nn

import spectroscope
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
