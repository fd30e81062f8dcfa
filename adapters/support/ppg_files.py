"""The user's own PPG: out of a file, checked, and as windows that the heart-rate networks take.

A file is read as numbers and nothing in it is run. What is wrong with one is said in one line.
"""

import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import signal

from spectroscope.errors import RequestError

FS = 32.0  # Hz, of the networks
WINDOW, HOP = 256, 64  # samples at FS: 8 s, 2 s
# Median over KID-PPG's demo windows of their RMS, each less its own mean, in the unit of the
# wristband that the networks were trained on.
SCALE = 27.4
# A heart rate of 220 BPM is 3.7 Hz; below twice that it isn't in the file.
MIN_FS = 7.5

Array = NDArray[np.float64]
Signals: TypeAlias = Mapping[str, NDArray[Any]]  # by name


def read_signal(path: str | os.PathLike[str], column: str | int | None = None) -> Array:
    """One signal, ``[T]``, out of a file.

    Args:
        path: ``.csv`` (comma-separated, with a line of names or without), ``.npz``, or ``.npy``
            of shape ``[T]``.
        column: name of a column or of an array in the ``.npz``; or its number from 0, where none
            has that name. None: the only one.

    Raises:
        RequestError: there is no such file or column, more than one to choose from, or what is
            there isn't one row of finite numbers.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise RequestError(f"there is no file {path} to read a PPG from")
    readers = {".csv": _csv, ".npy": _numpy, ".npz": _numpy}
    if path.suffix.lower() not in readers:
        raise RequestError(f"{path} must be a file {', '.join(readers)}, and be named so")
    try:
        with readers[path.suffix.lower()](path) as signals:
            name = _choose(list(signals), column, path)
            values, several = signals[name], len(signals) > 1
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error!r}") from error
    except Exception as error:  # what a damaged file raises can be anything
        raise RequestError(f"cannot read {path}: {error!r}") from error
    return _checked(values, f"{name!r} of {path}" if several else str(path))


def to_windows(ppg: Array, fs: float, *, at_least: int = 1) -> Array:
    """Windows ``[n, 256]`` of 8 s at 32 Hz, one every 2 s.

    Args:
        ppg: ``[T]``.
        fs: its samples per second.
        at_least: number of windows that there must be.

    Raises:
        RequestError: `fs` isn't positive, is too low for a pulse, or the recording is too short.
    """
    try:
        fs = float(fs)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{fs=} must be a number, in samples per second") from error
    if not 0 < fs < math.inf:
        raise RequestError(f"{fs=} must be positive: samples per second of the PPG")
    if fs < MIN_FS:
        raise RequestError(f"{fs=} is too low: 220 BPM takes {MIN_FS} samples per second or more")
    # Before resampling: a mistaken fs of 1e9 must not ask for a filter of as many taps.
    needed = (WINDOW + (at_least - 1) * HOP) / FS
    if len(ppg) < needed * fs:
        raise RequestError(
            f"the PPG is {len(ppg) / fs:.1f} s long ({len(ppg)} samples at {fs:g} Hz), "
            f"and {needed:g} s are needed"
        )
    ratio = Fraction(FS) / Fraction(fs).limit_denominator(1000)
    if ratio != 1:
        # The resampling filter isn't exact, and its error goes with the offset that a PPG has; what
        # is beyond the ends goes on along a line, for zeros there would be a step.
        offset = ppg.mean()
        ppg = (
            signal.resample_poly(ppg - offset, ratio.numerator, ratio.denominator, padtype="line")
            + offset
        )
    return np.lib.stride_tricks.sliding_window_view(ppg, WINDOW)[::HOP].copy()


def to_scale(windows: Array) -> Array:
    """Windows ``[n, 256]`` in the unit that the networks know, whatever that of their sensor is.

    The networks were trained on a wristband's PPG, which has no offset, in its own unit. With 100
    added to it, or divided by 3, they fail; a PPG in counts of a converter is just that. So each
    window has its mean taken out, and all are multiplied by one number, which leaves a weak pulse
    weaker than a strong one. A pulse that points the other way is left so, for no one can tell.

    Raises:
        RequestError: most of the recording is constant.
    """
    rounding = 1e-9 * np.abs(windows).max(initial=0.0)  # what resampling leaves of a constant
    windows = windows - windows.mean(1, keepdims=True)
    rms = np.median(np.sqrt(np.square(windows).mean(1)))
    if not rms > rounding:
        raise RequestError("there is no pulse in the PPG: half of its windows or more are constant")
    scaled: Array = windows * (SCALE / rms)
    return scaled


@contextmanager
def _csv(path: Path) -> Iterator[Signals]:
    # A blank line inside is a gap in the only column, one at the end is none.
    text = path.read_text(encoding="utf-8-sig").rstrip()
    options: dict[str, Any] = {"skip_blank_lines": False, "skipinitialspace": True}
    first = pd.read_csv(io.StringIO(text), header=None, nrows=1, **options)
    named = any(not pd.api.types.is_numeric_dtype(dtype) for dtype in first.dtypes)
    options |= {"header": 0 if named else None, "index_col": False, "low_memory": False}
    with warnings.catch_warnings():  # of lines longer than the first, whose end would be lost
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(io.StringIO(text), **options)
    yield {str(name).strip(): frame[name].to_numpy() for name in frame}


@contextmanager
def _numpy(path: Path) -> Iterator[Signals]:
    with path.open("rb") as file:  # NumPy leaves one that it opened and can't read open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield {"0": loaded}
        else:
            with loaded:
                yield loaded


def _choose(names: list[str], column: str | int | None, path: Path) -> str:
    there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    if column is None:
        if len(names) == 1:
            return names[0]
        raise RequestError(f"column must say which of {path} is the PPG: {there or 'it has none'}")
    if str(column) in names:
        return str(column)
    number = str(column)
    if number.isdecimal() and int(number) < len(names):
        return names[int(number)]
    raise RequestError(f"{path} has no column {column!r}: it has {there or 'none'}")


def _checked(values: NDArray[Any], what: str) -> Array:
    """`values` as float64 if it is one row of finite numbers; or an error that says where not."""
    if values.ndim != 1:
        raise RequestError(f"{what} must be one signal, [T], and its shape is {list(values.shape)}")
    if values.dtype.kind not in "iuf":
        text = pd.to_numeric(pd.Series(values), errors="coerce").isna() & ~pd.isna(values)
        first = int(text.argmax())
        found = f"{values[first]!r} at sample {first}" if text.any() else f"{values.dtype}"
        raise RequestError(f"{what} must be real numbers, and has {found}")
    gone = np.flatnonzero(~np.isfinite(values))
    if len(gone):
        runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1)
        gaps = ", ".join(f"{len(run)} at sample {run[0]}" for run in runs[:5])
        more = f" and {len(runs) - 5} more gaps" if len(runs) > 5 else ""
        raise RequestError(
            f"{what} has samples that are NaN or infinite ({gaps}{more}): fill them or cut there"
        )
    return values.astype(np.float64)
