"""`record` and the frames of its report, against brute force; and that looking changes nothing."""

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import scipy.stats
import torch
from helpers import (
    DC_TABLE,
    SPECTRUM,
    assert_spectra_close,
    nothing_is_left,
    report_of,
    values,
)
from torch import nn
from torch.nn.modules import module as module_hooks

import spectroscope


class Twice(nn.Module):
    """One in-place ReLU called twice a forward, the second time on another shape."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 5, padding=2)
        self.norm = nn.BatchNorm1d(3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool1d(2)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.pool(x) - 0.5)
        return x


def pre_activations(x):
    """A model that hands `x` itself to its ReLU."""
    return nn.Sequential(nn.Identity(), nn.ReLU()), x


def brute_force(x, y):
    """The columns of `dc()` for one channel from ``[N, T]`` input and output values."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    own = y.mean(1)
    return {
        "dc_in": x.mean(),
        "dc_out": y.mean(),
        "dc_out_std": own.std(),
        "ac_rms_in": np.sqrt(((x - x.mean(1, keepdims=True)) ** 2).mean()),
        "ac_rms_out": np.sqrt(((y - own[:, None]) ** 2).mean()),
        "active_fraction": (y > 0).mean(),
        "dc_fraction": (own**2).mean() / (y**2).mean(),
        "dc_gaussian": spectroscope.theory.gaussian_dc(x.mean(), x.std()),
    }


def test_inputs_of_different_lengths_count_alike():
    """In mean and deviation of the DC: so Welch's t is that of the inputs' own DCs."""
    lengths = {"a": [5, 50, 500, 20], "b": [300, 7, 12]}
    owns, reports = {}, {}
    for name, of_name in lengths.items():
        batches = [torch.randn(1, 2, length) + 0.1 * length**0.5 for length in of_name]
        owns[name] = np.concatenate([b.double().relu().mean(-1).numpy() for b in batches])
        with pytest.warns(UserWarning, match="no spectra"):
            reports[name] = report_of(nn.ReLU(), *batches)
        table = reports[name].dc()
        np.testing.assert_allclose(table["dc_out"], owns[name].mean(0), rtol=1e-6)
        np.testing.assert_allclose(table["dc_out_std"], owns[name].std(0), rtol=1e-6)
        mean_in = np.mean([b.double().mean(-1)[0].numpy() for b in batches], 0)
        np.testing.assert_allclose(table["dc_in"], mean_in, rtol=1e-6)
        every = torch.cat(batches, -1)[0].double().numpy()
        expected = spectroscope.theory.gaussian_dc(every.mean(1), every.std(1))
        np.testing.assert_allclose(table["dc_gaussian"], expected, rtol=1e-6)
        residual = np.maximum(every, 0).mean(1) - expected
        np.testing.assert_allclose(table["dc_gaussian_residual"], residual, rtol=1e-4)
    change = reports["a"].compare(reports["b"]).channels()
    t = scipy.stats.ttest_ind(owns["b"], owns["a"], equal_var=False).statistic
    np.testing.assert_allclose(change["welch_t"], t, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 3, 33), (5, 3, 6, 7), (2, 3, 2, 3, 4), (9, 3)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dc_is_brute_force(shape, offset, dtype):
    x = (offset + torch.randn(shape)).to(dtype)
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        y = model(x)
    table = recorder.report().dc()
    assert len(table) == 3
    for channel, row in table.iterrows():
        expected = (
            brute_force(*(t.double()[:, channel].flatten(1).numpy() for t in (x, y)))
            if x.dim() > 2
            else brute_force(*(t.double()[:, [channel]].numpy() for t in (x, y)))
        )
        rounding = max(1e-15 * offset, 1e-300)  # of an input's mean
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=1e-11, abs=rounding), column
        assert row["n_samples"] == shape[0]
        assert row["nonfinite"] == 0


def test_a_site_without_a_time_axis_has_dc_and_no_ac():
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(torch.randn(50, 4).abs())
    table = recorder.report().dc()
    assert (table["ac_rms_in"] == 0).all()
    assert (table["ac_rms_out"] == 0).all()
    assert (table["dc_fraction"] == 1).all()
    assert (table["dc_out_std"] > 0).all()


