"""Loops that release the GIL, in as many threads as torch may use."""

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# More threads than this can read no faster from memory.
_MOST_THREADS = 16
# Larger workspaces aren't kept.
_LARGEST_WORKSPACE = 1 << 22


def parallel_for(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call work(0) … work(count - 1), each once, in up to so many threads.

    They are the threads of torch's own parallel regions, where these can be had: those spin for a
    while after each region, so that other threads would have to wait for their cores
    (docs/performance.md). In these threads torch runs no parallel regions. Inference mode is the
    caller's, and otherwise gradients are recorded as in a new thread.
    """
    threads = min(threads, _MOST_THREADS, count)
    if threads < 2:
        for number in range(count):
            work(number)
        return
    numbers, lock = iter(range(count)), threading.Lock()
    # The threads that serve the main thread live as long as the process, others maybe not.
    keep_state = threading.current_thread() is threading.main_thread()
    workers = iter(range(threads))
    # Tensors that the caller made in it can't be written to outside of it.
    inference = torch.is_inference_mode_enabled()
    ended: set[int] = set()
    errors: list[BaseException] = []

    def take(_: object) -> None:
        try:
            if keep_state and not hasattr(_this_thread, "keeps_state"):
                # Otherwise Python makes a state for this thread, with its workspaces, at each call.
                ctypes.pythonapi.PyGILState_Ensure()
                _this_thread.keeps_state = True
                _kept.pop(threading.get_ident(), {}).clear()
                _kept[threading.get_ident()] = _this_thread.__dict__
            with lock:  # there may be more threads than were asked for
                wanted = next(workers, None) is not None
            with torch.inference_mode() if inference else nullcontext():
                while wanted and not errors:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        break
                    work(number)
            ended.add(threading.get_ident())
        except BaseException as error:  # which a C function, the caller, could only print
            errors.append(error)

    region = _openmp_region() if torch.get_num_threads() <= _MOST_THREADS else None
    if region is not None:
        # In as many threads as torch's regions: libgomp ends those that a smaller one doesn't need.
        region(_FUNCTION(take), None, 0, 0)
        if threading.get_ident() not in ended and not errors:  # interrupted outside of the try
            raise KeyboardInterrupt
        if keep_state and not errors:
            for thread in _kept.keys() - ended:  # torch has had fewer threads since
                _kept.pop(thread).clear()
    else:
        try:
            list(_pool().map(take, range(threads)))
        except BaseException as error:  # an interrupt of this thread, which takes none
            errors.append(error)
    if errors:
        raise errors[0]


_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _openmp_region() -> Callable[..., None] | None:
    """``GOMP_parallel(function, argument, threads, flags)`` of the OpenMP library that torch uses.

    None: that library has another interface, or this process is a fork: the parent has the threads.
    """
    try:
        region: Any = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    if _is_fork:
        return None
    region.argtypes = _FUNCTION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    region.restype = None
    function: Callable[..., None] = region
    return function


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that have begun, each of which is one torch thread.

    `set_num_threads` also sets the number for threads to come, which one more thread sets back.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(_MOST_THREADS, "spectroscope", initializer=_use_one_torch_thread)
    begun = threading.Barrier(_MOST_THREADS)
    try:
        for future in [pool.submit(begun.wait) for _ in range(_MOST_THREADS)]:
            future.result()
    except BaseException:
        begun.abort()  # otherwise the process would wait for its threads at the end
        raise
    other = threading.Thread(target=torch.set_num_threads, args=(threads,))
    other.start()
    other.join()
    return pool


def _use_one_torch_thread() -> None:
    torch.get_num_threads()  # which otherwise would take the number for new threads later
    torch.set_num_threads(1)


_is_fork = False


def _forget_threads() -> None:
    global _is_fork
    _is_fork = True
    _openmp_region.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget_threads)


_this_thread = threading.local()
# What the threads keep of which Python keeps a state, by thread. Python doesn't see them end.
_kept: dict[int, dict[str, Any]] = {}


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
