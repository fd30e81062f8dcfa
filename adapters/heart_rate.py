"""Heart-rate CNNs on wrist PPG, with their trained weights, on real recordings or the user's own.

KID-PPG (Kechris et al., 2024) estimates the heart rate and its own uncertainty from two
overlapping 8 s windows of PPG. Weights and windows are in the wheel of the `kid-ppg` project
(GPL-3.0), which asks for TensorFlow and an old Python; only the two files are taken from it.
The network of the paper's Fig. 3 is its elder sister; its weights are the user's to bring.
"""

import io
import math
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from spectroscope.adapters.support import keras_weights, ppg_files
from spectroscope.adapters.support.paper_ppg import PaperPPG, blocks, features
from spectroscope.adapters.support.wheels import PinnedWheel, read_member
from spectroscope.errors import RequestError
from spectroscope.specimens.specimen import Specimen

FS = ppg_files.FS
BATCH = 64
# The model is sure of itself where its σ is below this (BPM).
SURE = 8.0
# Heart rates that there are (BPM).
POSSIBLE = (30.0, 220.0)

WHEEL = PinnedWheel(
    "kid-ppg",
    "0.0.4",
    "kid_ppg-0.0.4-py3-none-any.whl",
    "1147d0b0120c45438d02c88f5c972cf652bb295a436698aa130948d8fcb848c0",
)
_WEIGHTS = "kid_ppg/model_weights/kid_ppg_weights.h5"
_WINDOWS = "kid_ppg/demo/demo_data/PPGDalia_S6_stairs.pkl"

Array = NDArray[np.float64]
PathLike: TypeAlias = str | os.PathLike[str]


class KidPPG(nn.Module):
    """KID-PPG in PyTorch; layers are registered in the order of the Keras model's."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = blocks()
        self.attention = nn.MultiheadAttention(64, num_heads=4, batch_first=True)
        self.norm = nn.LayerNorm(64, eps=1e-3)
        self.dense = nn.Linear(16 * 64, 256)
        self.dense_relu = nn.ReLU()
        self.head = nn.Linear(256, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        """Heart rate of the second window of each pair.

        Args:
            pairs: ``[N, 256, 2]``, windows n − 1 and n of raw PPG at 32 Hz.

        Returns:
            ``[N, 2]``: mean and standard deviation σ of the estimate, in BPM.
        """
        convolutions = (self.block1, self.block2, self.block3)
        previous, current = (features(convolutions, window) for window in pairs.unbind(-1))
        attended, _ = self.attention(current, previous, previous, need_weights=False)
        both = self.norm(attended + current).flatten(1)
        mean, scale = self.head(self.dense_relu(self.dense(both))).unbind(1)
        return torch.stack([mean, 1 + F.softplus(scale)], dim=1)


class _DType:
    """Stands in for `numpy.dtype` in a pickle: plain numbers, and nothing a state can change.

    A real dtype takes its fields from the pickled state, and so can be made to read bytes as
    pointers to objects.
    """

    def __init__(self, name: str, *_: object):
        if name not in ("f4", "f8", "i4", "i8"):
            raise RequestError(f"the pickle has numbers of type {name!r}: only f4, f8, i4, i8 are")
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _array(buffer: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> Array:
    return np.frombuffer(buffer, dtype.order + dtype.name).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


class _Unpickler(pickle.Unpickler):
    """Reads arrays of numbers, and refuses whatever else a pickle may ask to be run."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = {("numpy.core.numeric", "_frombuffer"): _array, ("numpy", "dtype"): _DType}
        if (module, name) in stand_in:
            return stand_in[module, name]
        asked = f"{module}.{name}"
        raise RequestError(f"the pickle asks for {asked!r}: refused, only arrays are read")


