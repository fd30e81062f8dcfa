"""A forward that repeats an earlier one is not tracked again; if it differs, no rate is wrong."""

import contextlib
import math
import threading

import pandas as pd
import pytest
import torch
from helpers import Calls
from torch import nn

import spectroscope
from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.capture import Capture
from spectroscope.capture.memory import ForwardMemory, Frame, Step


@pytest.fixture
def updates(monkeypatch):
    """The functions whose outputs are tracked, in order."""
    names = []
    update = AxisTracker.update

    def counted(self, name, *args):
        names.append(name)
        return update(self, name, *args)

    monkeypatch.setattr(AxisTracker, "update", counted)
    return names


class Stack(nn.Module):
    """Decimates by 2, reads properties of tensors, and calls a function and a module."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, 3, 5, stride=2), nn.Conv1d(3, 4, 5)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        assert x.shape[-1] == x.size(-1)
        return self.relu(self.conv2(nn.functional.avg_pool1d(x, 2))).mean(-1)


def test_the_second_forward_is_not_tracked(updates):
    model, x = Stack(), torch.randn(2, 1, 64)
    with spectroscope.record(model, fs=32, spectra=False):
        model(x)
        tracked = len(updates)
        assert tracked
        model(torch.randn(2, 1, 64))
        assert len(updates) == tracked
        model(torch.randn(3, 1, 66))  # a new shape
        assert len(updates) == 2 * tracked
        model(x)
        assert len(updates) == 2 * tracked


def test_results_are_those_of_tracked_forwards(monkeypatch):
    model, batches = Stack(), [torch.randn(n, 1, 64) for n in (4, 4, 2, 4)]

    def tables():
        with spectroscope.record(model, fs=32, f0="auto") as recorder:
            for batch in batches:
                model(batch)
        report = recorder.report()
        return (report.dc(), report.sites(), report.spectra(), report.harmonics(),
                report.aliasing(), report.coverage())  # fmt: skip

    remembered = tables()
    start = ForwardMemory.start
    monkeypatch.setattr(ForwardMemory, "start", lambda self, key: start(self, object()))
    for first, second in zip(remembered, tables(), strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)


class Branches(nn.Module):
    """Takes a branch of another sampling rate where the input is positive."""

    def __init__(self):
        super().__init__()
        self.slow, self.fast = nn.Conv1d(1, 2, 4, stride=4), nn.Conv1d(1, 2, 4, stride=2)
        self.last = nn.ReLU()

    def forward(self, x):
        if x.mean() > 0:
            x = torch.relu(self.slow(x))
            return self.last(nn.functional.interpolate(x, 16))
        return self.last(self.fast(x))


def test_a_branch_that_depends_on_the_data():
    model, positive = Branches(), torch.ones(1, 1, 64)
    with spectroscope.record(model, fs=32, spectra=False) as recorder:
        for x in (-positive, -positive, positive, positive, -positive):
            model(x)
    sites = recorder.report().sites().set_index("site")
    assert sites.loc["/relu#0", "fs"] == 8
    # 31 samples at 16 Hz, and 16 at 8 Hz.
    assert math.isnan(sites.loc["last#0", "fs"])


def test_a_site_first_seen_in_a_forward_that_is_not_tracked():
    model, positive = Branches(), torch.ones(1, 1, 64)
    recorder = spectroscope.record(model, fs=32, spectra=False)
    with pytest.warns(UserWarning, match="unknown in spite of fs"), recorder:
        for x in (-positive, -positive, positive):
            model(x)
    sites = recorder.report().sites().set_index("site")
    assert math.isnan(sites.loc["/relu#0", "fs"])
    assert sites.loc["/relu#0", "n_samples"] == 1


class Steps(nn.Module):
    """Calls the same functions whatever the data, which decide the sampling rate."""

    def forward(self, x):
        return torch.relu(x[..., :: 2 if x.mean() > 0 else 1])


@pytest.mark.parametrize("signs", [(1, 1, -1), (-1, -1, 1), (1, 1, -1, -1, 1)])
def test_other_lengths_in_the_same_steps(signs):
    model = Steps()
    recorder = spectroscope.record(model, fs=32, spectra=False)
    with pytest.warns(UserWarning, match="unknown in spite of fs"), recorder:
        for sign in signs:
            model(torch.full((1, 1, 8), float(sign)))
    assert math.isnan(recorder.report().sites()["fs"].item())


class SameLengths(nn.Module):
    """Takes every second sample or the first half, which have the same shape."""

    def forward(self, x):
        x = x[..., ::2] if x.mean() > 0 else x[..., : x.shape[-1] // 2]
        return torch.relu(x)


@pytest.mark.parametrize("period", [2, 3, 10])
def test_other_rates_of_the_same_shapes_are_found(period):
    model = SameLengths()
    recorder = spectroscope.record(model, fs=32, spectra=False)
    with pytest.warns(UserWarning, match="unknown in spite of fs"), recorder:
        for i in range(40):
            model(torch.full((1, 1, 8), float(i % period) - 0.5))
    assert math.isnan(recorder.report().sites()["fs"].item())
    assert recorder.report().sites()["n_samples"].item() == 40


def tracked_forwards(updates, model, inputs):
    """Numbers of the forwards that are tracked."""
    tracked = []
    with spectroscope.record(model, fs=32, spectra=False):
        for i, x in enumerate(inputs):
            before = len(updates)
            model(x)
            if len(updates) > before:
                tracked.append(i)
    return tracked


UNKNOWN_RATE = nn.Sequential(nn.Conv1d(1, 2, 3), Calls(lambda x: x.sort()[0]), nn.ReLU())


@pytest.mark.filterwarnings("ignore:.*unknown in spite of fs")
@pytest.mark.parametrize("model", [Stack(), UNKNOWN_RATE])
def test_a_repeated_forward_is_tracked_less_and_less_often(updates, model):
    inputs = [torch.randn(2, 1, 64)] * 100
    assert tracked_forwards(updates, model, inputs) == [0, 16, 33, 66]


def test_from_where_another_rate_is_found_every_forward_is_tracked(updates):
    inputs = [torch.full((1, 1, 8), 1.0 - 2 * (i >= 16)) for i in range(20)]
    with pytest.warns(UserWarning, match="unknown in spite of fs"):
        assert tracked_forwards(updates, SameLengths(), inputs) == [0, 16, 17, 18, 19]


class Early(nn.Module):
    """Leaves after the first ReLU where the input is positive."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 2, 1), nn.Conv1d(2, 2, 2, stride=2)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return y if x.mean() > 0 else torch.relu(self.second(y))


