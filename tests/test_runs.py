"""Long runs in one process: scores, labels, inputs, placement, shards and commands."""

import subprocess
import sys
import warnings
from pathlib import Path

import long_runs
import pandas as pd
import pytest
import torch
from long_runs import BATCH, INPUTS, Waves, of, one_thread  # noqa: F401
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import spectroscope
from spectroscope import cli, run
from spectroscope.specimens.specimen import Specimen

TABLES = ["dc", "sites", "spectra", "cross_spectra", "introduced", "harmonics", "coverage"]


def assert_same(report, expected, **tolerance):
    """Assert equal tables, bit-equal unless a tolerance is given."""
    options = tolerance or {"check_exact": True}
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(report, name)(), getattr(expected, name)(), obj=name, **options
        )


ROUNDING = {"rtol": 1e-11, "atol": 1e-13}


@pytest.fixture(scope="module")
def whole():
    return run.inspect(long_runs.waves())


class Endless(IterableDataset):
    def __iter__(self):
        data, index = Waves(), 0
        while True:
            yield data[index % INPUTS]
            index += 1


def streamed():
    return of(DataLoader(Endless(), BATCH))


class Plain(nn.Module):
    def forward(self, x):
        return torch.relu(x).flatten(1).mean(1, keepdim=True)


def plain(inputs, n_inputs, **more):
    return Specimen("plain", "a test", "BSD-3-Clause", Plain(), inputs, n_inputs, **more)


# Scores and labels


def test_scores_are_means_over_all_inputs_with_nan_left_out():
    x = torch.randn(23, 2, 5)
    targets = torch.randn(23, dtype=torch.float64)

    def metric(outputs, targets):
        difference = (outputs[:, 0].double() - targets).abs()
        return {"all {n}": difference, "{n} below": difference.where(targets < 0, torch.nan)}

    result = run.inspect(plain(x.split(4), 23, targets=targets, metric=metric)).scores
    expected = (x.relu().mean((1, 2)).double() - targets).abs()
    few = targets < 0
    assert list(result) == ["all 23", f"{int(few.sum())} below"]
    assert list(result.values()) == pytest.approx(
        [float(expected.mean()), float(expected[few].mean())], rel=1e-6
    )


@pytest.mark.parametrize("score", [lambda y, t: y.mean(), lambda y, t: y, lambda y, t: 3.0])
def test_a_metric_without_one_score_per_input_is_refused(score):
    specimen = plain([torch.ones(3, 1, 4)], 3, metric=lambda y, t: {"it": score(y, t)})
    with pytest.raises(spectroscope.RequestError, match="one score for each of 3 inputs, but 'it'"):
        run.inspect(specimen)


def test_targets_in_batches_take_precedence():
    loader = DataLoader(Waves(labelled=True), BATCH)
    in_batches = of(loader, with_targets=True, targets=None)
    separate = of(DataLoader(Waves(), BATCH), targets=torch.arange(INPUTS, dtype=torch.float64))
    assert run.inspect(in_batches).scores == run.inspect(separate).scores
    with pytest.raises(spectroscope.RequestError, match=r"must be \(inputs, targets\)"):
        run.inspect(of(DataLoader(Waves(), BATCH), with_targets=True))


def test_labels_are_those_of_the_first_inputs():
    lines = run.inspect(long_runs.waves()).labels
    assert lines == tuple(f"input {number}" for number in range(10))


# Inputs


@pytest.mark.parametrize("made", [long_runs.listed, streamed])
def test_a_list_and_a_stream_give_the_report_of_a_loader(made, whole):
    result = run.inspect(made())
    assert_same(result.report, whole.report)
    assert result[1:] == whole[1:]


def test_a_map_style_data_set_is_batched(whole):
    assert_same(run.inspect(of(Waves())).report, run.inspect(of(DataLoader(Waves(), 64))).report)


def test_tuples_of_a_data_set_are_arguments():
    x = torch.randn(9, 2, 5)
    report = run.inspect(plain(DataLoader(TensorDataset(x), 4), 9)).report
    dc = report.dc()
    assert dc["n_samples"].eq(9).all()
    assert dc["dc_out"].tolist() == pytest.approx(x.relu().mean((0, 2)).tolist())


