"""Channels and time are found wherever layers, permutations and reshapes have put them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from scipy import signal
from torch import nn

import spectroscope


def recorded(model, *args, **options):
    with torch.no_grad(), spectroscope.record(model, **options) as recorder:
        model(*args)
    return recorder.report()


class Mixer(nn.Module):
    """MLPs over tokens, then over channels."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, 4)
        self.tokens = nn.Sequential(nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 16))
        self.channels = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 9), nn.ReLU())

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.channels(x + self.tokens(x.mT).mT)


class Attention(nn.Module):
    """Self-attention by hand, batch second."""

    def __init__(self):
        super().__init__()
        self.conv, self.qkv, self.out = nn.Conv1d(2, 8, 3), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        x = self.conv(x).permute(2, 0, 1)
        q, k, v = (
            part.unflatten(-1, (2, 4)).permute(1, 2, 0, 3) for part in self.qkv(x).chunk(3, -1)
        )
        weights = (q @ k.mT).softmax(-1)
        return F.relu(self.out((weights @ v).permute(2, 0, 1, 3).flatten(2)))


def conv_last(x):
    return nn.functional.conv1d(x.permute(0, 2, 1), torch.randn(5, 4, 3)).permute(0, 2, 1)


linear = nn.Linear(8, 5)
heads = nn.Parameter(torch.randn(2, 3, 4))
norm = nn.LayerNorm(6)
CASES = {
    "convolution": (nn.Conv1d(2, 5, 3), (2, 2, 20), 1),
    "without a batch axis": (nn.Conv1d(2, 5, 3), (2, 20), 0),
    "linear behind a convolution": (
        nn.Sequential(nn.Conv1d(2, 8, 3), Calls(lambda x: linear(x.mT))), (2, 2, 20), 2),
    "channels last": (Calls(conv_last), (2, 20, 4), 2),
    "one channel": (nn.Sequential(nn.Conv1d(2, 1, 3), Calls(lambda x: x.mT)), (2, 2, 20), 2),
    "layer norm behind a permutation": (
        nn.Sequential(nn.Conv2d(3, 6, 2), Calls(lambda x: norm(x.permute(0, 2, 3, 1)))),
        (2, 3, 8, 8), 3),
    "concatenation": (
        nn.Sequential(nn.Conv1d(2, 3, 3), Calls(lambda x: torch.cat([x, x], 1).mT)), (2, 2, 20), 2),
    "features of channels and frequency": (
        nn.Sequential(nn.Conv2d(1, 4, 3), Calls(lambda x: x.permute(0, 3, 1, 2).flatten(2))),
        (2, 1, 10, 20), 2),
    "matrix product with a weight": (
        Calls(lambda x: x @ nn.Parameter(torch.randn(4, 5))), (2, 20, 4), 2),
    "mixture of channels": (
        nn.Sequential(
            nn.Conv1d(2, 4, 3), Calls(lambda x: torch.einsum("nct,cd->ntd", x, torch.ones(4, 5)))),
        (2, 2, 20), 2),
    "heads of a weight": (
        nn.Sequential(
            nn.Conv1d(2, 4, 3), Calls(lambda x: torch.einsum("nct,hdc->nthd", x, heads))),
        (2, 2, 20), 3),
    "gated": (nn.Sequential(nn.Conv1d(2, 6, 3), Calls(lambda x: F.glu(x, 1).mT)), (2, 2, 20), 2),
    "patches": (Calls(lambda x: F.unfold(x, 3).mT), (2, 3, 8, 8), 2),
    "recurrent": (
        nn.Sequential(nn.GRU(4, 5, batch_first=True), Calls(lambda pair: pair[0])), (2, 20, 4), 2),
    "input as it is": (nn.Identity(), (2, 5, 20), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_channel_axis(name):
    layers, shape, axis = CASES[name]
    model, x = nn.Sequential(layers, nn.ReLU()), torch.randn(shape)
    report = recorded(model, x)
    with torch.no_grad():
        y = layers(x).relu().movedim(axis, 0).flatten(1).mean(1)
    assert report.sites()["channel_axis"].tolist() == [axis]
    assert report.coverage()["status"].tolist() == ["fired"]
    if name not in ("channels last", "matrix product with a weight"):  # of random weights
        np.testing.assert_allclose(report.dc()["dc_out"], y, rtol=1e-5)


def test_mixer_and_attention():
    sites = recorded(Mixer(), torch.randn(2, 3, 16, 16)).sites()
    assert sites[["channels", "channel_axis"]].to_numpy().tolist() == [[7, 2], [9, 2]]
    sites = recorded(Attention(), torch.randn(3, 2, 20)).sites()
    row = sites.iloc[0]
    assert (row["channels"], row["channel_axis"], row["n_samples"]) == (8, 2, 3)
    assert (row["shape"], row["decimation"]) == ((8, 18), 1)


def test_unknown_channels_are_said():
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3),
        Calls(lambda x: torch.tensordot(x, torch.ones(4, 4), ([1], [0]))),
        nn.ReLU(),
    )
    report = recorded(model, torch.randn(2, 2, 20))
    assert report.coverage()["status"].tolist() == ["fired"]
    remark = report.coverage()["remark"].item()
    assert "channel axis isn't known: axis 1 was taken" in remark
    assert report.sites()["channel_axis"].item() == 1
    assert recorded(model, torch.randn(2, 2, 20), channel_axis=2).sites()["channels"].item() == 4


