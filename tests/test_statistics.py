"""A user's own statistic: recorded, merged, saved, loaded and shown like the built-in ones."""

import json
import warnings
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope import run
from spectroscope.statistics.storage import FORMAT


class Peak(spectroscope.Statistic):
    columns = {"peak_out": ("activation", "largest output value")}
    merge = {"peak": torch.maximum}

    def reduce(self, call):
        return {"peak": call.output.flatten(2).amax((0, 2)).double()}

    def compute(self, peak):
        return {"peak_out": peak}


class Histogram(spectroscope.Statistic):
    """Counts of inputs in 8 bins: an array of more than one value per channel, added up."""

    columns = {"median_bin": ("1", "bin with the median of the input values")}
    layout = {"counts": ("C", 8)}

    def reduce(self, call):
        bins = call.input.clamp(-1.99, 1.99).mul(2).floor().long() + 4
        rows = bins.movedim(1, 0).flatten(1)
        return {"counts": torch.stack([row.bincount(minlength=8) for row in rows])}

    def compute(self, counts):
        below = counts.cumsum(1) * 2 >= counts.sum(1, keepdim=True)
        return {"median_bin": below.int().argmax(1)}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv1d(4, 3, 3), nn.GELU())


def recorded(batches, *statistics, model=None, **options):
    model = model or network()
    options = {"kinds": ["GELU"], "statistics": statistics} | options
    with spectroscope.record(model, **options) as recorder:
        for batch in batches:
            model(batch)
    return recorder.report()


@pytest.fixture(scope="module")
def data():
    return torch.randn(7, 2, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 3, 1]])
