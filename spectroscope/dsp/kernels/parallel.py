"""A thread pool for loops that release the GIL, with as many threads as torch may use."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

# Values that a thread takes at a time: enough to make the calls themselves cheap.
GRAIN_SIZE = 1 << 17
# More threads than this can read no faster from memory.
_MOST_THREADS = 16


def parallel_for(work: Callable[[int, int], int], count: int, step: int) -> int:
    """Sum of work(begin, end) over all of range(count), by as many threads as torch may use.

    Each thread takes the next `step` when it has done one, and a thread that hasn't begun at the
    end isn't waited for. So the loop doesn't stall where another process has one of the cores, as
    torch's own parallel regions do.
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
    futures = [pool.submit(take) for _ in range(helpers)]
    total = take()
    return total + sum(future.result() for future in futures if not future.cancel())


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix="spectroscope")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
