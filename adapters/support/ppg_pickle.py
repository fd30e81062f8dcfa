"""KID-PPG's demo windows: a pickle, read without running any code in it."""

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectroscope.errors import RequestError

Array = NDArray[np.float64]


class _DType:
    """Replaces `numpy.dtype` in a pickle: plain numbers only.

    A real dtype takes its fields from the pickled state. A malicious state could make it read bytes
    as pointers to objects.
    """

    def __init__(self, name: str, *_: object):
        if name not in ("f4", "f8", "i4", "i8"):
            raise RequestError(f"the pickle has numbers of type {name!r}, not f4, f8, i4 or i8")
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _array(buffer: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> Array:
    return np.frombuffer(buffer, dtype.order + dtype.name).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


class _Unpickler(pickle.Unpickler):
    """Reads arrays of numbers; refuses every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {("numpy.core.numeric", "_frombuffer"): _array, ("numpy", "dtype"): _DType}
        if (module, name) not in allowed:
            requested = f"{module}.{name}"
            raise RequestError(f"the pickle asks for {requested!r}: refused, only arrays are read")
        return allowed[module, name]


def read_windows(content: bytes) -> tuple[Array, Array]:
    """PPG windows ``[n, 256]`` and true heart rates ``[n]`` in BPM from KID-PPG's demo pickle.

    Raises:
        RequestError: the pickle contains anything but arrays of numbers, or has another structure.
    """
    try:
        data = _Unpickler(io.BytesIO(content)).load()
        windows = np.asarray(data["X"], np.float64)[:, 0]
        heart_rates = np.asarray(data["y"], np.float64).reshape(len(windows))
    except RequestError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise RequestError(f"not a pickle of PPG windows: {error!r}") from error
    if windows.shape[1:] != (256,):
        raise RequestError(f"PPG windows must be [n, 256], not {list(windows.shape)}")
    return windows, heart_rates