def test_it_is_what_brute_force_finds_for_any_split(data, sizes):
    table = recorded(data.split(sizes), Peak(), Histogram()).dc()
    model, x = network(), data
    with torch.no_grad():
        for layer in model:
            before, x = x, layer(x.clone())
            if isinstance(layer, nn.Conv1d):
                continue
            rows = table[table["kind"] == type(layer).__name__]
            assert rows["peak_out"].tolist() == x.amax((0, 2)).double().tolist()
            values = np.sort(before.movedim(1, 0).flatten(1).numpy())
            median = values[:, (values.shape[1] - 1) // 2].clip(-1.99, 1.99)
            assert rows["median_bin"].tolist() == (np.floor(median * 2) + 4).tolist()


def test_the_other_columns_are_the_same_with_it_and_without(data):
    with_it, without = recorded([data], Peak()).dc(), recorded([data]).dc()
    pd.testing.assert_frame_equal(with_it.drop(columns="peak_out"), without, check_exact=True)


def test_it_is_in_every_table_and_on_the_page(data, tmp_path):
    report = recorded([data], Peak())
    assert list(report.dc())[-1] == "peak_out"
    means = report.dc().groupby("site", sort=False)["peak_out"].mean()
    assert report.sites()["peak_out"].tolist() == means.tolist()
    described = report.describe().set_index("column").loc["peak_out"]
    assert described.tolist() == ["activation", "largest output value"]
    report.save(tmp_path)
    report.page(tmp_path / "report.html")
    written = pd.read_csv(tmp_path / "dc.csv")["peak_out"]
    np.testing.assert_allclose(written, report.dc()["peak_out"], rtol=5e-7)  # 7 digits
    assert "largest output value" in (tmp_path / "columns.csv").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "peak_out" in page
    assert "largest output value" in page


def test_saved_and_loaded_with_its_class_it_merges(data, tmp_path):
    whole = recorded([data], Peak(), Histogram())
    recorded([data[:3]], Peak(), Histogram()).save(tmp_path / "a")
    recorded([data[3:]], Peak(), Histogram()).save(tmp_path / "b")
    own = [Peak(), Histogram()]
    a, b = (spectroscope.load(tmp_path / name, statistics=own) for name in "ab")
    stored = spectroscope.load(tmp_path / "b")
    assert stored.merge(a).dc()["n_samples"].eq(7).all()
    for merged in (a.merge(b), a.merge(stored)):
        columns = ["site", "channel", "peak_out", "median_bin", "n_samples"]
        pd.testing.assert_frame_equal(merged.dc()[columns], whole.dc()[columns], check_exact=True)


def test_loaded_without_its_class_the_columns_are_there_and_merging_says_what_it_takes(
    data, tmp_path
):
    report = recorded([data], Peak())
    report.save(tmp_path / "a")
    loaded = spectroscope.load(tmp_path / "a")
    pd.testing.assert_frame_equal(loaded.dc(), report.dc(), check_exact=True)
    pd.testing.assert_frame_equal(loaded.describe(), report.describe())
    loaded.save(tmp_path / "b")
    again = spectroscope.load(tmp_path / "b", statistics=[Peak()])
    assert again.merge(report).dc()["peak_out"].equals(report.dc()["peak_out"])
    with pytest.raises(spectroscope.RequestError, match=r"load\(folder, statistics=\[Peak\(\)\]\)"):
        loaded.merge(loaded)


def specimen(data):
    return spectroscope.Specimen(
        "waves", "a small network", "CC0-1.0", network().eval(), data.split(1), len(data)
    )


def test_shards_of_a_run_merge(data, tmp_path):
    whole = run.inspect(specimen(data), statistics=[Peak()]).report
    for number in (1, 2):
        part = run.inspect(specimen(data), statistics=[Peak()], shard=run.Shard(number, 2))
        part.report.save(tmp_path / str(number))
    folders = [tmp_path / "1", tmp_path / "2"]
    merged = run.merge(folders, statistics=[Peak()]).report
    assert merged.dc()["peak_out"].equals(whole.dc()["peak_out"])
    with pytest.raises(spectroscope.RequestError, match="merging Peak needs its class"):
        run.merge(folders)


@pytest.mark.parametrize("batches", [3, 7])
def test_a_resumed_run_is_the_same_to_the_bit(data, tmp_path, batches):
    statistics = [Peak(), Histogram()]
    whole = run.inspect(specimen(data), statistics=statistics).report
    calls = iter(range(len(data)))

    def stop(module, args):
        if next(calls) == batches:
            raise KeyboardInterrupt

    halted = specimen(data)
    halted.model.register_forward_pre_hook(stop)
    with suppress(KeyboardInterrupt):
        run.inspect(halted, statistics=statistics, checkpoint=run.Checkpoint(tmp_path, every=1))
    checkpoint = run.Checkpoint(tmp_path, resume=True)
    resumed = run.inspect(specimen(data), statistics=statistics, checkpoint=checkpoint).report
    pd.testing.assert_frame_equal(resumed.dc(), whole.dc(), check_exact=True)
    with pytest.raises(spectroscope.RequestError, match="statistics is"):
        run.inspect(specimen(data), checkpoint=run.Checkpoint(tmp_path, resume=True))


def test_merged_with_a_report_that_lacks_it_it_is_given_up_and_that_is_said(data):
    merged = recorded([data], Peak()).merge(recorded([data]))
    assert merged.dc()["peak_out"].isna().all()
    assert set(merged.coverage()["reason"]) == {"no Peak: one recording has none"}
    assert merged.dc()["n_samples"].eq(14).all()


def test_a_file_that_contradicts_its_layout_is_refused(data, tmp_path):
    recorded([data], Histogram()).save(tmp_path)
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    arrays["0.Histogram.counts"] = np.zeros((4, 9))
    np.savez(path, **arrays)
    with pytest.raises(spectroscope.RequestError, match="not a saved report, or damaged"):
        spectroscope.load(tmp_path, statistics=[Histogram()])


def test_a_report_of_an_older_version_is_refused_in_one_line(data, tmp_path):
    recorded([data]).save(tmp_path)
    path = tmp_path / "report.npz"
    with np.load(path) as arrays:
        arrays = dict(arrays)
    header = json.loads(str(arrays["header"])) | {"format": 2}
    np.savez(path, **arrays | {"header": np.array(json.dumps(header))})
    with pytest.raises(spectroscope.RequestError, match=f"format 2; this version reads {FORMAT}"):
        spectroscope.load(tmp_path)


def test_a_file_is_read_with_instances(data, tmp_path):
    recorded([data], Peak()).save(tmp_path)
    with pytest.raises(TypeError, match="takes instances of Statistic"):
        spectroscope.load(tmp_path, statistics=[Peak])


class Misspelt(Peak):
    merge = {"peek": torch.maximum}


class Number(Peak):
    merge = {}

    def reduce(self, call):
        return {"peak": 1}


@pytest.mark.parametrize(
    ("statistic", "reason"),
    [(Misspelt(), "merge names 'peek'; reduce returns peak"), (Number(), "'peak' is int")],
)
def test_a_declaration_that_does_not_fit_is_said(data, statistic, reason):
    with pytest.warns(UserWarning, match=reason):
        report = recorded([data], statistic)
    assert report.dc()["peak_out"].isna().all()


class Failing(Peak):
    def reduce(self, call):
        if len(call.input) == 3:
            raise KeyError("three\nlines")
        return super().reduce(call)


def test_one_that_raises_costs_its_own_columns_alone(data):
    model, expected = network(), network()(data)
    statistics = Failing(), Histogram()
    with pytest.warns(UserWarning, match="no Failing: KeyError: 'three"):
        report = recorded(data.split([4, 3]), *statistics, model=model)
    assert report.dc()["peak_out"].isna().all()
    assert report.dc()["median_bin"].notna().all()
    assert report.dc()["n_samples"].eq(7).all()
    assert torch.equal(model(data), expected)


class Positions(spectroscope.Statistic):
    """One value for each position: of inputs of different lengths there are no common ones."""

    columns = {"first": ("activation", "mean of the first value")}

    def reduce(self, call):
        return {"sums": call.output.double().sum(0), "inputs": torch.tensor(len(call.output))}

    def compute(self, sums, inputs):
        return {"first": sums[:, 0] / inputs}


def test_arrays_of_different_shapes_are_given_up_and_that_is_said(data):
    with pytest.warns(UserWarning, match=r"no Positions: sums of shapes \[4, 38\] and \[4, 18\]"):
        report = recorded([data, data[..., :20]], Positions(), spectra=False)
    assert report.dc()["first"].isna().all()
    assert recorded([data, data], Positions()).dc()["first"].notna().all()


def column(name, declared=("1", "")):
    class Other(Peak):
        columns = {name: declared}

    return Other()


def named(given):
    class Other(Peak):
        name = given

    return Other()


@pytest.mark.parametrize(
    ("statistics", "error", "message"),
    [
        ([Peak(), Peak()], spectroscope.RequestError, "two statistics are called 'Peak'"),
        ([column("dc_out")], spectroscope.RequestError, "'dc_out' of Other is also"),
        ([Peak(), column("peak_out")], spectroscope.RequestError, "'peak_out' of Other .* of Peak"),
        ([Peak], TypeError, "takes instances of Statistic"),
        (Peak(), TypeError, "takes a list of Statistic instances"),
        (Peak, TypeError, "takes a list of Statistic instances"),
        ([named("spectra")], spectroscope.RequestError, "a built-in statistic is called 'spectra'"),
        ([named("a b")], spectroscope.RequestError, "must be an identifier"),
        ([column("x", "1")], spectroscope.RequestError, r"'x' must be \(unit, definition\)"),
        ([lambda call: {}], TypeError, "takes instances of Statistic"),
    ],
)
def test_what_can_not_be_kept_is_refused_at_once(statistics, error, message):
    with pytest.raises(error, match=message):
        spectroscope.record(nn.ReLU(), statistics=statistics)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"peak_out": torch.ones(5)}, r"'peak_out' of shape \[5\]; 1#0 has 4 channels"),
        ({"peak": torch.ones(4)}, r"returns \['peak'\], not \['peak_out'\]"),
    ],
)
def test_columns_that_were_not_declared_so_are_said(data, columns, message):
    class Wrong(Peak):
        def compute(self, peak):
            return columns

    report = recorded([data], Wrong(), kinds=[])
    with pytest.raises(spectroscope.RequestError, match=f"Wrong.compute {message}|{message}"):
        report.dc()


