"""Loops in several threads: torch's own, or a pool's."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.dsp.kernels import parallel
from spectroscope.dsp.kernels.parallel import parallel_for, workspace

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(params=["OpenMP", "pool"])
def threads_of(request, monkeypatch):
    """Loops in torch's own threads, and in those of a pool, where torch has another library."""
    if request.param == "pool":
        monkeypatch.setattr(parallel, "_openmp_region", lambda: None)
    elif parallel._openmp_region() is None:
        pytest.skip("this torch has no GOMP_parallel")


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_number_is_taken_once(threads):
    torch.set_num_threads(max(threads, 2))
    taken, of_threads = np.zeros(1000), set()

    def work(number):
        time.sleep(1e-5)
        taken[number] += 1
        of_threads.add(threading.get_ident())

    parallel_for(work, 1000, threads)
    assert (taken == 1).all()
    assert len(of_threads) == threads


@pytest.mark.usefixtures("threads_of")
def test_as_many_threads_as_asked_for():
    torch.set_num_threads(4)
    of_threads = set()

    def work(_):
        time.sleep(0.001)
        of_threads.add(threading.get_ident())

    parallel_for(work, 50, 2)
    assert len(of_threads) == 2


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_harmonics_of_a_batch_for_several_threads_in_any_mode(mode):
    model = nn.Sequential(nn.Conv1d(1, 16, 15, padding=7), nn.ReLU()).eval()
    x = torch.randn(48, 1, 1000)  # more than one chunk
    reports = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with mode(), spectroscope.record(model, fs=250.0, f0=1.2) as recorder:
            model(x)
        reports.append(recorder.report())
    one, two = reports
    assert two.coverage()["reason"].tolist() == [""]
    pd.testing.assert_frame_equal(one.harmonics(), two.harmonics(), rtol=1e-5)


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("inference", [True, False])
def test_workers_are_in_the_inference_mode_of_the_caller(inference):
    modes = {}

    def work(_):
        modes.setdefault(threading.get_ident(), set()).add(torch.is_inference_mode_enabled())
        time.sleep(0.001)

    with torch.inference_mode(inference):
        parallel_for(work, 20, 2)
    assert len(modes) == 2
    assert set.union(*modes.values()) == {inference}


@pytest.mark.usefixtures("threads_of")
def test_workers_have_their_own_workspaces_and_one_torch_thread():
    seen = {}

    def work(_):
        memory = workspace("test", (8,), torch.float32, torch.device("cpu"))
        seen.setdefault(threading.get_ident(), set()).add(memory.data_ptr())
        time.sleep(0.001)

    for _ in range(20):
        parallel_for(work, 8, 2)
    assert len(seen) > 1
    assert len(set.union(*seen.values())) == len(seen) == sum(map(len, seen.values()))
    found = []
    new = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert found == [2] == [torch.get_num_threads()]


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exceptions_of_threads_are_raised(error):
    taken = []

    def work(number):
        taken.append(number)
        raise error(number)

    with pytest.raises(error):
        parallel_for(work, 100, 4)
    assert len(taken) < 100  # the others stop


@pytest.fixture
def interruptible():
    """A process that a shell has started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_raised_and_the_next_loop_runs(threads_of):
    def work(number):
        time.sleep(0.001)
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)

    for _ in range(20):
        with pytest.raises(KeyboardInterrupt):
            parallel_for(work, 100, 2)
        taken = []
        parallel_for(taken.append, 100, 2)
        assert sorted(taken) == list(range(100))


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_an_interrupt_while_the_pool_starts_leaves_no_thread_waiting():
    code = """
import os, signal, torch
from concurrent.futures import ThreadPoolExecutor
from spectroscope.dsp.kernels import parallel
parallel._openmp_region = lambda: None
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(2)
submit = ThreadPoolExecutor.submit
def interrupted(*args):
    future = submit(*args)
    os.kill(os.getpid(), signal.SIGINT)
    return future
ThreadPoolExecutor.submit = interrupted
try:
    parallel.parallel_for(print, 4, 2)
    raise SystemExit("not interrupted")
except KeyboardInterrupt:
    ThreadPoolExecutor.submit = submit
taken = []
parallel.parallel_for(taken.append, 4, 2)
assert sorted(taken) == [0, 1, 2, 3]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory in use")
def test_threads_that_torch_ends_leave_no_workspaces():
    code = """
import time, torch
from spectroscope.dsp.kernels.parallel import parallel_for, workspace
def work(_):
    workspace("test", (1 << 20,), torch.float32, torch.device("cpu")).fill_(1)
    time.sleep(0.001)
def megabytes():
    for _ in range(20):
        for threads in (2, 4):
            torch.set_num_threads(threads)
            parallel_for(work, 8, threads)
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
before = megabytes()
assert megabytes() - before < 80, "each thread kept 4 MB"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_user_threads_reduce_concurrently():
    x = torch.randn(4, 8, 30_000)
    expected = (x > 0).sum((0, 2)).tolist()
    actual = {}

    def run(number):
        with spectroscope.record(nn.ReLU()) as recorder:
            recorder._capture._model(x)
        moments = recorder.recording().records["#0"].moments
        actual[number] = moments.sums[1, 1].tolist()

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
from spectroscope.dsp.kernels.parallel import parallel_for
from torch import nn
x = torch.randn(4, 8, 200_000)
torch.set_num_threads(2)
def mean():
    with spectroscope.record(nn.ReLU(), spectra=False) as recorder:
        recorder._capture._model(x)
    return recorder.recording().records["#0"].moments.dc.mean.tolist()
before = mean()
child = os.fork()
if child == 0:
    numbers = []
    parallel_for(numbers.append, 10, 2)
    torch.set_num_threads(1)
    ok = mean() == before and sorted(numbers) == list(range(10))
    torch.get_num_threads = lambda: 2
    os._exit(0 if ok and mean() == before else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
