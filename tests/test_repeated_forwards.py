"""A forward that repeats an earlier one is not tracked again; if it differs, no rate is wrong."""

import math

import pandas as pd
import pytest
import torch
from helpers import Calls
from torch import nn

import spectroscope
from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.memory import ForwardMemory


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
