"""`importance`: against one intervention at a time by hand, and what it saves."""

import glob
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers import nothing_is_left
from scipy import special, stats
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spectroscope
from spectroscope import cli, importance, intervene, only_dc, progress, remove_dc, schema
from spectroscope.experiments.intervals import change_interval
from spectroscope.experiments.metrics import METRICS

DOCS = Path(__file__).parents[1] / "docs/heart_rate.md"


class Tangled(nn.Module):
    """Writes to what convolutions return, keeps views of it, and joins them again."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv1d(n, 6, 3, padding=1) for n in (1, 6, 6))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        half = x[:, :3]
        half *= 2
        x = self.relu(x)
        y = self.b(x)
        y += x
        left, right = y.chunk(2, 1)
        left.relu_()
        z = self.c(torch.cat([right.clamp(min=0), left], 1)) + y
        return self.head(self.relu(z).mean(-1))


def by_hand(model, x, operations, select):
    """Relative L2 change of each site and operation, one full forward each."""
    with torch.no_grad():
        reference = model(x)
        with spectroscope.record(model, spectra=False, select=select) as recorder:
            model(x)
        for site in recorder.report().sites()["site"]:
            for operation in operations:
                with intervene(model, glob.escape(site), operation):
                    change = (model(x) - reference).norm(dim=1) / reference.norm(dim=1)
                yield site, operation.__name__, change.double().mean().item()


@pytest.mark.parametrize(("make", "select"), [
    (Tangled, "*"),
    (partial(torchvision.models.resnet18, weights=None), "layer[24]*"),
    (partial(torchvision.models.googlenet, weights=None, init_weights=False), "inception4[ae]*"),
    (partial(torchvision.models.densenet121, weights=None), "*block[34].denselayer1[0-2].relu1"),
])  # fmt: skip
def test_it_is_what_one_intervention_at_a_time_gives(make, select):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(3, 1, 40) if isinstance(model, Tangled) else torch.randn(2, 3, 40, 40)
    operations = [remove_dc, only_dc] if select == "*" else [only_dc]
    table = importance(model, [x], "relative_l2", operations=operations, select=select)
    expected = pd.DataFrame(
        by_hand(model, x, operations, select), columns=["site", "operation", "value"]
    )
    assert table[["site", "operation"]].equals(expected[["site", "operation"]])
    np.testing.assert_allclose(table["value"], expected["value"], rtol=1e-4, atol=1e-7)
    assert table["baseline"].eq(0).all()
    assert nothing_is_left()


class Convolutions(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += str(function).startswith("aten.conv")
        return function(*args, **(kwargs or {}))


def test_the_work_before_a_site_is_done_once():
    layers = [(nn.Conv1d(2, 2, 3), nn.ReLU()) for _ in range(5)]
    model = nn.Sequential(*(layer for pair in layers for layer in pair), nn.Flatten()).eval()
    with Convolutions() as mode:
        table = importance(
            model, [torch.randn(2, 2, 30)] * 3, "relative_l2", operations=[remove_dc, only_dc]
        )
    assert len(table) == 5 * 2
    # Of each batch: once all five, then for each operation those that follow the site.
    # The first batch has one whole forward more, to see that it is reproduced.
    assert mode.count == 3 * (5 + 2 * (4 + 3 + 2 + 1 + 0)) + 5


@pytest.fixture(scope="module")
def regression():
    torch.manual_seed(1)
    model = Tangled().eval()
    x = torch.randn(30, 1, 40)
    with torch.no_grad():
        return model, x, model(x) + torch.randn(30, 3)


@pytest.mark.parametrize("metric", ["mae", "rmse", "relative_l2"])
def test_any_size_of_batches_gives_the_same(regression, metric):
    model, x, targets = regression[0], regression[1][:9], regression[2][:9]
    whole = importance(model, [(x, targets)], metric)
    for size in (1, 4):
        batches = list(zip(x.split(size), targets.split(size), strict=True))
        found = importance(model, batches, metric)
        pd.testing.assert_frame_equal(found, whole, rtol=1e-4, atol=1e-6)
    pd.testing.assert_frame_equal(
        importance(model, x.split(4), metric, targets=targets.numpy()),
        whole,
        rtol=1e-4,
        atol=1e-6,
    )


def test_the_interval_is_that_of_the_mean_difference(regression):
    model, x, targets = regression
    row = importance(model, [(x, targets)], "mae", select="relu#0").iloc[0]
    assert row["operation"] == "remove_dc"
    with torch.no_grad():
        before = (model(x) - targets).abs().mean(1)
        with intervene(model, "relu#0", remove_dc):
            after = (model(x) - targets).abs().mean(1)
    assert row["baseline"] == pytest.approx(before.mean().item(), rel=1e-5)
    assert row["change"] == pytest.approx((after - before).mean().item(), rel=1e-4)
    ends = row[["change_low", "change_high"]].to_list()
    expected = change_interval(*(side.double().numpy() for side in (after, before)))
    assert ends == pytest.approx(expected[:2], rel=1e-4)
    paired = stats.ttest_rel(after.double(), before.double()).confidence_interval(0.95)
    assert ends == pytest.approx(tuple(paired), abs=0.2 * (paired.high - paired.low))
    assert row["interval"] == "studentized bootstrap"
    blocks = importance(model, [(x, targets)], "mae", select="relu#0", block=6).iloc[0]
    assert blocks["interval"] == "studentized bootstrap, blocks of 6 inputs"
    with pytest.raises(spectroscope.RequestError, match="block=0 must be a number of inputs"):
        importance(model, [(x, targets)], "mae", block=0)


def test_global_pooling_reads_nothing_but_dc(regression):
    model, x, _ = regression
    table = importance(model, [x], "relative_l2", select="relu#1").set_index("operation")
    assert table["value"]["only_dc"] < 1e-6
    bias = model.head.bias.detach()
    with torch.no_grad():
        left = (model(x) - bias).norm(dim=1) / model(x).norm(dim=1)
    assert table["value"]["remove_dc"] == pytest.approx(left.mean().item(), rel=1e-4)


def test_mean_dc_is_that_of_a_report_of_the_same_batches(regression):
    model, x, _ = regression
    with torch.no_grad(), spectroscope.record(model, spectra=False) as recorder:
        for batch in x.split(7):
            model(batch)
    fixed = spectroscope.mean_dc(recorder.report())
    expected = importance(model, x.split(7), "relative_l2", operations=[fixed])
    found = importance(model, x.split(7), "relative_l2")
    assert found["operation"].unique().tolist() == ["remove_dc", "mean_dc", "only_dc"]
    found = found[found["operation"] == "mean_dc"].reset_index(drop=True)
    assert expected["value"].gt(0).all()
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)
    for operations in ({"mine": spectroscope.mean_dc}, [spectroscope.mean_dc]):
        again = importance(model, x.split(7), "relative_l2", operations=operations)
        np.testing.assert_array_equal(again["value"], found["value"])


def test_batches_that_can_be_read_once_leave_mean_dc_out_and_say_so(regression):
    model, x, _ = regression
    with pytest.warns(UserWarning, match="give a list or a DataLoader, or mean_dc.report"):
        table = importance(model, iter(x.split(10)), "relative_l2")
    both = importance(model, x.split(10), "relative_l2", operations=[remove_dc, only_dc])
    pd.testing.assert_frame_equal(table, both)


def test_rows_that_hold_by_construction_are_flagged():
    torch.manual_seed(0)
    convolution = partial(nn.Conv1d, kernel_size=3, padding=1)
    model = nn.Sequential(
        convolution(1, 4), nn.ReLU(),  # 1#0: read by a convolution
        convolution(4, 4), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),  # 3#0: by a mean
        nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2),  # 7#0: one value
    ).eval()  # fmt: skip
    mine = {"mine": lambda y, firing: y * 2, "only_dc": only_dc}
    table = importance(model, [torch.randn(9, 1, 30)], "relative_l2", operations=mine)
    found = table.set_index(["operation", "site"])["by_construction"]
    assert found["only_dc"].to_dict() == {
        "1#0": "", "3#0": "only the mean is read", "7#0": "one value per channel",
    }  # fmt: skip
    assert found["mine"].eq("").all()
    change = table.set_index(["operation", "site"])["change"]["only_dc"]
    assert change[["3#0", "7#0"]].lt(1e-6).all()
    assert change["1#0"] > 1e-2


def table_of(rows, metric="mae", unit="BPM"):
    """A table of `importance`: rows of site, operation, change, ends of its interval and more."""
    columns = ["site", "operation", "change", "change_low", "change_high", "by_construction"]
    table = pd.DataFrame(rows, columns=columns).assign(metric=metric, unit=unit, baseline=40.0)
    table["interval"] = "studentized bootstrap"
    return table.assign(value=table["baseline"] + table["change"])


def test_the_conclusion_is_one_sentence_with_its_numbers():
    rows = [
        ("a#0", "remove_dc", 3.0, 2.0, 4.0, ""),
        ("b#0", "remove_dc", 1.0, -1.0, 3.0, None),
        ("c#0", "remove_dc", 90.0, 80.0, 99.0, "one value per channel"),
        ("a#0", "only_dc", -5.0, -6.0, -4.0, ""),
        ("b#0", "only_dc", -7.0, -9.0, -5.0, None),
        ("c#0", "only_dc", 0.0, np.nan, np.nan, "one value per channel"),
    ]
    table = table_of(rows)
    assert spectroscope.conclusion(table) == (
        "mae (BPM) changes most with the DC alone (-6 in the median; 95 % interval without 0 at "
        "2 of 2 sites), less without the DC (+2 in the median; 95 % interval without 0 at 1 of 2 "
        "sites); at c#0 nothing but the DC is read, by construction."
    )
    for unit in ("", "1"):
        assert spectroscope.conclusion(table.assign(unit=unit)).startswith("mae changes most")
    only = table[table["site"] == "c#0"]
    assert spectroscope.conclusion(only).startswith("Nothing can be concluded: at c#0")
    with pytest.raises(spectroscope.RequestError, match="no rows"):
        spectroscope.conclusion(table[:0])


def test_the_conclusion_ranks_no_changes_that_may_be_0():
    table = table_of([
        ("a#0", "remove_dc", 0.3, -0.1, 0.7, ""),
        ("b#0", "remove_dc", 0.1, -0.2, 0.4, ""),
        ("a#0", "only_dc", -0.5, -1.1, 0.1, ""),
        ("b#0", "only_dc", 0.0, np.nan, np.nan, ""),
    ])  # fmt: skip
    nothing = "No change of mae (BPM) is distinguishable from 0"
    largest = "; the largest is -0.5, with the DC alone at a#0."
    assert spectroscope.conclusion(table) == nothing + largest
    # Beside an operation that has an effect, one without is not in the order.
    table.loc[0, "change_low"] = 0.1
    assert spectroscope.conclusion(table) == (
        "mae (BPM) changes most without the DC (+0.2 in the median; 95 % interval without 0 at 1 "
        "of 2 sites); with the DC alone no change is distinguishable from 0."
    )


def test_the_conclusion_ranks_no_rounding_errors():
    sure = [("a#0", "remove_dc", 2e-5, 1e-5, 3e-5, ""), ("a#0", "only_dc", -1e-5, -2e-5, -5e-6, "")]
    nothing = "No change of {} is distinguishable from 0; the largest is {}, without the DC at a#0."
    assert spectroscope.conclusion(table_of(sure)) == nothing.format("mae (BPM)", "+2e-05")
    # Of an error of 0.4, the same changes are more than rounding.
    small = table_of(sure).assign(baseline=0.4, value=0.4)
    assert spectroscope.conclusion(small).startswith("mae (BPM) changes most without the DC")
    for value, none in ((2e-7, True), (2e-5, False)):
        distance = [("a#0", "remove_dc", value, value / 2, 2 * value, "")]
        table = table_of(distance, "relative_l2", "1").assign(baseline=0.0, value=value)
        assert spectroscope.conclusion(table).startswith("No change of relative_l2 ") == none


def test_the_conclusion_says_where_intervals_are_unknown():
    table = table_of([
        ("a#0", "remove_dc", 3.0, 2.0, 4.0, ""),
        ("b#0", "remove_dc", 9.0, np.nan, np.nan, ""),
        ("a#0", "only_dc", 2.0, np.nan, np.nan, ""),
        ("b#0", "only_dc", 0.0, np.nan, np.nan, ""),
    ])  # fmt: skip
    unknown = table["change_low"].isna()
    table.loc[unknown, "interval"] = "unknown: 3 inputs, not 5 or more"
    alone = "with the DC alone (+1 in the median; 95 % interval unknown at 1 of 2 sites)"
    why = "; where an interval is unknown: 3 inputs, not 5 or more."
    assert spectroscope.conclusion(table) == (
        "mae (BPM) changes most without the DC (+6 in the median; 95 % interval without 0 at 1 of "
        f"2 sites, unknown at 1), less {alone}{why}"
    )
    only = table[table["operation"] == "only_dc"]
    assert spectroscope.conclusion(only) == f"mae (BPM) changes most {alone}{why}"
    # A few unknown ones beside intervals with 0 make no effect.
    table.loc[0, "change_low"] = -1
    assert spectroscope.conclusion(table) == (
        "No change of mae (BPM) is distinguishable from 0; the largest is +9, without the DC at "
        f"b#0{why}"
    )


def test_the_conclusion_ranks_a_change_that_all_scores_have():
    table = table_of([("a#0", "remove_dc", -1.0, np.nan, np.nan, "")], "agreement", "1")
    table = table.assign(baseline=1.0, value=0.0,
                         interval="unknown: all scores changed by the same amount")  # fmt: skip
    assert spectroscope.conclusion(table).startswith("agreement changes most without the DC (-1 ")


def test_the_unit_is_the_metrics_or_the_one_given(regression):
    model, x, targets = regression

    def own(y, z):
        return (y - z).abs().mean(1)

    for metric, unit, expected in (
        ("mae", None, "the targets' unit"), ("mae", "BPM", "BPM"), ("relative_l2", None, "1"),
        (own, None, ""), (own, "BPM", "BPM"),
    ):  # fmt: skip
        table = importance(model, x.split(9), metric, targets=targets, operations=[remove_dc],
                           unit=unit)  # fmt: skip
        assert table["unit"].eq(expected).all()
        assert (f"{table['metric'][0]} (BPM) " in spectroscope.conclusion(table)) == (
            expected == "BPM"
        )


@pytest.mark.parametrize("known", ["length", "hint", "n_inputs", "nothing"])
def test_progress_has_a_total(regression, known, monkeypatch):
    model, x, _ = regression
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    batches = x.split(7)
    if known != "length":
        batches = iter(batches) if known == "hint" else (batch for batch in batches)
    operations = [remove_dc] + [spectroscope.mean_dc] * (known == "length")
    importance(model, batches, "relative_l2", operations=operations, progress=True,
               n_inputs=30 if known == "n_inputs" else None)  # fmt: skip
    (bar,) = bars
    assert bar.n == 5 * (1 + 4) if known != "length" else bar.n == 5 + 5 * (1 + 8)
    assert bar.total == (None if known == "nothing" else bar.n)


def test_metrics_are_those_of_numpy():
    rng = np.random.default_rng(0)
    out, ref, target = rng.normal(size=(3, 20, 4))
    classes = rng.integers(0, 4, 20)
    p, q = special.softmax(ref, 1), special.softmax(out, 1)
    expected = {
        "mae": (np.abs(out - target).mean(), target),
        "rmse": (np.sqrt(((out - target) ** 2).mean()), target),
        "accuracy": ((out.argmax(1) == classes).mean(), classes),
        "agreement": ((out.argmax(1) == ref.argmax(1)).mean(), None),
        "kl": (special.rel_entr(p, q).sum(1).mean(), None),
        "relative_l2": (np.mean(np.linalg.norm(out - ref, axis=1) / np.linalg.norm(ref, axis=1)),
                        None),
    }  # fmt: skip
    assert list(expected) == list(METRICS) == list(schema.METRICS)
    for name, (value, targets) in expected.items():
        metric = METRICS[name]
        given = None if targets is None else torch.from_numpy(targets)
        scores = metric.score(torch.from_numpy(out), torch.from_numpy(ref), given)
        assert scores.shape == (20,)
        assert metric.of(scores) == pytest.approx(value, rel=1e-12), name


def test_ctrl_c_leaves_the_finished_rows(regression):
    model, x, _ = regression
    asked = []
    judged = partial(importance, operations=[remove_dc, only_dc])

    def metric(outputs, reference):
        asked.append(len(outputs))
        if len(asked) == 21:  # 9 a batch
            raise KeyboardInterrupt
        return (outputs - reference).abs().sum(1)

    with pytest.warns(UserWarning, match="interrupted in batch 3"):
        table = judged(model, x.split(10), metric)
    assert table["n_samples"].tolist() == [30] + [20] * 7
    asked[:] = [0] * 19
    with pytest.raises(KeyboardInterrupt):  # before there is a row
        judged(model, x.split(10), metric)
    assert nothing_is_left()
    part = judged(model, x[:20].split(10), lambda y, ref: (y - ref).abs().sum(1))
    columns = ["n_samples", "value", "change", "change_low", "change_high"]
    pd.testing.assert_frame_equal(table[columns][1:], part[columns][1:])


def test_what_it_refuses(regression):
    model, x, targets = regression
    refused = partial(pytest.raises, spectroscope.RequestError)
    with refused(match="call model.eval"):
        importance(Tangled().train(), [x], "mae")
    with refused(match="metric='mea' is none of mae, rmse"):
        importance(model, [x], "mea")
    with refused(match="needs targets"):
        importance(model, [x], "mae")
    with refused(match="30 inputs or more"):
        importance(model, [x], "mae", targets=targets[:29])
    with refused(match=r"one score for each input, \[30\], not \[\]"):
        importance(model, [(x, targets)], lambda y, t: (y - t).abs().mean())
    with refused(match="not 3 items"):
        importance(model, [(x, targets, x)], "mae")
    with refused(match="no batch was given"):
        importance(model, [], "kl")
    with refused(match="returns a tuple"):
        importance(nn.LSTM(4, 4).eval(), [torch.randn(3, 2, 4)], "kl", select=lambda *_: True)
    assert nothing_is_left()


FEW = """
from dataclasses import replace
import spectroscope, torch

