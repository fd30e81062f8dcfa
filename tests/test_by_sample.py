"""Each input's own DC, in memory and in files, against means by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Calls, nothing_is_left
from torch import nn

from spectroscope import RequestError, dc_by_sample

pa = pytest.importorskip("pyarrow.parquet", reason="Parquet takes pyarrow")


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv1d(1, 3, 5), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(3, 2, 3), nn.ReLU()
    )


def by_hand(model, x):
    with torch.no_grad():
        return {"1#0": model[:2](x).mean(-1).numpy(), "4#0": model(x).mean(-1).numpy()}


def assert_is(table, expected):
    for site, dc in expected.items():
        rows = table[table["site"] == site].sort_values(["sample", "channel"])
        assert rows["sample"].tolist() == np.repeat(np.arange(len(dc)), dc.shape[1]).tolist()
        assert rows["channel"].tolist() == list(range(dc.shape[1])) * len(dc)
        np.testing.assert_allclose(rows["dc_out"], dc.ravel(), rtol=1e-5)
    assert set(table["site"]) == set(expected)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_any_split_gives_the_means(model, size, tmp_path):
    x = torch.randn(7, 1, 64)
    assert_is(dc_by_sample(model, x.split(size)), by_hand(model, x))
    assert dc_by_sample(model, x.split(size), path=tmp_path / "dc.parquet") is None
    assert_is(pd.read_parquet(tmp_path / "dc.parquet"), by_hand(model, x))
    assert [file.name for file in tmp_path.iterdir()] == ["dc.parquet"]


def test_ids_stay_with_their_inputs(model, tmp_path):
    x, names = torch.randn(5, 1, 64), ["a", "b", "ü", "d", "a/b"]
    table = dc_by_sample(model, x.split(2), ids=iter(names))
    assert (table["id"] == table["sample"].map(dict(enumerate(names)))).all()
    dc_by_sample(model, x.split(2), ids=names, path=tmp_path / "dc.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "dc.parquet"), table, check_dtype=False
    )
    mixed = [Path("a/b.png"), 3, None, ("x", 1), 2.5]
    table = dc_by_sample(model, x.split(2), ids=mixed)
    assert table["id"].drop_duplicates().tolist() == list(map(str, mixed))
    no_text = os.fsdecode(b"a\xff.png")  # as os.listdir gives a name that isn't UTF-8
    for path in (None, tmp_path / "odd.parquet"):
        table = dc_by_sample(model, x.split(2), ids=[no_text] * 5, path=path)
        table = pd.read_parquet(path) if path else table
        assert table["id"].unique().tolist() == [r"a\udcff.png"]
    with pytest.raises(RequestError, match="4 ids for 5 inputs"):
        dc_by_sample(model, x.split(2), ids=names[:4])


def test_inputs_by_name_are_counted(model):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, named):
            return self.net(named["x"])

    x = torch.randn(5, 1, 64)
    batches = [{"x": part, "mask": torch.ones(len(part), 3)} for part in x.split(2)]
    table = dc_by_sample(Named(), batches, ids="abcde")
    assert table["id"].unique().tolist() == list("abcde")
    assert_is(table, {f"net.{site}": dc for site, dc in by_hand(model, x).items()})


def test_rows_are_written_in_groups(model, tmp_path, monkeypatch):
    monkeypatch.setattr("spectroscope.experiments.per_sample._ROWS", 25)
    x = torch.randn(12, 1, 64)  # 5 rows each
    dc_by_sample(model, x.split(2), path=tmp_path / "dc.parquet")
    groups = pa.ParquetFile(tmp_path / "dc.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [30, 30]
    assert_is(pd.read_parquet(tmp_path / "dc.parquet"), by_hand(model, x))


def test_a_failure_leaves_the_old_file_and_no_hook(model, tmp_path):
    file = tmp_path / "dc.parquet"
    dc_by_sample(model, torch.randn(2, 1, 64).split(1), path=file)
    old = file.read_bytes()
    for batches in ([torch.randn(2, 1, 64), torch.randn(2, 3, 64)], []):
        with pytest.raises((RuntimeError, RequestError)):
            dc_by_sample(model, batches, path=file)
        assert file.read_bytes() == old
        assert list(tmp_path.iterdir()) == [file]
        assert nothing_is_left()
    with pytest.raises(RequestError, match="there is a folder of that name"):
        dc_by_sample(model, torch.randn(2, 1, 64).split(1), path=tmp_path)
    with pytest.raises(RequestError, match="cannot write"):
        dc_by_sample(model, torch.randn(2, 1, 64).split(1), path=tmp_path / "no" / "dc.parquet")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(RequestError, match="would take the device's place"):
            dc_by_sample(model, torch.randn(2, 1, 64).split(1), path=tmp_path / "pipe")
        assert (tmp_path / "pipe").is_fifo()
    assert nothing_is_left()


def test_a_site_without_a_row_for_each_input_is_named(tmp_path):
    odd = Calls(lambda x: (x.relu() + 0, x[:1].relu()))
    with pytest.warns(UserWarning, match=r"/relu#1 \(1 rows for 3 inputs\)"):
        table = dc_by_sample(odd, torch.randn(6, 2, 8).split(3))
    assert set(table["site"]) == {"/relu#0"}
    with pytest.warns(UserWarning, match=r"/relu#1 \(1 rows for 3 inputs\)"):
        table = dc_by_sample(odd, torch.randn(7, 2, 8).split(3))  # the last comes alone
    assert set(table["site"]) == {"/relu#0"}


def test_half_precision_and_channels_last():
    x = torch.randn(3, 8, 2).half()
    table = dc_by_sample(nn.ReLU(), [x], channel_axis=-1)
    np.testing.assert_allclose(table["dc_out"], x.relu().float().mean(1).ravel(), rtol=1e-6)


MEMORY = """
import sys, torch
from torch import nn
from spectroscope import dc_by_sample
torch.set_num_threads(1)
def batches(n):
    for _ in range(n):
        yield torch.randn(512, 64, 2)  # 32 make a row group
import pyarrow.parquet
dc_by_sample(nn.ReLU(), batches(int(sys.argv[1])), path=sys.argv[2])
# Not getrusage's, which begins with that of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", MEMORY, n, str(tmp_path / "x.parquet")]))
        for n in ("70", "160")
    ]
    print(f"{peaks[0] / 1024:.0f} MiB for 2 row groups, {peaks[1] / 1024:.0f} MiB for 5")
    assert peaks[1] < 1.05 * peaks[0]