def read_windows(content: bytes) -> tuple[Array, Array]:
    """PPG windows ``[n, 256]`` and true heart rates ``[n]`` (BPM) from KID-PPG's demo pickle.

    Raises:
        RequestError: the pickle asks for anything but arrays of numbers, or isn't of that form.
    """
    try:
        data = _Unpickler(io.BytesIO(content)).load()
        windows = np.asarray(data["X"], np.float64)[:, 0]
        heart_rates = np.asarray(data["y"], np.float64).reshape(len(windows))
    except RequestError:
        raise
    except Exception as error:  # what a damaged pickle raises can be anything
        raise RequestError(f"not a pickle of PPG windows: {error!r}") from error
    if windows.shape[1:] != (256,):
        raise RequestError(f"PPG windows must be [n, 256], and these are {list(windows.shape)}")
    return windows, heart_rates


class _Recording(NamedTuple):
    """PPG windows ``[n, 256]``, their true heart rates ``[n]`` in BPM if known, whose they are."""

    windows: Array
    truth: Array | None
    source: str

    @classmethod
    def of_user(
        cls, input: PathLike, fs: float | None, column: str | int | None, at_least: int
    ) -> "_Recording":
        if fs is None:
            raise RequestError(f"fs is missing: the samples per second of {input}")
        windows = ppg_files.to_windows(ppg_files.read_signal(input, column), fs, at_least=at_least)
        return cls(ppg_files.to_scale(windows), None, os.path.basename(input))

    @classmethod
    def of_wheel(cls, wheel: Path) -> "_Recording":
        return cls(*read_windows(read_member(wheel, _WINDOWS)), "PPG-DaLiA subject 6, stairs")


def kid_ppg(
    *,
    weights: PathLike | None = None,
    input: PathLike | None = None,
    fs: float | None = None,
    column: str | int | None = None,
) -> Specimen:
    """KID-PPG: heart rate from wrist PPG, on 214 real windows of PPG-DaLiA. GPL-3.0-only.

    Args:
        weights: the `kid-ppg` wheel, or a Keras weights file (HDF5) of this network, to use
            instead of the wheel that pip fetches. With a weights file the windows still come
            from the wheel.
        input: a PPG of your own, 10 s or more, to run instead: ``.csv``, ``.npy`` or ``.npz``
            (see `ppg_files`). Its true heart rate isn't known, so f0 is what the network estimates.
        fs: its samples per second.
        column: its column's name, or number from 0, where it has more than one.

    Raises:
        RequestError: the wheel can't be fetched, or a file isn't what it should be.
    """
    _check_options(input, fs, column)
    own = None if input is None else _Recording.of_user(input, fs, column, at_least=2)
    path = None if weights is None else _weights_file(weights)
    if path is not None and zipfile.is_zipfile(path):
        WHEEL.verify(path)
        wheel, path = path, None
    elif path is None or own is None:
        wheel = WHEEL.locate()
    model = KidPPG().eval()
    if path is None:
        keras_weights.load(model, io.BytesIO(read_member(wheel, _WEIGHTS)), str(wheel))
    else:
        keras_weights.load(model, path, str(path))
    recording = _Recording.of_wheel(wheel) if own is None else own
    pairs = np.stack([recording.windows[:-1], recording.windows[1:]], axis=-1)
    truth = None if recording.truth is None else recording.truth[1:]
    return _specimen(
        model,
        pairs,
        truth,
        name="kid-ppg",
        description=f"KID-PPG, heart rate from wrist PPG, on {recording.source}",
        showpiece="block1.2.relu#1",
    )


