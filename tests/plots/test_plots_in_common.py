"""What all plots have in common: Axes, style, names, and what they refuse."""

import inspect
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import torch
from helpers import report_of
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from plotted import LAST, given, refused
from torch import nn

import spectroscope
from spectroscope import plots, run
from spectroscope.run import commands
from spectroscope.specimens.specimen import Specimen

# Unescaped, this is an invalid formula, and drawing it raises.
STRANGE = r"_$\frac{$a_very^long.name." + 20 * "block." + "relu#0"

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


@pytest.mark.parametrize("f0", [None, np.array([2.0])])
def test_files_of_a_run_leave_no_pyplot_figure(tmp_path, f0):
    # Where frequencies aren't in Hz there is no place for a fundamental that is.
    subject = Specimen("name", "text", "MIT", nn.ReLU(), [torch.randn(2, 5, 16, 16)], 2, f0=f0,
                       per_minute=True)  # fmt: skip
    run.export(subject, report_of(subject.model, *subject.inputs), tmp_path / "out")
    height, width, _ = plt.imread(tmp_path / "out" / commands.SPECTRA).shape
    assert width > height > 200
    assert not plt.get_fignums()


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


def test_the_users_style_and_figure_size_are_kept(signals):
    frame = signals.spectra("1#0")
    cycle = mpl.cycler(color=["red", "lime"])
    style = {"figure.figsize": (2.8, 2.2), "axes.prop_cycle": cycle, "lines.linewidth": 0.6}
    with mpl.rc_context(style):
        for ax in (plots.spectra(frame, channels=1), plots.spectra(frame, channels=[1, 2])[1]):
            assert ax.figure.get_size_inches().tolist() == [2.8, 2.2]
            assert [line.get_color() for line in ax.lines[:2]] == ["red", "lime"]
            assert [line.get_linewidth() for line in ax.lines[:2]] == pytest.approx([0.4, 0.6])