def test_a_gaussian_input_has_the_dc_of_theory():
    x = torch.randn(64, 2, 4096) * 2 - 0.7
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(x)
    table = recorder.report().dc()
    # Monte Carlo: 262,144 values of standard deviation about 1 give the mean to about 0.2 %.
    np.testing.assert_allclose(table["dc_out"], table["dc_gaussian"], rtol=0.01)


def test_a_cosine_has_the_dc_of_theory():
    time = torch.arange(1000, dtype=torch.float64) / 1000
    x = 3 * torch.cos(2 * torch.pi * 10 * time + 0.1).expand(2, 1, -1)
    model = nn.ReLU()
    with spectroscope.record(model, fs=1000.0) as recorder:
        model(x)
    report = recorder.report()
    assert report.dc()["dc_out"].item() == pytest.approx(3 / math.pi, rel=4e-4)
    power = report.spectra().set_index(["side", "freq"])["power"]
    assert power["in", 10.0] == pytest.approx(9 / 2, rel=1e-12)
    # ½x is kept; |x| has the even harmonics 2A/(π(n² − 1)) and no odd ones. At 100 samples a period
    # the 98th and 102nd fold onto the second, at 6·10⁻⁴ of it together: 1.3·10⁻³ of its power. On
    # the DC fall the 100th and its multiples.
    assert power["out", 10.0] == pytest.approx((3 / 2) ** 2 / 2, rel=1e-12)
    assert power["out", 20.0] == pytest.approx((2 * 3 / (math.pi * 3)) ** 2 / 2, rel=1.5e-3)
    assert power["out", 30.0] < 1e-20


def test_relu6_has_its_own_gaussian_dc():
    x = torch.randn(64, 1, 4096) * 4 + 3
    model = nn.ReLU6()
    with spectroscope.record(model) as recorder:
        model(x)
    row = recorder.report().dc().iloc[0]
    assert row["kind"] == "ReLU6"
    assert row["dc_out"] == pytest.approx(row["dc_gaussian"], rel=0.01)


@pytest.mark.parametrize("sizes", [(1,) * 40, (7, 7, 7, 7, 7, 5), (40,)])
def test_any_split_gives_the_same_tables(sizes):
    x = 1e4 + torch.randn(40, 6, 77)
    x[3, 0, 5] = torch.nan
    model = nn.ReLU()
    with spectroscope.record(model, fs=32) as whole:
        model(x)
    with spectroscope.record(model, fs=32) as split:
        for batch in x.split(sizes):
            model(batch)
    expected, found = whole.report(), split.report()
    for name in ("dc", "sites"):
        pd.testing.assert_frame_equal(
            getattr(found, name)(), getattr(expected, name)(), rtol=DC_TABLE, atol=0
        )
    for side in ("in", "out"):
        mine, other = (values(report.spectra(), "power", side) for report in (found, expected))
        np.testing.assert_allclose(mine[:, 0], other[:, 0], rtol=DC_TABLE)
        assert_spectra_close(mine[:, 1:], other[:, 1:], other[:, 1:].sum(1))


@pytest.mark.parametrize("shape", [(4, 1, 40_000), (6, 5, 1000)])
def test_any_split_gives_the_same_table_of_long_signals_far_from_zero(shape):
    x = 1e4 + torch.randn(shape, dtype=torch.float64)
    model = nn.ReLU()
    tables = []
    for size in (shape[0], 1, 3):
        with spectroscope.record(model, spectra=False) as recorder:
            for batch in x.split(size):
                model(batch)
        tables.append(recorder.report().dc())
    # The spread of the inputs' own DCs, in rational arithmetic.
    for channel in range(shape[1]):
        dcs = [sum(map(Fraction, row.tolist())) / shape[2] for row in x[:, channel]]
        mean = sum(dcs) / len(dcs)
        expected = math.sqrt(sum((dc - mean) ** 2 for dc in dcs) / len(dcs))
        assert tables[0]["dc_out_std"][channel] == pytest.approx(expected, rel=DC_TABLE)
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], rtol=DC_TABLE, atol=0)


def test_a_report_prints_its_headline_to_the_width_there_is(monkeypatch):
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU())
    with spectroscope.record(model) as recorder:
        model(torch.randn(4, 1, 32))
    report = recorder.report()
    assert repr(report) == "Report(Sequential: 1 site, 3 channels, 4 inputs)"
    for width in (40, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        first, *head, unit, row, legend = str(report).splitlines()[:6]
        assert first == repr(report)
        assert all(len(line) <= width for line in (*head, unit, row, legend))
        assert row.split()[0] == "1#0"
        assert ("dc_in" in head[-1].split()) == (width > 80)
        assert "dc_out" in head[-1].split()
        assert "act." in unit.split()
        assert "report.describe()" in str(report)
    for frame in (report.dc(), report.sites()):
        with pd.option_context("display.width", 80):
            assert "dc_out_std" in str(frame)
    assert list(report.dc())[:6] == ["site", "channel", "dc_out", "dc_out_std", "dc_fraction",
                                     "active_fraction"]  # fmt: skip
    assert list(report.sites())[:3] == ["site", "source", "shape"]


def test_reports_merge_in_any_grouping():
    x = 5 + torch.randn(12, 3, 20)
    model = nn.ReLU()

    def report(batch):
        with spectroscope.record(model) as recorder:
            model(batch)
        return recorder.report()

    a, b, c = map(report, x.split([2, 9, 1]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)):
        pd.testing.assert_frame_equal(merged.dc(), report(x).dc(), rtol=1e-12, atol=0)
        assert merged.coverage()["fired"].item() == 3
    assert a.dc()["n_samples"].eq(2).all()  # merging changes neither


def test_an_in_place_relu_is_seen_before_it_overwrites():
    model, x = Twice().eval(), torch.randn(4, 2, 64)
    with torch.no_grad():
        before = model.norm(model.conv(x))
        first = before.relu()
        second = model.pool(first) - 0.5
        with spectroscope.record(model) as recorder:
            model(x)
    dc = recorder.report().dc().set_index(["site", "channel"])
    for channel in range(3):
        for site, tensor in (("relu#0", before), ("relu#1", second)):
            of_channel = tensor[:, channel].double()
            assert dc.loc[(site, channel), "dc_in"] == pytest.approx(
                of_channel.mean().item(), rel=1e-12
            )
            assert dc.loc[(site, channel), "dc_out"] == pytest.approx(
                of_channel.relu().mean().item(), rel=1e-12
            )


@pytest.mark.parametrize("train", [False, True])
def test_outputs_and_gradients_are_the_same_to_the_bit(train):
    model = Twice().train(train)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 2, 64, requires_grad=True)

    def run():
        model.load_state_dict(state)
        model.zero_grad()
        x.grad = None
        y = model(x)
        y.square().sum().backward()
        return [y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]

    def copies():
        return [tensor.detach().clone() for tensor in run()]

    before = copies()
    with spectroscope.record(model):
        during = copies()
    after = copies()
    for a, b, c in zip(before, during, after, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def hooks_of(model):
    return [
        hook
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        for hook in hooks.values()
    ]


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error
        self.relu = nn.ReLU()

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return self.relu(x)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_no_hook_of_ours_is_left_and_none_of_others_taken(error):
    def theirs(module, args):
        return None

    model = nn.Sequential(nn.ReLU(), Failing(error))
    model[0].register_forward_pre_hook(theirs)
    with pytest.raises(type(error)), spectroscope.record(model):
        assert module_hooks._global_forward_hooks
        model(torch.randn(2, 3, 4))
    assert hooks_of(model) == [theirs]
    assert nothing_is_left()


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_calls_are_counted_from_zero_after_a_forward_that_failed(error):
    model = nn.Sequential(nn.ReLU(), Failing(error))
    with spectroscope.record(model) as recorder:
        with pytest.raises(type(error)):
            model(torch.randn(2, 3, 4))
        model[1].error = None
        model(torch.randn(2, 3, 4))
    sites = recorder.report().sites().set_index("site")
    assert sites["n_samples"].to_dict() == {"0#0": 4, "1.relu#0": 2}


def test_a_part_of_the_model_called_by_itself_counts_its_own_calls():
    model = nn.Sequential(nn.Sequential(nn.Identity(), nn.ReLU()), nn.ReLU())
    with (
        pytest.warns(UserWarning, match=r"only parts of it ran"),
        spectroscope.record(model) as recorder,
    ):
        for _ in range(3):
            model[0](torch.randn(2, 3, 4))
            model[1](torch.randn(2, 3, 4))
    sites = recorder.report().sites().set_index("site")
    assert sites["n_samples"].to_dict() == {"0.1#0": 6, "1#0": 6}


def test_an_input_given_by_keyword_is_seen():
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(input=torch.ones(2, 1, 3))
    assert recorder.report().dc()["dc_in"].item() == 1


def test_a_recorder_can_be_entered_again_but_not_while_it_records():
    model = nn.ReLU()
    recorder = spectroscope.record(model)
    for _ in range(2):
        with recorder:
            model(torch.ones(2, 1, 3))
            with pytest.raises(RuntimeError, match="already recording"):
                recorder.__enter__()
    assert recorder.report().dc()["n_samples"].item() == 4
    assert hooks_of(model) == []


def test_nonfinite_values_are_counted_and_kept_out():
    x = torch.randn(6, 2, 50)
    x[1, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x[4, 1] = torch.nan
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        y = model(x)
    report = recorder.report()
    dc = report.dc()
    assert dc["nonfinite"].tolist() == [3, 50]
    assert dc["nonfinite_out"].tolist() == [2, 50]  # ReLU(−Inf) is 0
    for channel in range(2):
        finite_out = y[:, channel][y[:, channel].isfinite()].double()
        for name, side in (("dc_in", x), ("dc_out", y)):  # inputs count alike
            own = [row[row.isfinite()].double().mean().item() for row in side[:, channel]]
            assert dc[name][channel] == pytest.approx(np.nanmean(own), rel=1e-12)
        active = (finite_out > 0).double().mean().item()
        assert dc["active_fraction"][channel] == pytest.approx(active, rel=1e-12)
        own = [row[row.isfinite()].double().mean().item() for row in y[:, channel]]
        expected = np.nanstd(own)
        assert dc["dc_out_std"][channel] == pytest.approx(expected, rel=1e-12)
    # The spectrum is that of the inputs that are finite throughout.
    power = report.spectra().query("channel == 0 and side == 'in'")["power"]
    rest = x[[0, 2, 3, 4, 5], 0].double().numpy()
    _, expected = scipy.signal.periodogram(rest, scaling="spectrum", detrend=False)
    expected = expected.mean(0)
    np.testing.assert_allclose(power, expected, rtol=0, atol=SPECTRUM * expected.sum())


def test_empty_batches_count_nothing():
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(torch.empty(0, 3, 8))
        model(torch.empty(2, 3, 0))
        assert recorder.report().dc().empty
        model(torch.ones(2, 3, 8))
    assert recorder.report().dc()["n_samples"].tolist() == [2, 2, 2]


def test_a_channel_that_is_always_off_has_no_dc_fraction():
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(-torch.ones(2, 1, 8))
    row = recorder.report().dc().iloc[0]
    assert row["active_fraction"] == 0
    assert math.isnan(row["dc_fraction"])


def test_dead_channels_and_those_always_on_are_counted():
    x = torch.randn(6, 8, 9)
    x[:, 0] = -x[:, 0].abs()  # dead
    x[:, 1] = 0  # dead, too
    x[:, 2] = x[:, 2].abs() + 0.1  # always on
    x[:, 3] = -1
    x[5, 3, 8] = 2.0  # on once
    x[:, 4] = 1
    x[2, 4, 3] = -0.0  # off once
    x[:, 5] = torch.nan  # neither
    x[:, 6] = torch.nan
    x[0, 6, 0] = 3.0  # on wherever it is finite
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Identity(), nn.ReLU())
    with spectroscope.record(model) as recorder:
        for batch in x.split(4):
            model(batch)
    y, seen = x.relu().double(), x.isfinite()
    on = ((y > 0) & seen).sum((0, 2))
    finite = seen.sum((0, 2))
    table = recorder.report().sites()
    for _, row in table.iterrows():
        assert row["dead_fraction"] == ((on == 0) & (finite > 0)).sum() / 7 == 2 / 7
        assert row["always_on_fraction"] == ((on == finite) & (finite > 0)).sum() / 7 == 2 / 7
    with spectroscope.record(model) as recorder:
        model(x * torch.nan)
    unknown = recorder.report().sites()[["dead_fraction", "always_on_fraction"]]
    assert unknown.isna().all(axis=None)


def test_long_signals_and_many_channels_are_reduced_in_pieces():
    x = torch.randn(2, 3, 300_000)
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(x)
    report = recorder.report()
    np.testing.assert_allclose(report.dc()["dc_in"], x.double().mean((0, 2)), rtol=1e-9)
    _, expected = scipy.signal.periodogram(x.double().numpy(), scaling="spectrum", detrend=False)
    power = report.spectra().query("side == 'in'")["power"].to_numpy().reshape(3, -1)
    expected = expected.mean(0)
    assert_spectra_close(power, expected, expected.sum(1))


def test_inputs_of_different_lengths_share_statistics_and_have_no_common_spectrum():
    model = nn.ReLU()
    short, long = torch.randn(2, 1, 10), torch.randn(3, 1, 30)
    with (
        pytest.warns(UserWarning, match=r"no spectra: inputs of lengths \(10,\) and \(30,\)"),
        spectroscope.record(model) as recorder,
    ):
        model(short)
        model(long)
    report = recorder.report()
    row = report.dc().iloc[0]
    own = torch.cat([short.double().relu().mean(2), long.double().relu().mean(2)])
    assert row["dc_out"] == pytest.approx(own.mean().item(), rel=1e-12)
    assert row["dc_out_std"] == pytest.approx(own.std(correction=0).item(), rel=1e-12)
    assert report.sites()["shape"].item() == (1, None)
    with pytest.raises(spectroscope.RequestError, match="inputs of one length"):
        report.spectra()


def test_spectra_select_and_refuse():
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU())
    with spectroscope.record(model) as recorder:
        model(torch.randn(2, 3, 4))
    report = recorder.report()
    assert set(report.spectra()["site"]) == {"0#0"}
    assert set(report.spectra("0")["freq_unit"]) == {"cycles/sample"}
    with pytest.raises(spectroscope.RequestError, match=r"no spectra were recorded at 2#0"):
        report.spectra("2")
    with pytest.raises(spectroscope.RequestError, match=r"no site matches 'block'.* 0#0"):
        report.spectra("block")


