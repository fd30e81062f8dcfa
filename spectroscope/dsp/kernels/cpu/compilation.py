"""How numba compiles the loops, and how threads take blocks of channels.

A loop becomes a C function of one address, that of a record of what the threads share. So it can be
called, and run in several threads, without Python.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


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
    # Called by other loops alone, which saves a fourth of the compiler's time.
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(nogil=True, error_model="numpy", **options)(function)


@lru_cache(maxsize=64)
def c_function(function: Callable[..., None], record: type[ctypes.Structure]) -> int:
    """Address of ``void function(record*)``, compiled now or loaded from numba's cache on disk."""
    argument: Any = types.CPointer(numba.from_dtype(np.dtype(record)))  # type: ignore[no-untyped-call]
    signature = types.void(argument)
    try:
        compiled = numba.cfunc(signature, cache=True, error_model="numpy")(function)
    except Exception:  # the cache is damaged, full or nowhere: what of it was read raises anything
        compiled = numba.cfunc(signature, error_model="numpy")(function)
    _compiled.append(compiled)
    address: Any = compiled.address
    return int(address)


_compiled: list[Any] = []  # numba frees what isn't referenced


def fields_of(*names: str) -> list[tuple[str, type]]:
    """The fields of a record, all int64."""
    return [(name, ctypes.c_int64) for name in names]


# The first fields of a record of loops over blocks of channels, which threads take one after
# another: number of blocks taken, channels of a block, and channels in all.
BLOCKS = "taken", "block", "channels"


@intrinsic
def next_block(typing_context, record):
    """Number of the next block of a record; atomic."""

    def generate(context, builder, signature, arguments):
        taken = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", taken, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(record), generate


@intrinsic
def pointer(typing_context, address):
    """The pointer, for `numba.carray`, to memory at an address."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate
