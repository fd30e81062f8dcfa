"""A thread pool for loops that release the GIL, with as many threads as torch may use."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache

import torch
from torch import Tensor

# More threads than this can read no faster from memory.
_MOST_THREADS = 16
# Larger workspaces aren't kept.
_LARGEST_WORKSPACE = 1 << 22


def parallel_for(work: Callable[[int], None], count: int) -> None:
    """Call work(0) … work(count - 1) without gradients, in as many threads as torch may use.

    Each thread takes the next number when it has done one, and a thread that hasn't begun at the
    end isn't waited for. So the loop doesn't stall where another process has one of the cores, as
    torch's own parallel regions do. In these threads torch runs no parallel regions.
    """
    numbers = iter(range(count))
    lock = threading.Lock()
    inference = torch.is_inference_mode_enabled()  # like the grad mode, of a thread alone

    def take() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                work(number)

    threads = min(torch.get_num_threads(), _MOST_THREADS, count)
    if threads < 2:
        return take()
    pool = _pool()
    futures = [pool.submit(take) for _ in range(threads)]
    try:
        next(as_completed(futures)).result()
    finally:
        running = [future for future in futures if not future.cancel()]
    for future in running:
        future.result()
    return None


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Threads that have begun, each of which is one torch thread.

    `set_num_threads` also sets the number for threads to come, which one more thread sets back.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(_MOST_THREADS, "spectroscope", initializer=_use_one_torch_thread)
    begun = threading.Barrier(_MOST_THREADS)
    for future in [pool.submit(begun.wait) for _ in range(_MOST_THREADS)]:
        future.result()
    other = threading.Thread(target=torch.set_num_threads, args=(threads,))
    other.start()
    other.join()
    return pool


def _use_one_torch_thread() -> None:
    torch.get_num_threads()  # which otherwise would take the number for new threads later
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


_workspaces = threading.local()


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
    memory: Tensor | None = getattr(_workspaces, key, None)
    if memory is None or memory.numel() < size:
        # A tensor made under inference_mode cannot be written to outside of it.
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=dtype)
        setattr(_workspaces, key, memory)
    return memory[:size].view(shape)
