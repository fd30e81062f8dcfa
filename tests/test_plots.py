"""Figures: what is drawn is what the frame says."""

import numpy as np
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope import plots


@pytest.fixture
def spectra():
    model = nn.ReLU()
    with spectroscope.record(model, fs=32.0) as recorder:
        model(torch.randn(3, 5, 64))
    return recorder.report().spectra()


def test_a_panel_a_channel_with_both_sides(spectra):
    figure = plots.spectra(spectra, channels=[0, 3], title="title")
    assert [axes.get_title() for axes in figure.axes] == ["channel 0", "channel 3"]
    for axes, channel in zip(figure.axes, (0, 3), strict=True):
        assert axes.get_xlabel() == "frequency (Hz)"
        for line, side in zip(axes.lines, ("in", "out"), strict=True):
            rows = spectra[(spectra["channel"] == channel) & (spectra["side"] == side)]
            np.testing.assert_array_equal(line.get_xdata(), rows["freq"])
            np.testing.assert_array_equal(line.get_ydata(), rows["power"])


def test_frequencies_in_bpm_and_the_fundamental_marked(spectra):
    figure = plots.spectra(spectra, f0=np.array([1.0, 2.0, 1.5]), per_minute=True)
    assert len(figure.axes) == 5  # the site has no more channels
    assert figure.axes[-1].get_xlabel() == "frequency (BPM)"
    assert figure.axes[0].lines[0].get_xdata().max() == 16 * 60
    assert list(figure.axes[0].lines[2].get_xdata()) == [90.0, 90.0]


def test_what_can_not_be_drawn_is_refused(spectra):
    with pytest.raises(ValueError, match=r"none of the channels \[7\]"):
        plots.spectra(spectra, channels=[7])
    with pytest.raises(ValueError, match="one site, not 0"):
        plots.spectra(spectra[:0])
    with pytest.raises(ValueError, match="these are in cycles/sample"):
        plots.spectra(spectra.assign(freq_unit="cycles/sample"), per_minute=True)
