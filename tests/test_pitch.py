"""CREPE, with trained weights if they can be fetched: functional ReLUs; time is the height."""

import pytest
import torch

import spectroscope
from spectroscope import run
from spectroscope.adapters import pitch


@pytest.mark.slow  # fetches 72 MB, once
def test_trained_crepe_hears_the_pitch_and_has_its_time_in_hertz():
    try:
        specimen = spectroscope.specimen("crepe", inputs=64)
    except spectroscope.RequestError as error:
        pytest.skip(str(error))
    report, scores, _ = run.inspect(specimen)
    assert scores["pitch within 50 cents, 64 tones (%)"] > 98
    sites = report.sites()
    assert sites["fs"].tolist() == [4000, 2000, 1000, 500, 250, 125]
    assert report.coverage()["status"].isin(["fired", "not asked for"]).all()
    assert set(report.harmonics("/relu#0")["freq_unit"]) == {"Hz"}


def test_other_sizes_are_refused_and_frames_go_through():
    with pytest.raises(spectroscope.RequestError, match="no size 'huge': it has tiny and full"):
        spectroscope.specimen("crepe:huge")
    assert pitch.Crepe("tiny").eval()(torch.randn(2, 1024)).shape == (2, 360)
    tones = pitch._tones(torch.tensor([100.0, 700.0], dtype=torch.float64))
    assert tones.mean(1).abs().max() < 1e-6
