"""`probe` and `dc_by_sample`: against scikit-learn and means by hand."""

import builtins

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import nothing_is_left
from torch import nn

import spectroscope
from spectroscope import dc_by_sample, probe
from spectroscope.experiments import probing


@pytest.fixture(scope="module")
def tones():
    """Noise of random power: of it, only the DC of the rectified signal tells anything linearly."""
    generator = torch.Generator().manual_seed(0)
    power = torch.rand(240, 1, 1, generator=generator) + 0.1
    x = power * torch.randn(240, 1, 64, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                          nn.Linear(8, 3), nn.ReLU()).eval()  # fmt: skip
    return model, x, power.flatten()


def test_dc_by_sample_is_the_mean(tones):
    model, x, _ = tones
    table = dc_by_sample(model, x.split(50))
    with torch.no_grad():
        means = model[:2](x).mean(-1).numpy()
        dense = model(x).numpy()
    for site, expected in (("1#0", means), ("5#0", dense)):
        rows = table[table["site"] == site]
        assert rows[["sample", "channel"]].drop_duplicates().shape[0] == expected.size
        found = rows.pivot(index="sample", columns="channel", values="dc_out").to_numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert nothing_is_left()


def test_paired_t_is_scipys(tones):
    model, x, _ = tones
    one, two = dc_by_sample(model, [x]), dc_by_sample(model, [1.01 * x + 0.01])
    table = spectroscope.paired_t(one, two)
    for (site, channel), row in table.set_index(["site", "channel"]).iterrows():
        before, after = (
            frame[(frame["site"] == site) & (frame["channel"] == channel)]["dc_out"].to_numpy(float)
            for frame in (one, two)
        )
        expected = scipy.stats.ttest_rel(after, before)
        assert row["paired_t"] == pytest.approx(expected.statistic, rel=1e-9, nan_ok=True)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9, nan_ok=True)
        assert row["n_samples"] == 240
    with pytest.raises(spectroscope.RequestError, match="of the same inputs"):
        spectroscope.paired_t(one, two[two["sample"] < 200])


def test_dc_tells_what_the_waveform_does_not(tones, monkeypatch):
    model, x, power = tones
    table = probe(model, x.split(100), targets=power).set_index("site")
    assert table["dc"]["1#0"] > 0.8  # E ReLU = power · a constant
    assert table["all"]["1#0"] < table["dc"]["1#0"] - 0.05  # 480 values of 240 inputs
    assert table["values"].tolist() == [8 * 60, 3]
    assert table["score"].eq("R2").all()
    y = power.numpy().astype(np.float64)  # the mean of the other folds, which are runs
    predicted = np.empty_like(y)
    for fold in np.array_split(np.arange(len(y)), 5):
        predicted[fold] = np.delete(y, fold).mean()
    chance = 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert chance < -0.001
    assert table["chance"].tolist() == pytest.approx([chance, chance], rel=1e-9)
    monkeypatch.setattr(probing, "_SKETCH", 16)
    sketched = probe(model, x.split(100), targets=power).set_index("site")
    assert sketched["dc"].equals(table["dc"])
    assert sketched["all"]["1#0"] != table["all"]["1#0"]


def test_nothing_is_told_of_noise(tones):
    model, x, power = tones
    shuffled = power[torch.randperm(len(power), generator=torch.Generator().manual_seed(1))]
    table = probe(model, [x], targets=shuffled)
    assert table[["dc", "all"]].lt(0.1).all(axis=None)


def test_classes_by_logistic_regression(tones):
    model, x, power = tones
    classes = (power > 0.6).long()
    table = probe(model, [(x, classes)]).set_index("site")
    assert table["score"].eq("accuracy").all()
    assert table["dc"]["1#0"] > 0.85
    largest = max(classes.double().mean().item(), 1 - classes.double().mean().item())
    assert table["chance"].unique() == pytest.approx([largest])  # in each of stratified folds


def test_without_targets_the_output_is_what_is_predicted(tones):
    model, x, _ = tones
    table = probe(model, [x]).set_index("site")
    assert table["dc"]["1#0"] > 0.9  # it is linear in the DC, but for the last ReLU
    assert table["dc"]["5#0"] == table["all"]["5#0"]
    assert table["dc"]["5#0"] > 0.999


def test_the_sketch_keeps_inner_products_on_average(monkeypatch):
    monkeypatch.setattr(probing, "_SKETCH", 2048)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(6, 30_000, generator=generator)
    sketch = probing._sketch(y)
    assert sketch.shape == (6, 2048)
    # Its error is that of |x|·|y|/√2048.
    np.testing.assert_allclose(sketch @ sketch.T, y @ y.T, atol=4 * 30_000 / 2048**0.5)


def test_what_it_refuses(tones, monkeypatch):
    model, x, power = tones
    with pytest.raises(spectroscope.RequestError, match="2 inputs are too few for folds=5"):
        probe(model, [x[:2]])
    with pytest.raises(spectroscope.RequestError, match="no batch was given"):
        dc_by_sample(model, [])
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(spectroscope.RequestError, match="pip install scikit-learn"):
        probe(model, [x], targets=power)
