"""Plots: the values of the frame are plotted, on given Axes or new ones."""

import inspect
import itertools
import time

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import torch
import torch.nn.functional as F
from helpers import report_of, values
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import nn

import spectroscope
from spectroscope import plots, run
from spectroscope.run import commands
from spectroscope.specimens.specimen import Specimen

# Unescaped, this is an invalid formula, and drawing it raises.
STRANGE = r"_$\frac{$a_very^long.name." + 20 * "block." + "relu#0"


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


LAST = "4#0"
FUNCTIONS = ["spectra", "bands", "panels", "dc", "dc of one", "depth", "predictions", "harmonics",
             "aliasing", "filter_response", "radial", "planes", "importance",
             "spectrogram", "network"]  # fmt: skip


@pytest.fixture(scope="module")
def drawing(signals, images, table):
    """By name a frame, and the function that draws it on some Axes or on new ones."""
    response = spectroscope.filter_response(nn.Conv1d(1, 6, 5), fs=32.0)
    one, ring = signals.spectra("1#0"), images.spectra(scaling="density")

    def one_panel(frame, ax):
        drawn = plots.spectra(frame, channels=[2], f0=3.0, ax=None if ax is None else [ax])
        return drawn if ax is None else drawn[0]

    return {
        "spectra": (
            one,
            lambda f, ax: plots.spectra(f, channels=2 if ax is None else [0, 2], f0=3.0, ax=ax),
        ),
        "bands": (one, lambda f, ax: plots.spectra(f, f0=3.0, ax=ax)),
        "panels": (one, one_panel),
        "dc": (signals.dc(), lambda f, ax: plots.dc(f, ax=ax)),
        "dc of one": (signals.dc().query("site == '1#0'"), lambda f, ax: plots.dc(f, ax=ax)),
        "depth": (signals.sites(), lambda f, ax: plots.depth(f, ax=ax)),
        "predictions": (signals.predictions(), lambda f, ax: plots.predictions(f, ax=ax)),
        "harmonics": (signals.harmonics(LAST), lambda f, ax: plots.harmonics(f, ax=ax)),
        "aliasing": (signals.aliasing(), lambda f, ax: plots.aliasing(f, ax=ax)),
        "filter_response": (
            one,
            lambda f, ax: plots.filter_response(response, f, channel=3, ax=ax),
        ),
        "radial": (ring, lambda f, ax: plots.radial(f, ax=ax)),
        "planes": (images.planes(), lambda f, ax: plots.planes(f, channel=1, ax=ax)),
        "spectrogram": (signals.spectrogram(), lambda f, ax: plots.spectrogram(f, ax=ax)),
        "network": (
            signals.network(),
            lambda f, ax: plots.network(f, sites=signals.sites(), ax=ax),
        ),
        "importance": (table, lambda f, ax: plots.importance(f, ax=ax)),
    }


def given(**options):
    return Figure(layout="constrained", **options).subplots()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_draws_on_given_axes_without_pyplot(drawing, name):
    frame, draw = drawing[name]
    before, ax = frame.copy(), given()
    assert draw(frame, ax) is ax
    assert ax.has_data()
    assert not plt.get_fignums()
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_axes_there_is_one_new_opaque_pyplot_figure_with_units(drawing, name):
    frame, draw = drawing[name]
    with mpl.rc_context({"figure.facecolor": "none"}):
        ax = draw(frame, None)
    assert isinstance(ax, Axes)
    assert plt.get_fignums() == [ax.figure.number]
    assert to_rgba(ax.figure.get_facecolor())[3] == 1
    for words in (ax.get_xlabel(), ax.get_ylabel()):
        rows_of_sites = words == "" and ax.yaxis_inverted()
        assert words.endswith(")") or words == "channel" or rows_of_sites, words


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strange_and_long_names_are_drawn_literally(drawing, name):
    frame, draw = drawing[name]
    names = {site: f"{STRANGE}{number}" for number, site in enumerate(frame["site"].unique())}
    ax = draw(frame.assign(site=frame["site"].map(names)), None)
    ax.figure.draw_without_rendering()
    assert ax.get_position().width > 0.3  # the names leave room for the picture


