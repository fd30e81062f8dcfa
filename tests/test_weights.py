"""Reports of different weights are distinguished without reading the weights in a forward."""

import copy

import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.statistics import weights
from spectroscope.statistics.weights import KEY, UNKNOWN, weights_hash

X = torch.randn(4, 1, 64)


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(1, 40, 9), nn.BatchNorm1d(40), nn.ReLU()).eval()


def report_of(net, x=X):
    with torch.no_grad(), spectroscope.record(net) as recorder:
        net(x)
    return recorder.report()


def test_reports_of_different_weights_are_not_merged(tmp_path):
    a, b = report_of(model()), report_of(model(1))
    a.save(tmp_path / "a")
    for first, second in ((a, b), (b, spectroscope.load(tmp_path / "a"))):
        with pytest.raises(spectroscope.RequestError, match="different weights can't be merged"):
            first.merge(second)
    both = a.merge(report_of(model()))
    assert both.about[KEY] == a.about[KEY] != UNKNOWN
    assert both.sites()["n_samples"].item() == 8
    with pytest.raises(spectroscope.RequestError, match="different weights"):
        both.merge(b)


def test_weights_that_change_while_they_are_recorded_are_unknown():
    net = model()
    with torch.no_grad(), spectroscope.record(net) as recorder:
        net(X)
        assert recorder.report().about[KEY] == weights_hash(net)
        net[0].bias += 1
        net(X)
    trained = recorder.report()
    assert trained.about[KEY] == UNKNOWN
    known = report_of(net)
    for first, second in ((trained, known), (known, trained)):
        merged = first.merge(second)
        assert UNKNOWN in merged.about[KEY]
        with pytest.raises(spectroscope.RequestError, match="different weights"):
            merged.merge(report_of(model(1)))
    with spectroscope.record(net.train()) as recorder:
        net(X)  # writes running means
    assert recorder.report().about[KEY] == UNKNOWN
    net = model()
    with torch.no_grad(), spectroscope.record(net) as recorder:
        net(X)
    net[0].weight = nn.Parameter(torch.zeros(40, 1, 9))
    assert recorder.report().about[KEY] == UNKNOWN


def test_any_change_of_a_value_changes_the_hash():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(3, 5).double(), nn.Linear(2, 2).bfloat16())
    net.register_buffer("flags", torch.tensor([True, False]))
    net.register_buffer("wave", torch.ones(3, dtype=torch.complex64).conj())
    net.register_buffer("empty", torch.empty(0))
    reference = weights_hash(net)
    assert weights_hash(copy.deepcopy(net)) == reference != UNKNOWN
    assert weights_hash(nn.DataParallel(net)) == reference
    for number, tensor in enumerate([*net.parameters(), *net.buffers()]):
        if not tensor.numel():
            continue
        for position in {0, tensor.numel() // 2, tensor.numel() - 1}:
            other = copy.deepcopy(net)
            changed = [*other.parameters(), *other.buffers()][number].data.view(-1)
            changed[position] = ~changed[position] if tensor.dtype is torch.bool else 7
            assert weights_hash(other) != reference, (number, position)
    other = copy.deepcopy(net)
    other[0].weight.data = other[0].weight.data.flip(0)  # the same values, of other filters
    assert weights_hash(other) != reference
    other = copy.deepcopy(net)
    other[0].weight.data = other[0].weight.data.t().contiguous().t()  # the same in other strides
    assert weights_hash(other) == reference


def test_weights_are_read_once_and_never_in_a_forward(monkeypatch):
    read = []
    monkeypatch.setattr(weights, "weights_hash", lambda net: read.append(net) or "hash")
    net = model()
    with torch.no_grad(), spectroscope.record(net) as recorder:
        net(X)
        net(X)
        assert read == []
        recorder.report()
        net(X)
    assert recorder.report().about[KEY] == "hash"
    assert len(read) == 1


def test_what_cannot_be_read_is_unknown():
    assert weights_hash(nn.Linear(2, 2, device="meta")) == UNKNOWN
    with torch.inference_mode():
        net = model()
    assert report_of(net).about[KEY] == UNKNOWN
    sharded = nn.Sequential(model())
    sharded[0]._fsdp_wrapped_module = nn.Linear(2, 2)
    assert weights_hash(sharded) == UNKNOWN
    lazy = nn.Sequential(nn.LazyConv1d(2, 3), nn.ReLU())
    assert report_of(lazy).about[KEY] == UNKNOWN  # made in the first forward
    assert KEY in report_of(nn.ReLU()).about
    assert KEY not in spectroscope.record(nn.ReLU()).report().about