class Labelled(Dataset):
    """Two tensors, and a target, as tuples or by name."""

    def __init__(self, named):
        self.named = named

    def __len__(self):
        return 10

    def __getitem__(self, index):
        a, b = torch.full((2, 8), index), torch.ones(2, 8)
        return ({"a": a, "b": b} if self.named else (a, b)), torch.tensor(float(index))


class Two(nn.Module):
    def forward(self, a, b=None):
        a, b = (a["a"], a["b"]) if b is None else (a, b)
        return torch.relu(a + b).mean((1, 2)).unsqueeze(1)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("limit", [None, 7])
def test_inputs_of_several_tensors_come_with_targets_and_are_counted(named, limit):
    def metric(outputs, targets):
        return {"off by, {n} inputs": (outputs[:, 0] - targets).abs()}

    inputs = DataLoader(Labelled(named), 4)
    subject = Specimen("two", "a test", "MIT", Two(), inputs, 10, with_targets=True, metric=metric)
    result = run.inspect(subject, limit=limit)
    count = limit or 10
    assert result.scores == {f"off by, {count} inputs": 1.0}
    assert result.report.sites()["n_samples"].tolist() == [count]
    assert result.report.dc()["dc_out"].tolist() == [1 + (count - 1) / 2] * 2


@pytest.mark.parametrize("limit", [1, 4, 7, 49, 50, 99])
@pytest.mark.parametrize("made", [long_runs.waves, long_runs.listed, streamed])
def test_limit_counts_inputs_and_loads_no_more(made, limit):
    specimen = made()
    result = run.inspect(specimen, limit=limit, spectra=False)
    assert result.report.dc()["n_samples"].eq(min(limit, INPUTS)).all()
    assert f"first output, {min(limit, INPUTS)} inputs" in result.scores
    if made is long_runs.waves:
        assert specimen.inputs.dataset.loaded == list(range(min(limit, INPUTS)))


def test_worker_processes_change_nothing(whole):
    specimen = long_runs.waves()
    assert_same(run.inspect(specimen, workers=2).report, whole.report)
    assert specimen.inputs.dataset.loaded == []  # not by this process
    shuffled = [run.inspect(long_runs.shuffled(), workers=n, limit=30) for n in (0, 2)]
    assert_same(shuffled[0].report, shuffled[1].report)
    with pytest.warns(UserWarning, match="workers=2 is ignored: the inputs of waves are neith"):
        run.inspect(long_runs.listed(), workers=2, limit=3)


def test_collate_fn_of_the_loader_is_used():
    loader = DataLoader(Waves(), BATCH, collate_fn=lambda inputs: 2 * torch.stack(inputs))
    result = run.inspect(plain(loader, INPUTS)).report.dc()["dc_out"]
    x = torch.stack([Waves()[index] for index in range(INPUTS)]).double()
    assert result.tolist() == pytest.approx([2 * float(x.relu().mean())], rel=1e-6)


def test_worker_init_fn_of_the_loader_is_called():
    began = torch.zeros(()).share_memory_()
    loader = DataLoader(Waves(), BATCH, num_workers=1, worker_init_fn=lambda n: began.fill_(n + 1))
    run.inspect(of(loader), limit=BATCH)
    assert began == 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_targets_stay_with_their_inputs(shuffle):
    x = torch.arange(23.0).view(-1, 1, 1).expand(-1, 2, 5)
    loader = DataLoader(TensorDataset(x), 4, shuffle=shuffle)
    off = lambda outputs, targets: {"off": (outputs[:, 0] - targets).abs()}  # noqa: E731
    specimen = plain(loader, 23, targets=torch.arange(23.0), metric=off)
    assert run.inspect(specimen).scores == {"off": 0}
    shard = run.Shard(2, 3)
    assert run.inspect(specimen, shard=shard).scores == {"off": 0}
    if not shuffle:
        specimen = plain(x.split(4), 23, targets=torch.arange(23.0), metric=off)
        assert run.inspect(specimen, shard=shard).scores == {"off": 0}


