"""What changed between two reports, against SciPy and by hand."""

import copy
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from helpers import report_of
from torch import nn

import spectroscope
from spectroscope import cli
from spectroscope.page import comparison as comparison_page

SHIFT = 0.75


def conv(channels=4):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv1d(1, channels, 5), nn.ReLU(), nn.Conv1d(channels, 3, 5), nn.ReLU())


def shifted(model, channel=2, by=SHIFT):
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[0].bias[channel] += by
    return changed


@pytest.fixture
def pair():
    model = conv()
    return report_of(model, torch.randn(20, 1, 64)), report_of(
        shifted(model), torch.randn(30, 1, 64)
    )


def dcs(model, x):
    """Of each input and channel after the first ReLU."""
    with torch.no_grad():
        return model[:2](x).double().mean(-1).numpy()


def test_effect_size_and_t_are_scipys():
    a, b = conv(), shifted(conv())
    x, y = torch.randn(20, 1, 64), torch.randn(30, 1, 64)
    table = report_of(a, x).compare(report_of(b, y)).channels()
    of_a, of_b = dcs(a, x), dcs(b, y)
    result = table[table["site"] == "1#0"]
    t = scipy.stats.ttest_ind(of_b, of_a, equal_var=False).statistic
    np.testing.assert_allclose(result["welch_t"], t, rtol=1e-5)
    cohen = (of_b.mean(0) - of_a.mean(0)) / np.sqrt((of_a.var(0) + of_b.var(0)) / 2)
    np.testing.assert_allclose(result["effect_size"], cohen, rtol=1e-5)
    np.testing.assert_allclose(result["dc_out_change"], of_b.mean(0) - of_a.mean(0), rtol=1e-4)
    assert result["effect_size"].abs().idxmax() == 2


def test_a_site_is_its_channels(pair):
    result = pair[0].compare(pair[1])
    sites, channels = result.sites().set_index("site"), result.channels()
    of_site = channels[channels["site"] == "1#0"].set_index("channel")
    row = sites.loc["1#0"]
    assert row["channel_max"] == 2
    assert row["effect_max"] == of_site["effect_size"][2] > 1
    rms = np.sqrt((of_site["effect_size"] ** 2).mean())
    np.testing.assert_allclose(row["effect_rms"], rms, rtol=1e-12)
    np.testing.assert_allclose(row["dc_out_change"], of_site["dc_out_change"].mean(), rtol=1e-9)
    assert list(sites.index) == ["1#0", "3#0"]


def test_nothing_changed_from_a_report_to_itself(pair):
    result = pair[0].compare(pair[0])
    changes = result.channels().filter(regex="_change$|effect_size|welch_t")
    assert (changes == 0).all(axis=None)
    assert (result.sites()[["effect_rms", "died", "revived"]] == 0).all(axis=None)
    assert result.unmatched().empty
    assert "\nNothing stands out.\n" in str(result)


def test_there_and_back_is_the_opposite(pair):
    there, back = (x.compare(y).channels() for x, y in (pair, pair[::-1]))
    np.testing.assert_array_equal(there["effect_size"], -back["effect_size"])
    np.testing.assert_array_equal(there["dc_out_change"], -back["dc_out_change"])


def test_channels_die_and_revive():
    model = conv()
    x = torch.randn(5, 1, 64)
    one_dead = shifted(model, 0, by=-100)
    alive, dead = report_of(one_dead, x), report_of(shifted(one_dead, by=-100), x)
    there, back = alive.compare(dead).sites(), dead.compare(alive).sites()
    assert there[["died", "revived"]].values.tolist()[0] == [1, 0]
    assert back[["died", "revived"]].values.tolist()[0] == [0, 1]


def test_an_unknown_channel_neither_dies_nor_revives():
    x = -torch.rand(5, 2, 8)
    unknown = x.clone()
    unknown[:, 1] = torch.nan
    dead, strange = report_of(nn.ReLU(), x), report_of(nn.ReLU(), unknown)
    for result in (dead.compare(strange), strange.compare(dead)):
        assert result.sites()[["died", "revived"]].values.tolist() == [[0, 0]]
        found = comparison_page.findings(result.sites(), result.channels()).present
        assert {finding.measure for finding in found if finding.values} == {"fraction of channels"}
        headlines = {finding.headline for finding in found}
        assert not {"Channels that died", "Channels that revived"} & headlines
    nothing = torch.full_like(x, torch.nan)
    result = report_of(nn.ReLU(), nothing).compare(report_of(nn.ReLU(), nothing))
    absent = comparison_page.findings(result.sites(), result.channels()).absent
    assert not any("died" in text or "revived" in text for text in absent)