def few():
    all = spectroscope.specimen("kid-ppg")
    inputs = [torch.cat(list(all.inputs))[:40]]
    return replace(all, inputs=inputs, n_inputs=40, targets=all.targets[:40], f0=all.f0[:40])
"""


def test_ablate_changes_only_what_is_selected():
    model = nn.Sequential(nn.Conv1d(1, 3, 5), nn.ReLU(), nn.Conv1d(3, 2, 5), nn.ReLU()).eval()
    specimen = spectroscope.Specimen("small", "a test", "MIT", model, [torch.randn(4, 1, 64)], 4)
    table = spectroscope.run.ablate(specimen, select="3*")
    assert table["site"].unique().tolist() == ["3#0"]


def test_the_command(tmp_path, capsys, kid_ppg, monkeypatch):
    (tmp_path / "few_inputs.py").write_text(FEW)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["ablate", "few_inputs:few", "--out", "out"]) == 0
    assert {file.name for file in Path("out").iterdir()} == {"importance.csv", "importance.png"}
    table = pd.read_csv("out/importance.csv").set_index(["site", "operation"])
    assert len(table) == 19 * 3
    assert table["n_samples"].eq(40).all()
    assert table["metric"].eq("heart-rate MAE (BPM)").all()
    # The same by hand at one call of a block that runs twice.
    error = error_by_hand(kid_ppg, 40)
    assert table["value"]["block1.0.relu#1", "remove_dc"] == pytest.approx(error, rel=1e-5)
    printed = capsys.readouterr().out
    assert f"{error:.4g}" in printed
    assert "heart-rate MAE (BPM) changes most with" in " ".join(printed.split())


def error_by_hand(kid_ppg, count):
    """Mean error of the first inputs without the DC of one site."""
    inputs, truth = torch.cat(list(kid_ppg.inputs))[:count], kid_ppg.targets[:count]
    with torch.inference_mode(), intervene(kid_ppg.model, "block1.0.relu#1", remove_dc):
        return (kid_ppg.model(inputs)[:, 0].double() - truth).abs().mean().item()


@pytest.mark.slow
def test_the_tutorials_table_is_what_the_command_writes(tmp_path, kid_ppg):
    assert cli.main(["ablate", "kid-ppg", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "importance.csv").set_index(["site", "operation"])
    assert table["n_samples"].eq(214).all()
    error = error_by_hand(kid_ppg, 214)
    assert table["value"]["block1.0.relu#1", "remove_dc"] == pytest.approx(error, rel=1e-5)
    # 10 s of recording, every 2 s: 5 inputs share samples.
    interval = table["interval"].drop(("dense_relu#0", "only_dc"))  # has nothing but DC
    assert interval.eq("studentized bootstrap, blocks of 20 inputs").all()
    assert table["interval"]["dense_relu#0", "only_dc"].startswith("unknown: all scores changed")
    # Give or take what another processor rounds.
    shown = re.findall(r"^ *(\S+#\d) +([\d.]+) +([\d.]+) +([\d.]+)$", DOCS.read_text("utf-8"), re.M)
    assert len(shown) == 19
    for site, *values in shown:
        row = table["value"][site][["remove_dc", "mean_dc", "only_dc"]]
        np.testing.assert_allclose(row, np.array(values, float), rtol=0.01)
    claim = re.search(
        r"above 0 at (\d+) of 19 ReLUs, and below 0 at (\d+)", DOCS.read_text("utf-8")
    )
    means = table.xs("mean_dc", level="operation")
    counted = (means["change_low"] > 0).sum(), (means["change_high"] < 0).sum()
    assert counted == tuple(map(int, claim.groups()))
