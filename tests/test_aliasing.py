"""Next downsampling after each site, and the output power above the Nyquist frequency then."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
import torchvision
from helpers import Calls
from torch import nn

import spectroscope


def recorded(model, x, **options):
    with torch.no_grad(), spectroscope.record(model, **options) as recorder:
        model(x)
    return recorder.report()


AFTER_SITE = {
    "0.pool/avg_pool1d": ([("pool", nn.AvgPool1d(4))], 4, 0),
    "0.down/conv1d": ([("conv", nn.Conv1d(3, 3, 3)), ("down", nn.Conv1d(3, 3, 3, 3))], 3, 0),
    "0.max/max_pool1d": ([("relu", nn.ReLU()), ("max", nn.MaxPool1d(2))], 2, 1),
    "0.slice/getitem": ([("slice", Calls(lambda x: x[..., ::2]))], 2, 0),
    "0.down2/interpolate": ([("down2", nn.Upsample(scale_factor=0.5))], 2, 0),
    "0.mean/mean": ([("mean", Calls(lambda x: x.mean(-1)))], math.inf, 0),
    "0.gap/adaptive_avg_pool1d": ([("gap", nn.AdaptiveAvgPool1d(1))], 90, 0),
    "0.last/max_pool1d": (
        [("skip", Calls(lambda x: x + F.relu(x))), ("last", nn.MaxPool1d(5))], 5, 0),
}  # fmt: skip


@pytest.mark.parametrize("place", AFTER_SITE)
@pytest.mark.parametrize("inplace", [False, True])
def test_next_downsampling(place, inplace):
    layers, factor, between = AFTER_SITE[place]
    model = nn.Sequential()
    model.add_module("relu", nn.ReLU(inplace=inplace))
    model.add_module("0", nn.Sequential())
    for name, layer in layers:
        model[1].add_module(name, layer)
    report = recorded(model, torch.randn(2, 3, 90))
    row = report.aliasing("relu").iloc[0]
    assert row["downsampling"] == place
    assert row["factor"] == factor
    assert row["activations_between"] == between
    assert row["next_nyquist"] == 0.5 / factor
    assert row["global_pooling"] == (place in ("0.mean/mean", "0.gap/adaptive_avg_pool1d"))


@pytest.mark.parametrize(
    "after",
    [nn.Conv1d(3, 3, 5, dilation=2), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Identity()],
)
def test_functions_that_keep_or_raise_the_rate_are_no_downsampling(after):
    report = recorded(nn.Sequential(nn.ReLU(), after), torch.randn(2, 3, 90))
    assert report.sites()["above_next_nyquist"].isna().all()
    with pytest.raises(spectroscope.RequestError, match="no downsampling follows"):
        report.aliasing()


@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("factor", [2, 3])
def test_power_above_matches_scipy_periodogram(window, factor):
    x = torch.randn(6, 3, 120, dtype=torch.float64)
    report = recorded(nn.Sequential(nn.ReLU(), nn.AvgPool1d(factor)), x, fs=40.0, window=window)
    y = x.relu().double().numpy()
    freq, power = scipy.signal.periodogram(y, 40.0, window, detrend="constant", scaling="spectrum")
    taper = scipy.signal.get_window(window, 120)
    power /= 120 * (taper**2).sum() / taper.sum() ** 2
    power[..., 0] = y.mean(-1) ** 2
    power = power.mean(0)
    above = power[:, freq > 20 / factor + 1e-9].sum(1)
    table = report.aliasing().set_index("channel").sort_index()
    np.testing.assert_allclose(table["power_above"], above, rtol=1e-11)
    np.testing.assert_allclose(table["above_next_nyquist"], above / power.sum(1), rtol=1e-11)
    assert report.sites()["above_next_nyquist"].item() == pytest.approx(above.sum() / power.sum())
    assert report.aliasing()["power_above"].is_monotonic_decreasing


@pytest.mark.parametrize("shape", [(12, 12), (12, 18), (9, 15)])
def test_power_above_in_images_lies_outside_a_square(shape):
    x = torch.randn(4, 2, *shape, dtype=torch.float64)
    report = recorded(nn.Sequential(nn.ReLU(), nn.MaxPool2d(3)), x)
    power = (np.abs(np.fft.fft2(x.relu().numpy(), norm="forward")) ** 2).mean(0)
    # To the nearest multiple of one over the longer side.
    f = [np.abs(np.fft.fftfreq(length)) for length in shape]
    highest = np.floor(np.maximum(f[0][:, None], f[1]) * max(shape) + 0.5) / max(shape)
    expected = power[:, highest > 1 / 6 + 1e-9].sum(1) / power.sum((1, 2))
    table = report.aliasing().set_index("channel").sort_index()
    np.testing.assert_allclose(table["above_next_nyquist"], expected, rtol=1e-11)


@pytest.mark.parametrize(("factor", "cycles"), [(2, 70), (3, 50), (4, 33), (5, 60)])
def test_folds_to_matches_the_decimated_tone(factor, cycles):
    length = 240
    tone = torch.cos(2 * math.pi * cycles / length * torch.arange(length, dtype=torch.float64) + 1)
    # Far from zero the ReLU leaves the tone alone.
    model = nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1, stride=factor).double())
    row = recorded(model, (9 + tone).expand(1, 1, -1), fs=240.0).aliasing().iloc[0]
    assert row["peak_freq"] == cycles
    freq, power = scipy.signal.periodogram(tone[::factor].numpy(), 240 / factor)
    assert row["folds_to"] == pytest.approx(freq[power.argmax()])


def test_next_downsampling_in_resnet18():
    model = torchvision.models.resnet18(weights=None).eval()
    table = recorded(model, torch.randn(1, 3, 64, 64)).aliasing()
    assert table["global_pooling"].is_monotonic_increasing
    assert not table["global_pooling"].iloc[0]
    table = table.groupby("site")[["downsampling", "factor", "activations_between"]].first()
    assert tuple(table.loc["relu#0"]) == ("maxpool/max_pool2d", 2, 0)
    assert tuple(table.loc["layer1.1.relu#1"]) == ("layer2.0.conv1/conv2d", 2, 0)
    assert tuple(table.loc["layer2.0.relu#0"]) == ("layer3.0.conv1/conv2d", 2, 2)
    assert tuple(table.loc["layer4.1.relu#1"]) == ("avgpool/adaptive_avg_pool2d", 2, 0)


def next_of(function, x, site=0, **options):
    """`downsampling`, `factor`, `activations_between` of the aliasing of a site, or None."""
    report = recorded(Calls(function), x, **options)
    try:
        table = report.aliasing(f"/relu#{site}")
    except spectroscope.RequestError:
        return None
    return tuple(table.iloc[0][["downsampling", "factor", "activations_between"]])


def gated(x):
    x = F.relu(x)
    x = x * torch.sigmoid(F.adaptive_avg_pool1d(x, 1))
    return F.max_pool1d(F.relu(x), 2)


def test_a_gate_is_no_downsampling_and_keeps_the_rate():
    x = torch.randn(2, 3, 64)
    assert next_of(gated, x) == ("max_pool1d", 2, 1)
    assert recorded(Calls(gated), x).sites()["decimation"].tolist() == [1, 1]
    assert next_of(lambda x: F.max_pool1d((y := F.relu(x)) - y.mean(-1, keepdim=True), 2), x) == (
        "max_pool1d", 2, 0)  # fmt: skip


def test_branch_with_fewer_activations_between_comes_first():
    def residual(x):
        x = F.relu(x)
        inner = F.avg_pool1d(F.relu(x), 2)
        return inner + F.max_pool1d(x, 2)

    assert next_of(residual, torch.randn(2, 3, 64)) == ("max_pool1d", 2, 0)


def test_factor_counts_from_the_site_through_upsampling():
    def hourglass(x):
        x = F.interpolate(F.relu(x), scale_factor=2)
        return F.avg_pool1d(F.relu(x), 4)

    x = torch.randn(2, 3, 64)
    assert next_of(hourglass, x) == ("avg_pool1d", 2, 1)
    assert next_of(hourglass, x, site=1) == ("avg_pool1d", 4, 0)
    assert next_of(lambda x: F.avg_pool1d(F.interpolate(F.relu(x), scale_factor=2), 2), x) is None


def test_what_is_directly_before_a_downsampling_comes_first():
    """Of the other sites a later convolution decides what folds."""
    model = nn.Sequential(nn.ReLU(), nn.Conv1d(2, 2, 1, bias=False), nn.ReLU(), nn.AvgPool1d(2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[[0.1], [0.0]], [[0.0], [0.2]]]))
    tone = torch.cos(2 * math.pi * 0.375 * torch.arange(64.0))
    x = torch.stack([tone + 1, tone + 1])[None]  # channel 1 has four times the power after 1
    rows = recorded(model, x).aliasing()[["site", "channel", "activations_between"]]
    assert rows.values.tolist() == [["2#0", 1, 0], ["2#0", 0, 0], ["0#0", 0, 1], ["0#0", 1, 1]]


def test_downsampling_of_one_image_axis_has_no_single_factor():
    x = torch.randn(2, 3, 16, 16)
    report = recorded(Calls(lambda x: F.max_pool2d(F.relu(x), (1, 2))), x)
    assert math.isnan(report.aliasing()["factor"].iloc[0])
    assert report.aliasing()["above_next_nyquist"].isna().all()
    frames = torch.randn(2, 3, 4, 8, 8)
    assert next_of(lambda x: F.avg_pool3d(F.relu(x), (2, 1, 1)), frames) is None
    assert next_of(lambda x: F.avg_pool3d(F.relu(x), (1, 2, 2)), frames) == ("avg_pool3d", 2, 0)


def test_channels_last_uses_the_time_axis():
    def channels_last(x):
        x = F.relu(F.linear(x, torch.randn(5, 3)))  # so that the channels are known
        return F.avg_pool1d(F.conv1d(x.mT, torch.randn(4, 5, 3)), 2).mT

    x = torch.randn(2, 64, 3)
    assert next_of(channels_last, x, channel_axis=-1) == ("avg_pool1d", 2, 0)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"])
def test_decimation_is_known_in_networks_with_gates(name):
    model = torchvision.models.get_model(name, weights=None).eval()
    report = recorded(model, torch.randn(1, 3, 64, 64), kinds=["SiLU", "Hardswish"])
    sites = report.sites()
    images = sites[sites["shape"].map(len) == 3]
    images = images[images["shape"].map(lambda shape: shape[1] > 1)]
    assert images["decimation"].notna().all()
    assert images["decimation"].max() == 32


def circular_average(y, lengths):
    """Moving average over the last axes, as if they were periodic."""
    for axis, length in lengths.items():
        y = np.mean([np.roll(y, -step, axis) for step in range(length)], axis=0)
    return y


# Next downsampling, how many values it averages, and the decimation.
AVERAGES = {
    "pool": (nn.AvgPool1d(4), 4, 4),
    "overlapping": (nn.AvgPool1d(4, stride=2), 4, 2),
    "with gaps": (nn.AvgPool1d(2, stride=4), 2, 4),
    "adaptive": (nn.AdaptiveAvgPool1d(24), 5, 5),
    "stride": (Calls(lambda x: x[..., ::3]), 1, 3),
    "1 × 1": (nn.Conv1d(3, 5, 1, stride=2, dtype=torch.float64), 1, 2),
    "moved": (
        Calls(lambda x: F.avg_pool1d(x.transpose(1, 2).contiguous().transpose(1, 2), 3)),
        3,
        3,
    ),
    "dropout": (nn.Sequential(nn.Dropout(), nn.AvgPool1d(2)).eval(), 2, 2),
    "global": (nn.AdaptiveAvgPool1d(1), 120, 120),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_folded_power_is_what_the_average_passes(name):
    after, length, factor = AVERAGES[name]
    x = torch.randn(6, 3, 120, dtype=torch.float64)
    report = recorded(nn.Sequential(nn.ReLU(), after), x)
    y = x.relu().numpy()
    # What is sampled, built directly. Of it folds what lies above the new Nyquist frequency.
    freq, power = scipy.signal.periodogram(
        circular_average(y, {-1: length}), detrend=False, scaling="spectrum"
    )
    folded = power.mean(0)[:, freq > 0.5 / factor + 1e-9].sum(1) / (y**2).mean((0, 2))
    table = report.aliasing().set_index("channel").sort_index()
    np.testing.assert_allclose(table["folded_fraction"], folded, rtol=1e-10, atol=1e-25)
    assert (table["folded_fraction"] <= table["above_next_nyquist"]).all()


@pytest.mark.parametrize(("length", "cycles"), [(2, 70), (3, 50), (4, 33), (5, 60)])
def test_folded_power_of_a_tone_is_in_the_pooled_output(length, cycles):
    tone = torch.cos(2 * math.pi * cycles / 240 * torch.arange(240, dtype=torch.float64) + 1)
    model = nn.Sequential(nn.ReLU(), nn.AvgPool1d(length))
    row = recorded(model, (9 + tone).expand(1, 1, -1)).aliasing().iloc[0]
    pooled = F.avg_pool1d((9 + tone).view(1, 1, -1), length).flatten().numpy()
    assert row["folded_fraction"] * (81.5) == pytest.approx(pooled.var(), rel=1e-10)


@pytest.mark.parametrize(
    "after",
    [
        nn.MaxPool1d(2),
        nn.LPPool1d(2, 2),
        nn.Conv1d(3, 3, 3, stride=2),
        nn.AvgPool1d(4, padding=1),
        nn.AdaptiveAvgPool1d(50),
        nn.Upsample(scale_factor=0.5),
        nn.Sequential(nn.Conv1d(3, 3, 3), nn.AvgPool1d(2)),
        nn.Sequential(nn.BatchNorm1d(3), nn.AvgPool1d(2)),
        nn.Sequential(nn.ReLU(), nn.AvgPool1d(2)),
        nn.Sequential(nn.Dropout(), nn.AvgPool1d(2)),
        Calls(lambda x: F.avg_pool1d(x.mul_(2), 2)),
        Calls(lambda x: F.avg_pool1d(x + x.flip(-1), 2)),
    ],
)
def test_folded_power_is_unknown_where_the_response_is(after):
    table = recorded(nn.Sequential(nn.ReLU(), after), torch.randn(2, 3, 120)).aliasing("0")
    assert table["above_next_nyquist"].notna().all()
    assert table["folded_fraction"].isna().all()


def test_folded_power_of_images_is_known_of_strides_alone():
    x = torch.randn(2, 3, 16, 16)
    stride = recorded(Calls(lambda x: F.relu(x)[..., ::2, ::2]), x).aliasing()
    np.testing.assert_array_equal(stride["folded_fraction"], stride["above_next_nyquist"])
    assert recorded(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), x).aliasing()[
        "folded_fraction"
    ].isna().all()  # fmt: skip
    # Time is the last axis; pooling along the other changes the power at all frequencies.
    line = recorded(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), x, fs=16.0).aliasing()
    assert line["above_next_nyquist"].notna().all()
    assert line["folded_fraction"].isna().all()
    line = recorded(nn.Sequential(nn.ReLU(), nn.AvgPool2d((1, 2))), x, fs=16.0).aliasing()
    assert line["folded_fraction"].notna().all()


def test_folded_power_of_a_loaded_report(tmp_path):
    model, x = nn.Sequential(nn.ReLU(), nn.AvgPool1d(3)), torch.randn(2, 3, 60)
    report = recorded(model, x)
    report.save(tmp_path)
    loaded = spectroscope.load(tmp_path)
    for other in (loaded, loaded.merge(report)):
        np.testing.assert_allclose(
            other.aliasing()["folded_fraction"], report.aliasing()["folded_fraction"], rtol=1e-12
        )