def test_an_unknown_batch_is_said():
    """Frames come first: ``[frames, N, F]`` of N signals."""

    def frames_first(x):
        spectrogram = torch.stft(x, 16, return_complex=True, window=torch.ones(16)).abs()
        return spectrogram.permute(2, 0, 1)

    model = nn.Sequential(Calls(frames_first), nn.Linear(9, 4), nn.ReLU())
    report = recorded(model, torch.randn(2, 64))
    assert "batch axis isn't known: axis 0 was taken" in report.coverage()["remark"].item()
    report = recorded(nn.Sequential(nn.Linear(9, 4), nn.ReLU()), torch.randn(2, 5, 9))
    assert report.coverage()["remark"].item() == ""


class EEG(nn.Module):
    """A network of the kind of EEGNet: [N, 1, electrodes, T]."""

    def __init__(self):
        super().__init__()
        self.temporal, self.spatial = nn.Conv2d(1, 4, (1, 9)), nn.Conv2d(4, 6, (22, 1))
        self.pool, self.last = nn.AvgPool2d((1, 4)), nn.Conv1d(6, 5, 3)

    def forward(self, x):
        x = F.relu(self.temporal(x))
        x = F.relu(self.pool(F.relu(self.spatial(x))))
        x = F.relu(x.permute(0, 1, 3, 2))
        return F.relu(self.last(x.squeeze(3)))


@pytest.mark.parametrize("last", [True, False])
def test_a_tone_is_at_its_frequency_at_every_site(last):
    torch.manual_seed(0)
    fs, model = 128.0, EEG().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(p.abs() if "weight" in name else p.abs() + 5)  # nothing is rectified
    time = torch.arange(520, dtype=torch.float64) / fs
    x = torch.cos(2 * torch.pi * 10 * time).expand(2, 1, 22, -1).clone()
    x *= 0.1 * torch.rand(2, 1, 22, 1, dtype=torch.float64)
    if last:
        report = recorded(model, x, fs=fs, window="hann", f0=10.0)
    else:
        back = nn.Sequential(Calls(lambda x: x.mT), model)
        report = recorded(back, x.mT.contiguous(), fs=fs, time_axis=-2, window="hann", f0=10.0)
    spectra = report.spectra()
    assert set(spectra["freq_unit"]) == {"Hz"}
    above = spectra[(spectra["side"] == "out") & (spectra["freq"] > 2)]
    peak = above.loc[above.groupby(["site", "channel"])["power"].idxmax()]
    assert len(report.sites()) == 5
    resolution = spectra.groupby("site")["freq"].unique().map(lambda f: f[1])
    assert (abs(peak["freq"] - 10) <= peak["site"].map(resolution)).all()
    assert set(report.harmonics()["site"]) == set(report.sites()["site"])
    assert report.sites()["fs"].tolist() == [128, 128, 32, 32, 32]


