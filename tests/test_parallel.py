"""Loops in several threads: torch's own, or a pool's."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import torch
from helpers import DC_TABLE, assert_spectra_close, values
from torch import nn

import spectroscope
from spectroscope.dsp.kernels import parallel
from spectroscope.dsp.kernels.parallel import run, workspace

C_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Job(ctypes.Structure):
    _fields_ = [("value", ctypes.c_int64)]


pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(params=["OpenMP", "pool"])
def threads_of(request, monkeypatch):
    """Loops in torch's own threads, and in those of a pool, where torch has another library."""
    if request.param == "pool":
        monkeypatch.setattr(parallel, "_openmp_region", lambda: None)
    elif parallel._openmp_region() is None:
        pytest.skip("this torch has no GOMP_parallel")


def call(function, job=None, threads=2):
    """Run a Python function in C's place, with the address of the job."""
    run(ctypes.cast(callback := C_FUNCTION(function), ctypes.c_void_p).value, job or Job(), threads)
    return callback


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_thread_calls_the_function_with_the_job(threads):
    torch.set_num_threads(max(threads, 2))
    calls, job = [], Job(7)

    def function(address):
        calls.append((threading.get_ident(), Job.from_address(address).value))
        time.sleep(0.01)

    call(function, job, threads)
    assert len({thread for thread, _ in calls}) == len(calls) == threads
    assert {value for _, value in calls} == {7}


@pytest.mark.usefixtures("threads_of")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("layout", ["contiguous", "channels side by side", "half"])
def test_tables_are_the_same_for_any_number_of_threads(mode, layout):
    model = nn.Sequential(nn.Conv1d(1, 16, 15, padding=7), nn.ReLU()).eval()
    x = torch.randn(48, 1, 1000)  # more than one chunk
    if layout == "half":
        model, x = model.bfloat16(), x.bfloat16()
    elif layout != "contiguous":
        model[0].register_forward_hook(lambda module, args, y: y.mT.contiguous().mT)
    reports = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with mode(), spectroscope.record(model, fs=250.0, f0=1.2) as recorder:
            model(x)
        reports.append(recorder.report())
    one, *others = reports
    for other in others:
        assert other.coverage()["reason"].tolist() == [""]
        pd.testing.assert_frame_equal(one.dc(), other.dc(), rtol=DC_TABLE)
        pd.testing.assert_frame_equal(one.harmonics(), other.harmonics(), rtol=1e-5)
        found, expected = (values(report.spectra(), "power") for report in (other, one))
        assert_spectra_close(found, expected, expected.sum(1))


@pytest.fixture
def interruptible():
    """A process that a shell has started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_raised_when_all_threads_have_ended(monkeypatch):
    monkeypatch.setattr(parallel, "_openmp_region", lambda: None)
    main = threading.get_ident()
    for _ in range(5):
        ended = []

        def function(_, ended=ended):
            if threading.get_ident() != main:
                for _ in range(2):
                    time.sleep(0.05)  # the main thread waits
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            ended.append(1)

        with pytest.raises(KeyboardInterrupt):
            call(function)
        assert len(ended) == 2


def test_threads_have_their_own_workspaces():
    memories = {}

    def get(number):
        memory = workspace("test", (8,), torch.float32, torch.device("cpu"))
        assert workspace("test", (4,), torch.float32, torch.device("cpu")).data_ptr() == (
            memory.data_ptr()
        )
        memories[number] = memory

    threads = [threading.Thread(target=get, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({memory.data_ptr() for memory in memories.values()}) == 3


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
    torch.set_num_threads(1)  # torch's own regions have no threads here
    ok = mean() == before
    torch.get_num_threads = lambda: 2
    os._exit(0 if ok and mean() == before else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
