"""How numba compiles the loops, and where it keeps the result."""

import functools

import numba
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

# Every compiled function of this package.
_dispatchers: list[Dispatcher] = []


def compile_reordered(function):
    """Compile a loop whose sums may be reordered, which vectorises them; NaN and Inf stay exact.

    Inlined into its caller: otherwise the process that compiles it calls another copy than one that
    loads the caller from the cache, and the two copies may add in a different order.
    """
    return _compile(function, forceinline=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


def compile_inline(function):
    """Compile a loop as written into its caller, where arguments are constants."""
    return _compile(function, forceinline=True)


def compile_exactly(function):
    """Compile a loop as written: reordering would undo a subtracted mean, or a compensation."""
    return _compile(function)


def _compile(function, **options):
    dispatcher = numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    _dispatchers.append(dispatcher)
    return dispatcher


def retry_uncached(loop):
    """Wrap a loop to compile it again without the cache on disk, if that is damaged or full.

    Loops raise nothing themselves, so an exception comes from the cache, before anything has run.
    """

    @functools.wraps(loop)
    def call(*arguments):
        try:
            return loop(*arguments)
        except Exception:
            for dispatcher in _dispatchers:
                dispatcher._cache = NullCache()
            return loop(*arguments)

    return call
