"""Plots with a row for each layer or channel: DC, depth, predictions, aliasing, importance."""

import itertools
import time

import numpy as np
import pandas as pd
import pytest
import torch
from plotted import given, refused
from torch import nn

import spectroscope
from spectroscope import plots


def test_dc_has_a_row_for_each_site_from_above(signals):
    frame = signals.dc()
    ax = plots.dc(frame, column="dc_in", ax=given())
    dots, medians = ax.lines
    np.testing.assert_array_equal(dots.get_xdata(), frame["dc_in"])
    rows = np.round(dots.get_ydata()).astype(int)  # scattered within the row
    assert [["1#0", "4#0"][row] for row in rows] == frame["site"].tolist()
    by_site = frame.groupby("site", sort=False)["dc_in"].median()
    np.testing.assert_allclose(medians.get_xdata(), by_site)
    assert list(medians.get_ydata()) == [0, 1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1#0", "4#0"]
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "dc_in (activation)"
    again = plots.dc(frame, column="dc_in", ax=given())
    np.testing.assert_array_equal(again.lines[0].get_ydata(), dots.get_ydata())


def test_values_over_decades_have_a_symlog_axis(signals):
    frame = pd.concat([signals.dc(), signals.dc().assign(site="large", dc_out=1e4)])
    assert plots.dc(signals.dc(), ax=given()).get_xscale() == "linear"
    ax = plots.dc(frame.assign(dc_out=frame["dc_out"].where(frame["channel"] > 0, 0)), ax=given())
    assert ax.get_xscale() == "symlog"
    assert ax.get_xlim()[0] <= 0


def test_dc_of_one_site_is_over_its_channels_with_its_deviation(signals):
    frame = signals.dc().query("site == '1#0'")
    ax = plots.dc(frame.sample(frac=1, random_state=0), ax=given())
    (container,) = ax.containers
    points, _, (bars,) = container
    np.testing.assert_array_equal(points.get_xdata(), range(6))
    np.testing.assert_array_equal(points.get_ydata(), frame["dc_out"])
    heights = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, frame["dc_out_std"])


def test_a_channel_has_a_whole_number_even_if_it_is_the_only_one(signals):
    ax = plots.dc(signals.dc().query("site == '1#0' and channel == 3"), ax=given())
    assert set(ax.get_xticks()) & {3.0}
    assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_depth_plots_the_columns_of_sites(signals):
    sites = signals.sites()
    ax = plots.depth(sites, columns=["dc_fraction", "active_fraction"], ax=given())
    for line, column in zip(ax.lines, ["dc_fraction", "active_fraction"], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), sites[column])
        assert line.get_label() == column
    assert ax.get_xlabel() == "fraction (1)"
    assert plots.depth(sites, columns="dc_out", ax=given()).get_xlabel() == "dc_out (activation)"
    with pytest.raises(ValueError, match=r"columns=.* must have the same unit, not .*activation"):
        plots.depth(sites, columns=["dc_fraction", "dc_out"])


def test_predictions_beside_measurements(signals):
    frame = signals.predictions()
    ax = plots.predictions(frame, ax=given())
    *clouds, same = ax.lines
    assumptions = frame["assumption"].unique()
    for line, assumption in zip(clouds, assumptions, strict=True):
        some = frame[frame["assumption"] == assumption]
        np.testing.assert_array_equal(line.get_xdata(), some["dc_predicted"])
        np.testing.assert_array_equal(line.get_ydata(), some["dc_out"])
    assert len({line.get_marker() for line in clouds}) == len(assumptions) == 4
    np.testing.assert_array_equal(same.get_xdata(), same.get_ydata())
    assert ax.get_xscale() == ax.get_yscale()


def test_aliasing_with_global_pooling_set_apart(signals):
    frame = signals.aliasing()
    ax = plots.aliasing(frame, ax=given())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1#0", "4#0"]
    for row, (container, site) in enumerate(zip(ax.containers, ["1#0", "4#0"], strict=True)):
        part = frame[frame["site"] == site]["above_next_nyquist"]
        points, _, (bars,) = container
        assert points.get_data() == ([part.median()], [row])
        (segment,) = bars.get_segments()
        np.testing.assert_allclose(segment[:, 0], [part.min(), part.max()])
    assert "global pooling" in ax.containers[1].get_label()


