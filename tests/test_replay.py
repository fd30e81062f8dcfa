"""What `importance` reuses of a forward is what one forward for each row would have computed."""

import glob
import warnings

import pandas as pd
import pytest
import torch
from helpers import nothing_is_left
from torch import nn
from torch.nn import functional as F

from spectroscope import importance, intervene, record, remove_dc


class Stack(nn.Module):
    """Three convolutions with ReLUs and a head; subclasses change what is between."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.head = nn.Linear(4, 3)
        self.kept = None

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = F.relu(self.between(conv(x), i))
        return self.head(x.mean(-1))

    def between(self, x, i):
        return x


class Cache(Stack):
    """Fills a cache on first use."""

    def between(self, x, i):
        if self.kept is None or self.kept.shape[-1] != x.shape[-1]:
            self.kept = torch.sin(torch.arange(x.shape[-1]) * 0.1).mul(0.7).add(torch.ones(1))
        return x + self.kept


class Branches(Stack):
    """Takes another branch, of other functions, where the DC is gone."""

    def between(self, x, i):
        if i == 1 and x.mean(-1).abs().max() < 0.3:
            return F.conv1d(x, self.convs[2].weight, padding=1)
        return F.conv1d(x, self.convs[1].weight, padding=1) if i else x


class InPlace(Stack):
    """Writes into a kept tensor, by way of views too."""

    def between(self, x, i):
        if self.kept is None or self.kept.shape != x.shape:
            self.kept = torch.empty_like(x)
        self.kept.copy_(x)
        self.kept[:, :2].mul_(2)
        self.kept.data.add_(0.1)
        return F.conv1d(self.kept, self.convs[1].weight, padding=1)


class UnseenWrites(Stack):
    """NumPy writes into a kept tensor."""

    def between(self, x, i):
        if self.kept is None or self.kept.shape != x.shape:
            self.kept = torch.zeros(x.shape)
            self.array = self.kept.numpy()
        self.array[:] = x.numpy() * 1.5
        return F.conv1d(self.kept, self.convs[1].weight, padding=1)


class KeepsResults(Stack):
    """Writes into the last forward's result, which the forward that was stored returned."""

    def between(self, x, i):
        if i == 0:
            if self.kept is not None:
                self.kept.mul_(0)
            self.kept = x
        return x


class Twice(Stack):
    """Computes the same twice, and writes into one of the two."""

    def between(self, x, i):
        a, b = (F.conv1d(x, self.convs[1].weight, padding=1) for _ in range(2))
        b *= 3
        return a - b


def by_hand(model, x):
    with torch.no_grad():
        reference = model(x)
        with record(model, spectra=False) as recorder:
            model(x)
        for site in recorder.report().sites()["site"]:
            with intervene(model, glob.escape(site), remove_dc):
                output = model(x)
            yield ((output - reference).norm(dim=1) / reference.norm(dim=1)).double().mean().item()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "make", [Stack, Cache, Branches, InPlace, UnseenWrites, KeepsResults, Twice]
)
def test_it_is_what_is_found_by_hand(make, warm):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(4, 1, 40)
    if warm:
        with torch.no_grad():
            model(x)
    batches = [x, torch.randn(4, 1, 30), x]
    with torch.inference_mode():  # around it, as people do
        parts = [importance(model, [batch], "relative_l2", operations=[remove_dc])["value"]
                 for batch in batches]  # fmt: skip
    for values, batch in zip(parts, batches, strict=True):
        assert values.tolist() == pytest.approx(list(by_hand(model, batch)), rel=1e-5)
    whole = importance(model, batches, "relative_l2", operations=[remove_dc])["value"]
    pd.testing.assert_series_equal(whole, sum(parts) / 3, rtol=1e-5)
    assert nothing_is_left()


class Counter(Stack):
    """Keeps a state: no forward is like another."""

    def between(self, x, i):
        self.kept = (self.kept or 0) + 1
        return x * self.kept


class Dropout(Stack):
    """Is random in eval mode."""

    def between(self, x, i):
        return F.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("make", [Counter, Dropout])
def test_a_model_that_does_not_repeat_itself_is_warned_of(make):
    with pytest.warns(UserWarning, match="does not reproduce the outputs") as caught:
        importance(make().eval(), [torch.randn(4, 1, 40)] * 2, "relative_l2")
    assert len(caught) == 1


def test_random_numbers_are_drawn_anew():
    """As by hand: the noise of each row is its own."""
    model, x = Dropout().eval(), torch.randn(1, 1, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = importance(model, [x] * 20, lambda y, ref: y[:, 0], select="/relu#0",
                          operations={str(i): remove_dc for i in range(2)})  # fmt: skip
    assert rows["value"].nunique() == 2
