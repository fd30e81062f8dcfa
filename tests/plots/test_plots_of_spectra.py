"""Spectra, panels, harmonics, filters, planes, spectrograms: the values are the frame's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import values
from matplotlib.figure import Figure
from plotted import LAST, given, rows_of
from torch import nn

import spectroscope
from spectroscope import plots


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


def test_subfigures_are_accepted(signals):
    left, _ = Figure(layout="constrained").subfigures(1, 2)
    ax = plots.dc(signals.dc(), ax=left.subplots())
    ax.figure.canvas.figure.draw_without_rendering()


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
