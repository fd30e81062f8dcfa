"""The user's own PPG: read from a file, checked, resampled and cut into windows for the networks.

Files are read as numbers; no code in them is run. Every fault is reported in one line.
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

from spectroscope.errors import RequestError

FS = 32.0  # sampling rate of the networks, in Hz
WINDOW, HOP = 256, 64  # samples at FS: 8 s, 2 s
# Median RMS of KID-PPG's demo windows, each without its mean, in the unit of the wristband that the
# networks were trained on.
SCALE = 27.4
# A heart rate of 220 BPM is 3.7 Hz: a lower sampling rate cannot represent it.
MIN_FS = 7.5

Array = NDArray[np.float64]
Signals: TypeAlias = Mapping[str, NDArray[Any]]  # by name


def read_signal(path: str | os.PathLike[str], column: str | int | None = None) -> Array:
    """Read one signal, ``[T]``, from a file.

    Args:
        path: ``.csv`` (separated by commas, or by semicolons as Excel does where the decimal mark
            is a comma; with or without a header line), ``.npz``, or ``.npy`` of
            shape ``[T]``.
        column: name of a column or of an array in the ``.npz``; or its number from 0, if no column
            has that name. None: the only column.

    Raises:
        RequestError: the file or column does not exist, `column` is None and there are several, or
            the values are not one row of finite numbers.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise RequestError(f"there is no file {path} to read a PPG from")
    readers = {".csv": _csv, ".npy": _numpy, ".npz": _numpy}
    if path.suffix.lower() not in readers:
        raise RequestError(f"{path} must be a {', '.join(readers)} file")
    try:
        with readers[path.suffix.lower()](path) as signals:
            name = _choose(list(signals), column, path)
            values, has_several = signals[name], len(signals) > 1
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error!r}") from error
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).strip().partition("\n")[0][:100]
        raise RequestError(f"cannot read {path}: {type(error).__name__}: {reason}") from error
    return _checked(values, f"{name!r} of {path}" if has_several else str(path))


def to_windows(ppg: Array, fs: float, *, at_least: int = 1) -> Array:
    """Windows ``[n, 256]`` of 8 s at 32 Hz, one every 2 s.

    Args:
        ppg: ``[T]``.
        fs: sampling rate of `ppg` in Hz.
        at_least: required number of windows.

    Raises:
        RequestError: `fs` is not positive or too low for a pulse, or the recording is too short.
    """
    try:
        fs = float(fs)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{fs=} must be a number, in Hz") from error
    if not 0 < fs < math.inf:
        raise RequestError(f"{fs=} must be positive: the sampling rate of the PPG in Hz")
    if fs < MIN_FS:
        raise RequestError(f"{fs=} is too low: a pulse of 220 BPM needs {MIN_FS} Hz or more")
    # Checked before resampling: a mistaken fs of 1e9 would need a filter with as many taps.
    needed = (WINDOW + (at_least - 1) * HOP) / FS
    if len(ppg) < needed * fs:
        raise RequestError(
            f"the PPG is {len(ppg) / fs:.1f} s long ({len(ppg)} samples at {fs:g} Hz), "
            f"but {needed:g} s are needed"
        )
    ratio = Fraction(FS) / Fraction(fs).limit_denominator(1000)
    if ratio != 1:
        from scipy import signal  # a second, which the windows of the wheel don't need

        # The error of the resampling filter is proportional to the offset, so remove that first.
        # Extrapolate along a line: padding with zeros would add a step at each end.
        offset = ppg.mean()
        ppg = (
            signal.resample_poly(ppg - offset, ratio.numerator, ratio.denominator, padtype="line")
            + offset
        )
    return np.lib.stride_tricks.sliding_window_view(ppg, WINDOW)[::HOP].copy()


def to_scale(windows: Array) -> Array:
    """Scale windows ``[n, 256]`` of any sensor to the unit that the networks were trained on.

    The networks were trained on the PPG of one wristband, which has no offset. They fail if it is
    offset by 100 or divided by 3, as raw converter counts are. Therefore the mean of each window is
    removed, and all windows are multiplied by one number, so that a weak pulse stays weaker than a
    strong one. An inverted pulse stays inverted, because it cannot be recognised.

    Raises:
        RequestError: most of the recording is constant.
    """
    rounding = 1e-9 * np.abs(windows).max(initial=0.0)  # residue of a constant after resampling
    windows = windows - windows.mean(1, keepdims=True)
    rms = np.median(np.sqrt(np.square(windows).mean(1)))
    if not rms > rounding:
        raise RequestError("there is no pulse in the PPG: half of its windows or more are constant")
    scaled: Array = windows * (SCALE / rms)
    return scaled


@contextmanager
def _csv(path: Path) -> Iterator[Signals]:
    # Of a single column a blank line is a missing sample, except at the end of the file.
    text = _text(path.read_bytes()).rstrip()
    if not text:
        raise RequestError(f"{path} is empty")
    options: dict[str, Any] = {"skip_blank_lines": False, "skipinitialspace": True}
    if ";" in text.partition("\n")[0]:
        options |= {"sep": ";", "decimal": "," if "," in text else "."}
    first = pd.read_csv(io.StringIO(text), header=None, nrows=1, **options)
    has_header = any(not pd.api.types.is_numeric_dtype(dtype) for dtype in first.dtypes)
    options |= {"header": 0 if has_header else None, "index_col": False, "low_memory": False}
    with warnings.catch_warnings():  # pandas only warns where it drops surplus fields of a line
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(io.StringIO(text), **options)
    yield {str(name).strip(): frame[name].to_numpy() for name in frame}


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:  # Excel's "CSV", other than its "CSV UTF-8"
        return content.decode("latin-1")


@contextmanager
def _numpy(path: Path) -> Iterator[Signals]:
    with path.open("rb") as file:  # NumPy would not close a file that it can't read
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield {"0": loaded}
        else:
            with loaded:
                yield loaded


def _choose(names: list[str], column: str | int | None, path: Path) -> str:
    available = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    if column is None:
        if len(names) == 1:
            return names[0]
        raise RequestError(
            f"column must say which of {path} is the PPG: {available or 'it has none'}"
        )
    if str(column) in names:
        return str(column)
    number = str(column)
    if number.isdecimal() and int(number) < len(names):
        return names[int(number)]
    raise RequestError(f"{path} has no column {column!r}: it has {available or 'none'}")


def _checked(values: NDArray[Any], what: str) -> Array:
    """`values` as float64. An error names the position unless they are a row of finite numbers."""
    if values.ndim != 1:
        raise RequestError(f"{what} must be one signal, [T], but its shape is {list(values.shape)}")
    if not len(values):
        raise RequestError(f"{what} has no samples")
    if values.dtype.kind not in "iuf":
        text = pd.to_numeric(pd.Series(values), errors="coerce").isna() & ~pd.isna(values)
        first = int(text.argmax())
        wrong = f"{values[first]!r} at sample {first}" if text.any() else f"{values.dtype}"
        raise RequestError(f"{what} must be real numbers, but has {wrong}")
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
        gaps = ", ".join(f"{len(run)} at sample {run[0]}" for run in runs[:5])
        more = f" and {len(runs) - 5} more gaps" if len(runs) > 5 else ""
        raise RequestError(
            f"{what} has samples that are NaN or infinite ({gaps}{more}): "
            "fill the gaps, or cut the recording there"
        )
    return values.astype(np.float64)