def test_one_input_has_no_spread_and_constant_dc_an_infinite_effect():
    model = nn.Sequential(nn.ReLU())
    one, two = torch.ones(1, 1, 8), torch.ones(2, 1, 8)
    few = report_of(model, one).compare(report_of(model, 2 * one)).channels()
    assert few[["effect_size", "welch_t"]].isna().all(axis=None)
    result = report_of(model, two).compare(report_of(model, 2 * two))
    assert result.channels()["effect_size"].tolist() == [np.inf]
    assert result.sites()["effect_max"].tolist() == [np.inf]
    same = report_of(model, two).compare(report_of(model, two)).channels()
    assert same[["effect_size", "welch_t"]].values.tolist() == [[0, 0]]


def test_the_largest_effect_may_be_a_loss():
    x = torch.randn(9, 1, 64)
    result = report_of(conv(), x).compare(report_of(shifted(conv(), by=-0.3), x))
    row = result.sites().iloc[0]
    assert row["channel_max"] == 2
    assert row["effect_max"] < 0


def test_unmatched_sites_have_a_reason():
    a = report_of(conv(), torch.randn(2, 1, 64))
    wider = report_of(conv(6), torch.randn(2, 1, 64))
    result = a.compare(wider)
    why = "4 channels in A, 6 channels in B"
    assert result.unmatched().values.tolist() == [["1#0", why]]
    with pytest.raises(
        AssertionError, match="1#0: 4 channels in the baseline, 6 channels in the report"
    ):
        spectroscope.assert_close(wider, a, atol=100)
    with pytest.raises(AssertionError, match="of 3 channels") as failure:
        spectroscope.assert_close(wider, a)
    assert "1#0, channel" not in str(failure.value)
    assert result.sites()["site"].tolist() == ["3#0"]
    other = report_of(nn.Sequential(nn.ReLU6()), torch.randn(2, 1, 64))
    lines = a.compare(other).unmatched().values.tolist()
    assert lines == [["1#0", "only in A"], ["3#0", "only in A"], ["0#0", "only in B"]]
    none = a.compare(other)
    assert none.sites().empty
    assert none.channels().empty
    kinds = report_of(nn.ReLU6(), torch.ones(1, 1, 4)).compare(
        report_of(nn.ReLU(), torch.ones(1, 1, 4))
    )
    assert kinds.unmatched()["why"].tolist() == ["ReLU6 in A, ReLU in B"]


def test_every_column_has_a_definition(pair):
    result = pair[0].compare(pair[1])
    described = result.describe().set_index("column")
    for table in (result.channels(), result.sites(), result.unmatched()):
        assert set(table.columns) <= set(described.index)
    assert described["definition"].str.len().min() > 10
    assert described["unit"]["dc_out_change"] == "activation"