@pytest.mark.parametrize("name", FUNCTIONS)
def test_text_and_lines_stand_out_from_a_dark_face(drawing, name):
    frame, draw = drawing[name]
    with plt.style.context("dark_background"):
        ax = draw(frame, None)
    face = np.array(to_rgba(ax.get_facecolor()))[:3]
    texts = [*ax.texts, ax.title, ax.xaxis.label, *ax.get_xticklabels()]
    if (legend := ax.get_legend()) is not None:
        texts += legend.get_texts()
    for artist in [*texts, *ax.lines]:
        assert np.abs(np.array(to_rgba(artist.get_color()))[:3] - face).max() > 0.4, artist
    for bar in ax.patches:
        assert np.abs(np.array(to_rgba(bar.get_edgecolor()))[:3] - face).max() > 0.4


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_legend_covers_nothing(drawing, name):
    frame, draw = drawing[name]
    ax = draw(frame, given(figsize=(4.2, 3)))
    ax.figure.draw_without_rendering()
    if ax.get_legend() is None:
        return
    box = ax.get_legend().get_window_extent()
    for line in ax.lines:
        if line.get_transform() == ax.transData:
            points = ax.transData.transform(np.column_stack(line.get_data(orig=False)))
            assert not any(box.contains(*point) for point in points)
    assert not any(box.overlaps(bar.get_window_extent()) for bar in ax.patches)
    assert box.x0 >= ax.get_window_extent().x0 - 1
    assert box.y1 <= ax.get_window_extent().y1 + 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_frames_are_refused(drawing, name, signals):
    frame, draw = drawing[name]
    with pytest.raises(ValueError, match=r"empty: expected rows from .*") as refused:
        draw(frame[:0], None)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"no column '.*': expected one from .*"):
        draw(signals.coverage(), None)
    with pytest.raises(TypeError, match="not Report"):
        draw(signals, None)
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", ["spectra", "panels", "harmonics", "filter_response", "radial"])
def test_several_sites_are_refused_and_named(drawing, name):
    frame, draw = drawing[name]
    several = pd.concat([frame, frame.assign(site="other")])
    with pytest.raises(ValueError, match=r"has 2 sites .*other.*, expected one"):
        draw(several, None)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_dead_channels_and_nan_are_drawn(drawing, name):
    frame, draw = drawing[name]
    numbers = [c for c in frame.select_dtypes("float") if not c.startswith("freq")]
    dead = frame.copy()
    for rows, value in ((slice(0, len(dead) // 3), 0.0), (slice(-len(dead) // 3, None), np.nan)):
        dead.loc[dead.index[rows], numbers] = value
    draw(dead, given()).figure.draw_without_rendering()
    draw(frame.assign(**dict.fromkeys(numbers, 0.0)), given()).figure.draw_without_rendering()
    draw(frame.assign(**dict.fromkeys(numbers, np.nan)), given())


@pytest.mark.parametrize("name", ["spectra", "panels", "harmonics", "filter_response", "radial"])
def test_a_single_channel_is_drawn(drawing, name):
    frame, _ = drawing[name]
    one = frame[frame["channel"] == 2]
    draw = {
        "filter_response": lambda f: plots.filter_response(
            spectroscope.filter_response(nn.Conv1d(1, 6, 5), fs=32.0), f, channel=2
        ),
        "panels": plots.spectra,
    }.get(name, getattr(plots, name, None))
    draw(one).figure.draw_without_rendering()


def rows_of(frame, channel, side, value="power"):
    return frame[(frame["channel"] == channel) & (frame["side"] == side)][value].to_numpy()


def test_a_line_for_each_of_few_channels_the_input_dashed(signals):
    frame = signals.spectra("1#0")
    ax = plots.spectra(frame, channels=[4, 1], ax=given())
    lines = {line.get_label(): line for line in ax.lines}
    for channel in (4, 1):
        for side in ("in", "out"):
            line = lines[f"channel {channel}, {side}"]
            np.testing.assert_array_equal(line.get_xdata(), rows_of(frame, channel, side, "freq"))
            np.testing.assert_array_equal(line.get_ydata(), rows_of(frame, channel, side))
            assert line.is_dashed() == (side == "in")
    assert len({lines[f"channel {c}, out"].get_marker() for c in (4, 1)}) == 2
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "power per bin (activation²)"


def test_of_many_channels_the_median_and_a_band(signals):
    frame = signals.spectra("1#0")
    ax = plots.spectra(frame, ax=given())
    for line, band, side in zip(ax.lines, ax.collections, ("in", "out"), strict=True):
        power = values(frame, "power", side)
        np.testing.assert_allclose(line.get_ydata(), np.median(power, 0))
        corners = band.get_paths()[0].vertices
        low, high = (np.quantile(power, q, axis=0) for q in (0.1, 0.9))
        assert np.isclose(corners[:, 1].min(), low.min())
        assert np.isclose(corners[:, 1].max(), high.max())


def test_harmonics_up_to_nyquist_are_marked_and_numbered(signals):
    f0 = np.array([3.0, 2.5, 4.0, np.nan])
    ax = plots.spectra(signals.spectra("1#0"), f0=f0, unit="BPM", ax=given())
    marks = [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(marks, 180.0 * np.arange(1, 6))  # 16 Hz is below the sixth
    assert [text.get_text() for text in ax.texts] == list("12345")
    assert ax.get_xlabel() == "frequency (BPM)"


def test_a_low_fundamental_has_few_marks(signals):
    ax = plots.spectra(signals.spectra("1#0"), f0=0.01, ax=given())
    assert len(ax.texts) <= 14
    assert len(ax.lines) <= 16


def test_a_panel_for_each_filter_with_both_sides(signals):
    frame = signals.spectra("1#0")
    panels = plots.spectra(frame, channels=[0, 3], f0=np.array([1.0, 2.0, 1.5]), unit="BPM",
                           names={3: "lead II"})  # fmt: skip
    assert [panel.get_title() for panel in panels] == ["channel 0", "lead II"]
    figure = panels[0].figure
    assert figure.get_supxlabel() == "frequency (BPM)"  # once, and the legend too
    assert figure.get_supylabel() == "power per bin (activation²)"
    assert not any(panel.get_xlabel() or panel.get_legend() for panel in panels)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["activation input", "activation output", "median f0 and its harmonics",
                     "range of f0"]  # fmt: skip
    assert panels[0].get_ylim() == panels[1].get_ylim()
    for panel, channel in zip(panels, (0, 3), strict=True):
        for line, side in zip(panel.lines[:2], ("in", "out"), strict=True):
            freq = rows_of(frame, channel, side, "freq")
            np.testing.assert_array_equal(line.get_xdata(), 60 * freq)
            np.testing.assert_array_equal(line.get_ydata(), rows_of(frame, channel, side))
        assert list(panel.lines[2].get_xdata()) == [90.0, 90.0]
        assert panel.patches[0].get_extents().x0 == panel.transData.transform((60, 0))[0]


def test_panels_fill_the_axes_given_and_hide_the_rest(signals):
    grid = Figure().subplots(2, 4)
    panels = plots.spectra(signals.spectra("1#0"), ax=grid)
    assert list(panels) == list(grid.flat[:6])
    assert [ax.get_visible() for ax in grid.flat] == 6 * [True] + 2 * [False]
    assert panels[4].get_xlabel() == "frequency (Hz)"
    assert panels[4].get_ylabel() == "power per bin (activation²)"
    assert len(plots.spectra(signals.spectra("1#0"), ax=Figure().subplots(1, 3))) == 3
    with pytest.raises(ValueError, match="3 panels need as many Axes, but ax has 2"):
        plots.spectra(signals.spectra("1#0"), channels=[0, 1, 2], ax=Figure().subplots(1, 2))


def test_invalid_channels_and_units_are_refused(signals):
    frame = signals.spectra("1#0")
    for draw in (plots.spectra, plots.radial):
        some = frame.assign(density=1.0, freq_unit="cycles/pixel")
        with pytest.raises(ValueError, match="1#0 has no channel 7: the frame has 6, from 0 to 5"):
            draw(some, channels=[0, 7])
    with pytest.raises(ValueError, match=r"BPM needs frequencies in Hz, .* in cycles/sample"):
        plots.spectra(frame.assign(freq_unit="cycles/sample"), unit="BPM")
    with pytest.raises(ValueError, match="unit='kHz' must be 'Hz', 'BPM' or None"):
        plots.spectra(frame, unit="kHz")
    with pytest.raises(ValueError, match="names has 2 names, and none for channel 2"):
        plots.spectra(frame, channels=2, names=["a", "b"])
    with pytest.raises(ValueError, match="f0 needs frequencies in Hz"):
        plots.spectra(frame.assign(freq_unit="cycles/pixel"), f0=0.1)
    with pytest.raises(ValueError, match="frequencies in Hz: radial spectra need images"):
        plots.radial(frame.assign(density=1.0))
    response = spectroscope.filter_response(nn.Conv1d(1, 6, 5))
    with pytest.raises(ValueError, match=r"no column 'density': expected one from .*scaling"):
        images = spectroscope.filter_response(nn.Conv2d(1, 6, 5))
        plots.filter_response(images, frame.assign(freq_unit="cycles/pixel"), channel=0)
    with pytest.raises(ValueError, match="response is in cycles/sample and the spectra are in Hz"):
        plots.filter_response(response, frame, channel=0)


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


def test_bars_of_harmonics_are_rms_over_channels_and_folded_ones_hatched(signals):
    frame = signals.harmonics(LAST)
    ax = plots.harmonics(frame, channels=[0, 2], ax=given())
    some = frame[frame["channel"].isin([0, 2])]
    for bars, side in zip(ax.containers, ("in", "out"), strict=True):
        expected = [
            np.sqrt(np.nanmean(rows[f"amplitude_{side}"] ** 2))
            for _, rows in some.groupby(["harmonic", "folded"])
            if rows["amplitude_in"].notna().any()
        ]
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected)
    known = some[some["amplitude_in"].notna()].groupby(["harmonic", "folded"])["freq"].mean()
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert [bool(bar.get_hatch()) for bar in ax.containers[0]] == [fold for _, fold in known.index]
    assert any("→" in label for label in labels)
    assert ["→" in label for label in labels] == [fold for _, fold in known.index]
    assert ax.get_ylabel() == "RMS amplitude (activation)"
    assert ax.get_title() == f"{LAST}, 2 channels"


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


def test_a_filter_beside_the_spectrum_in_decibels(signals):
    conv, frame = nn.Conv1d(2, 6, 5), signals.spectra("1#0")
    ax = plots.filter_response(
        spectroscope.filter_response(conv, fs=32.0), frame, channel=3, ax=given()
    )
    taps = conv.weight[3].detach().numpy()
    gain = np.sqrt((np.abs(np.fft.rfft(taps, 512)) ** 2).mean(0))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 20 * np.log10(gain / gain.max()), atol=1e-4)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.linspace(0, 16, 257))
    power = rows_of(frame, 3, "out")
    np.testing.assert_allclose(ax.lines[2].get_ydata(), 10 * np.log10(power / power.max()))


def test_radial_spectra_beside_one_over_f_squared(images):
    frame = images.spectra(scaling="density")
    ax = plots.radial(frame, channels=[5], ax=given())
    reference, before, after = ax.lines
    np.testing.assert_array_equal(before.get_ydata(), rows_of(frame, 5, "in", "density")[1:])
    np.testing.assert_array_equal(after.get_ydata(), rows_of(frame, 5, "out", "density")[1:])
    freq, line = reference.get_data()
    np.testing.assert_allclose(np.diff(np.log(line)) / np.diff(np.log(freq)), -2)
    assert np.log(before.get_ydata() / line).mean() == pytest.approx(0)  # as far above as below
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylabel() == "power density\n(activation² per (cycles/pixel)²)"


def test_a_plane_is_where_its_frequencies_are(images):
    frame = images.planes()
    ax = plots.planes(frame, channel=1, side="in", ax=given())
    drawn = ax.collections[0].get_array()
    rows = frame[(frame["channel"] == 1) & (frame["side"] == "in")]
    wide = rows.pivot(index="freq_y", columns="freq_x", values="power")
    np.testing.assert_array_equal(drawn, wide)
    with pytest.raises(ValueError, match="side='both' must be 'in' or 'out'"):
        plots.planes(frame, channel=1, side="both")


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


def test_rounding_errors_are_out_of_view(signals):
    frame = signals.spectra("1#0")
    nothing = frame.assign(power=frame["power"].where(frame["channel"] > 1, 1e-60))
    for ax in (plots.spectra(nothing), plots.spectra(nothing, channels=[3, 0])[0]):
        assert ax.get_ylim()[0] > 1e-13 * frame["power"].max()


def test_one_side_alone_is_drawn(signals):
    frame = signals.spectra("1#0").query("side == 'out'")
    assert len(plots.spectra(frame, ax=given()).collections) == 1
    assert len(plots.spectra(frame, channels=[1], ax=given()).get_lines()) == 2  # one is empty
    assert len(plots.spectra(frame, channels=[1], ax=[given()])) == 1


def test_a_dead_channel_has_no_line_on_a_logarithmic_axis(signals):
    frame = signals.spectra("1#0")
    dead = frame.assign(power=frame["power"].where(frame["channel"] != 2, 0.0))
    lines = plots.spectra(dead, channels=[2, 3], ax=given()).lines
    panels = plots.spectra(dead, channels=[2, 3], ax=Figure().subplots(1, 2))
    for some in (lines[:2], (panels[0].lines[0], panels[1].lines[0])):
        assert [bool(np.isfinite(line.get_ydata()).all()) for line in some] == [False, True]
        assert np.isnan(some[0].get_ydata()).all()


def test_a_legend_fits_beside_long_names(signals):
    frame = signals.sites()
    long = frame.assign(site=frame["site"] + 40 * "x")
    ax = plots.depth(long, ax=given(figsize=(6.4, 4.8)))
    ax.figure.draw_without_rendering()
    legend, room = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert room.x0 <= legend.x0 < legend.x1 <= room.x1


def test_names_with_an_underscore_are_in_the_legend(table):
    ax = plots.importance(table.replace("mine", "_mine"), ax=given())
    texts = [text.get_text().strip() for text in ax.get_legend().get_texts()]
    assert texts == ["unchanged model", "DC removed", "_mine"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_new_figure_has_room_for_larger_text(drawing, name):
    frame, draw = drawing[name]
    with mpl.rc_context():
        sns.set_theme(context="talk")  # half as large again
        ax = plots.spectra(frame, channels=[0, 1, 2])[0] if name == "panels" else draw(frame, None)
    ax.figure.draw_without_rendering()
    labels = [label for one in ax.figure.axes for label in (one.xaxis.label, one.yaxis.label)]
    labels += [ax.figure._supxlabel, ax.figure._supylabel] if name == "panels" else []
    labels += [legend for legend in ax.figure.legends]
    boxes = [x.get_window_extent() for x in labels if not hasattr(x, "get_text") or x.get_text()]
    whole = ax.figure.bbox
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert all(box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_subfigures_are_accepted(signals):
    left, _ = Figure(layout="constrained").subfigures(1, 2)
    ax = plots.dc(signals.dc(), ax=left.subplots())
    ax.figure.canvas.figure.draw_without_rendering()


@pytest.mark.parametrize("f0", [None, np.array([2.0])])
def test_files_of_a_run_leave_no_pyplot_figure(tmp_path, f0):
    # Where frequencies aren't in Hz there is no place for a fundamental that is.
    subject = Specimen("name", "text", "MIT", nn.ReLU(), [torch.randn(2, 5, 16, 16)], 2, f0=f0,
                       per_minute=True)  # fmt: skip
    run.export(subject, report_of(subject.model, *subject.inputs), tmp_path / "out")
    height, width, _ = plt.imread(tmp_path / "out" / commands.SPECTRA).shape
    assert width > height > 200
    assert not plt.get_fignums()


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


def test_all_arguments_but_frames_are_keyword_only():
    for name in set(vars(plots)) - {"save"}:
        if inspect.isfunction(function := getattr(plots, name)):
            for parameter in inspect.signature(function).parameters.values():
                frame = parameter.annotation is pd.DataFrame
                assert frame == (parameter.kind is parameter.POSITIONAL_OR_KEYWORD), name


@pytest.mark.parametrize("one", [2, np.int64(2)])
def test_one_channel_needs_no_list(drawing, one):
    frame = drawing["spectra"][0]
    assert len(plots.spectra(frame, channels=one, ax=given()).lines) == 2
    ax = plots.harmonics(drawing["harmonics"][0], channels=one, ax=given())
    assert ax.get_title() == f"{LAST}, channel 2"
    assert plots.radial(drawing["radial"][0], channels=one, ax=given()).has_data()
    with pytest.raises(ValueError, match=r"channels must be integers, .*, not 'all'"):
        plots.spectra(frame, channels=["all"])


def refused(draw, *arguments, match, **options):
    with pytest.raises(ValueError, match=match) as result:
        draw(*arguments, **options)
    assert "\n" not in str(result.value)
    assert not plt.get_fignums()


def test_non_numeric_arguments_are_refused(signals):
    refused(plots.dc, signals.dc(), column="kind", match="column 'kind' is not numeric, .*'ReLU'")
    refused(plots.depth, signals.sites(), columns="kind", match="column 'kind' is not numeric")
    refused(plots.depth, signals.sites(), columns=[], match="columns is empty")
    for f0 in ("auto", ("auto", 0.7, 3.5), ["a", "b"]):
        refused(plots.spectra, signals.spectra("1#0"), f0=f0, match="f0=.* must be a frequency")


@pytest.mark.parametrize(
    "name",
    [
        "spectra",
        "panels",
        "harmonics",
        "filter_response",
        "radial",
        "planes",
        "depth",
        "spectrogram",
    ],
)
def test_concatenated_reports_are_refused(drawing, name):
    frame, draw = drawing[name]
    refused(draw, pd.concat([frame, frame]), None, match="several rows with .* of one report")


def test_depth_needs_one_row_per_site(signals):
    message = r"one row per channel: expected report.sites\(\)"
    refused(plots.depth, signals.dc(), columns="dc_out", match=message)


@pytest.mark.parametrize(
    "name", ["spectra", "bands", "panels", "radial", "predictions", "harmonics", "dc of one"]
)
@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_a_second_plot_on_the_same_axes_keeps_all_in_view(drawing, name, factor):
    frame, draw = drawing[name]
    ax = given()
    ax.set_title("mine")
    draw(frame, ax)
    before = ax.get_ylim()
    numbers = [c for c in frame.select_dtypes("float") if not c.startswith("freq")]
    draw(frame.assign(**{c: factor * frame[c] for c in numbers}), ax)
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    assert low <= before[0] + 1e-4 * abs(before[0])
    for line in ax.lines:
        if line.get_transform() == ax.transData and len(line.get_ydata()) > 5:
            y = np.asarray(line.get_ydata(), float)
            assert low <= np.nanmin(y) <= np.nanmax(y) <= high
    assert all(low <= bar.get_height() <= high for bar in ax.patches if hasattr(bar, "get_height"))
    assert ax.get_title() == "mine"


def test_the_legend_of_global_pooling_alone_is_complete(signals):
    frame = signals.aliasing()
    ax = plots.aliasing(frame[frame["global_pooling"]], ax=given())
    (text,) = ax.get_legend().get_texts()
    assert text.get_text() == "before global pooling: nothing folds"


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_without_power_the_frequency_axis_is_unchanged(drawing, value):
    for name in ("spectra", "bands", "panels", "filter_response", "radial"):
        frame, draw = drawing[name]
        measure = "density" if name == "radial" else "power"
        ax = draw(frame.assign(**{measure: value}), given())
        ax.figure.draw_without_rendering()
        low, high = ax.get_xlim()
        freq = frame["freq"][frame["freq"] > 0]
        assert low <= freq.min() < freq.max() <= high < 1.3 * freq.max()


def test_unknown_channels_are_left_out(signals):
    frame = signals.harmonics("1#0")
    known = frame.assign(
        **{c: frame[c].where(frame["channel"] > 1) for c in ("amplitude_in", "amplitude_out")}
    )
    assert plots.harmonics(known, ax=given()).get_title() == "1#0, 4 channels"
    two = plots.harmonics(known, channels=[0, 3], ax=given())
    assert (two.get_ylabel(), two.get_title()) == ("amplitude (activation)", "1#0, channel 3")


def test_few_sites_or_many_are_a_spectrogram_with_their_dc_and_nyquist(signals):
    frame = signals.spectrogram()
    ax = plots.spectrogram(frame, unit="BPM", ax=given())
    dc, cells = (mesh.get_array() for mesh in ax.collections)
    wide = frame.pivot(index="site", columns="freq", values="power_db").loc[["1#0", "4#0"]]
    low = max(np.nanmin(wide), np.nanmax([np.nanmax(wide), frame["dc_db"].max()]) - 80)
    np.testing.assert_allclose(cells.filled(np.nan), wide.clip(lower=low))
    np.testing.assert_allclose(dc[:, 0], frame.groupby("site")["dc_db"].first())
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xdata(), [960, 960, 480, 480])
    np.testing.assert_allclose(line.get_ydata(), [-0.5, 0.5, 0.5, 1.5])
    assert ax.get_xlabel() == "frequency (BPM)"
    assert ax.get_xticklabels()[0].get_text() == "DC"
    assert ax.figure.axes[1].get_ylabel() == "output power\n(dB re 1 activation²)"


class Reusing(nn.Module):
    """One ReLU module called twice, and functions: of one layer once and of another twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv1d(2, 2, 3) for _ in range(3))
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = F.relu(self.conv1(self.relu(self.conv2(self.relu(x)))))
        return self.last(F.relu(self.conv3(F.relu(self.conv3(x)))))


def test_titles_say_the_layer_of_a_function_and_which_call():
    model = Reusing()
    with torch.no_grad(), spectroscope.record(model, fs=32.0) as recorder:
        model(torch.randn(2, 2, 64))
    report = recorder.report()
    titles = {
        "relu#0": "relu, call 1 of 2", "relu#1": "relu, call 2 of 2", "/relu#0": "conv1 → relu",
        "/relu#1": "conv3 → relu, call 1 of 2", "/relu#2": "conv3 → relu, call 2 of 2",
        "last#0": "last#0",
    }  # fmt: skip
    for site, title in titles.items():
        ax = plots.spectra(report.spectra(site), ax=given())
        assert ax.get_title() == title
        dc = report.dc()
        assert plots.dc(dc[dc["site"] == site], ax=given()).get_title() == title
    rows = [title if "/" in site else site for site, title in titles.items()]
    for ax in (plots.dc(report.dc(), ax=given()), plots.depth(report.sites(), ax=given())):
        assert [tick.get_text() for tick in ax.get_yticklabels()] == rows


def test_the_users_style_and_figure_size_are_kept(signals):
    frame = signals.spectra("1#0")
    cycle = mpl.cycler(color=["red", "lime"])
    style = {"figure.figsize": (2.8, 2.2), "axes.prop_cycle": cycle, "lines.linewidth": 0.6}
    with mpl.rc_context(style):
        for ax in (plots.spectra(frame, channels=1), plots.spectra(frame, channels=[1, 2])[1]):
            assert ax.figure.get_size_inches().tolist() == [2.8, 2.2]
            assert [line.get_color() for line in ax.lines[:2]] == ["red", "lime"]
            assert [line.get_linewidth() for line in ax.lines[:2]] == pytest.approx([0.4, 0.6])


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


def test_the_panel_of_a_dead_channel_says_that_its_output_is_0(signals):
    frame = signals.spectra("1#0")
    frame.loc[(frame["channel"] == 2) & (frame["side"] == "out"), "power"] = 0.0
    panels = plots.spectra(frame, channels=[2, 3])
    assert [panel.get_title() for panel in panels] == ["channel 2 (output is 0)", "channel 3"]


def test_one_axes_says_which_channels_are_dead_too(signals, images):
    def texts(ax):
        return [text.get_text() for text in ax.get_legend().get_texts()]

    frame, density = signals.spectra("1#0"), images.spectra(scaling="density")
    dead = (frame["channel"] == 2) & (frame["side"] == "out")
    frame.loc[dead, "power"] = 0.0
    density.loc[(density["channel"] == 2) & (density["side"] == "out"), "density"] = 0.0
    ax = plots.spectra(frame, channels=2, ax=given())
    assert ax.get_title() == "1#0, channel 2 (output is 0)"
    ax = plots.spectra(frame, channels=[2, 3], names={2: "lead II"}, ax=given())
    assert texts(ax)[:2] == ["lead II (output is 0)", "channel 3"]
    ax = plots.spectra(frame, ax=given())  # six channels
    assert texts(ax) == [
        "activation input: median, 10–90 %",
        "activation output: median, 10–90 % (1 of 6 channels without power)",
    ]
    frame.loc[frame["side"] == "out", "power"] = 0.0
    assert texts(plots.spectra(frame, ax=given()))[1] == "activation output: no power"
    assert plots.radial(density, channels=2, ax=given()).get_title().endswith("(output is 0)")
    response = spectroscope.filter_response(nn.Conv1d(2, 6, 5), fs=32.0)
    ax = plots.filter_response(response, frame, channel=2, ax=given())
    assert ax.get_title() == "1#0, channel 2 (output is 0)"


def test_a_legend_of_ones_own_has_the_fundamental(signals):
    axes = np.array([given(), given()], dtype=object)
    plots.spectra(signals.spectra("1#0"), channels=[0, 1], f0=[2.5, 3.0, 3.5], ax=axes)
    assert axes[0].get_legend_handles_labels()[1] == [
        "activation input",
        "activation output",
        "median f0 and its harmonics",
        "range of f0",
    ]
