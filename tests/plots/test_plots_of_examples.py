"""Waveforms and feature maps of example inputs."""

import itertools

import numpy as np
import pytest
import torch
from helpers import report_of
from matplotlib.figure import Figure
from plotted import given
from torch import nn

from spectroscope import plots


@pytest.fixture(scope="module")
def shown():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 6, 5), nn.ReLU())
    lines = report_of(model, torch.randn(3, 1, 68), fs=32.0, examples=2).examples()
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    return lines, report_of(model, torch.randn(2, 3, 10, 14), examples=2).examples()


def test_waveforms_have_both_sides_and_the_dc_over_seconds(shown):
    frame, maps = shown
    channels = frame["channel"].unique()
    panels = plots.waveforms(frame, names={channels[0]: "first"})
    assert len(panels) == 6
    titles = [panel.get_title() for panel in panels]
    assert titles[:3] == ["first, input 0", "first, input 1", f"channel {channels[1]}, input 0"]
    for panel, (channel, number) in zip(panels, itertools.product(channels, (0, 1)), strict=True):
        rows = frame[(frame["channel"] == channel) & (frame["input"] == number)]
        for line, side in zip(panel.lines, ("in", "out"), strict=False):
            side_rows = rows[rows["side"] == side]
            np.testing.assert_array_equal(line.get_xdata(), np.arange(64) / 32)
            np.testing.assert_array_equal(line.get_ydata(), side_rows["value"])
        assert panel.lines[2].get_ydata()[0] == rows[rows["side"] == "out"]["dc"].iloc[0]
        assert panel.lines[0].is_dashed()
    figure = panels[0].figure
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("time (s)", "value (activation)")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["activation input", "activation output", "DC of the output"]
    figure.draw_without_rendering()
    drawn = plots.waveforms(frame[frame["input"] == 1], channels=[channels[2]], ax=[given()])
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == ("time (s)", "value (activation)")
    assert not drawn[0].figure.legends
    refused_match = "1#0 has images: plots.feature_maps draws them"
    with pytest.raises(ValueError, match=refused_match):
        plots.waveforms(maps.assign(position=np.nan))
    with pytest.raises(ValueError, match="6 panels need as many Axes, but ax has 2"):
        plots.waveforms(frame, ax=Figure().subplots(1, 2))


def test_feature_maps_before_and_after_have_the_same_colours(shown):
    lines, frame = shown
    channels = frame["channel"].unique()
    grid = plots.feature_maps(frame[frame["input"] == 0], channels=channels[:2].tolist())
    assert grid.shape == (2, 2)
    for column, channel in zip(grid.T, channels, strict=False):
        norms = set()
        for panel, side in zip(column, ("in", "out"), strict=True):
            rows = frame[(frame["channel"] == channel) & (frame["input"] == 0)]
            rows = rows[rows["side"] == side]
            (image,) = panel.images
            wide = rows.pivot(index="row", columns="column", values="value")
            np.testing.assert_array_equal(image.get_array(), wide)
            assert image.get_extent() == [-0.5, 11.5, 7.5, -0.5]
            norms.add((image.norm.vmin, image.norm.vmax))
            assert f"DC {rows['dc'].iloc[0]:.2g}" in panel.get_title()
        assert len(norms) == 1
    assert grid[0, 0].get_ylabel() == "before\nrow (pixels)"
    assert grid[1, 0].get_ylabel() == "after\nrow (pixels)"
    assert grid[1, 0].get_xlabel() == "column (pixels)"
    grid[0, 0].figure.draw_without_rendering()
    with pytest.raises(ValueError, match=r"1#0 has signals: plots.waveforms draws them"):
        plots.feature_maps(lines.assign(row=np.nan, column=np.nan))