def test_the_command(pair, tmp_path, capsys):
    for report, name in zip(pair, "AB", strict=True):
        report.save(tmp_path / name)
    out = tmp_path / "out"
    assert cli.main(["compare", *(str(tmp_path / n) for n in "AB"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1#0" in printed
    assert printed.strip().splitlines()[-1].startswith("wrote compare.html, compare_channels.csv,")
    assert "effect_rms" in (out / "compare.html").read_text("utf-8")
    table = pd.read_csv(out / "compare_sites.csv")
    pd.testing.assert_frame_equal(
        table[["site", "effect_rms"]], pair[0].compare(pair[1]).sites()[["site", "effect_rms"]]
    )
    assert cli.main(["compare", str(tmp_path / "A"), str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_close_to_itself_and_to_its_file(pair, tmp_path):
    pair[0].save(tmp_path)
    spectroscope.assert_close(pair[0], pair[0])
    spectroscope.assert_close(pair[0], tmp_path, rtol=0, atol=0)


def test_a_failure_names_the_channels_with_both_values():
    x = torch.randn(20, 1, 64)
    then, now = report_of(conv(), x), report_of(shifted(conv()), x)
    with pytest.raises(AssertionError) as failure:
        spectroscope.assert_close(now, then)
    text = str(failure.value)
    dc = {side: r.dc().set_index(["site", "channel"]) for side, r in (("now", now), ("then", then))}
    values = [dc[side]["dc_out"]["1#0", 2] for side in ("now", "then")]
    assert f"1#0, channel 2: dc_out {values[0]:.6g}, baseline {values[1]:.6g}" in text
    sizes = [float(size) for size in re.findall(r"\(([^ ]+) × the tolerance\)", text)]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert "1#0, channel 1" not in text
    assert text.startswith("4 of 7 channels")  # that one, and the three it leads to
    lines = text.splitlines()[1:]
    assert len(lines) == 4
    assert all("; also " in line for line in lines)  # a line for each, however many numbers moved


def test_the_worst_comes_first_and_ten_are_named():
    x = torch.randn(4, 1, 64)
    model = nn.Sequential(nn.Conv1d(1, 30, 3), nn.ReLU())
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[0].bias += torch.linspace(0.1, 3, 30)
    with pytest.raises(AssertionError) as failure:
        spectroscope.assert_close(
            report_of(changed, x), report_of(model, x), columns="dc_out", rtol=0
        )
    head, *lines, rest = str(failure.value).splitlines()
    assert head.startswith("30 of 30 channels")
    moved = report_of(model, x).compare(report_of(changed, x)).channels()["dc_out_change"]
    order = moved.abs().sort_values(ascending=False).index[:10]
    assert [line.split(": ")[0].strip() for line in lines] == [f"1#0, channel {c}" for c in order]
    assert rest.strip() == "… and 20 more"


def test_with_effect_the_lines_are_ordered_by_it():
    """Channels of very different spread: below the floor it is the layer's RMS that counts."""
    x = torch.randn(8, 6, 64) * torch.logspace(-3, 0, 6)[:, None] + 0.5
    then, now = report_of(nn.Sequential(nn.ReLU()), x), report_of(nn.Sequential(nn.ReLU()), x + 0.3)
    with pytest.raises(AssertionError) as failure:
        spectroscope.assert_close(now, then, effect=0.5, floor=0.001)
    before, after = then.dc(), now.dc()
    power = before[["dc_out", "ac_rms_out", "dc_out_std"]].pow(2).sum(axis=1).mean()
    spread = np.maximum(before["dc_out_std"], 0.001 * np.sqrt(power))
    effects = ((after["dc_out"] - before["dc_out"]) / spread).sort_values(ascending=False)
    lines = str(failure.value).splitlines()[1:]
    assert len(lines) == 6
    for line, (channel, effect) in zip(lines, effects.items(), strict=True):
        assert line.startswith(f"  0#0, channel {channel}: dc_out ")
        assert f"({effect:+.2g} standard deviations)" in line


def test_a_nan_that_leaves_the_means_unchanged_fails():
    model, x = nn.Sequential(nn.ReLU()), torch.ones(3, 2, 4)
    y = torch.ones(4, 2, 4)
    y[3, 1] = torch.nan
    with pytest.raises(AssertionError, match="#0, channel 1: nonfinite 4, baseline 0"):
        spectroscope.assert_close(report_of(model, y), report_of(model, x))


def test_reports_without_sites_are_of_other_models(pair):
    with pytest.warns(UserWarning, match="nothing was recorded"):
        none = report_of(nn.Sequential(nn.Conv1d(1, 2, 3)), torch.randn(2, 1, 8))
    with pytest.raises(AssertionError, match="1#0: only in the baseline"):
        spectroscope.assert_close(none, pair[0])
    spectroscope.assert_close(none, none)


def test_a_report_in_the_same_folder_is_not_modified(pair, tmp_path):
    pair[0].save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    pair[0].compare(tmp_path).save(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_tolerances_are_as_documented():
    model, x = nn.Sequential(nn.ReLU()), torch.tensor([[[1.0]], [[3.0]]])
    then = report_of(model, x)  # DC 2, standard deviation 1
    now = report_of(model, 1.25 * x)  # that DC is off by 0.5, and the deviation greater
    for options, close in [
        ({"atol": 0.5, "rtol": 0}, True),
        ({"atol": 0.49, "rtol": 0}, False),
        ({"atol": 0, "rtol": 0.25}, True),
        ({"atol": 0, "rtol": 0.24}, False),
        ({"atol": 0, "rtol": 0, "effect": 0.5}, True),
        ({"atol": 0, "rtol": 0, "effect": 0.49}, False),
        # The RMS is √5: twice of it is more than the standard deviation.
        ({"atol": 0, "rtol": 0, "effect": 0.112, "floor": 2.0}, True),
        ({"atol": 0, "rtol": 0, "effect": 0.111, "floor": 2.0}, False),
        ({"atol": 0, "rtol": 0, "share": 1.0}, True),
    ]:
        if close:
            spectroscope.assert_close(now, then, columns=("dc_out",), **options)
        else:
            with pytest.raises(AssertionError, match="1 of 1 channels"):
                spectroscope.assert_close(now, then, columns=("dc_out",), **options)


def test_the_floor_is_relative_to_the_layer_and_the_share_to_all_channels():
    model = nn.Sequential(nn.ReLU())
    x = torch.ones(2, 100, 4)  # no channel's DC varies
    x[:, 1:] = 0
    y = x.clone()
    y[:, 3] = 0.006  # the RMS of the layer is 0.1
    then, now = report_of(model, x), report_of(model, y)
    spectroscope.assert_close(now, then, effect=0.7)
    spectroscope.assert_close(now, then, effect=0.5)  # 1 of 100 channels
    with pytest.raises(AssertionError, match=r"1 of 100 channels .*share=0\.0"):
        spectroscope.assert_close(now, then, effect=0.5, share=0.0)
    y[:, 4] = 0.006
    with pytest.raises(AssertionError, match="2 of 100 channels"):
        spectroscope.assert_close(report_of(model, y), then, effect=0.5)


def test_effect_compares_the_dc_alone():
    model = nn.Sequential(nn.ReLU())
    then = report_of(model, torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]]))
    now = report_of(model, torch.tensor([[[0.5, 1.5]], [[2.0, 4.0]]]))
    spectroscope.assert_close(now, then, effect=0.1)
    with pytest.raises(AssertionError, match="ac_rms_out"):
        spectroscope.assert_close(now, then)
    with pytest.raises(spectroscope.RequestError, match="effect compares dc_out, not columns="):
        spectroscope.assert_close(now, then, effect=0.1, columns=["dc_in"])


def test_one_percent_of_noise_on_the_weights_is_no_drift():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 64, 9), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 64, 9),
                          nn.BatchNorm1d(64), nn.ReLU()).eval()  # fmt: skip
    x = torch.randn(16, 1, 256)
    then = report_of(model, x)
    with torch.no_grad():
        for name in "03":
            weight = model.get_submodule(name).weight
            weight.add_(0.01 * weight.std() * torch.randn_like(weight))
    spectroscope.assert_close(report_of(model, x), then, effect=0.5)
    with torch.no_grad():
        model[3].bias.add_(weight.abs().sum((1, 2)) / 10)
    with pytest.raises(AssertionError, match="of 128 channels"):
        spectroscope.assert_close(report_of(model, x), then, effect=0.5)


