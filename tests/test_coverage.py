"""What was asked for, what was seen, and what is said of the rest."""

import re

import pytest
import torch
from torch import nn

import spectroscope


@pytest.mark.parametrize(
    ("select", "sites"),
    [
        ("0", ["0#0"]),
        ("*", ["0#0", "1.0#0", "1.0#1"]),
        ("1.*#1", ["1.0#1"]),
        (["0", "*#1"], ["0#0", "1.0#1"]),
        (lambda name, module: name.startswith("1"), ["1.0#0", "1.0#1"]),
    ],
)
def test_select(select, sites):
    shared = nn.ReLU()
    model = nn.Sequential(nn.ReLU(), nn.Sequential(shared, shared))
    with spectroscope.record(model, select=select) as recorder:
        model(torch.randn(2, 3, 4))
    report = recorder.report()
    assert report.sites()["site"].tolist() == sites
    coverage = report.coverage().set_index("module")
    assert coverage["fired"].to_dict() == {"0": 1, "1.0": 2}


def test_select_that_fits_nothing_names_what_there_is():
    with pytest.raises(spectroscope.RequestError, match=r"matches no activation of Sequential.* 0"):
        spectroscope.record(nn.Sequential(nn.ReLU()), select="block*")


def test_what_is_not_a_module_is_refused():
    with pytest.raises(TypeError, match=r"nn\.Module, not builtin"):
        spectroscope.record(torch.relu)
    with pytest.raises(spectroscope.RequestError, match="fs=0"):
        spectroscope.record(nn.ReLU(), fs=0)


def test_coverage_tells_what_fired_and_what_can_not_be_seen():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()
            self.scripted = torch.jit.script(nn.Sequential(nn.ReLU()))

        def forward(self, x):
            return self.scripted(self.used(x))

    with pytest.warns(FutureWarning, match=r"torch\.jit\.script"):
        model = Partly()
    with (
        pytest.warns(UserWarning, match=r"Partly: 1 place is not recorded.*scripted"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(2, 3, 4))
    coverage = recorder.report().coverage().set_index("module")
    assert coverage["status"].to_dict() == {
        "used": "fired",
        "unused": "never fired",
        "scripted": "cannot be seen",
    }
    assert "TorchScript" in coverage.loc["scripted", "reason"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda model: None, "it did not run"),
        (lambda model: model(torch.ones(1, 2)), "no selected activation"),
    ],
)
def test_that_nothing_was_recorded_is_said(run, message):
    model = nn.Linear(2, 2)
    with (
        pytest.warns(UserWarning, match=f"Linear: nothing was recorded: {message}"),
        spectroscope.record(model) as recorder,
    ):
        run(model)
    report = recorder.report()
    assert report.dc().empty
    assert "dc_out" in report.dc()
    assert report.sites().empty
    assert "dc_out" in report.sites()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(3), r"\[3\] has no channel_axis=1"),
        (torch.ones(2, 3, 4, device="meta"), "without values"),
        (torch.ones(2, 3, 4, dtype=torch.int32), "torch.int32 is not a real floating-point type"),
        (torch.ones(2, 3).to_sparse(), "not a dense tensor"),
    ],
)
def test_what_can_not_be_reduced_is_reported_and_left_alone(tensor, reason):
    model = nn.ReLU()
    with pytest.warns(UserWarning, match=reason), spectroscope.record(model) as recorder:
        model(tensor)
    coverage = recorder.report().coverage()
    # A call without values isn't counted.
    assert coverage["status"].item() == ("cannot be seen" if tensor.is_meta else "incomplete")
    assert re.search(reason, coverage["reason"].item())


def test_a_change_of_channels_is_reported_and_what_was_there_kept():
    model = nn.ReLU()
    with (
        pytest.warns(UserWarning, match="3 channels, then 5"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.ones(2, 3, 8))
        model(torch.ones(2, 5, 8))
    assert recorder.report().dc()["n_samples"].tolist() == [2, 2, 2]
