"""Reports that several tests make a page of."""

import pytest
import torch
from helpers import report_of
from pages import HOSTILE
from torch import nn


@pytest.fixture
def known():
    """12 inputs of 4 channels: never > 0; always; a wave of AC alone; the same on a level of 9."""
    t = torch.arange(32) / 32
    wave = torch.sin(2 * torch.pi * 4 * t)
    x = torch.stack([wave - 2, wave + 2, wave, wave + 9]).expand(12, -1, -1)
    return report_of(nn.ReLU(), x)


@pytest.fixture
def hostile():
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.ReLU())
    model.add_module("</script><!--\u2028\u2029&amp;'\"", nn.ReLU())
    about = {"<i>key</i>": "<img src=x onerror=alert(2)>", "half of a pair": "\ud800"}
    return report_of(model, torch.randn(3, 2, 16), about=about)