def test_spectra_are_averaged_over_electrodes():
    x, fs = torch.randn(3, 4, 5, 32, dtype=torch.float64), 16.0
    report = recorded(nn.ReLU(), x, fs=fs, f0=3.1, harmonics=2)
    _, power = signal.periodogram(x.relu().numpy(), detrend=False, scaling="spectrum")
    rows = report.spectra()
    got = rows[rows["side"] == "out"]["power"].to_numpy().reshape(4, -1)
    np.testing.assert_allclose(got, power.mean((0, 2)), rtol=1e-9)
    alone = recorded(nn.ReLU(), x.transpose(1, 2).flatten(0, 1), fs=fs, f0=3.1, harmonics=2)
    columns = ["amplitude_in", "amplitude_out"]
    np.testing.assert_allclose(report.harmonics()[columns], alone.harmonics()[columns])


@dataclass
class Batch:
    x: torch.Tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv1d(1, 4, 5, stride=2), nn.ReLU()

    def forward(self, x):
        while not isinstance(x, torch.Tensor):
            x = x["x"] if isinstance(x, dict) else x[0] if isinstance(x, list) else x.x
        return self.relu(self.conv(x))


@pytest.mark.parametrize("how", ["keyword", "dictionary", "dataclass", "nested lists"])
def test_inputs_as_they_come(how):
    x = torch.sin(2 * torch.pi * 0.1 * torch.arange(64.0)) + 0.1 * torch.randn(2, 1, 64)
    model = Net()
    expected = recorded(model, x, fs=32.0, f0="auto")
    with torch.no_grad(), spectroscope.record(model, fs=32.0, f0="auto") as recorder:
        if how == "keyword":
            model(x=x)
        else:
            model({"dictionary": {"x": x}, "dataclass": Batch(x), "nested lists": [[x]]}[how])
    report = recorder.report()
    assert report.sites()["fs"].tolist() == [16]
    assert report.sites().equals(expected.sites())
    assert report.harmonics().equals(expected.harmonics())


def test_the_time_axis_is_where_the_first_convolution_slides():
    """``[N, T, C]``, and a tensor made of it before the convolution runs."""

    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv1d(3, 4, 5, stride=2), nn.ReLU()

        def forward(self, x):
            first = x[..., :2]
            return self.relu(self.conv(x.transpose(1, 2))), self.relu(first)

    torch.manual_seed(0)
    fs, model = 32.0, ChannelsLast()
    time = torch.arange(128) / fs
    x = torch.cos(2 * torch.pi * 3 * time)[:, None] * torch.tensor([1.0, 2.0, 0.5])
    x = x.expand(2, -1, -1).clone()
    report = recorded(model, x, fs=fs, f0="auto")
    assert report.sites()["fs"].tolist() == [16, 32]
    harmonics = report.harmonics()
    assert abs(harmonics.loc[harmonics["harmonic"] == 1, "freq"] - 3).max() < 0.05
    assert "input x, along axis -2" in report.about["f0"]
    given = recorded(model, x, fs=fs, f0="auto", time_axis=1)
    assert given.sites().equals(report.sites())
    assert given.harmonics().equals(report.harmonics())
    # Given, the axis holds: here that of electrodes is the one along which the layer slides.
    with pytest.warns(UserWarning, match="rate of every site is unknown"):
        recorded(nn.Sequential(Calls(lambda x: x.mT), nn.Conv1d(128, 4, 2), nn.ReLU()), x.mT,
                 fs=fs, time_axis=-1)  # fmt: skip


class TwoSensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.relu = nn.AvgPool1d(2), nn.ReLU()

    def forward(self, ppg, more):
        return self.relu(self.pool(ppg)), self.relu(more["eda"])


def test_rates_by_name():
    torch.manual_seed(0)
    eda_time = torch.arange(32) / 4
    ppg, eda = torch.randn(2, 1, 512), torch.cos(2 * torch.pi * eda_time).expand(2, 1, -1).clone()
    model = TwoSensors()
    report = recorded(model, ppg, {"eda": eda}, fs={"ppg": 64, "eda": 4}, f0=1.0)
    assert report.sites()["fs"].tolist() == [32, 4]
    spectra = report.spectra("relu#1")
    spectra = spectra[spectra["side"] == "in"]
    assert spectra.loc[spectra["power"].idxmax(), "freq"] == 1
    alone = recorded(nn.ReLU(), eda, fs=4.0, f0=1.0).harmonics()
    columns = ["harmonic", "freq", "amplitude_in", "amplitude_out"]
    got = report.harmonics("relu#1")[columns]
    np.testing.assert_allclose(got, alone[columns], rtol=1e-12)
    with pytest.warns(UserWarning, match=r"rate of the input more.eda is unknown, that of ppg"):
        fs = recorded(model, ppg, {"eda": eda}, fs={"ppg": 64}).sites()["fs"]
    assert fs[0] == 32
    assert np.isnan(fs[1])
    with pytest.warns(UserWarning, match=r"no input has the name 'ecg'.*only ppg, more.eda"):
        recorded(model, ppg, {"eda": eda}, fs={"ppg": 64, "eda": 4, "ecg": 2})
    with pytest.raises(spectroscope.RequestError, match="must be a positive number"):
        spectroscope.record(model, fs={"ppg": 0})


def test_fs_that_reaches_no_site_is_said():
    model = nn.Sequential(Calls(lambda x: torch.fft.fft(x).real), nn.ReLU())
    with pytest.warns(UserWarning, match=r"rate of every site is unknown.*decimation="):
        recorded(model, torch.randn(2, 3, 32), fs=8.0)
    assert recorded(model, torch.randn(2, 3, 32), fs=8.0, decimation=1).sites()["fs"].item() == 8


def spectrogram(x):
    window = torch.hann_window(32)
    return F.relu(torch.stft(x[:, 0], 32, 8, window=window, return_complex=True).abs()[:, None] - 1)


def folded(x):
    return F.relu(F.fold(F.unfold(x[:, None], (1, 4), stride=4), x.shape[1:], (1, 4), stride=4))


@pytest.mark.parametrize("function", [spectrogram, folded])
def test_where_time_is_lost_among_several_axes_there_are_no_spectra_in_spite_of_fs(function):
    model, x = Calls(function), torch.randn(2, 3, 128)
    with pytest.warns(UserWarning, match="rate of every site is unknown"):
        report = recorded(model, x, fs=32.0)
    assert report.sites()["fs"].isna().all()
    assert report.coverage()["remark"].item() == (
        "call 0: its channel axis isn't known: axis 1 was taken (channel_axis= gives it); "
        "which of its axes is time isn't known: no spectra (without fs, those of an image)"
    )
    with pytest.raises(spectroscope.RequestError, match="no spectra were recorded"):
        report.spectra()
    image = recorded(model, x)
    assert image.spectra()["freq_unit"].unique().tolist() == ["cycles/pixel of the site"]
    assert image.dc()["dc_out"].tolist() == report.dc()["dc_out"].tolist()


def test_inputs_of_other_lengths_have_an_unknown_rate():
    class Two(nn.Module):
        def forward(self, ppg, eda):
            return F.relu(ppg), F.relu(eda)

    with pytest.warns(UserWarning, match="rate of the input eda is unknown"):
        report = recorded(Two(), torch.randn(2, 1, 64), torch.randn(2, 1, 16), fs=64.0)
    fs = report.sites()["fs"]
    assert fs[0] == 64
    assert np.isnan(fs[1])