def test_arrays_that_compute_does_not_take_are_named(data):
    class Wrong(Peak):
        def compute(self, peek):
            return {"peak_out": peek}

    with pytest.raises(spectroscope.RequestError, match=r"Wrong.compute: .*; its arrays are peak"):
        recorded([data], Wrong()).dc()


def test_what_several_need_of_a_call_is_computed_once(data):
    calls = []

    def double(call):
        calls.append(call.name)
        return call.output * 2

    def twin(statistic_name):
        class Twin(spectroscope.Statistic):
            name = statistic_name
            columns = {f"twice_{statistic_name}": ("activation", "twice the largest output value")}
            merge = {"peak": torch.maximum}

            def reduce(self, call):
                return {"peak": call.shared(double).flatten(2).amax((0, 2))}

            def compute(self, peak):
                return {f"twice_{statistic_name}": peak}

        return Twin()

    table = recorded([data, data], twin("a"), twin("b"), Peak()).dc()
    assert calls == ["1#0", "3#0"] * 2
    assert table["twice_a"].equals(table["twice_b"])
    np.testing.assert_array_equal(table["twice_a"], 2 * table["peak_out"])


def test_a_site_without_channels_last_or_batch_axis_is_channels_first_to_it(data):
    model = nn.ReLU()
    rows = data.movedim(1, -1)
    table = recorded([rows], Peak(), model=model, channel_axis=-1).dc()
    assert table["peak_out"].tolist() == data.amax((0, 2)).double().tolist()
    table = recorded([data[0]], Peak(), model=model, channel_axis=0).dc()
    assert table["peak_out"].tolist() == data[0].amax(1).double().tolist()


