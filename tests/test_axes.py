"""Decimation of sites, against shifts of the input and known networks."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import Calls
from torch import nn

import spectroscope


def decimations(model, x, **options):
    with torch.no_grad(), spectroscope.record(model, spectra=False, **options) as recorder:
        model(x)
    return recorder.report().sites()["decimation"].tolist()


def shift_ratio(layers, x):
    """Input shift that moves the output by one sample, by trying all.

    The output of a shifted input is compared with the shifted output, away from the borders.
    """
    y = layers(x)
    for shift_in in range(1, 33):
        for shift_out in range(1, 5):
            moved = layers(x.roll(shift_in, -1))
            middle = slice(y.shape[-1] // 3, 2 * y.shape[-1] // 3)
            if torch.allclose(moved[..., middle], y.roll(shift_out, -1)[..., middle], atol=1e-9):
                return shift_in / shift_out
    return math.nan


CHAINS = {
    "nothing": [],
    "unpadded": [nn.Conv1d(2, 2, 129)],
    "padded": [nn.Conv1d(2, 2, 5, padding="same")],
    "dilated": [nn.Conv1d(2, 2, 5, dilation=3)],
    "strided": [nn.Conv1d(2, 2, 5, stride=3)],
    "strided twice": [nn.Conv1d(2, 2, 4, 2), nn.Conv1d(2, 2, 3, stride=(2,))],
    "average pooling": [nn.AvgPool1d(4)],
    "overlapping pooling": [nn.AvgPool1d(4, stride=2)],
    "maximum pooling": [nn.MaxPool1d(3, 2, padding=1)],
    "pooling with indices": [nn.MaxPool1d(4, return_indices=True), Calls(lambda pair: pair[0])],
    "power pooling": [nn.LPPool1d(2, 3, ceil_mode=True)],
    "adaptive pooling": [nn.AdaptiveAvgPool1d(64)],
    "transposed": [nn.ConvTranspose1d(2, 2, 4, stride=2)],
    "there and back": [nn.Conv1d(2, 2, 4, 4), nn.ConvTranspose1d(2, 2, 4, 2)],
    "interpolation": [nn.Upsample(scale_factor=2)],
    "three quarters": [nn.AvgPool1d(3), nn.Upsample(scale_factor=4)],
    "slice": [Calls(lambda x: x[..., 5::2])],
    "normalised": [nn.BatchNorm1d(2).eval(), nn.AvgPool1d(2), nn.Dropout(0.5).eval()],
    "channels last": [Calls(lambda x: x.transpose(1, 2)), Calls(lambda x: x[:, ::2].mT)],
    "permuted and contiguous": [Calls(lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0))],
    "as an image": [Calls(lambda x: F.avg_pool2d(x.unsqueeze(1), (1, 2)).squeeze(1))],
    "branches": [nn.AvgPool1d(2), Calls(lambda x: torch.cat([x, x.abs()], 1)[:, 1:3])],
    "residual": [nn.Conv1d(2, 2, 3, 2, 1), Calls(lambda x: x + F.pad(x[..., 1:], (1, 0)))],
    "polyphase": [Calls(lambda x: x.reshape(x.shape[0], x.shape[1], -1, 2)[..., 0])],
    "split in time": [Calls(lambda x: x.chunk(2, -1)[1])],
}


@pytest.mark.parametrize("name", CHAINS)
def test_decimation_is_the_input_shift_per_output_sample(name):
    layers = nn.Sequential(*CHAINS[name]).double()
    x = torch.randn(3, 2, 768, dtype=torch.float64)
    with torch.no_grad():
        expected = shift_ratio(layers, x)
    assert not math.isnan(expected)
    assert decimations(nn.Sequential(layers, nn.ReLU()), x) == [expected]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.fft.fft(x).real,
        lambda x: x @ torch.ones(64, 64),
        lambda x: x[..., torch.arange(0, 64, 2)],
        lambda x: torch.cat([F.avg_pool1d(x, 2), x[..., ::2], F.avg_pool1d(x, 4)], -1) + 0,
        lambda x: F.avg_pool1d(x, 2) + x[..., :32],
    ],
)
def test_unknown_decimation_is_nan(function):
    (decimation,) = decimations(nn.Sequential(Calls(function), nn.ReLU()), torch.randn(2, 3, 64))
    assert math.isnan(decimation)


def test_output_with_fewer_axes_than_an_input():
    offset = torch.randn(3)
    model = nn.Sequential(Calls(lambda x: torch.addmv(offset, x[0], x[0, 0])), nn.ReLU())
    with spectroscope.record(model, channel_axis=0) as recorder:
        model(torch.randn(1, 3, 3))
    report = recorder.report()
    assert report.coverage()["status"].tolist() == ["fired"]
    assert report.sites()["decimation"].isna().all()


def test_axes_with_different_decimations_give_nan():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=(1, 2)), nn.ReLU())
    (decimation,) = decimations(model, torch.randn(1, 1, 16, 16))
    assert math.isnan(decimation)


def test_only_transformed_axes_must_agree():
    line = nn.Sequential(nn.Conv2d(1, 2, (4, 3), stride=(4, 2)), nn.ReLU())
    assert decimations(line, torch.randn(1, 1, 4, 16)) == [2]
    video = nn.Sequential(nn.Conv3d(1, 2, 3, stride=(1, 2, 2)), nn.ReLU())
    assert decimations(video, torch.randn(1, 1, 8, 16, 16)) == [2]


def test_decimation_option_replaces_unknown_values():
    model = nn.Sequential(Calls(lambda x: torch.fft.fft(x).real[..., ::8]), nn.ReLU(), nn.ReLU())
    x = torch.randn(2, 3, 64)
    assert decimations(model, x, decimation=8) == [8, 8]
    first, last = decimations(model, x, decimation={"2": 4.0})
    assert math.isnan(first)
    assert last == 4
    with pytest.raises(spectroscope.RequestError, match="must be positive"):
        spectroscope.record(model, decimation={"2": 0})


def test_channels_last_site():
    model = nn.Sequential(nn.Conv1d(2, 5, 4, 4), Calls(lambda x: x.mT), nn.Linear(5, 7), nn.ReLU())
    assert decimations(model, torch.randn(2, 2, 64), channel_axis=-1) == [4]


def test_part_of_a_model_has_unknown_decimation():
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    with pytest.warns(UserWarning, match="parts"), spectroscope.record(model) as recorder:
        model[0](torch.randn(2, 3, 4))
    assert recorder.report().sites()["decimation"].isna().all()


def test_inception_v3():
    """Unpadded: 299 → 149 → 147 → 73 → 71 → 35 → 17 → 8, whose ratios aren't the decimations."""
    model = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    with torch.inference_mode(), spectroscope.record(model, spectra=False) as recorder:
        model(torch.randn(1, 3, 299, 299))
    sites = recorder.report().sites()
    by_length = {
        shape[1]: set(sites["decimation"][sites["shape"] == shape]) for shape in sites["shape"]
    }
    assert by_length == {149: {2}, 147: {2}, 73: {4}, 71: {4}, 35: {8}, 17: {16}, 8: {32}}


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v2"])
def test_image_networks_decimate_by_32(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    with torch.inference_mode():
        by_site = decimations(model, torch.randn(1, 3, 224, 224))
    assert set(by_site) == {2, 4, 8, 16, 32}
    assert by_site == sorted(by_site)


def test_rates_in_hertz():
    model = nn.Sequential(nn.Conv1d(1, 1, 9, stride=4), nn.ReLU(), nn.Flatten(), nn.ReLU())
    with spectroscope.record(model, fs=100.0) as recorder:
        model(torch.randn(2, 1, 81))
    report = recorder.report()
    row, flat = report.sites().iloc[0], report.sites().iloc[1]
    assert (row["decimation"], row["fs"], row["nyquist"]) == (4, 25, 12.5)
    assert flat[["decimation", "fs", "nyquist"]].isna().all()
    spectra = report.spectra()
    assert spectra["freq"].max() == pytest.approx(25 * 9 / 19)
    assert set(spectra["freq_unit"]) == {"Hz"}