def test_the_command_fails_above_an_effect(pair, tmp_path, capsys):
    for name, report in zip("ab", pair, strict=True):
        report.save(tmp_path / name)
    folders = [str(tmp_path / name) for name in "ab"]
    assert cli.main(["compare", *folders]) == 0
    assert cli.main(["compare", *folders, "--fail-above", "1e9"]) == 0
    assert cli.main(["compare", folders[0], *folders[:1], "--fail-above", "0"]) == 0
    capsys.readouterr()
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["compare", *folders, "--fail-above", "0", *out]) == 1
    printed, errors = capsys.readouterr()
    assert "revived" in printed  # the table, and the files, are there all the same
    assert (tmp_path / "out" / "compare.html").exists()
    assert "channels are not close to the baseline (effect=0.0" in errors
    assert cli.main(["compare", *folders, "--fail-above", "0", "--allow", "1"]) == 0
    assert cli.main(["compare", *folders, "--fail-above", "-1"]) == 2


def test_nan_is_close_to_nan_only():
    model = nn.Sequential(nn.ReLU())
    nothing = report_of(model, torch.full((1, 1, 4), torch.nan))
    spectroscope.assert_close(nothing, nothing)
    with pytest.raises(AssertionError, match="dc_out nan, baseline 1"):
        spectroscope.assert_close(nothing, report_of(model, torch.ones(1, 1, 4)))


def test_sites_that_are_missing_fail():
    a = report_of(conv(), torch.randn(2, 1, 64))
    with pytest.raises(AssertionError, match="3#0: only in the baseline"):
        spectroscope.assert_close(report_of(conv()[:2], torch.randn(2, 1, 64)), a, atol=10)


def test_columns_that_do_not_exist_are_refused(pair):
    for columns in ("colour", ["kind"], ["dc_out", "channel"]):
        with pytest.raises(spectroscope.RequestError, match="must be numeric columns of report"):
            spectroscope.assert_close(pair[0], pair[0], columns=columns)
    with pytest.raises(spectroscope.RequestError, match="rtol=-1"):
        spectroscope.assert_close(pair[0], pair[0], rtol=-1)
