"""Threads for what numba compiles, as many as torch may use."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType

import torch

# Values that a thread takes at a time: enough to make the calls themselves cheap.
SHARE = 1 << 17
# More threads than this can read no more at a time.
_MOST_THREADS = 16


@lru_cache(maxsize=1)
def compiled() -> ModuleType | None:
    """The compiled loops, or None where they can't be had: everything goes without them too."""
    try:
        from spectroscope.dsp.kernels import native
    except (ImportError, RuntimeError):  # no numba, or nowhere to keep what it compiles
        return None
    return native


def shared(work: Callable[[int, int], int], count: int, step: int) -> int:
    """Sum of work(begin, end) over all of range(count), by as many threads as torch may use.

    Threads of our own, which take the next `step` when they have done one: where another process
    has one of the cores, the others needn't wait. Those that haven't begun at the end don't.
    """
    begins = iter(range(0, count, step))
    lock = threading.Lock()

    def take() -> int:
        total = 0
        while True:
            with lock:
                begin = next(begins, None)
            if begin is None:
                return total
            total += work(begin, min(begin + step, count))

    helpers = min(torch.get_num_threads(), _MOST_THREADS, -(-count // step)) - 1
    if helpers < 1:
        return take()
    pool = _pool()
    helping = [pool.submit(take) for _ in range(helpers)]
    total = take()
    return total + sum(help.result() for help in helping if not help.cancel())


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix="spectroscope")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
