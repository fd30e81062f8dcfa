"""Where a network is drawn: its layout, and the plot."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import report_of
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import nn

import spectroscope
from spectroscope.layout import network_map


def frame_of(nodes):
    """A network from inputs and decimation by node."""
    return pd.DataFrame(
        [(name, "convolution", name, pd.NA, inputs, (2, 8), float(rate), 1 / rate)
         for name, (inputs, rate) in nodes.items()],
        columns=["node", "operation", "place", "site", "inputs", "shape", "decimation", "fs"],
    )  # fmt: skip


def check_map(frame, placed):
    """No two nodes in one place; edges lead from node to node, and through no other."""
    assert len(set(placed.nodes.values())) == len(frame)
    where = np.array(list(placed.nodes.values()))
    for edge in placed.edges:
        assert edge.points[0] == placed.nodes[edge.source]
        assert edge.points[-1] == placed.nodes[edge.target]
        for (x0, y0), (x1, y1) in zip(edge.points, edge.points[1:], strict=False):
            for t in np.linspace(0, 1, 50):
                near = np.hypot(*(where - [x0 + t * (x1 - x0), y0 + t * (y1 - y0)]).T) < 0.2
                names = {name for name, hit in zip(placed.nodes, near, strict=True) if hit}
                assert names <= {edge.source, edge.target}, (edge, names)


def test_branches_are_lanes_and_rates_are_lines():
    frame = frame_of({
        "in": ((), 1), "a": (("in",), 1), "b": (("a",), 1), "c": (("a",), 1), "d": (("b",), 1),
        "e": (("d", "c", "a"), 1), "pool": (("e",), 2), "f": (("pool",), 2), "up": (("f",), 1),
        "cat": (("up", "e"), 1),
    })  # fmt: skip
    placed = network_map(frame)
    check_map(frame, placed)
    x, y = ({name: point[i] for name, point in placed.nodes.items()} for i in (0, 1))
    assert [x[name] for name in "abdeac"] == [1, 2, 3, 4, 1, 2]
    assert y["in"] == y["a"] == y["b"] == y["d"] == y["e"]
    assert y["c"] == y["a"] + 1
    assert y["c"] < y["pool"] == y["f"] < y["up"] == y["cat"]
    assert [text.text for text in placed.rates] == ["full rate", "1/2", "full rate"]


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_are_drawn_without_collisions(seed):
    generator = np.random.default_rng(seed)
    nodes = {"0": ((), 1)}
    rate = 1
    for number in range(1, 40):
        rate *= int(generator.choice([1, 1, 1, 1, 1, 1, 2]))
        count = int(generator.choice([1, 1, 2, 3]))
        before = generator.integers(max(0, number - 6), number, count)
        nodes[str(number)] = tuple({str(i) for i in before}), rate
    frame = frame_of(nodes)
    check_map(frame, network_map(frame, columns=12))


def test_cycles_of_merged_networks_are_drawn():
    frame = frame_of({"a": (("b",), 1), "b": (("a",), 1), "c": (("missing",), 1)})
    check_map(frame, network_map(frame))


def test_activations_are_read_as_the_recorder_was_asked_to():
    report = report_of(nn.ReLU(), torch.randn(2, 9, 3), channel_axis=-1, decimation=4.0)
    site = report.sites().iloc[0]
    node = report.network().set_index("node").loc[site["site"]]
    assert node["shape"] == site["shape"] == (3, 9)
    assert node["decimation"] == site["decimation"] == 4


def test_the_plot_has_the_values_and_marks_where_what_happens():
    model = nn.Sequential(nn.Conv1d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2),
                          nn.Conv1d(3, 2, 1), nn.ReLU())  # fmt: skip
    with torch.no_grad():
        model[3].bias[0] = -100.0  # a dead channel
    report = report_of(model, torch.randn(8, 1, 64), spectra=True)
    frame, sites = report.network(), report.sites()
    ax = spectroscope.plots.network(frame, sites=sites, column="dc_out", ax=Figure().subplots())
    nodes = network_map(frame).nodes
    drawn = {
        tuple(xy): value
        for points in ax.collections
        if points.get_array() is not None
        for xy, value in zip(points.get_offsets().tolist(), points.get_array(), strict=True)
    }
    values = sites.set_index("site")["dc_out"]
    assert drawn == {nodes[site]: pytest.approx(values[site]) for site in values.index}
    *_, cross, arrow = ax.collections
    assert cross.get_offsets().tolist() == [list(nodes["4#0"])]
    x, y = nodes["2/max_pool1d@0"]
    assert arrow.get_offsets().tolist() == [[x, pytest.approx(y, abs=0.6)]]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[-2:] == ["has dead channels", "> 5% above Nyquist before it"]


@pytest.fixture(scope="module", params=[(1, 9), (8, 3)])
def mapped(request):
    """Nodes and sites of networks, one whose map is tall, and one with a map that is wide."""
    length, lines = request.param
    convolutions = [nn.Conv1d(1, 1, 3, padding=1), nn.ReLU()] * length
    model = nn.Sequential(*[*convolutions, nn.MaxPool1d(2)] * lines)
    report = report_of(model, torch.randn(2, 1, 1024), spectra=True)
    return report.network().assign(above_nyquist=0.5), report.sites()


@pytest.mark.parametrize("size", [None, (3, 8), (4, 4), (10, 2)])
@pytest.mark.parametrize("dpi", [50, 300])
def test_the_legend_is_whole_in_the_first_draw(mapped, size, dpi):
    frame, sites = mapped
    for colored in (True, False):
        figure = pyplot.figure(figsize=size, layout="constrained")
        ax = None if size is None else figure.subplots()
        ax = spectroscope.plots.network(frame, sites=sites if colored else None, ax=ax)
        ax.figure.set_dpi(dpi)
        ax.figure.canvas.draw()
        legend, whole = ax.get_legend().get_window_extent(), ax.figure.bbox
        assert whole.x0 <= legend.x0 < legend.x1 <= whole.x1
        assert whole.y0 <= legend.y0 < legend.y1 <= whole.y1
        pyplot.close("all")
