"""What the page embeds: the numbers are those of the report."""

import base64
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import report_of
from pages import HOSTILE, Parsed, T, embedded
from torch import nn

import spectroscope
from spectroscope import page
from spectroscope.page import numbers, payload
from spectroscope.page import spectra as page_spectra


def unpacked(column):
    """Values of a column as page.js reads it."""
    if isinstance(column, list):
        return column
    data = base64.b64decode(column)
    m, e = (
        np.frombuffer(data[: len(data) // 3 * 2], "<i2"),
        np.frombuffer(data, "i1")[-len(data) // 3 :],
    )
    special = {-32768: None, 10000: "Infinity", -10000: "-Infinity"}
    return [special.get(a, float(f"{a}e{b}")) for a, b in zip(m.tolist(), e.tolist(), strict=True)]


def test_columns_have_every_digit_in_three_bytes_a_number():
    generator = np.random.default_rng(0)
    values = generator.normal(size=500) * 10.0 ** generator.integers(-40, 40, 500)
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 9999.5, 99995.0, -1e-9, 1e120, 5e-125]
    column = pd.Series([*special, *values])
    assert isinstance(numbers.packed(column), str)
    assert len(numbers.packed(column)) == 4 * len(column)
    assert unpacked(numbers.packed(column)) == numbers.rounded(column)
    # What text says in fewer characters, what isn't a float or is too small, is a list.
    for other in (pd.Series([0.0] * 9), pd.Series([12345, 2]), pd.Series([True]),
                  pd.Series([1.234567e-300] * 9)):  # fmt: skip
        assert numbers.packed(other) == numbers.rounded(other)


def test_channels_and_spectra_are_those_of_the_report():
    x = torch.randn(6, 12, 64)
    report = report_of(nn.ReLU(), x, fs=64.0)
    (layer,) = embedded(report)["layers"]
    dc, spectra = report.dc(), report.spectra()
    np.testing.assert_allclose(unpacked(layer["channels"]["dc_out"]), dc["dc_out"], rtol=6e-4)
    assert layer["spectra"]["unit"] == "Hz"
    np.testing.assert_allclose(layer["spectra"]["freq"], np.arange(33))
    for side in ("in", "out"):
        power = spectra[spectra["side"] == side]["power"].to_numpy().reshape(12, 33)
        band = np.quantile(power, [0.1, 0.5, 0.9], axis=0)
        drawn = 10 ** (np.array(layer["spectra"][side]["band"]) / 100)
        np.testing.assert_allclose(drawn, band, rtol=0.0117)  # half of a tenth of a decibel
        cells = decibels(layer["spectra"], 12)[side]
        np.testing.assert_allclose(cells, 10 * np.log10(power), atol=page_spectra.STEP / 2 + 1e-9)
    assert layer["first"] == dc["dc_out_std"].idxmax()


def test_a_tone_is_not_lost_in_a_spectrum_with_more_bins_than_are_drawn():
    t = torch.arange(8192) / 8192
    report = report_of(nn.ReLU(), torch.cos(2 * torch.pi * 2001 * t).expand(2, 1, -1), fs=8192.0)
    spectra = embedded(report)["layers"][0]["spectra"]
    assert len(spectra["freq"]) <= page_spectra.MAX_BINS + 1
    line = decibels(spectra, 1)["in"][0]
    assert line.max() == pytest.approx(10 * np.log10(0.5), abs=page_spectra.STEP / 2)
    assert abs(spectra["freq"][line.argmax()] - 2001) < spectra["bins"]


def test_of_many_channels_bins_are_merged_and_no_channel_is_missing(monkeypatch):
    monkeypatch.setattr(page_spectra, "BUDGET", 2 * 40 * 76)
    spectra = embedded(report_of(nn.ReLU(), torch.randn(5, 40, 512)))["layers"][0]["spectra"]
    assert len(spectra["freq"]) == 65  # 256 bins and DC, merged by four
    assert spectra["bins"] == 4
    assert decibels(spectra, 40)["out"].shape == (40, 65)


def test_silent_and_unknown_power_are_not_numbers():
    x = torch.randn(5, 3, 16)
    x[:, 1] = -1
    x[:, 2] = torch.nan
    out = decibels(embedded(report_of(nn.ReLU(), x))["layers"][0]["spectra"], 3)["out"]
    assert np.isfinite(out[0]).all()
    assert (out[1] == -np.inf).all()
    assert np.isnan(out[2]).all()


def decibels(spectra, channels):
    """The bytes of a layer's spectra, decoded as figures.js does."""
    levels = np.frombuffer(base64.b64decode(spectra["cells"]), np.uint8)
    levels = levels.reshape(2, channels, -1).astype(float)
    values = spectra["top"] - (254 - levels) * spectra["step"]
    values[levels == page_spectra.SILENT], values[levels == page_spectra.UNKNOWN] = -np.inf, np.nan
    return dict(zip(("in", "out"), values, strict=True))


def test_numbers_that_json_cannot_represent():
    text = json.dumps(numbers.rounded([np.nan, np.inf, -np.inf, 1.23456e-9, 123456.0, True, 7]))
    assert json.loads(text) == [None, "Infinity", "-Infinity", 1.235e-9, 123500, True, 7]
    assert page.formatted(float("nan"), "dc_in") == "—"
    assert page.formatted(-float("inf"), "dc_in") == "−∞"
    known = pd.array([True, False, None], "boolean")
    assert [page.formatted(value, "folded") for value in known] == ["yes", "no", "—"]
    assert numbers.tenths_of_decibel(np.array([0.0, 10.0, np.nan])) == [None, 100, None]


def test_harmonics_and_predictions_are_embedded():
    t = torch.arange(1024) / 1024
    scales = torch.tensor([1.0, 2.0, 9.0])  # of which the median is 2
    tones = (scales[:, None] * torch.cos(2 * torch.pi * 4 * t)).expand(3, -1, -1)
    layer = embedded(report_of(nn.ReLU(), tones, fs=1024.0, f0=4.0))["layers"][0]
    amplitude = dict(
        zip(layer["harmonics"]["harmonic"], layer["harmonics"]["amplitude_out"], strict=True)
    )
    assert amplitude[1] == 2 * 0.5
    assert amplitude[2] == pytest.approx(2 * 2 / (3 * np.pi), rel=1e-3)
    table = pd.DataFrame(layer["predictions"]).set_index("assumption").loc[["gaussian", "tone"]]
    predicted = np.array([1 / np.sqrt(4 * np.pi), 1 / np.pi])  # of a cosine of amplitude 1
    np.testing.assert_allclose(table["dc_out"], 4 / np.pi, rtol=1e-3)
    np.testing.assert_allclose(table["dc_predicted"], 4 * predicted, rtol=1e-3)
    rms = np.sqrt((1 + 4 + 81) / 3) * (1 / np.pi - predicted)
    np.testing.assert_allclose(table["rms_residual"], rms, rtol=1e-3, atol=1e-4)


def test_unknown_columns_come_last_with_their_definition(known, hostile):
    """A user's statistic adds columns to `dc()`, `sites()` and `describe()`."""
    for report in (known, hostile):
        sites, dc, describe = report.sites(), report.dc(), report.describe()
        position = list(dc).index("dc_in")
        dc.insert(position, "peak_out", np.arange(1, len(dc) + 1) / 8)
        sites.insert(4, "peak_out", dc.groupby("site", sort=False)["peak_out"].mean().to_numpy())
        definition = f"largest output {HOSTILE}"
        describe.loc[len(describe)] = ["peak_out", "activation", definition]
        html = page.render_report(
            about=report.about, sites=sites, dc=dc, coverage=report.coverage(), describe=describe,
            aliasing=None, harmonics=None, predictions=None, spectrogram=None,
            network=report.network()[:0], spectra=lambda site: None, examples=lambda site: None,
        )  # fmt: skip
        assert HOSTILE not in html
        result = Parsed(html)
        assert len(result.all("script")) == 3
        titles = [th.get("title") for th in result.all("th")]
        number = len(payload.site_table(sites).columns)
        assert titles.index(f"{definition} (activation)") == number - 1  # the last of the layers
        data = json.loads(result.raw[1])
        assert data["definitions"]["peak_out"] == f"{definition} (activation)"
        tables = [layer["channels"] for layer in data["layers"]]
        assert [list(columns)[-1] for columns in tables] == ["peak_out"] * len(sites)
        peaks = [peak for columns in tables for peak in unpacked(columns["peak_out"])]
        assert peaks == dc["peak_out"].tolist()
        assert definition in result.text  # of the definitions at the end


def test_spectra_are_asked_for_site_by_site():
    report = report_of(nn.Sequential(nn.ReLU(), nn.ReLU()), T(3, 2, 8))
    asked = []

    def spectra(site):
        asked.append(site)
        return report.spectra(site) if site == "0#0" else None

    html = page.render_report(
        about=report.about, sites=report.sites(), dc=report.dc(), coverage=report.coverage(),
        describe=report.describe(), aliasing=None, harmonics=None, predictions=None,
        spectrogram=None, network=report.network(), spectra=spectra, examples=lambda site: None,
    )  # fmt: skip
    first, second = json.loads(Parsed(html).raw[1])["layers"]
    assert asked == ["0#0", "1#0"]
    assert "spectra" in first
    assert second["note"] == payload.NO_SPECTRA


def values_of(panel, dtype):
    steps = np.frombuffer(base64.b64decode(panel["cells"]), dtype).astype(float)
    steps[steps == np.iinfo(dtype).min] = np.nan
    return (steps / np.iinfo(dtype).max * panel["greatest"]).reshape(2, -1)


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (torch.randn(3, 4, 100), np.int16),
        (torch.randn(3, 4, 2000), np.int16),
        (torch.randn(3, 4, 80, 20), np.int8),
    ],
)
def test_examples_are_those_of_the_report(x, dtype):
    x[0, 0].view(-1)[0] = torch.nan
    model = nn.ReLU()
    with spectroscope.record(model, fs=None if x.dim() == 4 else 10.0, examples=2) as recorder:
        model(x)
    report = recorder.report()
    frame, layer = report.examples(), embedded(report)["layers"][0]["examples"]
    assert layer["images"] == (x.dim() == 4)
    assert len(layer["panels"]) == frame.groupby(["input", "channel"]).ngroups
    for panel in layer["panels"]:
        of = frame[(frame["input"] == panel["input"]) & (frame["channel"] == panel["channel"])]
        exact = np.stack([of[of["side"] == side]["value"] for side in ("in", "out")])
        step = panel["greatest"] / np.iinfo(dtype).max
        values = values_of(panel, dtype)
        np.testing.assert_allclose(values, exact, rtol=1e-3, atol=0.5 * step * 1.01)
        assert (values[exact == 0] == 0).all()
        if layer["images"]:
            assert panel["size"] == [52, 13]  # of 128 KiB, for two inputs
        else:
            positions = of[of["side"] == "in"]["position"].to_numpy()
            x_of = panel["x"]
            x_of = x_of if isinstance(x_of, list) else x_of * np.arange(len(positions))
            np.testing.assert_allclose(x_of, positions, rtol=1e-5)


def test_a_channel_without_a_finite_value_is_no_example():
    x = torch.randn(2, 5, 40)
    x[:, 3] = math.nan
    for given, shown in ((x, 6), (x[:, 3:4], None)):
        with spectroscope.record(model := nn.Sequential(nn.ReLU()), examples=2) as recorder:
            model(given)
        examples = embedded(recorder.report())["layers"][0].get("examples")
        assert (examples and len(examples["panels"])) == shown
        assert examples is None or 3 not in {panel["channel"] for panel in examples["panels"]}


def test_without_examples_there_are_none(known):
    assert all("examples" not in layer for layer in embedded(known)["layers"])
