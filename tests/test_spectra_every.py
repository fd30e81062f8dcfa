"""`spectra_every=k`: spectra of every k-th input of the data are those of these inputs alone."""

import long_runs
import pandas as pd
import pytest
import torch
from helpers import DC_TABLE, Calls, report_of
from torch import nn

import spectroscope
from spectroscope import run
from spectroscope.run.shards import Shard

EVERY = 3
LINES = ["spectra", "cross_spectra", "harmonics"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 4, 5), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 3, 3), nn.ReLU(inplace=True)
    ).eval()


def assert_same(actual, expected, names=LINES):
    for name in names:
        frames = [getattr(report, name)() for report in (actual, expected)]
        if name == "cross_spectra":  # the gain is of all inputs
            frames = [frame.drop(columns=["preserved", "introduced"]) for frame in frames]
        assert len(frames[1])
        # Bits of the convolutions depend on the batch.
        pd.testing.assert_frame_equal(*frames, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sizes", [[11], [4, 4, 3], [1] * 11, [2, 9]])
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_spectra_are_of_every_kth_input_and_the_table_of_all(sizes, window):
    x = torch.randn(11, 2, 80)
    f0 = torch.linspace(0.05, 0.2, 11)
    x[6, 0, 3] = torch.nan  # one of them

    def report(x, f0, sizes, **options):
        with spectroscope.record(network(), window=window, f0=0.1, **options) as recorder:
            for batch, tones in zip(x.split(sizes), f0.split(sizes), strict=True):
                recorder.f0 = tones
                recorder._capture._model(batch)
        return recorder.report()

    actual = report(x, f0, sizes, spectra_every=EVERY)
    chosen = report(x[::EVERY], f0[::EVERY], [len(x[::EVERY])])
    assert_same(actual, chosen)
    inputs = [record.spectra.inputs.tolist() for record in actual._recording.records.values()]
    assert inputs == [[3] * 4, [3] * 3]  # without the one that isn't finite
    columns = [c for c in chosen.dc() if "fraction" not in c and "tone" not in c]
    table = report(x, f0, [11], spectra=False).dc()[columns]
    pd.testing.assert_frame_equal(actual.dc()[columns], table, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [nn.ReLU(), nn.LeakyReLU(0.1)])
def test_images_and_frames_of_video(kind):
    x = torch.randn(7, 3, 6, 8)
    options = {"kinds": ["LeakyReLU"]}
    assert_same(report_of(kind, x, spectra_every=2, **options), report_of(kind, x[::2], **options),
                LINES[:2])  # fmt: skip
    # Of each video of the batch the frames become inputs, of which every second is read.
    frames = nn.Sequential(Calls(lambda x: x.flatten(0, 1)), kind)
    video = torch.randn(3, 5, 2, 4, 4)
    actual = report_of(frames, video[:1], video[1:], spectra_every=2, **options)
    images = nn.Sequential(nn.Identity(), kind)
    assert_same(actual, report_of(images, video.flatten(0, 1)[::2], **options), LINES[:2])


def test_parts_that_run_alone_count_their_own_inputs():
    model = network()
    x = torch.randn(9, 2, 80)
    with pytest.warns(UserWarning, match="only parts"):
        with spectroscope.record(model, spectra_every=4) as recorder:
            for batch in x.split(2):
                model[:2](batch)
    assert set(recorder.recording().records["1#0"].spectra.inputs.tolist()) == {3}


def test_parts_that_run_after_the_model_count_their_own_inputs():
    model, x = network(), torch.randn(1, 2, 80)
    with pytest.warns(UserWarning, match="parts of it ran apart"):
        with spectroscope.record(model, spectra_every=4) as recorder:
            model(x)
            for _ in range(8):
                model[:2](x)
    assert set(recorder.recording().records["1#0"].spectra.inputs.tolist()) == {3}


def test_position_is_that_in_the_data():
    x = torch.randn(8, 2, 80)
    model = network()
    with spectroscope.record(model, spectra_every=5) as recorder:
        recorder.position = 4
        model(x[4:])
        assert recorder.position == 8
    assert_same(recorder.report(), report_of(network(), x[5:6]), LINES[:2])


def test_shards_and_resumed_runs_choose_the_same(tmp_path):
    options = {"spectra_every": 7}
    whole = run.inspect(long_runs.waves(), **options).report
    for part in (1, 2):
        shard = run.inspect(long_runs.waves(), shard=Shard(part, 2), **options)
        shard.report.save(tmp_path / str(part))
    merged = run.merge([tmp_path / "1", tmp_path / "2"]).report
    assert_same(merged, whole, LINES[:2])
    spectra = next(iter(whole._recording.records.values())).spectra
    assert set(spectra.inputs.tolist()) == {-(-long_runs.INPUTS // 7)}
    pd.testing.assert_frame_equal(merged.dc(), whole.dc(), rtol=DC_TABLE, atol=1e-12)


@pytest.mark.parametrize("every", [0, -2])
def test_less_than_one_is_refused(every):
    with pytest.raises(spectroscope.RequestError, match=f"spectra_every={every} must be 1 or more"):
        spectroscope.record(nn.ReLU(), spectra_every=every)