@pytest.mark.parametrize("name", ["targets", "f0"])
@pytest.mark.parametrize("made", [long_runs.waves, long_runs.listed])
def test_too_few_targets_or_f0_are_refused(made, name):
    # What is left for the second batch is one, which could be that of all four.
    specimen = of(made().inputs, **{name: getattr(made(), name)[: BATCH + 1]})
    with pytest.raises(spectroscope.RequestError, match=f"5 {name} for 8 inputs or more"):
        run.inspect(specimen)


@pytest.mark.parametrize("shard", [run.Shard(), run.Shard(2, 3)])
@pytest.mark.parametrize("made", [long_runs.waves, long_runs.shuffled, long_runs.listed])
def test_f0_stays_with_its_input(made, shard):
    harmonics = run.inspect(made(), shard=shard).report.harmonics("relu#0")
    true = harmonics.query("harmonic == 1")["amplitude_in"].to_numpy()
    made = made()
    wrong = of(made.inputs, f0=made.f0 + 0.5)
    off = run.inspect(wrong, shard=shard).report.harmonics("relu#0")
    # A cosine's amplitude half a bin beside its frequency: sinc(1/2), 0.64 of it.
    assert (off.query("harmonic == 1")["amplitude_in"] < 0.8 * true).all()
    assert true.min() > 0.1


def test_random_generators_are_restored(whole):
    before = torch.get_rng_state()
    run.inspect(long_runs.shuffled(), limit=9)
    assert torch.equal(torch.get_rng_state(), before)


# Placement


def test_dtype_applies_to_a_copy(whole):
    specimen = long_runs.waves()
    before = {name: tensor.clone() for name, tensor in specimen.model.state_dict().items()}
    double = run.inspect(specimen, dtype="float64").report
    for name, tensor in specimen.model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    x = torch.stack([Waves()[index] for index in range(INPUTS)]).double()
    net = specimen.model.first.double()
    expected = net(x).relu().mean((0, 2))
    result = double.dc().query("site == 'relu#0'")["dc_out"].to_numpy()
    assert result == pytest.approx(expected.detach().numpy(), rel=1e-13)
    single = whole.report.dc().query("site == 'relu#0'")["dc_out"].to_numpy()
    assert single != pytest.approx(expected.detach().numpy(), rel=1e-13)
    half = run.inspect(long_runs.waves(), dtype="bfloat16").report
    coarse = half.dc().query("site == 'relu#0'")["dc_out"].to_numpy()
    assert coarse == pytest.approx(single, rel=0.02)
    assert coarse != pytest.approx(single, rel=1e-5)


@pytest.mark.parametrize("named", [True, False])
def test_dtype_applies_to_inputs_of_several_tensors(named):
    class Seen(Two):
        def forward(self, a, b=None):
            seen.update(entry.dtype for entry in ((a, b) if b is not None else a.values()))
            return super().forward(a, b)

    seen = set()
    subject = Specimen("two", "a test", "MIT", Seen(), DataLoader(Labelled(named), 4), 10,
                       with_targets=True)  # fmt: skip
    run.inspect(subject, dtype="float64", spectra=False)
    assert seen == {torch.float64, torch.int64}  # what has no point stays as it is


