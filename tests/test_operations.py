"""The output of each operation, against NumPy's FFT, closed forms and other formulas."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls, report_of
from torch import nn

import spectroscope
from spectroscope import (
    RequestError,
    high_pass,
    intervene,
    introduced_only,
    low_pass,
    mean_dc,
    only_dc,
    preserved_only,
    remove_dc,
    remove_harmonics,
    shuffle_dc,
)


def changed(operation, x, model=None, **options):
    model = model or nn.ReLU()
    with intervene(model, None, operation, **options):
        return model(x.clone())


def positive(*shape, dtype=torch.float64):
    """A tensor that the ReLU does not change."""
    return torch.rand(shape).to(dtype)


def mean(y):
    return y.mean(tuple(range(2, y.dim())), keepdim=True)


@pytest.mark.parametrize("shape", [(4, 3, 9), (4, 3, 10), (4, 3, 1), (4, 3), (4, 3, 5, 6),
                                   (2, 3, 4, 5, 6)])  # fmt: skip
def test_dc_is_the_mean_over_time_or_space(shape):
    x = torch.randn(shape, dtype=torch.float64)
    y, dc = x.relu(), mean(x.relu()) if len(shape) > 2 else x.relu()
    torch.testing.assert_close(changed(remove_dc, x), y - dc)
    torch.testing.assert_close(changed(only_dc, x), dc.expand(shape))


# Decimation 1, whatever the sampling rate: bins k / length.
@pytest.mark.parametrize("length", [29, 30])
@pytest.mark.parametrize(("cutoff", "fs"), [
    (0.1, None),  # with 30 samples a bin, to rounding
    (6.4, 32.0),
    (9.6, 32.0),
    (10, 100.0),
    (0, None),
    (0.5, None),
])  # fmt: skip
def test_what_passes_in_time(length, cutoff, fs):
    x = positive(2, 3, length)
    spectrum = np.fft.rfft(x.numpy())
    spectrum[..., np.fft.rfftfreq(length, 1 / (fs or 1)) > cutoff + 1e-9] = 0
    low = np.fft.irfft(spectrum, n=length)
    np.testing.assert_allclose(changed(low_pass(cutoff), x, fs=fs), low, atol=1e-14)
    high = changed(high_pass(cutoff), x, fs=fs)
    np.testing.assert_allclose(high, x.numpy() - low, atol=1e-14)


@pytest.mark.parametrize(("cutoff", "fs", "hertz"), [(5.0, 100.0, 5.0), (0.1, None, 10.0)])
def test_cutoffs_are_frequencies_of_the_models_input(cutoff, fs, hertz):
    model = nn.Sequential(nn.Conv1d(1, 1, 1, stride=2, bias=False), nn.ReLU()).double()
    nn.init.ones_(model[0].weight)
    x = positive(2, 1, 80)
    with torch.no_grad():
        low = changed(low_pass(cutoff), x, model, fs=fs)
    y = x.numpy()[..., ::2]  # 50 per second
    spectrum = np.fft.rfft(y) * (np.fft.rfftfreq(40, 1 / 50) <= hertz + 1e-9)
    np.testing.assert_allclose(low, np.fft.irfft(spectrum), atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 12, 10), (2, 3, 7, 9), (1, 1, 1, 8)])
@pytest.mark.parametrize(("cutoff", "fs"), [(0.3, None), (0.15, None)])
def test_what_passes_in_space_is_round(shape, cutoff, fs):
    x = positive(*shape)
    radius = np.hypot(np.fft.fftfreq(shape[2])[:, None], np.fft.fftfreq(shape[3]))
    low = np.fft.ifft2(np.fft.fft2(x.numpy()) * (radius <= cutoff + 1e-9)).real
    np.testing.assert_allclose(changed(low_pass(cutoff), x, fs=fs), low, atol=1e-14)
    high = changed(high_pass(cutoff), x, fs=fs)
    np.testing.assert_allclose(high, x.numpy() - low, atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 1, 64), (2, 3, 5, 64), (2, 3, 64, 1), (2, 3, 64, 4)])
def test_with_fs_what_passes_is_along_time_alone(shape):
    x, fs, axis = positive(*shape), 128.0, shape.index(64)
    spectrum = np.fft.rfft(x.numpy(), axis=axis)
    kept = np.fft.rfftfreq(64, 1 / fs) <= 20
    low = np.fft.irfft(
        spectrum * np.expand_dims(kept, [i for i in range(4) if i != axis]), axis=axis
    )
    options = {"fs": fs, "time_axis": axis}
    np.testing.assert_allclose(changed(low_pass(20), x, **options), low, atol=1e-14)
    np.testing.assert_allclose(changed(high_pass(20), x, **options), x.numpy() - low, atol=1e-14)
    time = np.expand_dims(np.arange(64) / fs, [i for i in range(4) if i != axis])
    tone = torch.from_numpy(np.cos(2 * np.pi * 9.3 * time))
    clean = changed(remove_harmonics(9.3, harmonics=1), 3 + tone.expand(shape).clone(), **options)
    np.testing.assert_allclose(clean, torch.full(shape, 3 + tone.mean().item()), atol=0.3)


def test_pixels_are_those_of_the_models_input():
    x = positive(2, 3, 12, 12)
    expected = changed(low_pass(0.2), F.avg_pool2d(x, 2))
    model = nn.Sequential(nn.AvgPool2d(2), nn.ReLU())
    torch.testing.assert_close(changed(low_pass(0.1), x, model), expected)
    model = Calls(lambda x: F.relu(x.flatten(2).unflatten(2, (6, 24))))  # of no known rate
    torch.testing.assert_close(
        changed(low_pass(0.1), x, model, decimation=2.0),
        changed(low_pass(0.2), x, model, decimation=1.0),
    )
    with pytest.raises(RequestError, match="sampling rate isn't known; pass it as decimation="):
        changed(low_pass(0.1), x, model)


@pytest.mark.parametrize("make", [low_pass, high_pass])
def test_cutoffs_that_no_input_has_are_refused(make):
    with pytest.raises(RequestError, match=r"pass\(4\) .* 0.5 cycles per sample .* with fs= it is"):
        changed(make(4), positive(2, 3, 40))
    with pytest.raises(RequestError, match=r"pass\(50\) is above .*, 16 Hz$"):
        changed(make(50.0), positive(2, 3, 40), fs=32.0)
    with pytest.raises(RequestError, match=r"pass\(0.8\) is above"):
        changed(make(0.8), positive(2, 3, 8, 8))
    # A site below the input's rate has lower frequencies, which all pass or none.
    pooled = nn.Sequential(nn.AvgPool1d(4), nn.ReLU())
    x = positive(2, 3, 40)
    expected = pooled(x) if make is low_pass else torch.zeros(2, 3, 10, dtype=x.dtype)
    torch.testing.assert_close(changed(make(0.3), x, pooled), expected)
    assert changed(make(0.7), positive(2, 3, 8, 8)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("make", [low_pass, high_pass])
def test_cutoffs_that_are_none_are_refused(make):
    for cutoff, named in ((-1, "-1"), (float("nan"), "nan"), (None, "NoneType")):
        with pytest.raises(RequestError, match=rf"pass\(cutoff\) needs .* not {named}$"):
            make(cutoff)
    with pytest.raises(TypeError, match=rf"{make.__name__}\(\) takes 1 positional argument"):
        changed(make, positive(2, 3, 4))  # make itself, not make(0.1)
    for shape in ((2, 3), (2, 3, 4, 5, 6, 2)):
        with pytest.raises(RequestError, match=r"needs \[N, C, T\] or \[N, C, H, W\]"):
            changed(make(np.int64(1)), positive(*shape))


def tones(f0, orders, length):
    """``[N, 2, T]``: per input the sum of cosines of all orders, two channels of other phases."""
    time, f0 = np.arange(length), np.reshape(f0, (-1, 1, 1, 1))
    order = np.arange(1, orders + 1).reshape(-1, 1)
    phase = np.array([0.3, 1.9]).reshape(2, 1, 1) * order
    return torch.from_numpy(np.cos(2 * np.pi * f0 * order * time + phase).sum(2) / order.size)


@pytest.mark.parametrize(("f0", "length", "fs"), [
    (0.0625, 64, None),
    (0.0317, 101, None),  # no whole number of periods
    ([0.0317, 0.05], 100, None),
    (0.2137, 90, None),  # the third and fourth fold
    (6.838, 90, 32.0),
])  # fmt: skip
def test_harmonics_go_and_the_dc_stays(f0, length, fs):
    x = 5 + tones(np.divide(f0, fs or 1), 4, length)
    aperiodic = changed(remove_harmonics(f0, harmonics=4), x, fs=fs)
    torch.testing.assert_close(aperiodic, mean(x).expand_as(x), rtol=0, atol=1e-10)
    if np.size(f0) == 2:  # each input's own
        assert (changed(remove_harmonics(f0[::-1], 4), x) - mean(x)).abs().amax((1, 2)).min() > 0.1


def test_other_tones_stay_and_more_harmonics_than_asked_for():
    time = np.arange(128)
    other = 0.5 * np.cos(2 * np.pi * 11 / 128 * time + 0.4)  # orthogonal to all multiples of 8/128
    third = tones(8 / 128, 3, 128) - tones(8 / 128, 2, 128) * 2 / 3
    x = 5 + tones(8 / 128, 2, 128) + third + torch.from_numpy(other)
    aperiodic = changed(remove_harmonics(8 / 128, 2), x)
    torch.testing.assert_close(aperiodic, 5 + third + torch.from_numpy(other)[None, None])


def test_harmonics_among_noise_are_those_of_least_squares():
    x, f0 = 5 + torch.randn(3, 2, 77, dtype=torch.float64), 0.0431
    phase = 2 * np.pi * f0 * np.outer(np.arange(77), np.arange(1, 9))
    table = np.hstack([np.ones((77, 1)), np.cos(phase), np.sin(phase)])
    weights, *_ = np.linalg.lstsq(table, x.relu().numpy().reshape(-1, 77).T, rcond=None)
    periodic = (table[:, 1:] @ weights[1:]).T.reshape(3, 2, 77)
    expected = x.relu().numpy() - periodic + periodic.mean(-1, keepdims=True)
    np.testing.assert_allclose(changed(remove_harmonics(f0), x), expected, atol=1e-12)


def test_where_the_fundamental_is_not_known_all_stays():
    x, operation = 5 + tones([0.1, 0.1], 2, 50), remove_harmonics([0.1, float("nan")])
    aperiodic = changed(operation, x)
    assert torch.equal(aperiodic[1], x[1])
    assert (aperiodic[0] - mean(x)[0]).abs().max() < 1e-10
    operation.f0 = [float("nan"), 0.1]  # of the next batch
    assert torch.equal(changed(operation, x)[0], x[0])


def test_fundamentals_that_are_none_are_refused():
    x = positive(2, 3, 20)
    for make in (partial(remove_harmonics, None), partial(remove_harmonics, "auto"),
                 partial(remove_harmonics, 0.1, 0)):  # fmt: skip
        with pytest.raises(RequestError):
            make()
    for f0, match in ((0.6, "f0=0.6 .* pass fs="), ([0.1] * 3, "3 values of f0 for 2 inputs")):
        with pytest.raises(RequestError, match=match):
            changed(remove_harmonics(f0), x)
    with pytest.raises(RequestError, match=r"needs \[N, C, T\]"):
        changed(remove_harmonics(0.1), positive(2, 3, 4, 5))
    with pytest.raises(RequestError, match="sampling rate isn't known"):
        changed(remove_harmonics(0.1), x, Calls(lambda x: F.relu(x @ torch.ones(20, 9).double())))


@pytest.mark.parametrize("function", [F.relu, torch.relu_, lambda x: torch.clamp(x, 0, out=x)])
def test_the_halves_of_relu(function):
    x = torch.randn(2, 3, 8)
    halves = [changed(half, x, Calls(function)) for half in (preserved_only, introduced_only)]
    assert torch.equal(halves[0], x / 2)
    assert torch.equal(halves[1], x.abs() / 2)
    assert torch.equal(sum(halves), x.relu())
    part = changed(introduced_only, x, Calls(function), channels=[1])
    assert torch.equal(part, torch.stack([x[:, 0].relu(), x[:, 1].abs() / 2, x[:, 2].relu()], 1))


@pytest.mark.parametrize("half", [preserved_only, introduced_only])
def test_only_relu_has_halves(half):
    with pytest.raises(RequestError, match=f"^{half.__name__} needs a ReLU; #0 is a ReLU6"):
        changed(half, positive(2, 3, 4), nn.ReLU6())
    with pytest.raises(RequestError, match="needs a ReLU; #0 is a GELU"):
        changed(half, positive(2, 3, 4), nn.GELU(), kinds=["GELU"])


@pytest.mark.parametrize("shape", [(6, 3, 8), (6, 3, 4, 5), (6, 3)])
def test_the_mean_dc_of_a_data_set_takes_each_inputs_place(shape):
    x, model = torch.randn(shape, dtype=torch.float64), nn.ReLU()
    operation = mean_dc(report_of(model, *x.split(2)))
    y = x[:4].relu()
    new = changed(operation, x[:4])
    dc = mean(y) if len(shape) > 2 else y
    average = mean(x.relu()) if len(shape) > 2 else x.relu()
    torch.testing.assert_close(new, y - dc + average.mean(0))
    with spectroscope.record(model) as recorder, intervene(model, None, operation):
        model(x)
    table = recorder.report().dc()
    np.testing.assert_allclose(table["dc_out"], average.mean(0).flatten(), rtol=1e-13)
    np.testing.assert_allclose(table["dc_out_std"], 0, atol=1e-13)
    part = changed(operation, x[:4], channels=[2, 0])
    assert torch.equal(part[:, 1], y[:, 1])
    torch.testing.assert_close(part[:, [0, 2]], new[:, [0, 2]])


def test_a_report_of_another_model_is_refused():
    operation = mean_dc(report_of(nn.Sequential(nn.ReLU()), positive(2, 3, 4)))
    with pytest.raises(RequestError, match="the report has no site #0"):
        changed(operation, positive(2, 3, 4))
    with pytest.raises(RequestError, match="0#0 has 5 channels, but 3 in the report"):
        changed(operation, positive(2, 5, 4), nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize("count", [2, 3, 16])
def test_shuffled_dc_is_that_of_others(count):
    x, before = positive(count, 3, 8), torch.get_rng_state()
    new = changed(shuffle_dc, x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(new - mean(new), x - mean(x))  # AC
    dc, old = (mean(y)[:, 0].flatten() for y in (new, x))
    torch.testing.assert_close(dc.sort().values, old.sort().values)
    assert ((dc - old).abs() > 1e-9).all()
    seeds = {tuple(changed(partial(shuffle_dc, seed=s), x)[:, 0, 0].tolist()) for s in range(9)}
    assert len(seeds) == {2: 1, 3: 2, 16: 9}[count]


def test_there_must_be_another():
    with pytest.raises(RequestError, match="batches of 2 inputs or more, not 1"):
        changed(shuffle_dc, positive(1, 3, 8))


REPORT = report_of(nn.ReLU(), torch.randn(4, 3, 6, 6))
OPERATIONS = [remove_dc, only_dc, low_pass(0.2), high_pass(0.2), preserved_only, introduced_only,
              shuffle_dc, mean_dc(REPORT)]  # fmt: skip


@pytest.mark.parametrize("operation", [*OPERATIONS, remove_harmonics(0.21, 3)])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_those_of_the_changed_model(operation, inplace):
    relu = Calls(lambda x: F.relu(x - 0.1, inplace=inplace))
    model = nn.Sequential(nn.Conv1d(2, 3, 3), relu, nn.Conv1d(3, 2, 1), Calls(torch.tanh)).double()
    report = report_of(model, torch.randn(4, 2, 9, dtype=torch.float64))
    if operation.__name__ == "mean_dc":
        operation = mean_dc(report)
    x = torch.randn(3, 2, 9, dtype=torch.float64, requires_grad=True)
    run = partial(changed, operation, model=model)
    # Along random directions, not along every axis: a wrong gradient is wrong there too.
    assert torch.autograd.gradcheck(run, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x,), fast_mode=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [None, [0, 2]])
def test_type_shape_and_order_in_memory_are_kept(operation, dtype, format, channels):
    x = torch.randn(4, 3, 6, 6, dtype=dtype).to(memory_format=format)
    new = changed(operation, x, channels=channels)
    assert (new.dtype, new.shape, new.stride()) == (dtype, x.shape, x.stride())
    wide = changed(operation, x.double(), channels=channels)
    assert (new - wide).abs().max() < 4 * torch.finfo(dtype).eps * wide.abs().max()


@pytest.mark.parametrize("operation", [only_dc, low_pass(0), shuffle_dc,
                                       mean_dc(report_of(nn.ReLU(), torch.full((2, 3, 4), 6e4))),
                                       remove_harmonics(0.1)])  # fmt: skip
def test_sums_of_large_numbers_do_not_overflow(operation):
    x = torch.full((2, 3, 64), 60000.0, dtype=torch.float16)  # the largest float16 is 65504
    assert torch.equal(changed(operation, x), x)
    assert (changed(remove_dc, x) == 0).all()
