"""Examples: both sides of the first inputs, bounded, and the same however they were recorded."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import report_of, same
from torch import nn
from torch.nn import functional

import spectroscope
from spectroscope import run
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics import storage
from spectroscope.statistics.examples import BYTES


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 7, 5), nn.ReLU(inplace=True), nn.AvgPool1d(2),
                         nn.Conv1d(7, 4, 3), nn.GELU(), nn.Flatten(),
                         nn.LazyLinear(5), nn.ReLU())  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return torch.randn(7, 1, 60, generator=torch.Generator().manual_seed(1))


def recorded(batches, examples=3, model=None, **options):
    model = model or network()
    with torch.no_grad():
        model(batches[0].clone())  # the lazy layer gets its weights
    return report_of(model, *batches, kinds=["GELU"], examples=examples, **options)


def values_of(frame, channel, side, number=0):
    rows = frame[(frame["channel"] == channel) & (frame["side"] == side)]
    return rows[rows["input"] == number]["value"].to_numpy()


def test_both_sides_of_the_first_inputs_in_place_or_not(data):
    frame = recorded([data], fs=50.0).examples()
    x, model = data, network()
    with torch.no_grad():
        model(data.clone())
        for number, layer in enumerate(model):
            before, x = x, layer(x.clone())
            if not isinstance(layer, nn.ReLU | nn.GELU):
                continue
            rows = frame[frame["site"] == f"{number}#0"]
            dc = x.flatten(2).mean(2).mean(0) if x.dim() > 2 else x.mean(0)
            order = dc.argsort(descending=True).tolist()
            expected = [order[0], order[(len(order) - 1) // 2], order[-1]]
            assert rows["channel"].unique().tolist() == expected
            assert rows["input"].unique().tolist() == [0, 1, 2]
            for channel in expected:
                for i in range(3):
                    for side, tensor in (("in", before), ("out", x)):
                        value = tensor[i, channel].reshape(-1)
                        np.testing.assert_array_equal(values_of(rows, channel, side, i), value)
            first = rows[(rows["input"] == 0) & (rows["channel"] == expected[0])]
            means = first.groupby("side")["dc"].first()
            assert means["in"] == pytest.approx(before[0, expected[0]].mean().item(), abs=1e-6)
            assert means["out"] == pytest.approx(x[0, expected[0]].mean().item(), abs=1e-6)
    for site, step in (("1#0", 1 / 50), ("4#0", 2 / 50)):
        line = frame[(frame["site"] == site) & (frame["side"] == "in")]
        line = line[(line["input"] == 0) & (line["channel"] == line["channel"].iloc[0])]
        np.testing.assert_allclose(line["position"], step * np.arange(len(line)), rtol=1e-12)
        assert line["position_unit"].eq("s").all()


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [2, 5], [4, 3]])
def test_any_split_gives_the_first_inputs_with_the_channels_of_the_first_batch(data, sizes):
    frame = recorded(data.split(sizes)).examples()
    assert not frame.duplicated(["site", "input", "channel", "side", "position"]).any()
    for _, rows in frame.groupby("site"):
        assert rows.groupby("input")["channel"].unique().map(tuple).nunique() == 1
    whole = recorded([data[: sizes[0]], data[sizes[0] :]] if sizes[0] < 7 else [data]).examples()
    pd.testing.assert_frame_equal(frame, whole, rtol=1e-5, check_exact=False)
    np.testing.assert_array_equal(frame["input"].unique(), [0, 1, 2])


def test_a_long_line_has_true_samples_and_its_whole_envelope():
    # Taking every k-th sample would show a slow cosine: 1000 samples, k = 2, frequency ½ − 1/1000.
    time = torch.arange(1000.0)
    x = torch.cos(2 * torch.pi * (0.5 - 1e-3) * time) + 0.3 * torch.sin(0.01 * time)
    x[637] = 9.0
    frame = report_of(nn.Sequential(nn.ReLU()), x.view(1, 1, -1), examples=1).examples()
    line = frame[frame["side"] == "in"]
    at = line["position"].to_numpy().astype(int)
    assert len(at) == 512
    assert (np.diff(at) > 0).all()
    np.testing.assert_array_equal(line["value"], x[at])
    np.testing.assert_array_equal(frame[frame["side"] == "out"]["value"], x[at].clamp_min(0))
    for part in np.array_split(np.arange(512), 256):
        low, high = at[part[0]], at[part[1]]
        assert abs(low - high) < 8
    edges = np.arange(257) * 1000 // 256
    for number, (start, stop) in enumerate(pairwise(edges)):
        pair = line["value"].to_numpy()[2 * number : 2 * number + 2]
        assert pair.min() == x[start:stop].min()
        assert pair.max() == x[start:stop].max()
    assert np.isclose(line["dc"], x.mean()).all()


@pytest.mark.parametrize("value", [0.0, 1.0, torch.nan, torch.inf])
def test_constant_and_nonfinite_lines(value):
    x = torch.full((1, 2, 2000), value)
    x[0, 1, 5] = 2.0
    x[0, 1, 1000] = torch.nan
    frame = report_of(nn.Sequential(nn.ReLU()), x, examples=1).examples()
    for (channel, _), rows in frame.groupby(["channel", "side"]):
        at = rows["position"].to_numpy().astype(int)
        assert (np.diff(at) > 0).all()
        np.testing.assert_array_equal(rows["value"].to_numpy(), x[0, channel, at])


def test_thumbnails_are_means_over_areas():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 128, 256)
    frame = report_of(nn.Sequential(nn.ReLU()), x, examples=1).examples()
    channel = frame["channel"].iloc[0]
    for side, image in (("in", x), ("out", x.relu())):
        rows = frame[(frame["side"] == side) & (frame["channel"] == channel)]
        table = rows.pivot(index="row", columns="column", values="value")
        assert table.shape == (32, 64)
        np.testing.assert_allclose(table.index, 1.5 + 4 * np.arange(32))
        expected = functional.avg_pool2d(image[0, channel][None], 4)[0]
        np.testing.assert_allclose(table, expected, atol=1e-6)
        assert rows["dc"].iloc[0] == pytest.approx(image[0, channel].mean().item(), abs=1e-6)
    assert frame["position_unit"].eq("pixels").all()


@pytest.mark.parametrize("examples", range(1, 17))
@pytest.mark.parametrize("shape", [(16, 3, 128, 128), (16, 4, 9999), (16, 4)])
def test_a_site_has_a_bounded_size(shape, examples):
    model = nn.Sequential(nn.ReLU())
    with spectroscope.record(model, spectra=False, examples=examples) as recorder:
        model(torch.randn(shape))
    state = recorder.recording().records["0#0"].state["examples"]
    assert len(state["channels"]) == examples
    assert sum(array.numel() * array.element_size() for array in state.values()) <= BYTES


def test_further_axes_and_inputs_of_different_shapes():
    x = torch.randn(1, 3, 4, 10, 12)  # frames of a video: the first is shown
    frame = report_of(nn.Sequential(nn.ReLU()), x, examples=1).examples()
    channel = frame["channel"].iloc[0]
    np.testing.assert_array_equal(values_of(frame, channel, "in"), x[0, channel, 0].flatten())
    lines = [torch.randn(1, 1, 30), torch.randn(1, 1, 50), torch.randn(1, 1, 20)]
    with pytest.warns(UserWarning, match="inputs of lengths"):
        frame = report_of(nn.Sequential(nn.ReLU()), *lines, examples=3).examples()
    for number, line in enumerate(lines):
        np.testing.assert_array_equal(values_of(frame, 0, "in", number), line.flatten())


def test_saved_loaded_and_merged(data, tmp_path):
    whole = recorded([data[:2], data[2:]])
    first, second = recorded([data[:2]]), recorded([data[2:]])
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    loaded = spectroscope.load(tmp_path / "a")
    pd.testing.assert_frame_equal(loaded.examples(), first.examples())
    merged = run.merge([tmp_path / "a", tmp_path / "b"]).report.examples()
    expected = whole.examples()
    for number in (0, 1):
        pd.testing.assert_frame_equal(
            merged[merged["input"] == number].reset_index(drop=True),
            expected[expected["input"] == number].reset_index(drop=True),
        )
    assert merged["input"].unique().tolist() == [0, 1, 2]
    # The third is the first of the second report, with that report's channels.
    rest, own = merged[merged["input"] == 2], second.examples()
    pd.testing.assert_frame_equal(
        rest.drop(columns="input").reset_index(drop=True),
        own[own["input"] == 0].drop(columns="input").reset_index(drop=True),
    )
    # With another number of examples, or none, those of one report are kept, and nothing is lost.
    for other in (recorded([data[2:]], examples=2), recorded([data[2:]], examples=0)):
        kept = first.merge(other)
        pd.testing.assert_frame_equal(kept.examples(), first.examples())
        assert kept.coverage()["status"].eq("fired").all()


def test_shards_have_the_examples_of_the_first_and_a_resumed_run_is_bit_equal(data, tmp_path):
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU())

    def made():
        return Specimen("made", "", "", model, list(data.split(2)), 7, fs=50.0)

    whole = run.inspect(made(), examples=3).report.examples()
    folders = []
    for number in (2, 1):
        folders.append(tmp_path / str(number))
        result = run.inspect(made(), examples=3, shard=run.Shard(number, 2))
        result.report.save(folders[-1])
    shards = run.merge(folders).report.examples()
    pd.testing.assert_frame_equal(shards[shards["input"] < 2], whole[whole["input"] < 2])
    left = iter([None])
    handle = model.register_forward_pre_hook(lambda *_: next(left))
    with pytest.raises(StopIteration):
        run.inspect(made(), examples=3, checkpoint=run.Checkpoint(tmp_path / "c", every=1))
    handle.remove()
    resumed = run.Checkpoint(tmp_path / "c", resume=True)
    with pytest.raises(spectroscope.RequestError, match="examples is 3 there and 2 here"):
        run.inspect(made(), examples=2, checkpoint=resumed)
    pd.testing.assert_frame_equal(
        run.inspect(made(), examples=3, checkpoint=resumed).report.examples(), whole
    )


@pytest.mark.parametrize("train", [False, True])
def test_outputs_and_gradients_are_the_same_to_the_bit(data, train):
    results = []
    for examples in (0, 2):
        model = network().train(train)
        x = data.clone().requires_grad_()
        model(data.clone())
        with spectroscope.record(model, examples=examples):
            y = model(x * 1)
        y.square().sum().backward()
        results.append([y, x.grad, *(p.grad for p in model.parameters())])
    assert same(*results)


def test_requests_that_can_not_be_met_are_refused(data):
    for examples in (-1, 17):
        with pytest.raises(spectroscope.RequestError, match=f"examples={examples} must be from 0"):
            recorded([data], examples=examples)
    with pytest.raises(TypeError):
        recorded([data], examples=1.5)
    with pytest.raises(
        spectroscope.RequestError, match=r"no examples were recorded at .*examples="
    ):
        recorded([data], examples=0).examples()
    with pytest.raises(spectroscope.RequestError, match="no site matches"):
        recorded([data]).examples("nowhere")


@pytest.mark.parametrize("change", ["shape", "wanted", "positions", "values"])
def test_a_file_that_contradicts_itself_is_refused(data, tmp_path, change):
    report = recorded([data])
    state = report._recording.records["1#0"].state["examples"]
    state[change] = {
        "shape": state["shape"] * 1000,
        "wanted": state["wanted"] * 0 + 2,
        "positions": state["positions"][..., :-1],
        "values": state["values"][..., :-1],
    }[change]
    storage.write(report._recording, tmp_path / "report.npz")
    with pytest.raises(spectroscope.RequestError, match="not a saved report, or damaged"):
        spectroscope.load(tmp_path)


@pytest.mark.parametrize("bad", [[1], [1, 4], [0, 1, 2, 3, 4]])
def test_channels_whose_dc_is_finite_are_shown_if_there_are_any(bad):
    x = torch.arange(1.0, 6).view(1, 5, 1) + torch.rand(2, 5, 30)
    x[0, bad, 3] = torch.tensor([torch.nan, torch.inf, torch.nan, torch.nan, torch.nan])[: len(bad)]
    shown = report_of(nn.ReLU(), x, examples=1).examples()["channel"].unique().tolist()
    finite = [c for c in range(5) if c not in bad]
    expected = {finite[-1], finite[len(finite) // 2], finite[0]} if finite else {0}
    assert set(shown) == expected
