"""Findings: what stands out in a report is counted and named."""

import math

import numpy as np
import pytest
import torch
from helpers import report_of
from pages import REPORTS, embedded, finding, findings_of
from torch import nn

from spectroscope.page.finding import Findings, Reference


def test_dead_and_always_on_channels_are_counted(known):
    dead = finding(known, "Dead channels")
    assert "1 of 4 channels (25.0\u00a0%)" in dead.text
    assert dead.references == (Reference("#0", "1 of 4"),)
    assert "2 of 4 channels (50.0\u00a0%)" in finding(known, "Channels that are always on").text


def test_absent_findings_are_listed_as_checked():
    report = report_of(nn.ReLU(), torch.randn(12, 3, 64))
    results = findings_of(report)
    assert "Dead channels" not in [f.headline for f in results.present]
    assert {"dead channels", "channels that are always on"} <= set(results.absent)
    assert "NaN or infinite values" in results.absent


def test_a_saturated_relu6_is_not_reported_as_always_on():
    report = report_of(nn.ReLU6(), torch.rand(12, 3, 8) + 7)
    assert (report.dc()["active_fraction"] == 1).all()
    assert "Channels that are always on" not in [f.headline for f in findings_of(report).present]


def test_layers_dominated_by_dc_exclude_those_with_one_value_per_channel():
    t = torch.arange(32) / 32
    wave = torch.sin(2 * torch.pi * 4 * t).expand(12, 2, -1)
    # Behind ReLU the DC of 9 + wave has 81 of 81.5; of the wave alone it is (1/π)² of 1/4: 41 %.
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.ReLU())
    result = finding(report_of(model, wave + 9), "Layers dominated by DC")
    assert result.references == (Reference("0#0", "99.4\u00a0%"),)
    assert "all of" not in result.text
    assert "1 layer with one value per channel is excluded" in result.detail
    assert "Layers dominated by DC" not in [
        f.headline for f in findings_of(report_of(model, wave)).present
    ]


def test_non_finite_values_are_counted():
    x = torch.randn(12, 2, 16)
    x[0, 0, :3] = torch.nan
    x[1, 1, 5] = torch.inf
    result = finding(report_of(nn.ReLU(), x), "Non-finite values")
    assert result.text.startswith("4 input values and 4 output values")
    assert result.references == (Reference("#0", "8 values"),)


@pytest.mark.parametrize(("inputs", "says"), [(1, "One input"), (3, "Few inputs")])
def test_few_inputs_are_reported(inputs, says):
    report = report_of(nn.ReLU(), torch.randn(inputs, 2, 16))
    assert finding(report, says).text.startswith(f"All values come from {inputs} input")
    # A tenth of 50 %: the standard error of a standard deviation of 51 Gaussian values.
    enough = findings_of(report_of(nn.ReLU(), torch.randn(10, 2, 16)))
    assert says not in [f.headline for f in enough.present]


def test_layers_that_feed_global_pooling_are_named():
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    result = finding(report_of(model, torch.randn(12, 2, 16)), "Only DC passes global pooling")
    assert result.text.startswith("0#0 feeds global pooling directly")


def test_power_discarded_by_global_pooling_is_of_all_channels_together():
    wave = torch.sin(2 * torch.pi * torch.arange(32) / 8)
    model = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    x = torch.stack([wave, 100 * (wave + 9)]).expand(12, -1, -1)  # in the mean of both 68 % is DC
    report = report_of(model, x)
    result = finding(report, "Only DC passes global pooling")
    left = 0.5 / 81.5  # of the second, beside which the first is nothing
    assert report.sites()["above_next_nyquist"][0] == pytest.approx(left, rel=1e-2)
    assert f"and discards {left:.1%} of its power".replace("%", "\u00a0%") in result.text
    assert result.references == (Reference("0#0", f"{1 - left:.1%} is DC".replace("%", "\u00a0%")),)
    # Without spectra there is no `above_next_nyquist`, and the same to be said.
    assert finding(report_of(model, x, spectra=False), "Only DC passes global pooling") == result


