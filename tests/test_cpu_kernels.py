"""Compiled moments of both sides of a ReLU, against exact arithmetic, and without numba."""

import inspect
import math
import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.dsp.kernels import dispatch
from spectroscope.dsp.kernels.parallel import parallel_for
from spectroscope.dsp.moments import X_FINITE, X_M2, X_MEAN, Y_POSITIVE

pytestmark = pytest.mark.usefixtures("two_threads")

SHAPES = [
    (2, 3, 1),
    (5, 40, 1, 1),
    (2, 3, 2),
    (1, 1, 4097),
    (3, 2, 5, 7),
    (2, 300, 3, 3),
    (2, 1, 2, 3, 4),
    (1, 2048, 2),
]


def exact(values):
    """Mean, M2, number > 0 and number of the finite values, in rational arithmetic."""
    ratios = [v.as_integer_ratio() for v in values if math.isfinite(v)]
    if not ratios:
        return 0.0, 0.0, 0, 0
    # Multiples of one power of two: whole numbers add up much faster than fractions.
    unit = max(below for _, below in ratios)
    numbers = [above * (unit // below) for above, below in ratios]
    count, total, squares = len(numbers), sum(numbers), sum(v * v for v in numbers)
    mean, m2 = Fraction(total, count * unit), Fraction(count * squares - total**2, count * unit**2)
    return float(mean), float(m2), sum(v > 0 for v in numbers), count


def assert_exact(x):
    """The moments of `x` are exact to a few units in the last place."""
    moments = dispatch.relu_moments(x)
    given = x.double().flatten(2)
    rows = moments.rows
    if moments.one_pass:
        rows[X_FINITE:] = given.shape[2]
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for side, values in enumerate((given[n, c], given[n, c].relu())):
                mean, m2, positive, finite = exact(values.tolist())
                row = rows[:, n, c]
                assert row[X_MEAN + side].item() == pytest.approx(mean, rel=1e-12, abs=1e-300)
                assert row[X_M2 + side].item() == pytest.approx(m2, rel=1e-11, abs=1e-300)
                assert row[X_FINITE + side] == finite
                if side == 1:
                    assert row[Y_POSITIVE] == positive


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 3.0, -50.0, 1e4, -1e4])
def test_moments_of_both_sides_are_exact(shape, dtype, offset):
    x = (offset + torch.randn(shape)).to(dtype)
    assert_exact(x)
    if x.dim() == 4:
        assert_exact(x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("lay", [
    lambda x: x[::2], lambda x: x[:, 1:4], lambda x: x[:1].expand(4, -1, -1),
    lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: x[1:, :, 3:50],
], ids=["samples", "channels", "expanded", "channels side by side", "slice"])  # fmt: skip
def test_memory_layout_does_not_matter(lay):
    assert_exact(lay(torch.randn(4, 6, 61)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nonfinite_values_are_left_out(layout):
    x = torch.randn(3, 4, 9, 11)
    x[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x[1, 2] = torch.nan
    x[2, 3, 4] = -torch.inf
    assert_exact(x.to(memory_format=layout))


@pytest.mark.parametrize("values", [
    [0.0] * 40, [7.25] * 40, [-3.5] * 40, [-0.0, 0.0] * 20, [1e-310, -1e-310] * 20,
    [1e150, -1e150] * 20, [1e-30] * 39 + [1e30], [1e8 + i for i in range(40)],
])  # fmt: skip
def test_extreme_values_are_exact(values):
    assert_exact(torch.tensor(values, dtype=torch.float64).view(1, 2, 20))


@pytest.mark.parametrize(("side_by_side", "rel"), [(False, 1e-13), (True, 1e-12)])
def test_a_million_values_are_added_without_loss(side_by_side, rel):
    x = 20 + torch.randn(1, 2, 1_000_003)
    lying = x.transpose(1, 2).contiguous().transpose(1, 2) if side_by_side else x
    rows, wide = dispatch.relu_moments(lying).rows, x[0, 1].numpy().astype(np.longdouble)
    mean = wide.mean()
    assert rows[X_MEAN, 0, 1].item() == pytest.approx(float(mean), rel=1e-15)
    assert rows[X_M2, 0, 1].item() == pytest.approx(float(((wide - mean) ** 2).sum()), rel=rel)


def record(model, *batches, **options):
    with spectroscope.record(model, **options) as recorder:
        for batch in batches:
            model(batch)
    return recorder.report()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_reports_are_the_same_without_numba(monkeypatch, dtype, offset):
    x = (offset + torch.randn(7, 5, 6, 10)).to(dtype)
    x[2, 3, 1, 1] = torch.nan
    with_it = record(nn.ReLU(), x)
    assert dispatch.cpu_kernels() is not None
    monkeypatch.setattr(dispatch, "cpu_kernels", lambda: None)
    without = record(nn.ReLU(), x)
    for name in ("dc", "spectra", "introduced"):
        pd.testing.assert_frame_equal(
            getattr(with_it, name)(), getattr(without, name)(), rtol=1e-11, atol=1e-14
        )


def test_compiled_code_runs(monkeypatch):
    called = []
    cpu = dispatch.cpu_kernels()
    reduce_batch = cpu.reduce_batch
    monkeypatch.setattr(cpu, "reduce_batch", lambda *args: called.append(1) or reduce_batch(*args))
    record(nn.ReLU(), torch.randn(2, 3, 8))
    assert called


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_step_is_taken_once(monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    taken = np.zeros(1000)

    def work(begin, end):
        taken[begin:end] += 1
        return end - begin

    assert parallel_for(work, 1000, 7) == 1000
    assert (taken == 1).all()


def test_exceptions_of_threads_are_raised(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    def work(begin, end):
        raise ValueError(begin)

    with pytest.raises(ValueError):  # noqa: PT011, any step's
        parallel_for(work, 100, 1)


def test_user_threads_reduce_concurrently():
    x = torch.randn(4, 8, 300_000)
    expected = (x > 0).sum((0, 2)).tolist()
    actual = {}

    def run(number):
        actual[number] = dispatch.relu_moments(x).reduce_batch().sums[1, 1].tolist()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(actual.values()) == [expected] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_records():
    code = """
import os, torch, spectroscope
from torch import nn
x = torch.randn(4, 8, 200_000)
torch.set_num_threads(2)
def mean():
    with spectroscope.record(nn.ReLU(), spectra=False) as recorder:
        recorder._capture._model(x)
    return recorder.report().dc()["dc_in"].tolist()
before = mean()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    ok = mean() == before
    from spectroscope.dsp.kernels import dispatch
    torch.get_num_threads = lambda: 2
    moments = dispatch.relu_moments(x)
    os._exit(0 if ok and (moments.rows[0] - x.double().mean(-1)).abs().max() < 1e-12 else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A process that compiles one loop or reads it from disk, run once, and the folder it uses."""
    folder = tmp_path_factory.mktemp("numba")
    code = """
import torch
from spectroscope.dsp.kernels import dispatch
torch.manual_seed(0)
rows = dispatch.relu_moments(torch.randn(64, 6, 256, dtype=torch.float64)).rows[:5]
loop = dispatch.cpu_kernels().row_moments_contiguous.__wrapped__
print(sum(loop.stats.cache_hits.values()), rows.view(torch.int64).sum().item())
"""

    def run():
        """Whether the loop was on disk, and the sum of the bits of the moments."""
        hits, bits = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
            capture_output=True, check=True,
        ).stdout.split()  # fmt: skip
        return int(hits), int(bits)

    return run, folder, run()


def test_compiled_code_is_kept_on_disk_and_gives_the_same_bits(compiled):
    run, _, first = compiled
    assert first[0] == 0
    assert run() == (1, first[1])


def test_a_damaged_cache_costs_time_and_no_numbers(compiled):
    run, folder, first = compiled
    indexes = list(folder.rglob("*.nbi"))
    assert indexes
    for index in indexes:
        index.write_bytes(index.read_bytes()[:20])
    assert run() == first
    # The other loops have the same wrapper.
    public = {n: loop for n, loop in vars(dispatch.cpu_kernels()).items() if n[0] != "_"}
    loops = [loop for loop in public.values() if not inspect.ismodule(loop)]
    retried = dispatch.cpu_kernels().row_moments_contiguous.__code__
    assert len(loops) > 6
    assert all(inspect.isfunction(loop) and loop.__code__ is retried for loop in loops)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it works")
def test_gpu_kernels_that_fail_raise_a_warning():
    pytest.importorskip("triton")
    with pytest.warns(UserWarning, match="on cuda:0 goes without compiled kernels.*Error: "):
        assert dispatch.gpu_kernels.__wrapped__(torch.device("cuda", 0)) is None
