"""Moments of both sides of a ReLU, row by row, in one reading of its input where that can be."""

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from spectroscope.dsp.moments import RowMoments

# Values that a thread takes at a time: enough to make the calls themselves cheap.
_SHARE = 1 << 17
# More threads than this can read no more at a time.
_MOST_THREADS = 16


def relu_moments(x: Tensor) -> tuple[RowMoments, RowMoments] | None:
    """Moments of the rows of `x`, and of those of ReLU(x), in one reading of x.

    Args:
        x: real, ``[N, C, ...]`` of at least one value, dense, on any device.

    Returns:
        Each of shape ``[N, C]``, the first without `positive`. None: not of such a tensor, or not
        on this machine.
    """
    length = math.prod(x.shape[2:])
    if not x.is_cpu or length == 1 or x.dtype not in (torch.float32, torch.float64) or x.is_neg():
        return None
    try:
        x = x.view(*x.shape[:2], length)
    except RuntimeError:  # time or space isn't one axis in memory
        return None
    native = _native()
    if native is None or 1 not in x.stride()[1:]:
        return None
    samples, channels = x.shape[:2]
    shape, strides = tuple(x.shape), x.stride()
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    flat = x.as_strided((span,), (1,)).numpy()
    out = torch.empty(5, samples, channels, dtype=torch.float64)
    found: Any = out.view(5, -1).numpy()
    if strides[2] == 1:
        work, count = native.lines, samples * channels
    else:
        work, count = native.columns, samples
    step = max(1, _SHARE * count // x.numel())
    doubtful = _shared(lambda a, b: work(flat, shape, strides, a, b, found), count, step)
    means, m2 = out[:2], out[2:4]
    if not doubtful:
        return (
            RowMoments(means[0], m2[0], None, None, None),
            RowMoments(means[1], m2[1], out[4], None, None),
        )
    more = torch.empty(4, samples, channels, dtype=torch.float64)
    extra: Any = more.view(4, -1).numpy()
    _shared(
        lambda a, b: native.again(flat, shape, strides, a, b, found, extra),
        samples * channels,
        max(1, _SHARE // length),
    )
    return (
        RowMoments(means[0], m2[0], None, more[0], more[2]),
        RowMoments(means[1], m2[1], out[4], more[1], more[3]),
    )


@lru_cache(maxsize=1)
def _native() -> ModuleType | None:
    """The compiled loops, or None where they can't be had: everything goes without them too."""
    try:
        from spectroscope.dsp import native
    except (ImportError, RuntimeError):  # no numba, or nowhere to keep what it compiles
        return None
    return native


def _shared(work: Callable[[int, int], int], count: int, step: int) -> int:
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