def test_spectra_false_keeps_none():
    model = nn.ReLU()
    with spectroscope.record(model, spectra=False) as recorder:
        model(torch.randn(2, 3, 4))
    with pytest.raises(spectroscope.RequestError, match="spectra=True"):
        recorder.report().spectra()


def test_every_column_is_described():
    model = nn.Sequential(nn.ReLU(), nn.AvgPool1d(2))
    with spectroscope.record(model, f0=0.1, examples=1) as recorder:
        model(torch.randn(2, 3, 40))
    report = recorder.report()
    with spectroscope.record(model[0], spectra="plane", examples=1) as recorder:
        model[0](torch.randn(2, 3, 4, 6))
    images = recorder.report()
    described = report.describe()
    tables = ("dc", "sites", "spectra", "coverage", "introduced", "cross_spectra", "aliasing",
              "planes", "harmonics", "predictions", "dead", "spectrogram", "network")  # fmt: skip
    used = {"density", "amplitude", *report.examples(), *images.examples()}
    for name in tables:
        of = images if name == "planes" else report
        used |= set(getattr(of, name)())
    assert used == set(described["column"])
    assert (described["definition"] != "").all()


def test_what_it_is_about_is_what_was_said_and_what_can_be_seen():
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU())
    with spectroscope.record(model, about={"data": "A", "subject": 7}) as recorder:
        model(torch.randn(2, 2, 9))
    about = recorder.report().about
    assert about["model"] == "Sequential, 33 parameters"
    assert about["data"] == "A"
    assert about["subject"] == "7"
    assert f"torch {torch.__version__}" in about["versions"]
    passed = datetime.now(UTC) - datetime.fromisoformat(about["recorded"])
    assert timedelta(0) <= passed < timedelta(minutes=1)


def test_merged_reports_are_about_all_that_each_was():
    model = nn.ReLU()

    def report(**about):
        with spectroscope.record(model, about={"recorded": "then", **about}) as recorder:
            model(torch.ones(1, 2, 4))
        return recorder.report()

    a, b, c = report(data="A", by="me"), report(data="B", on="Monday"), report(data="A")
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c))):
        about = merged.about
        assert about["data"] == "A; B"
        assert (about["by"], about["on"], about["recorded"]) == ("me", "Monday", "then")
        assert about["model"] == a.about["model"]