def test_channels_last_applies_to_a_copy():
    lies = []
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    model.register_forward_hook(
        lambda module, args, out: lies.append(
            [t.is_contiguous(memory_format=torch.channels_last) for t in (*args, module[0].weight)]
        )
    )
    x = torch.randn(6, 3, 12, 12)
    specimen = Specimen("images", "a test", "BSD-3-Clause", model, x.split(4), 6)
    usual = run.inspect(specimen).report
    other = run.inspect(specimen, channels_last=True).report
    assert lies == [[False, False]] * 2 + [[True, True]] * 2
    assert model[0].weight.is_contiguous()
    for table in ("dc", "spectra"):
        pd.testing.assert_frame_equal(
            getattr(other, table)(), getattr(usual, table)(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not available; available: cpu"),
        ({"device": "toaster"}, "device 'toaster' is not available; available: cpu"),
        ({"device": "meta"}, r"device 'meta' is not available; .* \(it holds no values\)"),
        ({"dtype": "int8"}, "dtype='int8' must be one of bfloat16, float16, float32, float64"),
        ({"limit": 0}, "limit=0 must be a number of inputs, 1 or more"),
        ({"workers": -1}, "workers=-1 must be a number of processes, 0 or more"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(spectroscope.RequestError, match=message) as error:
        run.inspect(long_runs.waves(), **options)
    assert "\n" not in str(error.value)


def test_empty_or_already_divided_inputs_are_refused():
    with pytest.raises(spectroscope.RequestError, match="waves has no inputs"):
        run.inspect(of([]))
    sampler = DistributedSampler(Waves(), num_replicas=2, rank=0)
    with pytest.raises(spectroscope.RequestError, match="would be divided twice"):
        run.inspect(of(DataLoader(Waves(), BATCH, sampler=sampler)))


# Shards


def save_shards(tmp_path, of, made=long_runs.waves, **options):
    """Save the reports of all shards; their folders, the last shard first."""
    folders = []
    for number in range(of, 0, -1):
        folders.append(tmp_path / f"{number}-{of}")
        result = run.inspect(made(), shard=run.Shard(number, of), **options)
        result.report.save(folders[-1])
    return folders


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("made", [long_runs.waves, streamed])
def test_merged_shards_equal_one_run(count, made, whole, tmp_path):
    merged = run.merge(save_shards(tmp_path, count, made))
    assert merged.labels == whole.labels
    assert merged.scores == pytest.approx(whole.scores, rel=1e-13)
    assert merged.report.dc()["n_samples"].eq(INPUTS).all()
    assert_same(merged.report, whole.report, **ROUNDING)
    numbers = "; ".join(f"{number}/{count}" for number in range(1, count + 1))
    assert merged.report.about["shard"] == numbers


@pytest.mark.parametrize("made", [long_runs.waves, streamed])
def test_more_shards_than_batches_are_not_all_filled(made, tmp_path):
    merged = run.merge(save_shards(tmp_path, 5, made, limit=10))  # 3 batches
    whole = run.inspect(made(), limit=10)
    assert merged.labels == whole.labels
    assert merged.scores == pytest.approx(whole.scores, rel=1e-13)
    assert_same(merged.report, whole.report, **ROUNDING)


def test_a_shard_loads_its_own_inputs_and_the_first_batch():
    loaded = []
    for number in (1, 2, 3):
        specimen = long_runs.shuffled()
        run.inspect(specimen, shard=run.Shard(number, 3))
        loaded.append(specimen.inputs.dataset.loaded)
    first = loaded[0][:BATCH]
    assert all(indices[:BATCH] == first for indices in loaded)
    merged = [*first, *(index for indices in loaded for index in indices[BATCH:])]
    assert sorted(merged) == list(range(INPUTS))
    assert merged != sorted(merged)


def test_duplicate_foreign_and_missing_shards_are_reported(tmp_path):
    three, two, one = save_shards(tmp_path / "a", 3)
    with pytest.raises(spectroscope.RequestError, match="shard 2 of 3 is there twice"):
        run.merge([one, two, three, two])
    with pytest.warns(UserWarning, match=r"shard 2/3 is missing: the report is on the others"):
        partial = run.merge([three, one])
    partial.report.save(tmp_path / "partial")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.merge([tmp_path / "partial", two]).report.dc()["n_samples"].eq(INPUTS).all()
    other = save_shards(tmp_path / "b", 3, limit=49)[1]
    with pytest.raises(
        spectroscope.RequestError,
        match="different runs can't be merged: number of inputs is 50 in one and 49 in the other",
    ):
        run.merge([one, other])
    with pytest.raises(spectroscope.RequestError, match="divided differently"):
        run.merge([one, save_shards(tmp_path / "c", 2)[0]])


def test_whole_runs_merge_unless_they_are_the_same(tmp_path, whole):
    other = run.inspect(long_runs.waves(), limit=20)
    assert whole.report.merge(other.report).dc()["n_samples"].eq(70).all()
    with pytest.raises(spectroscope.RequestError, match="shard 1 of 1 is there twice"):
        whole.report.merge(run.inspect(long_runs.waves()).report)


def test_whole_runs_with_different_weights_do_not_merge(whole):
    specimen = long_runs.waves()
    with torch.no_grad():
        next(specimen.model.parameters()).mul_(1.01)
    other = run.inspect(specimen, limit=20)
    with pytest.raises(spectroscope.RequestError, match=r"different models.*and buffers"):
        whole.report.merge(other.report)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_invalid_shards_are_refused(text):
    with pytest.raises(spectroscope.RequestError, match="is no shard"):
        run.Shard.parse(text)
    assert run.Shard.parse("4/4") == (4, 4)


# The command


@pytest.fixture
def command(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def called(*arguments):
        status = cli.main([*map(str, arguments)])
        return (status, *capsys.readouterr())

    return called


@pytest.mark.slow
def test_shards_by_command_are_merged_by_command(command, tmp_path, whole):
    folders = [tmp_path / "1", tmp_path / "2"]
    for number, folder in enumerate(folders, start=1):
        arguments = ["inspect", "long_runs:waves", "--shard", f"{number}/2", "--out", folder]
        assert command(*arguments)[0] == 0
    before = (folders[0] / "report.npz").read_bytes()
    status, _, errors = command(*arguments[:-1], folders[0])
    assert (status, errors.count("\n")) == (2, 1)
    assert "has the report on shard 1/2, which would be overwritten: give shard 2/2 a" in errors
    assert (folders[0] / "report.npz").read_bytes() == before
    status, out, _ = command("merge", *folders, "--out", tmp_path / "all")
    assert status == 0
    assert "relu#1" in out
    assert "first output, 50 inputs: " in out
    report = spectroscope.load(tmp_path / "all")
    assert_same(report, whole.report, **ROUNDING)
    assert report.about["command"].count("--shard") == 2
    status, _, errors = command("merge", folders[0], folders[0], "--out", tmp_path / "no")
    assert (status, errors.count("\n")) == (2, 1)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard", "3/2"], "'3/2' is no shard: the shards of 4 are 1/4"),
        (["--dtype", "int4"], "dtype='int4' must be one of"),
        (["--device", "cuda:9"], "device 'cuda:9' is not available"),
        (["--resume"], "--resume takes --out DIR"),
        (["--checkpoint-every", "3"], "--checkpoint-every takes --out DIR"),
        (["--resume", "--out", "{tmp}"], "checkpoint.npz to resume from"),
        (["--checkpoint-every", "-1", "--out", "{tmp}"], "checkpoint_every=-1 must be"),
        (["--limit", "-3"], "limit=-3 must be a number of inputs"),
    ],
)
def test_wrong_requests_are_one_line_and_status_2(command, tmp_path, arguments, message):
    arguments = [argument.format(tmp=tmp_path / "out") for argument in arguments]
    status, out, errors = command("inspect", "long_runs:waves", *arguments)
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert list(tmp_path.iterdir()) == []


# Memory


@pytest.mark.slow
@pytest.mark.parametrize("loader", [False, True])
def test_memory_does_not_grow_with_the_batches(loader):
    # An output is 128 KiB: all of them would be 250 MB.
    code = f"""
import sys, torch
from torch import nn
from torch.utils.data import DataLoader
from spectroscope import run
from spectroscope.specimens.specimen import Specimen
n = int(sys.argv[1])
class Noise(torch.utils.data.Dataset):
    def __len__(self): return 16 * n
    def __getitem__(self, index): return torch.randn(1, 256)
inputs = DataLoader(Noise(), 16) if {loader} else (torch.randn(16, 1, 256) for _ in range(n))
model = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU()).eval()
result = run.inspect(Specimen("noise", "a test", "BSD-3-Clause", model, inputs, 16 * n, fs=32.0,
                             metric=lambda y, t: {{"mean": y.mean((1, 2))}},
                             labels=lambda y, first: ["line"] * len(y)))
assert result.report.dc()["n_samples"].eq(16 * n).all()
# Not getrusage's, which begins with that of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    few, many = (
        int(subprocess.run([sys.executable, "-c", code, n], capture_output=True, text=True,
                           check=True).stdout)
        for n in ("100", "2000")
    )  # fmt: skip
    print(f"{few / 1024:.1f} MiB after 100 batches, {many / 1024:.1f} MiB after 2,000")
    assert many < 1.02 * few