def test_aliasing_leads_with_what_is_directly_before_a_downsampling():
    """Two ReLUs in a row before each stride: the second one's power is what the stride gets."""
    layers = [nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU()]
    model = nn.Sequential(
        *layers, nn.Conv1d(4, 4, 3, stride=2), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(),
        nn.AvgPool1d(2), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
    )  # fmt: skip
    with torch.no_grad(), spectroscope.record(model) as recorder:
        model(torch.randn(4, 1, 64))
    frame = recorder.report().aliasing()
    # By power within each group, whatever the layers' order.
    power = frame.groupby("site")["power_above"].max().to_dict()
    groups = [["3#0", "7#0"], ["1#0", "5#0"], ["10#0", "12#0"]]
    expected = [site for group in groups for site in sorted(group, key=power.get, reverse=True)]
    for rows in (frame, frame.sample(frac=1, random_state=0).sort_values(
        ["power_above"], ascending=False)):  # fmt: skip
        ax = plots.aliasing(rows, ax=given())
        assert [tick.get_text() for tick in ax.get_yticklabels()] == expected
        (right,) = ax.child_axes
        assert [tick.get_text() for tick in right.get_yticklabels()] == [
            f"{power[site]:.2g}" for site in expected
        ]
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert [label[:15] for label in labels] == [
            "directly before", "other activatio", "before global p"
        ]  # fmt: skip
        ends = np.cumsum([0, *map(len, groups)])
        for container, low, high in zip(ax.containers, ends[:-1], ends[1:], strict=True):
            assert container[0].get_ydata().tolist() == list(range(low, high))


def test_ticks_of_small_changes_of_a_large_metric_do_not_overlap(table):
    small = {"change": 0.0, "change_low": 0.0, "change_high": 0.0, "baseline": 90.8}
    ax = plots.importance(table.assign(**small, value=[90.797, 90.8, 90.806, 90.815]))
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    gap = 5  # pixels
    assert all(left.x1 + gap < right.x0 for left, right in itertools.pairwise(boxes))


def test_importance_with_its_intervals(table):
    ax = plots.importance(table, ax=given())
    for container, operation in zip(ax.containers, ("remove_dc", "mine"), strict=True):
        some = table[table["operation"] == operation]
        points, _, (bars,) = container
        np.testing.assert_array_equal(points.get_xdata(), some["value"])
        np.testing.assert_array_equal(np.round(points.get_ydata()), [0, 1])
        for segment, value in zip(bars.get_segments(), some["value"], strict=True):
            np.testing.assert_allclose(segment[:, 0], [value - 0.5, value + 1])
    assert list(ax.lines[0].get_xdata()) == [1.0, 1.0]
    assert ax.get_xlabel() == r"MAE (\$)"
    for unit, label in {"nats": "kl (nats)", "": "kl"}.items():  # of a user's own it may be unknown
        drawn = plots.importance(table.assign(metric="kl", unit=unit), ax=given())
        assert drawn.get_xlabel() == label
    with pytest.raises(ValueError, match=r"metric must be the same in all rows of .*, not MAE"):
        plots.importance(pd.concat([table, table.assign(metric="other")]))


def test_names_with_an_underscore_are_in_the_legend(table):
    ax = plots.importance(table.replace("mine", "_mine"), ax=given())
    texts = [text.get_text().strip() for text in ax.get_legend().get_texts()]
    assert texts == ["unchanged model", "DC removed", "_mine"]


def large(sites, channels):
    names = [f"layer{number}.conv.relu#0" for number in range(sites)]
    values = np.random.default_rng(0).lognormal(size=sites * channels)
    return pd.DataFrame({"site": np.repeat(names, channels),
                         "channel": np.tile(np.arange(channels), sites), "dc_out": values,
                         "dc_out_std": values})  # fmt: skip


def test_a_thousand_channels_of_fifty_sites_are_quick(tmp_path):
    plots.dc(large(2, 2), ax=given())  # finds the fonts
    start = time.process_time()  # not the time of other processes
    plots.dc(large(50, 1000)).figure.savefig(tmp_path / "dc.png")
    assert time.process_time() - start < 3


@pytest.mark.parametrize("sites", [2, 60])
@pytest.mark.parametrize("new", [True, False])
def test_names_of_sites_do_not_overlap(sites, new):
    ax = plots.dc(large(sites, 10), ax=None if new else given())
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert not any(above.overlaps(below) for above, below in itertools.pairwise(boxes))
    assert len(boxes) == sites or not new


def test_depth_needs_one_row_per_site(signals):
    message = r"one row per channel: expected report.sites\(\)"
    refused(plots.depth, signals.dc(), columns="dc_out", match=message)


def test_the_legend_of_global_pooling_alone_is_complete(signals):
    frame = signals.aliasing()
    ax = plots.aliasing(frame[frame["global_pooling"]], ax=given())
    (text,) = ax.get_legend().get_texts()
    assert text.get_text() == "before global pooling: nothing folds"