def test_checks_that_cannot_be_made_are_not_reported_as_absent():
    finite = findings_of(report_of(nn.ReLU(), torch.randn(12, 3, 64))).absent
    assert len(finite) == 7
    x = torch.full((12, 3, 64), torch.nan)
    assert findings_of(report_of(nn.ReLU(), x)).absent == (
        "layers that feed global pooling directly",
    )
    # Nothing is said of Gaussian input, or of doing nothing, where there is no ReLU.
    clipped = findings_of(report_of(nn.Hardtanh(0, 1), torch.randn(12, 3, 64))).absent
    assert set(finite) - set(clipped) == {finite[3], finite[6]}
    assert "always on" in finite[3]
    assert "Gaussian" in finite[6]
    one_value = findings_of(report_of(nn.ReLU(), torch.randn(12, 3))).absent
    assert not any("half of the output power" in text for text in one_value)


def test_aliasing_names_the_folded_frequency_and_excludes_global_pooling():
    t = torch.arange(64) / 64.0  # 1 s
    tone = 3 + 2.5 * torch.cos(2 * torch.pi * 20 * t).expand(12, 2, -1)
    model = nn.Sequential(nn.ReLU(), nn.AvgPool1d(2))
    result = finding(report_of(model, tone, fs=64.0), "Aliasing")
    # Power 2.5²/2 of 9 + 2.5²/2 at 20 Hz; at 32 samples a second that is 12 Hz. The average of two
    # samples has the response cos(πf/fs).
    above = 3.125 / 12.125
    folded = above * math.cos(math.pi * 20 / 64) ** 2
    as_percent = lambda share: f"{share:.1%}".replace("%", "\u00a0%")  # noqa: E731
    assert result.number == f"{as_percent(folded)} of power"
    assert f"{as_percent(above)} of its output power lies above 16 Hz" in result.detail
    layer = embedded(report_of(model, tone, fs=64.0))["layers"][0]
    assert f"{as_percent(folded)} of the output power folds" in layer["aliasing"]
    # Max pooling has no frequency response: what folds isn't known.
    unknown = finding(
        report_of(nn.Sequential(nn.ReLU(), nn.MaxPool1d(2)), tone, fs=64.0), "Aliasing"
    )
    assert unknown.number == f"{as_percent(above)} of power"
    assert "is not known" in unknown.text
    assert "is at 20 Hz and folds to 12 Hz" in result.detail
    # Named is the channel that loses most power, not the part of one that is all but silent.
    faint = 1e-3 * (2 + torch.cos(2 * torch.pi * 24 * t))
    unequal = torch.stack([faint, tone[0, 0]]).expand(12, -1, -1)
    result = finding(report_of(model, unequal, fs=64.0), "Aliasing")
    assert "in channel 1, is at 20 Hz" in result.detail
    # What folds behind another activation is that one's output.
    two = finding(report_of(nn.Sequential(nn.ReLU(), model), tone, fs=64.0), "Aliasing")
    assert [reference.site for reference in two.references] == ["1.0#0"]
    whole = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    report = report_of(whole, tone, fs=64.0)
    assert "Aliasing" not in [f.headline for f in findings_of(report).present]


def test_only_channels_far_from_gaussian_are_reported():
    # One value in 64 is 8, the rest −1: the DC is 8/64, the RMS 1. μ and σ of the input give more.
    x = torch.randn(12, 3, 64)
    x[:, 1] = -1
    x[:, 1, 0] = 8
    report = report_of(nn.ReLU(), x)
    row = report.dc().loc[1]
    assert abs(row["dc_gaussian"] - 0.125) < 0.5 < 1  # below the threshold
    assert "DC far" not in str([f.headline for f in findings_of(report).present])
    x[:, 1] = -1
    x[:, 1, 0] = 1  # μ = −31/32, σ = 0.248: Gaussian input would give all but nothing
    x[:, 2] = torch.where(torch.arange(64) == 0, -40.0, 0.5)
    report = report_of(nn.ReLU(), x)
    result = finding(report, "DC far from the Gaussian prediction")
    row = report.dc().loc[2]
    ratio = abs(row["dc_gaussian"] - row["dc_out"]) / np.hypot(row["dc_out"], row["ac_rms_out"])
    assert "1 of 3 channels" in result.text
    assert f"a difference of {ratio:.3g} times" in result.detail
    assert result.references[0] == Reference("#0", "largest difference", 2)


@pytest.mark.filterwarnings("ignore:.*nothing was recorded")
def test_no_site_no_finding():
    report = REPORTS["no sites"]()
    assert findings_of(report) == Findings()


def test_names_with_braces_and_markup_pass_through_findings():
    model = nn.Sequential()
    model.add_module("{share}<b>", nn.ReLU())
    report = report_of(model, -torch.rand(12, 2, 8))
    assert "all in {share}<b>#0" in finding(report, "Dead channels").text