def paper_ppg(
    *,
    weights: PathLike | None = None,
    input: PathLike | None = None,
    fs: float | None = None,
    column: str | int | None = None,
) -> Specimen:
    """The heart-rate network of the paper's Fig. 3, on 215 such windows. GPL-3.0-only.

    Those windows are of subject 6: a network trained without another subject has seen them.

    Args:
        weights: Keras file (HDF5) of this network, such as ``model_S5.h5`` (trained without
            subject 5) of the paper's code; must be given, for no package has it.
        input: a PPG of your own, 8 s or more; this, `fs` and `column` as of :func:`kid_ppg`.
            Otherwise the windows come from the `kid-ppg` wheel.
        fs: its samples per second.
        column: its column's name, or number from 0, where it has more than one.

    Raises:
        RequestError: `weights` is missing, the wheel can't be fetched, or a file isn't what it
            should be.
    """
    takes = "the Keras file (HDF5) of the paper's network, such as model_S5.h5 of its code"
    if weights is None:
        raise RequestError(f"weights are missing: paper-ppg takes {takes}")
    path = _weights_file(weights)
    if zipfile.is_zipfile(path):
        raise RequestError(f"{path} is a wheel or another archive: paper-ppg takes {takes}")
    _check_options(input, fs, column)
    own = None if input is None else _Recording.of_user(input, fs, column, at_least=1)
    model = PaperPPG().eval()
    keras_weights.load(model, path, str(path))
    recording = _Recording.of_wheel(WHEEL.locate()) if own is None else own
    return _specimen(
        model,
        recording.windows,
        recording.truth,
        name="paper-ppg",
        description=f"heart-rate network of Kechris et al. (2024), Fig. 3, on {recording.source}",
        showpiece="block1.2.relu#0",
    )


def _check_options(input: PathLike | None, fs: float | None, column: str | int | None) -> None:
    given = [name for name, value in (("fs", fs), ("column", column)) if value is not None]
    if input is None and given:
        raise RequestError(f"{given[0]} is of an input of your own: give input too")


def _weights_file(path: PathLike) -> Path:
    if not os.path.isfile(path):
        raise RequestError(f"there is no file {path} to read weights from")
    return Path(path)


def _specimen(
    model: nn.Module, inputs: Array, truth: Array | None, *, name: str, description: str,
    showpiece: str,
) -> Specimen:  # fmt: skip
    """The specimen of `model` on `inputs`, whose true heart rates (BPM) are `truth`, if known."""
    batches = torch.split(torch.from_numpy(inputs).float(), BATCH)
    return Specimen(
        name=name,
        description=description,
        license="GPL-3.0-only",
        model=model,
        inputs=batches,
        n_inputs=len(inputs),
        fs=FS,
        metric=_scores,
        targets=None if truth is None else torch.from_numpy(truth),
        error=None if truth is None else _error,
        error_name="heart-rate MAE (BPM)",
        f0=(_estimates(model, batches) if truth is None else truth) / 60,
        f0_name="estimated heart rate" if truth is None else "heart rate",
        per_minute=True,
        showpiece=showpiece,
    )


def _estimates(model: nn.Module, batches: Iterable[Tensor]) -> Array:
    """The network's own heart rates ``[n]``, in BPM; NaN where no heart beats so."""
    with torch.inference_mode():
        outputs = torch.cat([model(batch) for batch in batches])
    rates: Array = outputs.view(len(outputs), -1)[:, 0].double().numpy()
    return np.where((rates >= POSSIBLE[0]) & (rates <= POSSIBLE[1]), rates, np.nan)


def _error(outputs: Tensor, truth: Tensor) -> Tensor:
    """Of each estimate, in BPM."""
    return (outputs.view(len(outputs), -1)[:, 0].double() - truth.to(outputs.device)).abs()


def _scores(outputs: Tensor, truth: Tensor | None) -> Mapping[str, Tensor]:
    """Error of all estimates, and of those the network is sure of; without truth the estimates."""
    columns = outputs.double().view(len(outputs), -1)
    scores = columns[:, 0] if truth is None else _error(outputs, truth)
    what = "estimated heart rate, mean over" if truth is None else "heart-rate MAE,"
    found = {f"{what} all {{n}} windows (BPM)": scores}
    if columns.shape[1] == 2:
        sure = columns[:, 1] < SURE
        found[f"{what} {{n}} windows with σ < {SURE:.0f} BPM (BPM)"] = scores.where(sure, math.nan)
        if truth is None:
            found["σ of the estimate, mean over all {n} windows (BPM)"] = columns[:, 1]
    return found