@pytest.mark.parametrize("order", [(1, -1, -1), (-1, 1, -1), (-1, -1, 1), (1, 1, -1, -1)])
def test_a_forward_that_ends_early(order):
    model = Early()
    with spectroscope.record(model, fs=32, spectra=False) as recorder:
        for sign in order:
            model(torch.full((1, 1, 8), float(sign)))
    sites = recorder.report().sites()
    assert sites["fs"].tolist() == [32, 16]
    assert sites["n_samples"].tolist() == [len(order), order.count(-1)]


def test_a_forward_that_raised_is_not_remembered(updates):
    model, x = Stack(), torch.randn(2, 1, 64)
    pool, model.conv2 = model.conv2, nn.Conv1d(7, 4, 5)  # which raises
    with spectroscope.record(model, fs=32, spectra=False) as recorder:
        with pytest.raises(RuntimeError):
            model(x)
        model.conv2.weight, model.conv2.in_channels = pool.weight, 3
        updates.clear()
        model(x)
        assert updates
    assert recorder.report().sites()["fs"].tolist() == [16, 8]


def test_what_is_never_repeated_takes_no_memory():
    model = Stack()
    with spectroscope.record(model, fs=32, spectra=False) as recorder:
        for length in range(40, 100):
            model(torch.randn(1, 1, length))
    assert len(recorder._capture._thread.memory._forwards) < 40


def test_calls_that_are_not_selected_are_counted_in_each_forward():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), Stack())
    model[2].conv1 = nn.Conv1d(2, 3, 3)
    with spectroscope.record(model, select="2.relu", spectra=False) as recorder:
        for _ in range(3):
            model(torch.randn(1, 1, 32))
    fired = recorder.report().coverage().set_index("place")["fired"]
    assert fired.to_dict() == {"1": 3, "2.relu": 3, "2/relu": 3}


def test_interventions_are_always_tracked(updates):
    model, x = Stack(), torch.randn(2, 1, 64)
    with spectroscope.intervene(model, "*", spectroscope.remove_dc):
        model(x)
        tracked = len(updates)
        model(x)
        assert len(updates) == 2 * tracked


