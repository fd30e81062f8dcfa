"""The strongest tone of each input, as ``f0="auto"`` finds it; and a fundamental that is given."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import torch
from helpers import report_of, tone
from torch import nn

import spectroscope
from spectroscope.dsp.harmonics import strongest_tone


@pytest.mark.parametrize("length", [16, 37, 64, 1001])
def test_auto_is_exact_from_one_cycle_to_two_bins_below_nyquist(length):
    cycles = np.concatenate([[1], np.linspace(1, length / 2 - 2, 99), [length / 2 - 2]])
    phases = np.linspace(0, 6, len(cycles))
    x = torch.cat([tone(k / length, length, 2, 7, p) for k, p in zip(cycles, phases, strict=True)])
    found = strongest_tone(x)
    np.testing.assert_allclose(found.freq * length, cycles, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.confidence, 1)
    other = torch.randn(2, 3, length, dtype=torch.float64)
    together = torch.cat([0.01 * other, 50 + 3 * x[[40, 70]]], 1)  # one tone in one of the channels
    found = strongest_tone(together)
    np.testing.assert_allclose(found.freq * length, cycles[[40, 70]], rtol=0, atol=0.01)


@pytest.mark.parametrize("cycles", [1.0, 1.6, 20.3, 62.0])
@pytest.mark.parametrize("snr", [3, 20])
def test_auto_reaches_the_cramer_rao_bound(cycles, snr):
    length, amplitude = 128, math.sqrt(2 * 10 ** (snr / 10))
    phases = np.linspace(0, 2 * np.pi, 1500)
    time = np.arange(length)
    angle = 2 * np.pi * cycles / length * time + phases[:, None]
    signal = amplitude * np.cos(angle)
    sine = -amplitude * np.sin(angle)
    # Of DC, amplitude, phase and frequency, in noise of variance 1.
    slopes = np.stack([np.ones_like(sine), np.cos(angle), sine, 2 * np.pi * time * sine], -1)
    bound = np.linalg.inv(slopes.mT @ slopes)[:, 3, 3].mean()
    noise = np.random.default_rng(0).normal(size=signal.shape)
    found = strongest_tone(torch.from_numpy(signal + noise)[:, None]).freq.numpy()
    rms = np.sqrt(np.mean((found - cycles / length) ** 2))
    assert 0.9 < rms / np.sqrt(bound) < 1.3


@pytest.mark.parametrize("length", [16, 64, 500])
def test_auto_finds_no_tone_in_noise(length):
    found = strongest_tone(torch.randn(2000, 1, length))
    false = (~found.freq.isnan()).double().mean().item()
    assert 0.01 < false < 0.06
    assert found.freq.isnan().eq(found.confidence < 0.95).double().mean() > 0.99


def test_auto_finds_no_tone_where_there_is_none():
    time = torch.arange(64, dtype=torch.float64)
    impulse = (time == 5).double()
    for x in (time, impulse, 0 * time, 1e8 + 0 * time, 0.1 + 0 * time, time / 0, time[:7].cos()):
        assert strongest_tone(x.view(1, 1, -1)).freq.isnan().all()
    assert strongest_tone(torch.empty(0, 1, 64)).freq.shape == (0,)


def test_auto_finds_the_fundamental_of_each_input():
    fs, f0 = 64.0, [4.144, 7.06, 1.303]
    x = torch.cat([tone(f / fs, 640, 2.0, offset=1) for f in f0])
    x = torch.cat(
        [x, *torch.tensor([1.1, torch.nan], dtype=torch.float64).expand(1, 1, 640, 2).unbind(-1)]
    )
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    for number, f in enumerate(f0):
        row = report_of(model, x[[number]], fs=fs, f0="auto").harmonics().iloc[0]
        assert row["freq"] == pytest.approx(f, abs=1e-12)
        assert row["amplitude_in"] == pytest.approx(2, rel=1e-9)
    row = report_of(model, x, fs=fs, f0="auto").harmonics().iloc[0]
    assert row["n_inputs"] == 3  # a constant has none, and what isn't finite
    assert row["freq"] == pytest.approx(np.mean(f0), abs=1e-12)
    assert row["f0_confidence"] == 1
    given = report_of(model, x[:3], fs=fs, f0=f0).harmonics()
    assert given["f0_confidence"].isna().all()
    noisy = x[:1] + 3.5 * torch.randn(3, 1, 640)
    confidence = strongest_tone(noisy).confidence.numpy()
    row = report_of(model, noisy, fs=fs, f0="auto").harmonics().iloc[0]
    assert row["n_inputs_sinad"] == (confidence >= 0.95).sum()
    assert row["f0_confidence"] == pytest.approx(confidence[confidence >= 0.95].mean())


@pytest.mark.parametrize("length", [500, 2000])
def test_a_range_is_exact_and_knows_its_ends(length):
    freq, band = np.linspace(0.8, 3.4, 99), (0.7 / 250, 3.5 / 250)
    x = torch.cat([tone(f / 250, length, 2, 7, 3 * f) for f in freq])
    np.testing.assert_allclose(strongest_tone(x, band).freq * 250, freq, rtol=0, atol=1e-9)
    for f in (0.3, 0.65, 3.6, 50.0):  # outside, and leaking into the range
        assert strongest_tone(tone(f / 250, length), band).freq.isnan().all()


def test_a_tone_in_the_range_is_found_beside_stronger_ones_outside():
    """Baseline wander and hum of an ECG, ten times as strong as its fundamental, over 8 s."""
    time, freq = np.arange(2000) / 250, np.linspace(0.9, 3.2, 47)[:, None]
    x = np.cos(2 * np.pi * freq * time + 2 * freq)
    x += 10 * np.cos(2 * np.pi * 0.3 * time + 1) + 10 * np.cos(2 * np.pi * 50.2 * time)
    report = report_of(nn.ReLU(), torch.from_numpy(x)[:, None], fs=250.0, f0="auto")
    assert report.harmonics()["freq"].iloc[0] not in freq
    found = strongest_tone(torch.from_numpy(x)[:, None], (0.7 / 250, 3.5 / 250)).freq * 250
    assert found.numpy() == pytest.approx(freq[:, 0], abs=0.25 / 8)  # a quarter of 1/T


@pytest.mark.parametrize("band", [(0.0, 1.0), (0.7, 3.5), (2.0, 8.0), (4.0, 16.0)])
def test_a_range_has_the_peak_of_scipys_periodogram(band):
    noisy = tone(3.0 / 32, 512, 0.6) + tone(0.9 / 32, 512, 0.5) + torch.randn(50, 1, 512)
    found = strongest_tone(noisy, (band[0] / 32, band[1] / 32)).freq * 32
    freq, power = scipy.signal.periodogram(noisy[:, 0].numpy(), 32, nfft=1 << 15)
    inside = (freq >= band[0]) & (freq <= band[1])
    peak = freq[inside][power[:, inside].argmax(1)]
    known = ~found.isnan().numpy()
    assert known.mean() < 0.1 if band == (4.0, 16.0) else known.mean() > 0.9
    # A periodogram has the tone's mirror image too, and the leakage of what is outside.
    assert found.numpy()[known] == pytest.approx(peak[known], abs=0.2 * 32 / 512)


@pytest.mark.parametrize("width", [0.02, 0.1, 0.4])
def test_a_range_of_noise_has_no_tone(width):
    found = strongest_tone(torch.randn(2000, 1, 1000), (0.05, 0.05 + width))
    assert 0.01 < (~found.freq.isnan()).double().mean().item() < 0.06


def test_a_range_without_a_tone_or_too_narrow_is_unknown_and_says_so():
    x = tone(1.2 / 32, 256) + 0.01 * torch.randn(3, 1, 256)
    for low, high in ((4, 9), (1.19, 1.21)):
        report = report_of(nn.ReLU(), x, fs=32.0, f0=("auto", low, high))
        with pytest.raises(
            spectroscope.RequestError,
            match=f"strongest tone from {low} to {high} "
            "Hz of input input, along axis -1; unknown in inputs without one",
        ):
            report.harmonics()  # fmt: skip
        assert report.dc()["dc_tone"].isna().all()
    table = report_of(nn.ReLU(), x, fs=32.0, f0=["auto", 0.7, 3.5]).harmonics()
    assert table["freq"].iloc[0] == pytest.approx(1.2, abs=1e-3)
    assert table["n_inputs"].iloc[0] == 3


@pytest.mark.parametrize("f0", [
    ("auto", 3.5, 0.7), ("auto", 1, 1), ("auto", -1, 2), ("auto", 1, 17), ("auto", 1),
    ("auto", "a", "b"), ("auto", math.nan, 2), ("Auto", 1, 2), ("auto", 1, 2, 3), "0.7:3.5",
])  # fmt: skip
def test_a_wrong_range_is_refused_in_one_line(f0):
    with pytest.raises(spectroscope.RequestError, match=r"low < high ≤ fs/2 = 16, or None") as info:
        spectroscope.record(nn.ReLU(), fs=32, f0=f0)
    assert "\n" not in str(info.value)
    assert repr(f0) in str(info.value)


@pytest.mark.parametrize("f0", [("auto", 0.7, 3.5), ["auto", 0, 60], 1.2, [0.1, 3, 4]])
def test_a_frequency_in_hertz_without_fs_is_refused_naming_fs(f0):
    with pytest.raises(spectroscope.RequestError, match=r"^f0=.* pass fs= \(--fs HZ\)") as info:
        spectroscope.record(nn.ReLU(), f0=f0)
    assert "fs/2" not in str(info.value)
    assert "\n" not in str(info.value)


def test_two_numbers_are_one_per_input_and_a_range_is_pointed_at():
    with pytest.warns(UserWarning, match=r"2 values of f0 for 3 inputs; .*\('auto', low, high\)"):
        report_of(nn.ReLU(), torch.randn(3, 1, 64), fs=32, f0=(0.7, 3.5))
    assert len(report_of(nn.ReLU(), torch.randn(2, 1, 64), fs=32, f0=(1.7, 3.5)).harmonics())


def test_the_range_is_saved_and_merged_with_the_recording(tmp_path):
    x = tone(1.2 / 32, 256)
    first, second = (report_of(nn.ReLU(), x, fs=32.0, f0=("auto", 0.7, high)) for high in (3, 3.5))
    first.save(tmp_path)
    loaded = spectroscope.load(tmp_path)
    assert loaded.about["f0"] == "strongest tone from 0.7 to 3 Hz of input input, along axis -1"
    merged = loaded.merge(second)
    assert "from 0.7 to 3 Hz" in merged.about["f0"]
    assert "from 0.7 to 3.5 Hz" in merged.about["f0"]
    in_samples = report_of(nn.ReLU(), x, f0=("auto", 0.02, 0.1))
    assert in_samples.about["f0"].startswith("strongest tone from 0.02 to 0.1 cycles/sample of")
