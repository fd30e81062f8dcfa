"""Compiled loops in as many threads as torch may use, and the memory that they work in."""

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_MOST_THREADS = 64
# Larger workspaces aren't kept.
_LARGEST_WORKSPACE = 1 << 22


def run(function: int, job: ctypes.Structure, threads: int) -> None:
    """Call a C function with the address of `job` in several threads, at the same time.

    They are the threads of torch's own parallel regions, where these can be had: those spin for a
    while after each region, so that other threads would have to wait for their cores
    (docs/performance.md).

    Args:
        function: address of ``void function(void*)``.
        job: what the threads share.
        threads: 1: this thread alone. Otherwise the number of torch's threads.
    """
    region = _openmp_region() if threads > 1 else None
    if region is not None:
        # 0: as many threads as in torch's regions. libgomp ends those that a smaller one doesn't
        # need, and starts them again later (PyTorch #32008).
        region(function, ctypes.byref(job), 0, 0)
        return
    call, argument = _FUNCTION(function), ctypes.addressof(job)
    others: list[Future[None]] = []
    interrupts: list[BaseException] = []
    try:
        while len(others) < (0 if _is_fork else threads - 1):
            others.append(_pool().submit(call, argument))
        call(argument)
    except BaseException as error:
        interrupts.append(error)
    while not all(other.done() for other in others):  # as they use the memory of the job
        try:
            wait(others)
        except BaseException as error:
            interrupts.append(error)
    if interrupts:
        raise interrupts[0]


_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _openmp_region() -> Callable[..., None] | None:
    """``GOMP_parallel(function, argument, threads, flags)`` of the OpenMP library that torch uses.

    None: that library has another interface, or this process is a fork: the parent has the threads.
    """
    if _is_fork:
        return None
    try:
        region: Any = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    region.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    region.restype = None
    function: Callable[..., None] = region
    return function


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, "spectroscope")  # as many as are needed at once


_is_fork = False


def _forget_threads() -> None:
    global _is_fork
    _is_fork = True
    _openmp_region.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget_threads)


_this_thread = threading.local()


def workspace(
    purpose: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Uninitialised workspace on `device`.

    On the CPU each thread keeps one per `purpose`: faulting in fresh pages for every chunk would
    cost more than the work done in them.
    """
    size = torch.Size(shape).numel()
    if device.type != "cpu" or size > _LARGEST_WORKSPACE:
        return torch.empty(shape, dtype=dtype, device=device)
    key = f"{purpose} {dtype}"
    memory: Tensor | None = getattr(_this_thread, key, None)
    if memory is None or memory.numel() < size:
        # A tensor made under inference_mode cannot be written to outside of it.
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=dtype)
        setattr(_this_thread, key, memory)
    return memory[:size].view(shape)