@pytest.fixture
def entered(monkeypatch):
    """The modules whose call reaches the observer, in order."""
    modules = []
    enter = Capture.on_module_enter

    def noted(self, module, args):
        modules.append(module)
        return enter(self, module, args)

    monkeypatch.setattr(Capture, "on_module_enter", noted)
    return modules


def counts(recorder):
    sites = recorder.report().sites()
    return dict(zip(sites["site"], sites["n_samples"], strict=True))


def test_of_a_forward_that_repeats_only_the_model_is_entered(entered):
    model, x = Stack(), torch.randn(2, 1, 64)
    with spectroscope.record(model, spectra=False) as recorder:
        model(x)
        assert len(entered) == 4
        entered.clear()
        for _ in range(3):
            model(x)
    assert entered == [model] * 3
    assert counts(recorder) == {"/relu#0": 8, "relu#0": 8}


@pytest.mark.parametrize("select", ["*#1", "*#0", None])
def test_calls_of_a_shared_module_are_counted_in_every_forward(select):
    relu = nn.ReLU()
    model, x = nn.Sequential(relu, nn.Conv1d(1, 1, 3), relu), torch.randn(2, 1, 16)
    with spectroscope.record(model, select=select) as recorder:
        for _ in range(3):
            model(x)
    names = {None: ["0#0", "0#1"]}.get(select, [f"0{(select or '')[1:]}"])
    assert counts(recorder) == dict.fromkeys(names, 6)
    assert recorder.report().coverage()["fired"].tolist() == [6]


class Part(nn.Module):
    """Leaves the ReLU to its caller where the input is positive."""

    def forward(self, x):
        return x + 1 if x.mean() > 0 else torch.relu(x + 1)


class Moves(nn.Module):
    """The same functions in the same order; the data decide who calls the last one."""

    def __init__(self):
        super().__init__()
        self.part = Part()

    def forward(self, x):
        y = self.part(x)
        return torch.relu(y) if x.mean() > 0 else y


@pytest.mark.parametrize("signs", [(1, 1, -1, 1), (-1, -1, 1, -1)])
def test_a_function_that_another_module_calls(signs):
    model = Moves()
    with spectroscope.record(model, spectra=False) as recorder:
        for sign in signs:
            model(torch.full((1, 1, 8), float(sign)))
    assert counts(recorder) == {"/relu#0": signs.count(1), "part/relu#0": signs.count(-1)}


class Methods(nn.Module):
    """Calls a method of one of two modules, without calling the module."""

    class Part(nn.Module):
        def activate(self, x):
            return torch.relu(x)

    def __init__(self):
        super().__init__()
        self.a, self.b = self.Part(), self.Part()

    def forward(self, x):
        return (self.a if x.mean() > 0 else self.b).activate(x)


def test_a_method_of_another_module():
    model = Methods()
    with spectroscope.record(model, spectra=False) as recorder:
        for sign in (1, 1, -1, 1):
            model(torch.full((1, 1, 8), float(sign)))
    assert counts(recorder) == {"a/relu#0": 3, "b/relu#0": 1}


class Limits(nn.Module):
    """Is a ReLU or a ReLU6."""

    def forward(self, x):
        return torch.clamp(x, 0, 6) if x.mean() > 0 else torch.clamp(x, 0)


def test_other_arguments_are_another_activation():
    model = Limits()
    recorder = spectroscope.record(model, spectra=False)
    with pytest.warns(UserWarning, match="ReLU, then ReLU6"), recorder:
        for sign in (-1, -1, 1):
            model(torch.full((1, 1, 8), 9.0 * sign))
    assert counts(recorder) == {"/clamp#0": 2}
    assert recorder.report().dc()["dc_out"].tolist() == [0]


class Fails(nn.Module):
    """A part of it raises where the input is positive, with `error`."""

    def __init__(self, error):
        super().__init__()
        self.inner = nn.Sequential(nn.Identity(), nn.ReLU(), Checks(error), nn.ReLU())

    def forward(self, x):
        with contextlib.suppress(ValueError):
            x = self.inner(x)
        return torch.relu(x)


