"""`Report.predictions`: measured DC beside closed forms."""

import numpy as np
import pytest
import torch
from helpers import report_of
from torch import nn

import spectroscope


def predicted(report, column="dc_predicted"):
    return report.predictions().pivot(index="channel", columns="assumption", values=column)


def test_the_four_tones_of_the_paper():
    time = torch.arange(8192, dtype=torch.float64) / 1024
    freqs = torch.tensor([5.0, 10.0, 20.0, 40.0], dtype=torch.float64)
    x = torch.cos(2 * torch.pi * freqs[:, None] * time).sum(0).view(1, 1, -1)
    found = predicted(report_of(nn.ReLU(), x, fs=1024.0)).loc[0]
    # Four tones of independent phase (FACTS of the Bessel integral, Monte Carlo 0.5725); a Gaussian
    # of power 2; the series' ½√A with A = ½·4².
    assert found["tones"] == pytest.approx(0.57267, abs=1e-5)
    assert found["gaussian"] == pytest.approx(np.sqrt(2 / (2 * np.pi)), rel=1e-12)
    assert found["series"] == pytest.approx(np.sqrt(8) / 2, rel=1e-12)
    assert "tone" not in found


def test_tones_whose_phases_are_independent_have_the_dc_of_theory():
    cycles, amplitudes = np.array([[401], [807], [1353]]), np.array([[1.0], [0.6], [0.3]])
    tones = amplitudes * np.cos(2 * np.pi * cycles * np.arange(40_000) / 40_000)
    x = 0.4 + tones.sum(0)
    table = report_of(nn.ReLU(), torch.from_numpy(x).view(1, 1, -1)).predictions()
    residual = table.set_index("assumption")["dc_residual"]
    assert table["dc_out"].unique() == pytest.approx([np.maximum(x, 0).mean()], rel=1e-12)
    assert abs(residual["tones"]) < 2e-5  # their phases come round in 40,000 samples
    assert abs(residual["gaussian"]) > 1e-3


def test_a_rectified_cosine_is_what_the_tone_says():
    x = torch.cos(2 * torch.pi * 16 * torch.arange(1024, dtype=torch.float64) / 1024)
    x = torch.stack([3 * x, 2 + x]).view(1, 2, -1)
    found = predicted(report_of(nn.ReLU(), x, f0=16 / 1024))
    np.testing.assert_allclose(found["tone"], [3 / np.pi, 2], rtol=1e-12)
    np.testing.assert_allclose(found["tones"], [3 / np.pi, 2], rtol=1e-9)
    np.testing.assert_allclose(found["series"], [3 / 8**0.5, 1 + 3 / 8**0.5], rtol=1e-12)


@pytest.mark.parametrize(("offset", "tone"), [(0.0, 0.0), (0.3, 0.0), (-0.3, 0.7)])
def test_a_tone_at_nyquist_alternates(offset, tone):
    time = np.arange(1000)
    x = offset + 2 * np.cos(np.pi * time) + tone * np.cos(2 * np.pi * 0.101 * time)
    table = report_of(nn.ReLU(), torch.from_numpy(x).view(1, 1, -1)).predictions()
    predicted = table.set_index("assumption")["dc_predicted"]
    assert predicted["tones"] == pytest.approx(np.maximum(x, 0).mean(), rel=1e-6)
    leading = offset / 2 + np.sqrt((abs(offset) + 2 + tone) ** 2 / 2) / 2  # ½μ + ½√A
    assert predicted["series"] == pytest.approx(leading, rel=1e-9)


def test_noise_is_as_good_as_gaussian():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, 256, generator=generator) * torch.tensor([[[1.0], [2], [3]]]) - 0.5
    report = report_of(nn.ReLU(), x)
    table = report.predictions().set_index(["assumption", "channel"])
    for assumption in ("gaussian", "tones"):
        np.testing.assert_allclose(table.loc[assumption, "dc_residual"], 0, atol=0.02)
    assert table["dc_residual"].equals(table["dc_out"] - table["dc_predicted"])


def test_what_theory_has_nothing_to_say_of():
    images = report_of(nn.ReLU(), torch.randn(2, 3, 8, 8))
    assert set(images.predictions()["assumption"]) == {"gaussian"}
    assert set(report_of(nn.ReLU6(), torch.randn(2, 3, 9)).predictions()["assumption"]) == {
        "gaussian"
    }
    x = torch.randn(2, 2, 16)
    x[:, 1] = torch.nan
    found = predicted(report_of(nn.ReLU(), x))
    assert found.loc[1].isna().all()
    assert found.loc[0].notna().all()
    dead = predicted(report_of(nn.ReLU(), torch.zeros(1, 1, 16))).loc[0]
    assert dead.eq(0).all()
    with pytest.raises(spectroscope.RequestError, match="no predictions can be made at #0"):
        report_of(nn.GELU(), torch.randn(1, 2, 8), kinds=["GELU"]).predictions()


def test_each_prediction_says_of_how_many_inputs_it_is():
    x = torch.randn(8, 2, 64)
    with spectroscope.record(model := nn.ReLU(), fs=32, f0=3.0, spectra_every=4) as recorder:
        model(x)
    table = recorder.report().predictions()
    numbers = table.groupby("assumption")["n_inputs"].unique().map(list).to_dict()
    assert numbers == {"gaussian": [8], "tone": [2], "tones": [2], "series": [2]}
