"""Filter responses against tones through the layers and against scipy.signal.freqz."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn

import spectroscope


def trained(norm):
    """Batch normalisation with non-trivial statistics, in eval mode."""
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.running_var.uniform_(0.5, 2)
    return norm.eval()


CHAINS = {
    "convolution": [nn.Conv1d(2, 3, 5)],
    "same, even": [nn.Conv1d(2, 3, 4, padding="same", dilation=3)],
    "groups": [nn.Conv1d(4, 6, 3, groups=2, padding=1)],
    "strides": [nn.Conv1d(2, 4, 5, stride=2, padding=1), nn.Conv1d(4, 3, 3, stride=3)],
    "block": [nn.Conv1d(2, 4, 7, 2, 3), trained(nn.BatchNorm1d(4)), nn.Dropout(), nn.AvgPool1d(2),
              nn.Conv1d(4, 3, 3)],
    "norm first": [trained(nn.BatchNorm1d(2)), nn.AvgPool1d(3, 2, padding=1)],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CHAINS)
def test_a_tone_comes_out_as_the_response_says(name):
    torch.manual_seed(0)
    layers = nn.Sequential(*CHAINS[name]).double().eval()
    table = spectroscope.filter_response(layers, points=6, fs=100.0)
    assert set(table["freq_unit"]) == {"Hz"}
    inputs = table["in_channel"].nunique()
    time = torch.arange(600, dtype=torch.float64)
    for (freq, source), rows in table.groupby(["freq", "in_channel"]):
        x = torch.zeros(2, inputs, len(time), dtype=torch.float64)  # cosine and sine
        angle = 2 * math.pi * freq / 100 * time
        x[0, source], x[1, source] = angle.cos(), angle.sin()
        with torch.no_grad():
            cosine, sine = layers(x) - layers(torch.zeros_like(x))
        y = torch.complex(cosine, sine)
        n = y.shape[1] // 2
        step = {"strides": 6, "block": 4, "norm first": 2}.get(name, 1)
        tone = torch.polar(torch.ones(()).double(), angle[n * step])
        measured = (y[:, n] / tone).numpy()
        expected = rows.set_index("channel").sort_index()
        expected = (expected["gain"] * np.exp(1j * expected["phase"])).to_numpy()
        np.testing.assert_allclose(measured, expected, atol=1e-12)


def test_one_convolution_is_scipys_freqz():
    conv = nn.Conv1d(1, 2, 9)
    table = spectroscope.filter_response(conv, points=33)
    for channel, rows in table.groupby("channel"):
        taps = conv.weight[channel, 0].detach().double().numpy()
        _, expected = scipy.signal.freqz(taps, worN=rows["freq"].to_numpy(), fs=1.0)
        np.testing.assert_allclose(rows["gain"], np.abs(expected), atol=1e-14)
        np.testing.assert_allclose(
            np.exp(1j * rows["phase"]), expected.conj() / np.abs(expected), atol=1e-11
        )


def test_an_image_filter_has_the_mean_power_of_its_rings():
    conv = nn.Conv2d(2, 3, (3, 5), groups=1).double()
    table = spectroscope.filter_response(conv, channels=[2], points=16)
    assert set(table["channel"]) == {2}
    assert set(table["freq_unit"]) == {"cycles/pixel"}
    for source, rows in table.groupby("in_channel"):
        power = np.abs(np.fft.fft2(conv.weight[2, source].detach().numpy(), (16, 16))) ** 2
        f = np.fft.fftfreq(16)
        ring = np.floor(np.hypot(f[:, None], f) * 16 + 0.5)
        expected = [np.sqrt(power[ring == r].mean()) for r in range(len(rows))]
        np.testing.assert_allclose(rows["gain"], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([nn.Conv1d(1, 1, 3), nn.ReLU()], {}, "ReLU has no frequency response"),
        ([nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1)], {}, "eval mode"),
        ([nn.Identity()], {}, "at least one"),
        ([nn.Conv1d(1, 2, 3)], {"channels": [2]}, "no channel 2: there are 2"),
        ([nn.Conv2d(1, 2, 3)], {"fs": 3.0}, "cycles/pixel"),
    ],
)
def test_what_is_no_linear_filter_is_refused(layers, options, message):
    with pytest.raises(spectroscope.RequestError, match=message):
        spectroscope.filter_response(layers, **options)


class Residual(nn.Sequential):
    """A subclass whose forward is not the chain of its layers."""

    def forward(self, x):
        return x + super().forward(x)


def test_a_divisor_of_ones_own_is_used():
    table = spectroscope.filter_response(nn.AvgPool2d(2, divisor_override=1), points=8)
    assert table["gain"].iloc[0] == 4


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (Residual(nn.AvgPool1d(1)), {}, "Residual has no frequency response"),
        ([nn.Conv1d(8, 1, 3), nn.BatchNorm1d(4).eval()], {}, r"gets 1 channels instead of"),
        ([nn.Conv1d(8, 1, 3), nn.Conv1d(4, 1, 3)], {}, r"gets 1 channels instead of"),
        (nn.Conv1d(8, 1, 3), {"fs": 0.0}, "must be a positive number"),
        (nn.Conv1d(8, 1, 3), {"points": 1}, "must be 2 or more"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(layers, options, message):
    with pytest.raises(spectroscope.RequestError, match=message):
        spectroscope.filter_response(layers, **options)