class Reused(spectroscope.Statistic):
    """Returns the same tensor each time, and a view of what an in-place ReLU overwrites."""

    sums = None

    def reduce(self, call):
        sums = call.input.double().sum((0, 2))
        self.sums = sums if self.sums is None else self.sums.copy_(sums)
        return {"sums": self.sums, "first": call.input[0, :, 0]}


def test_tensors_that_change_later_are_copied():
    x = torch.randn(4, 3, 16)
    model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    with spectroscope.record(model, statistics=[Reused()]) as recorder:
        for batch in x.split(2):
            model(batch.clone())
    state = recorder.recording().records["1#0"].state["Reused"]
    torch.testing.assert_close(state["sums"], x.double().sum((0, 2)))
    torch.testing.assert_close(state["first"], x[::2, :, 0].double().sum(0))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_merge_that_raises_leaves_the_state_before(error):
    class Fails(spectroscope.Statistic):
        def reduce(self, call):
            return {"sums": call.input.double().sum((0, 2))}

        def merged(self, first, second):
            raise error

    x, model = torch.randn(4, 3, 16), nn.Sequential(nn.ReLU())
    with warnings.catch_warnings(action="ignore"):  # that the place isn't recorded in full
        with spectroscope.record(model, statistics=[Fails()], f0=0.1) as recorder:
            model(x)
            before = recorder.recording().records["0#0"]
            with suppress(error):
                model(x)
    after = recorder.recording().records["0#0"]
    assert after.inputs == before.inputs == 4
    for name in ("moments", "spectra", "harmonics"):
        for key, array in before.state[name].items():
            assert torch.equal(after.state[name][key], array), (name, key)


@pytest.mark.parametrize(("dtype", "kept"), [
    (torch.int32, torch.int64), (torch.uint8, torch.int64), (torch.float16, torch.float64),
    (torch.float32, torch.float64), (torch.complex64, torch.complex128), (torch.bool, torch.bool),
])  # fmt: skip
def test_arrays_that_are_added_neither_overflow_nor_lose_digits(dtype, kept):
    class Total(spectroscope.Statistic):
        def reduce(self, call):
            return {"total": torch.full((call.input.shape[1],), 200).to(dtype)}

    with spectroscope.record(model := nn.ReLU(), statistics=[Total()]) as recorder:
        for _ in range(400):
            model(torch.ones(1, 2, 4))
    state = recorder.recording().records["#0"].state["Total"]["total"]
    assert state.dtype == kept
    assert state.tolist() == [1 if dtype == torch.bool else 400 * 200] * 2


def test_a_statistic_that_reduces_to_a_tensor_is_told_what_would_do():
    class Bare(spectroscope.Statistic):
        columns = {"bare": ("", "nothing")}

        def reduce(self, call):
            return call.input.sum((0, 2))

    with pytest.warns(UserWarning, match=r"a dictionary of tensors \[C, \.\.\.\], not a Tensor"):
        with spectroscope.record(model := nn.ReLU(), statistics=[Bare()]):
            model(torch.ones(1, 2, 4))