class Checks(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        if x.mean() > 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_part_that_fails_in_a_forward_that_repeats(error):
    model = Fails(error)
    caught = contextlib.suppress(KeyboardInterrupt)
    with spectroscope.record(model, spectra=False) as recorder:
        for sign in (-1, -1, 1, -1):
            with caught:
                model(torch.full((1, 1, 8), float(sign)))
        torch.relu(torch.ones(1, 1, 8))  # not the model's
    passed = 4 if error is ValueError else 3
    assert counts(recorder) == {"inner.1#0": 4, "inner.3#0": 3, "/relu#0": passed}
    coverage = recorder.report().coverage()
    assert coverage["status"].eq("fired").all()


def test_a_part_that_runs_apart_after_a_forward_that_repeats():
    model, x = nn.Sequential(nn.Sequential(nn.Identity(), nn.ReLU())), torch.randn(2, 1, 8)
    recorder = spectroscope.record(model, spectra=False)
    with pytest.warns(UserWarning, match="parts of it ran apart"), recorder:
        for _ in range(2):
            model(x)
        model[0](x)
    assert counts(recorder) == {"0.1#0": 6}


def test_a_layer_that_takes_its_fused_path_later():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    recorder = spectroscope.record(model, spectra=False)
    with pytest.warns(UserWarning, match="one fused kernel"), recorder:
        for _ in range(2):
            model(x)
        with torch.no_grad():
            model(x)
    assert counts(recorder) == {"/relu#0": 4}


def test_two_recorders_and_an_intervention():
    model, x = Stack(), torch.randn(2, 1, 64)
    with spectroscope.record(model, spectra=False) as alone:
        model(x)
        with spectroscope.intervene(model, "relu", spectroscope.remove_dc):
            model(x)
        model(x)
    with (
        spectroscope.record(model, fs=32, spectra=False) as first,
        spectroscope.record(model, fs=32, spectra=False) as second,
    ):
        for _ in range(3):
            model(x)
    assert first.report().sites()["fs"].tolist() == [16, 8]
    pd.testing.assert_frame_equal(first.report().sites(), second.report().sites())
    assert counts(alone) == counts(first) == counts(second) == {"/relu#0": 6, "relu#0": 6}
    pd.testing.assert_frame_equal(first.report().dc(), second.report().dc(), check_exact=True)
    changed = alone.report().dc().set_index("site")["dc_out"]
    plain = first.report().dc().set_index("site")["dc_out"]
    assert changed.loc["/relu#0"].tolist() == plain.loc["/relu#0"].tolist()


def test_threads_repeat_their_own_forwards(entered):
    model, x = Stack(), torch.randn(2, 1, 64)

    def work():
        for _ in range(3):
            model(x)

    with spectroscope.record(model, spectra=False) as recorder:
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        work()
        for worker in workers:
            worker.join()
    assert len(entered) == 3 * (4 + 2)
    assert counts(recorder) == {"/relu#0": 18, "relu#0": 18}


def test_entering_is_not_leaving_and_nothing_is_skipped_after_the_end():
    memory, module = ForwardMemory([], enabled=True), nn.Identity()

    def frame():
        return Frame(module, "", None, matters=False)

    memory.start("key")
    for leaves in (False, False, True, True):
        memory.add(Step(module, leaves, frame()))
    memory.finish()
    memory.start("key")
    assert not memory.leaves(module)
    assert memory.skips(module)
    memory.stop()
    assert not memory.skips(module)
    memory.start("key")
    assert memory.expects(module, leaves=True) is None
    assert not memory.repeating


class Shared(nn.Module):
    """Calls a further function where the input is 5."""

    def forward(self, x):
        if x.mean() == 5:
            x = x.abs()
        return torch.relu(x)


def test_a_function_more_in_a_module_with_two_names():
    shared = Shared()
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(nn.Hardtanh(2, 5), shared))
    with spectroscope.record(model, spectra=False) as recorder:
        for value in (2.0, 2.0, 1.0, 2.0, 6.0):
            model(torch.full((1, 1, 8), value))
    assert counts(recorder) == {"0.0/relu#0": 5, "1.1/relu#0": 5}


class Layer(nn.TransformerEncoderLayer):
    """Calls its modules, but not its attention."""

    def forward(self, x):
        return self.linear2(self.linear1(x))


@pytest.mark.parametrize("around", [lambda layer: layer, nn.Sequential])
def test_a_layer_whose_modules_are_skipped_is_not_fused(around):
    model, x = around(Layer(8, 2, 16).eval()), torch.randn(2, 3, 8)

    def coverage(times):
        recorder = spectroscope.record(model, spectra=False)
        with pytest.warns(UserWarning, match="nothing was recorded"), recorder:
            for _ in range(times):
                model(x)
        return recorder.report().coverage()

    pd.testing.assert_frame_equal(coverage(1), coverage(3))
