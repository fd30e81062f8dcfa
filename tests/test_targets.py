"""Targets as people have them give what the same numbers give as a tensor."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from spectroscope import RequestError, Specimen, importance, probe, run

NUMBERS = [3, 1, 0, 2, 1, 0]


def frozen(array):
    array.flags.writeable = False
    return array


FORMS = {
    "cut Series": pd.Series([9] * 6 + NUMBERS).iloc[6:],
    "Series of nullable integers": pd.Series(NUMBERS, dtype="Int64", index=range(7, 13)),
    "read-only": frozen(np.array(NUMBERS)),
    "reversed": np.array(NUMBERS[::-1])[::-1],
    "big-endian": np.array(NUMBERS, ">f4"),
    "list": NUMBERS,
    "column": np.array(NUMBERS, np.int16)[:, None],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("in_batches", [False, True])
def test_importance(form, in_batches):
    model, x, given = (
        nn.Sequential(nn.ReLU(), nn.Flatten()).eval(),
        torch.rand(6, 1, 1),
        FORMS[form],
    )
    parts = (given.iloc[:3], given.iloc[3:]) if hasattr(given, "iloc") else (given[:3], given[3:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if in_batches:
            table = importance(model, list(zip(x.split(3), parts, strict=True)), "mae")
        else:
            table = importance(model, x.split(3), "mae", targets=given)
    expected = np.abs(x.flatten().numpy().astype(float) - NUMBERS).mean()
    assert table["baseline"].to_numpy() == pytest.approx(expected)


def test_booleans_and_text():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(4, 1, 1)
    truth = np.array([True, False, True, True])
    table = importance(model, [x], "mae", targets=truth)
    assert table["baseline"][0] == pytest.approx(np.abs(x.flatten().numpy() - truth).mean())
    with pytest.raises(RequestError, match="targets must be numbers"):
        importance(model, [x], "mae", targets=np.array(["a", "b", "c", "d"]))


def test_targets_in_batches_say_how_to_join_them():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(6, 1, 1)
    with pytest.raises(RequestError, match=r"an entry for each input \(torch\.cat joins batches\)"):
        importance(model, x.split(3), "mae", targets=torch.rand(6).split(3))


def test_the_metric_of_a_lambda_is_called_metric():
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(6, 1, 1)
    table = importance(model, [x], lambda outputs, _: outputs[:, 0], targets=torch.rand(6))
    assert set(table["metric"]) == {"metric"}


@pytest.mark.parametrize("form", ["cut Series", "read-only", "list"])
def test_specimen(form):
    x = torch.rand(6, 1, 1)
    specimen = Specimen(
        name="a", description="b", license="c", model=nn.Sequential(nn.ReLU(), nn.Flatten()).eval(),
        inputs=x.split(3), n_inputs=6, targets=FORMS[form],
        metric=lambda outputs, targets: {"mae": (outputs[:, 0] - targets).abs()},
    )  # fmt: skip
    assert specimen.targets.tolist() == NUMBERS
    run.inspect(specimen)


def test_probe():
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten()).eval(),
        torch.randn(30, 1, 9),
    )
    labels = (x.mean((1, 2)) > 0).long()
    series = pd.Series(labels.numpy(), index=range(100, 130))
    pd.testing.assert_frame_equal(
        probe(model, x.split(10), targets=series), probe(model, x.split(10), targets=labels)
    )
