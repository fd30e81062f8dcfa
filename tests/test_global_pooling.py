"""`feeds_global_pooling`: nothing but the DC goes on, as replacing an output with its DC shows."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from torch import nn

import spectroscope
from spectroscope.page.findings import findings

LINE, IMAGE = (5, 3, 12), (5, 3, 8, 6)


class Model(nn.Module):
    """A convolution, a ReLU and a head."""

    def __init__(self, shape, head):
        super().__init__()
        dim = len(shape) - 2
        self.conv = (nn.Conv1d, nn.Conv2d)[dim - 1](3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = head if isinstance(head, nn.Module) else Calls(head)
        self.double().eval()

    def forward(self, x):
        return self.head(self.relu(self.conv(x)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x * torch.sigmoid(self.linear(x.mean(-1))).unsqueeze(-1)


def inputs(shape):
    return torch.randn(shape, dtype=torch.float64)


def only_dc_matters(model, x):
    """Whether a plain hook that replaces the ReLU's output with its DC leaves the model's."""
    axes = tuple(range(2, x.dim()))
    handle = model.relu.register_forward_hook(
        lambda module, args, y: y.mean(axes, keepdim=True).expand_as(y).clone()
    )
    with torch.no_grad():
        changed = model(x)
        handle.remove()
        expected = model(x)
    pairs = zip(changed, expected, strict=True) if isinstance(expected, tuple) else None
    return all(torch.allclose(a, b) for a, b in pairs or [(changed, expected)])


def report_of(model, x, **options):
    with torch.no_grad(), spectroscope.record(model, **options) as recorder:
        model(x)
    return recorder.report()


def absent(report):
    return findings(report.sites(), report.dc(), None).absent


def flag(model, x):
    return report_of(model, x).sites().set_index("site").loc["relu#0", "feeds_global_pooling"]


MEANS = {
    "mean": (LINE, lambda x: x.mean(-1)),
    "mean of all": (LINE, lambda x: x.mean()),
    "mean by name": (IMAGE, lambda x: x.mean(axis=(2, 3), keepdim=True)),
    "sum / T": (LINE, lambda x: x.sum(-1) / x.shape[-1]),
    "adaptive": (IMAGE, nn.AdaptiveAvgPool2d(1)),
    "AvgPool": (LINE, nn.AvgPool1d(12)),
    "AvgPool of parts": (LINE, nn.Sequential(nn.AvgPool1d(3), nn.AdaptiveAvgPool1d(1))),
    "flattened image": (IMAGE, lambda x: x.flatten(2).mean(2)),
    "reshaped": (IMAGE, lambda x: x.reshape(5, 4, -1).mean(-1)),
    "one axis, then the other": (IMAGE, lambda x: x.mean(3).mean(2)),
    "transposed": (LINE, lambda x: x.transpose(1, 2).mean(1)),
    "permuted": (IMAGE, lambda x: x.permute(0, 2, 3, 1).mean((1, 2))),
    "1×1 convolution": (LINE, nn.Sequential(nn.Conv1d(4, 2, 1), nn.AdaptiveAvgPool1d(1))),
    "linear layer": (LINE, nn.Sequential(Calls(lambda x: x.mT), nn.Linear(4, 2),
                                         Calls(lambda x: x.mean(1)))),
    "batch norm": (LINE, nn.Sequential(nn.BatchNorm1d(4), nn.AdaptiveAvgPool1d(1))),
    "dropout": (LINE, nn.Sequential(nn.Dropout(), nn.AdaptiveAvgPool1d(1))),
    "two means": (LINE, lambda x: torch.cat([x.mean(-1), (2 * x - 1).mean(-1)], 1)),
    "gated by the mean": (LINE, nn.Sequential(Gated(), nn.AdaptiveAvgPool1d(1))),
    "groups of channels": (LINE, lambda x: sum(part.mean(-1) for part in x.chunk(2, 1))),
    "stacked": (LINE, lambda x: torch.stack([x, x], 1).mean(-1)),
}  # fmt: skip
OTHERS = {
    "max": (LINE, lambda x: x.amax(-1)),
    "adaptive max": (LINE, nn.AdaptiveMaxPool1d(1)),
    "MaxPool of all": (IMAGE, nn.MaxPool2d((8, 6))),
    "LPPool": (LINE, nn.LPPool1d(2, 12)),
    "std": (LINE, lambda x: x.std(-1)),
    "mean and std": (LINE, lambda x: torch.cat([x.mean(-1), x.std(-1)], 1)),
    "mean and max": (LINE, lambda x: x.mean(-1) + x.amax(-1)),
    "mean of one axis": (IMAGE, lambda x: x.mean(3)),
    "mean of one axis, then max": (IMAGE, lambda x: x.mean(3).amax(2)),
    "mean of channels": (LINE, lambda x: x.mean(1)),
    "mean of a part": (LINE, lambda x: x[..., :5].mean(-1)),
    "mean of every second": (LINE, lambda x: x[..., ::2].mean(-1)),
    "AvgPool with edges": (LINE, nn.Sequential(nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(1))),
    "AvgPool of the first": (LINE, nn.AvgPool1d(10)),
    "unequal parts": (LINE, nn.Sequential(nn.AdaptiveAvgPool1d(5), nn.AdaptiveAvgPool1d(1))),
    "convolution over all": (LINE, nn.Conv1d(4, 2, 12, stride=12)),
    "convolution": (LINE, nn.Sequential(nn.Conv1d(4, 2, 3, padding=1), nn.AdaptiveAvgPool1d(1))),
    "weighted": (LINE, lambda x: (x * torch.arange(12.0, dtype=torch.float64)).mean(-1)),
    "square": (LINE, lambda x: x.square().mean(-1)),
    "product with itself": (LINE, lambda x: (x * x).mean(-1)),
    "reciprocal": (LINE, lambda x: (1 / (1 + x)).mean(-1)),
    "another activation": (LINE, lambda x: torch.sigmoid(x - 1).mean(-1)),
    "another ReLU, in place": (LINE, lambda x: F.relu_(x - 1).mean(-1)),
    "linear layer over all": (LINE, nn.Sequential(nn.Flatten(), nn.Linear(48, 2))),
    "linear layer over time": (LINE, nn.Linear(12, 2)),
    "dropped samples": (LINE, lambda x: F.dropout(x, 0.5, True).mean(-1)),
    "gate": (LINE, Gated()),
    "returned": (LINE, nn.Identity()),
    "returned beside the mean": (LINE, lambda x: (x, x.mean(-1))),
    "instance norm": (LINE, nn.Sequential(nn.InstanceNorm1d(4), Calls(lambda x: x.mean(-1)),
                                          nn.Linear(4, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
def test_only_the_dc_goes_on_behind_a_mean(name):
    shape, head = MEANS[name]
    model, x = Model(shape, head), inputs(shape)
    assert only_dc_matters(model, x)
    assert bool(flag(model, x)) is True


@pytest.mark.parametrize("name", OTHERS)
def test_more_goes_on_behind_any_other_path(name):
    shape, head = OTHERS[name]
    model, x = Model(shape, head), inputs(shape)
    if name != "instance norm":  # its mean is 0 whatever it is given
        assert not only_dc_matters(model, x)
    assert bool(flag(model, x)) is False


UNKNOWN = {
    "einsum": lambda x: torch.einsum("nct->nc", x),
    "matrix product": lambda x: x @ torch.full((12, 1), 1 / 12, dtype=torch.float64),
    "NumPy": lambda x: torch.from_numpy(x.numpy().mean(-1)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_be_a_mean_is_unknown_and_not_listed_as_absent(name):
    report = report_of(Model(LINE, UNKNOWN[name]), inputs((12, *LINE[1:])))
    assert report.sites()["feeds_global_pooling"].isna().all()
    assert not any("global pooling" in text for text in absent(report))


def test_absent_is_what_is_known_of_every_site():
    x = inputs((12, *LINE[1:]))
    known = Model(LINE, nn.Sequential(nn.Conv1d(4, 2, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1)))
    assert "layers that feed global pooling directly" in absent(report_of(known, x))
    partly = Model(LINE, nn.Sequential(nn.Conv1d(4, 2, 3), nn.ReLU(), Calls(UNKNOWN["NumPy"])))
    assert report_of(partly, x).sites()["feeds_global_pooling"].isna().tolist() == [False, True]
    assert not any("global pooling" in text for text in absent(report_of(partly, x)))


def test_no_flag_is_called_absent_where_one_site_is_unknown():
    x = inputs((12, *LINE[1:]))
    report = report_of(Model(LINE, nn.Sequential(nn.Conv1d(4, 2, 3), nn.ReLU())), x)
    sites, dc = report.sites(), report.dc()
    checked = set(findings(sites, dc, None).absent)
    assert {"dead channels", "channels that are always on"} < checked
    of_last = dc["site"] == sites["site"].iloc[-1]
    dc.loc[of_last, ["active_fraction", "dc_gaussian_residual"]] = float("nan")
    sites.loc[1, ["dc_fraction", "dc_out"]] = float("nan")
    assert set(findings(sites, dc, None).absent) <= {
        "NaN or infinite values", "layers that feed global pooling directly"}  # fmt: skip


def test_a_layer_without_time_or_space_feeds_no_pooling():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert report_of(model, torch.randn(5, 3)).sites()["feeds_global_pooling"].tolist() == [False]


def test_one_forward_with_another_path_is_enough():
    class Sometimes(nn.Module):
        everything = False

        def forward(self, x):
            return x.std(-1) if self.everything else x.mean(-1)

    model, x = Model(LINE, Sometimes()), inputs(LINE)
    flags = []
    with torch.no_grad(), spectroscope.record(model) as recorder:
        for model.head.everything in (False, False, True, False, True, False):
            model(x)
            flags += recorder.report().sites()["feeds_global_pooling"].astype(object).tolist()
    # The first forward that differs from an earlier one isn't tracked.
    assert flags == [True, True, pd.NA, pd.NA, False, False]


def test_merged_saved_and_loaded(tmp_path):
    x = inputs(LINE)

    def model(head):
        torch.manual_seed(0)  # reports of different weights aren't merged
        return Model(LINE, head)

    by_head = {
        value: report_of(model(head), x)
        for value, head in ((True, MEANS["mean"][1]), (False, OTHERS["std"][1]),
                            (None, UNKNOWN["einsum"]))
    }  # fmt: skip
    for a, first in by_head.items():
        for b, second in by_head.items():
            merged = first.merge(second)
            merged.save(tmp_path / f"{a}{b}")
            loaded = spectroscope.load(tmp_path / f"{a}{b}")
            expected = False if False in (a, b) else None if None in (a, b) else True
            for report in (merged, loaded):
                (found,) = report.sites()["feeds_global_pooling"].astype(object)
                assert (None if found is pd.NA else found) is expected


def test_the_page_shows_known_and_unknown_flags(tmp_path):
    layers = [nn.Conv1d(4, 3, 3), nn.ReLU(), Calls(UNKNOWN["einsum"])]
    report = report_of(Model(LINE, nn.Sequential(*layers)), inputs(LINE))
    assert report.sites()["feeds_global_pooling"].isna().tolist() == [False, True]
    report.page(tmp_path / "page.html")
    assert "feeds_global_pooling" in (tmp_path / "page.html").read_text(encoding="utf-8")
