"""Reports whose frames are plotted; figures are closed after each test."""

import matplotlib as mpl
import pandas as pd
import pytest
import torch
from helpers import report_of
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn


@pytest.fixture(autouse=True)
def _figures_are_closed(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("show was called")

    monkeypatch.setattr(plt, "show", refuse)
    monkeypatch.setattr(Figure, "show", refuse)
    with mpl.rc_context({"backend": "Agg"}):
        plt.close("all")  # those of other tests
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def signals():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 6, 5), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 3, 3),
                          nn.ReLU(), nn.AdaptiveAvgPool1d(1))  # fmt: skip
    time = torch.arange(132) / 32
    wave = torch.cos(2 * torch.pi * 3 * time) + torch.randn(4, 1, 132)
    return report_of(model, wave, fs=32.0, f0=3.0)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    return report_of(model, torch.randn(2, 3, 18, 18), spectra="plane")


@pytest.fixture(scope="module")
def table():
    rows = [
        {"site": site, "operation": operation, "metric": "MAE", "unit": "$", "baseline": 1.0,
         "value": 2.0 + number, "change": 1.0 + number, "change_low": 0.5 + number,
         "change_high": 2.0 + number}
        for number, (site, operation) in enumerate(
            (site, operation) for site in ("a#0", "b#0") for operation in ("remove_dc", "mine")
        )
    ]  # fmt: skip
    return pd.DataFrame(rows)
