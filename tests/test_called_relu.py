"""What is called a ReLU and returns something else."""

import pytest
import torch
from helpers import Calls
from torch import nn
from torch.overrides import TorchFunctionMode

import spectroscope


def test_a_class_of_ones_own_called_relu_is_not_taken_for_ours():
    own = type("ReLU", (nn.Module,), {"forward": lambda self, x: x * 2})
    model = nn.Sequential(own())
    with spectroscope.record(model, kinds=[own]) as recorder:
        model(torch.randn(2, 3, 4))
    row = recorder.report().dc().iloc[0]
    assert row["kind"].endswith(".ReLU")
    assert row["dc_gaussian"] != row["dc_gaussian"]


class Steep(nn.ReLU):
    """A ReLU in name."""

    def forward(self, x):
        return torch.where(x > 0, x, -5.0 * x)


@pytest.mark.parametrize("kinds", [[Steep], [nn.ReLU]])
def test_what_only_is_called_a_relu_is_recorded_by_what_it_returns(kinds):
    x = torch.randn(4, 2, 16)
    model = nn.Sequential(Steep())
    with spectroscope.record(model, kinds=kinds) as recorder:
        y = model(x)
    dc = recorder.report().dc()["dc_out"].to_numpy()
    assert dc == pytest.approx(y.double().mean((0, 2)).numpy(), rel=1e-12)


@torch.library.custom_op("spectroscope_tests::relu", mutates_args=())
def foreign_relu(x: torch.Tensor) -> torch.Tensor:
    """An operator that is called as torch's is."""
    return 3 * x + 1


def test_an_operator_of_another_library_is_no_relu():
    model = Calls(foreign_relu)
    with (
        pytest.warns(UserWarning, match="nothing was recorded"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(4, 2, 16))
    assert recorder.report().dc().empty


class Turned(TorchFunctionMode):
    """Makes of every ReLU something else."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        return output + 1 if "relu" in getattr(function, "__name__", "") else output


def test_a_relu_that_a_mode_of_the_users_changes_is_reported():
    model = nn.ReLU()
    with (
        pytest.warns(UserWarning, match="its output is not the ReLU of its input"),
        Turned(),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(4, 2, 16))
    assert recorder.report().coverage()["status"].item() == "incomplete"
