"""On a GPU: the CPU's tables, the model's own outputs, no waiting and no growing memory."""

import contextlib
import copy
import warnings

import long_runs
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import TABLES, Calls, report_of
from torch import nn

import spectroscope
from spectroscope import run
from spectroscope.dsp.kernels import dispatch

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def stack():
    """1-D, with strides, poolings, batch normalisation, ReLUs in place and as functions."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv1d(3, 8, 5, stride=2), nn.BatchNorm1d(8), nn.ReLU(inplace=True),
        nn.AvgPool1d(2), Calls(lambda x: F.relu(x - 0.1)), nn.Conv1d(8, 4, 3), nn.LeakyReLU(),
        Calls(lambda x: x.mean(-1)), nn.Linear(4, 2), Calls(torch.relu),
    ).eval()  # fmt: skip


def activations():
    """Nothing but ReLUs: their inputs are bit-identical on every device."""
    return nn.Sequential(nn.ReLU(), Calls(lambda x: (x - 0.5).relu_()), nn.ReLU(inplace=True))


def both(model, *batches, **options):
    """Reports on a model and its inputs on the GPU and on the CPU."""
    there = [batch.to(DEVICE) for batch in batches]
    actual = report_of(copy.deepcopy(model).to(DEVICE), *there, **options)
    return actual, report_of(model, *batches, **options)


def assert_tables(actual, expected, names=TABLES, rtol=1e-9):
    """The same rows; numbers equal to rounding, relative to the largest of a column if tiny."""
    for name in names:
        frame, other = getattr(actual, name)(), getattr(expected, name)()
        assert list(frame) == list(other)
        for column in frame:
            a, b = frame[column], other[column]
            if b.dtype == np.float64:
                atol = 1e-3 * rtol * np.nan_to_num(np.abs(b)).max(initial=0)
                np.testing.assert_allclose(a, b, rtol, atol, err_msg=f"{name}: {column}")
            else:
                assert a.tolist() == b.tolist(), f"{name}: {column}"


def test_a_stack_has_the_tables_of_the_cpu():
    f0 = [0.9, 2.5, np.nan, 4.1, 3.3]
    batches = torch.randn(2, 5, 3, 255, dtype=torch.float64)
    options = {"fs": 32.0, "f0": f0, "kinds": ["LeakyReLU"]}
    actual, expected = both(stack().double(), *batches, **options)
    assert expected.sites()["n_samples"].tolist() == [10] * 5
    assert_tables(actual, expected, [*TABLES, "harmonics", "aliasing", "coverage"])


def test_the_strongest_component_is_found_as_on_the_cpu():
    time = torch.arange(255, dtype=torch.float64)
    tones = torch.cos(2 * torch.pi * torch.tensor([0.03, 0.071, 0.11])[:, None, None] * time)
    actual, expected = both(activations(), tones, f0="auto", harmonics=4)
    np.testing.assert_allclose(
        expected.harmonics()["freq"][:1], np.mean([0.03, 0.071, 0.11]), rtol=1e-3
    )
    assert_tables(actual, expected, ["harmonics", "dc"])


@pytest.mark.parametrize("spectra", [True, "plane"])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_images_have_the_tables_of_the_cpu(spectra, window, format):
    x = torch.randn(6, 5, 21, 16).to(memory_format=format)
    actual, expected = both(activations(), x, spectra=spectra, window=window)
    assert_tables(actual, expected, [*TABLES, "planes"] if spectra == "plane" else TABLES)


@pytest.mark.parametrize("shape", [(4, 3, 5, 12, 10), (7, 3), (3, 2, 1, 90)])
def test_video_features_and_flat_images_do_too(shape):
    actual, expected = both(activations(), torch.randn(shape))
    assert_tables(actual, expected, ["dc", "sites", "introduced"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 3, 256), (4, 3, 255), (4, 3, 97), (2, 8, 14, 14)])
def test_half_precision_of_any_length_is_reduced_in_double(dtype, shape):
    x = (300 * torch.randn(shape)).to(dtype)  # squares are beyond float16
    actual, expected = both(activations(), x)
    assert_tables(actual, expected)
    np.testing.assert_allclose(
        actual.dc()["dc_in"][: shape[1]], x.double().transpose(0, 1).flatten(1).mean(1), rtol=1e-9
    )


def test_large_batches_are_reduced_in_chunks():
    x = torch.randn(40, 3, 300_000)
    actual, expected = both(activations()[:1], x, spectra=False)
    assert_tables(actual, expected, ["dc"])
    actual, expected = both(activations()[:1], x[:2])
    assert_tables(actual, expected, ["spectra"])


def test_nan_and_infinity_are_counted_and_kept_out():
    x = torch.randn(5, 3, 255)
    x[0, 0, 3:7] = torch.nan
    x[1, 0, 5], x[1, 2, 8] = torch.inf, -torch.inf
    x[:, 1] = torch.nan
    actual, expected = both(activations()[:1], x, x[:2])
    dc = actual.dc()
    assert dc["nonfinite"].tolist() == [4 + 1 + 4 + 1, 7 * 255, 2]
    np.testing.assert_allclose(
        dc["dc_in"][0], torch.cat([x, x[:2]])[:, 0].double().nan_to_num(
            torch.nan, torch.nan, torch.nan).nanmean(), rtol=1e-9
    )  # fmt: skip
    assert_tables(actual, expected)


def test_a_real_network_in_half_precision_and_channels_last():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    x = torch.randn(4, 3, 96, 96)
    with torch.inference_mode():
        expected = report_of(model, x)
        half = copy.deepcopy(model).to(DEVICE, torch.float16, memory_format=torch.channels_last)
        actual = report_of(half, x.to(DEVICE, torch.float16, memory_format=torch.channels_last))
        single = report_of(copy.deepcopy(model).to(DEVICE), x.to(DEVICE))
    assert len(expected.sites()) == 17
    # A site's RMS: a channel that is all but off has no digits of its own.
    scale = expected.dc().groupby("site")["ac_rms_in"].transform("max")
    for report in (single, actual):  # in TensorFloat-32, and in half: both keep 11 bits
        assert report.coverage().equals(expected.coverage())
        away = (report.dc()["dc_out"] - expected.dc()["dc_out"]).abs() / scale
        assert away.max() < 5e-3
        total = report.spectra().groupby(["site", "side"])["power"].sum()
        other = expected.spectra().groupby(["site", "side"])["power"].sum()
        np.testing.assert_allclose(total, other, rtol=5e-3)


def bn_net():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Conv2d(6, 8, 3, stride=2), Calls(F.relu), Calls(lambda x: x.mean((2, 3))),
    )  # fmt: skip


@pytest.fixture(params=["cudnn alone", "all algorithms"])
def deterministic(request, monkeypatch):
    """The same result in every run; in the second case torch refuses what can't promise that."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    torch.use_deterministic_algorithms(request.param == "all algorithms")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_the_same_to_the_bit(deterministic, train, dtype, format):
    model = bn_net().to(DEVICE, dtype, memory_format=format).train(train)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 3, 24, 24).to(DEVICE, dtype, memory_format=format).requires_grad_()

    def run():
        torch.manual_seed(1)  # of all devices
        model.load_state_dict(state)
        model.zero_grad()
        x.grad = None
        y = model(x)
        y.float().square().sum().backward()
        result = [y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
        rng = [torch.get_rng_state(), torch.cuda.get_rng_state()]
        return [t.detach().clone() for t in result] + rng

    before = run()
    with spectroscope.record(model) as recorder:
        during = run()
    for a, b, c in zip(before, during, run(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    report = recorder.report()
    assert report.coverage()["reason"].eq("").all()
    assert set(report.spectra()["site"]) == {"2#0", "5/relu#0"}


@contextlib.contextmanager
def synchronising(mode):
    """Let torch raise at a synchronisation (``"error"``), or list them (``"warn"``)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)  # warns that it is a prototype
        warnings.simplefilter("always")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode("default")


def waits(caught):
    return [str(w.message) for w in caught if "synchronizing" in str(w.message)]


RECORDINGS = {
    "dc": {"spectra": False},
    "spectra": {"spectra": True, "window": "hann"},
    "f0": {"spectra": True, "f0": 0.05},
    "auto": {"spectra": False, "f0": "auto"},
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kept", RECORDINGS)
def test_a_forward_waits_for_nothing(kept, autocast):
    model, x = stack().to(DEVICE), torch.randn(6, 3, 255, device=DEVICE)
    half = torch.autocast(DEVICE, torch.float16, enabled=autocast)
    with torch.inference_mode(), half, spectroscope.record(model, **RECORDINGS[kept]) as recorder:
        model(x)  # the first checks the ReLUs' outputs, and copies tables to the GPU
        with synchronising("error"):
            for _ in range(3):
                model(x)
            # Errors of recording are only noted, so check that torch raises any.
            with pytest.raises(RuntimeError, match="synchronizing"):
                x.sum().item()
    # A synchronisation would be in the coverage, and leaving the block would have warned.
    assert recorder.report().sites()["n_samples"].tolist() == [24] * 4


@pytest.mark.parametrize("spectra", [False, True, "plane"])
def test_a_forward_on_images_waits_for_nothing(spectra):
    model, x = bn_net().eval().to(DEVICE), torch.randn(6, 3, 24, 24, device=DEVICE)
    with torch.inference_mode(), spectroscope.record(model, spectra=spectra) as recorder:
        model(x)
        with synchronising("error"):
            for _ in range(3):
                model(x)
    assert recorder.report().sites()["n_samples"].tolist() == [24] * 2


@pytest.mark.parametrize("kept", RECORDINGS)
def test_the_first_forward_waits_a_few_times(kept):
    model, x = stack().to(DEVICE), torch.randn(6, 3, 255, device=DEVICE)
    with torch.inference_mode(), spectroscope.record(model, **RECORDINGS[kept]) as recorder:
        with synchronising("warn") as caught:
            model(x)
        first = len(waits(caught))
    sites = len(recorder.report().sites())
    # Once a site, to check its output; and to copy tables of transforms and fundamentals.
    assert 0 < first <= (1 if kept == "dc" else 5) * sites


def test_autocast_leaves_our_arithmetic_alone():
    x = torch.randn(5, 3, 255, device=DEVICE)
    options = {"fs": 32.0, "f0": 2.2, "window": "hann"}
    expected = report_of(activations(), x, **options)
    with torch.autocast(DEVICE, torch.float16):
        actual = report_of(activations(), x, **options)
    assert_tables(actual, expected, [*TABLES, "harmonics"])


def test_under_autocast_the_model_s_own_values_are_recorded(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model, x = stack().to(DEVICE), torch.randn(6, 3, 255, device=DEVICE)
    inputs = []
    # Before the module itself runs, so that an input is as it is before it is overwritten.
    handle = model[3].register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    with torch.autocast(DEVICE, torch.float16), torch.inference_mode():
        before = model(x)
        with spectroscope.record(model) as recorder:
            during = model(x)
    handle.remove()
    assert before.dtype == inputs[0].dtype == torch.float16
    assert torch.equal(before, during)
    given = inputs[1].cpu().double().numpy()
    dc = recorder.report().dc()
    rows = dc[dc["site"] == "3#0"]
    np.testing.assert_allclose(rows["dc_in"], given.mean((0, 2)), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows["dc_out"], np.maximum(given, 0).mean((0, 2)), rtol=1e-9)


@pytest.mark.parametrize("kept", RECORDINGS)
def test_memory_does_not_grow_with_the_batches(kept):
    model, x = stack().to(DEVICE), torch.randn(64, 3, 255, device=DEVICE)
    held, peaks = [], []
    with torch.inference_mode(), spectroscope.record(model, **RECORDINGS[kept]):
        for _ in range(50):
            torch.cuda.reset_peak_memory_stats()
            model(x)
            held.append(torch.cuda.memory_allocated())
            peaks.append(torch.cuda.max_memory_allocated())
    assert max(held[3:]) <= held[2]
    assert max(peaks[3:]) <= max(peaks[:3])


def test_a_saved_report_has_no_device(tmp_path):
    x = torch.randn(5, 3, 255)
    actual, _ = both(activations(), x, fs=32.0, f0=2.2)
    actual.save(tmp_path)
    assert_tables(spectroscope.load(tmp_path), actual, [*TABLES, "harmonics"], rtol=1e-14)


@pytest.mark.parametrize("loaded", [False, True])
def test_reports_from_two_devices_merge(loaded, tmp_path):
    x, y = torch.randn(5, 3, 255), torch.randn(3, 3, 255)
    options = {"fs": 32.0, "f0": 2.2}
    actual, on_cpu = both(activations(), x, **options)
    if loaded:
        on_cpu.save(tmp_path)
        on_cpu = spectroscope.load(tmp_path)
    more = report_of(activations(), y, **options)
    expected = report_of(activations(), x, y, **options)
    names = [*TABLES, "harmonics"]
    assert_tables(actual.merge(more), expected, names)
    assert_tables(more.merge(actual), expected, names)
    assert_tables(actual.merge(on_cpu), on_cpu.merge(on_cpu), names)


def test_on_another_stream_that_waits_its_turn():
    model, batches = activations(), torch.randn(20, 5, 3, 255, device=DEVICE)
    side = torch.cuda.Stream()
    with spectroscope.record(model) as recorder:
        for number, batch in enumerate(batches):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side if number % 2 else torch.cuda.current_stream()):
                model(batch.clone())
            torch.cuda.current_stream().wait_stream(side)
    assert_tables(recorder.report(), report_of(model, *batches.cpu()))


def test_kernels_run_and_reports_are_the_same_without_them(monkeypatch):
    pytest.importorskip("triton")
    assert dispatch.gpu_kernels(torch.device(DEVICE, 0)) is not None
    x = torch.randn(5, 3, 255)
    x[1, 2, 7] = torch.nan
    actual, _ = both(activations(), x, fs=32.0, f0=2.2)
    monkeypatch.setattr(dispatch, "gpu_kernels", lambda device: None)
    without, _ = both(activations(), x, fs=32.0, f0=2.2)
    assert_tables(actual, without, [*TABLES, "harmonics"])


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    def inspected(specimen, **options):
        return run.inspect(specimen, device=DEVICE, **options).report

    whole, broken = inspected(long_runs.waves()), long_runs.waves()
    left = iter([None] * 3)
    broken.model.register_forward_pre_hook(lambda *_: next(left))
    with pytest.raises(StopIteration):
        inspected(broken, checkpoint=run.Checkpoint(tmp_path, every=2))
    actual = inspected(long_runs.waves(), checkpoint=run.Checkpoint(tmp_path, resume=True))
    for name in [*TABLES, "harmonics"]:
        pd.testing.assert_frame_equal(
            getattr(actual, name)(), getattr(whole, name)(), check_exact=True
        )
