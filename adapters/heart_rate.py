"""Heart-rate CNNs on wrist PPG, with trained weights, on real recordings or the user's own.

KID-PPG (Kechris et al., 2024) estimates the heart rate and the uncertainty of the estimate from two
overlapping 8 s windows of PPG. Weights and windows are in the wheel of the `kid-ppg` project
(GPL-3.0), which requires TensorFlow and an old Python; only these two files are read from it. The
network of the paper's Fig. 3 is an earlier design by the same authors; the user provides its
weights.
"""

import io
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectroscope.adapters.support import keras_weights, ppg_files
from spectroscope.adapters.support.ppg_networks import KidPPG, PaperPPG
from spectroscope.adapters.support.ppg_pickle import read_windows
from spectroscope.adapters.support.wheels import PinnedWheel, read_member
from spectroscope.errors import RequestError
from spectroscope.specimens.specimen import Specimen

FS = ppg_files.FS
BATCH = 64
CONFIDENT = 8.0  # BPM: estimates with a σ below this count as confident
PLAUSIBLE = (30.0, 220.0)  # physiologically plausible heart rates, in BPM

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


def kid_ppg(
    *,
    weights: PathLike | None = None,
    input: PathLike | None = None,
    fs: float | None = None,
    column: str | int | None = None,
) -> Specimen:
    """KID-PPG: heart rate from wrist PPG, on 214 real windows of PPG-DaLiA. GPL-3.0-only.

    Args:
        weights: the `kid-ppg` wheel, or a Keras weights file (HDF5) of this network, instead of the
            wheel that pip fetches. With a weights file the windows still come from the wheel.
        input: your own PPG, 10 s or more, instead of the windows: ``.csv``, ``.npy`` or ``.npz``
            (see `ppg_files`). Its true heart rate is unknown, so f0 is the network's estimate.
        fs: sampling rate of `input`, in Hz.
        column: name of a column of `input`, or its number from 0; needed if there are several.

    Raises:
        RequestError: the wheel can't be fetched, or a file is not valid.
    """
    _check_options(input, fs, column)
    user = None if input is None else _Recording.from_file(input, fs, column, at_least=2)
    path = None if weights is None else _weights_file(weights)
    if path is not None and zipfile.is_zipfile(path):
        WHEEL.verify(path)
        wheel, path = path, None
    elif path is None or user is None:
        wheel = WHEEL.locate()
    model = KidPPG().eval()
    if path is None:
        keras_weights.load(model, io.BytesIO(read_member(wheel, _WEIGHTS)), str(wheel))
    else:
        keras_weights.load(model, path, str(path))
    recording = _Recording.from_wheel(wheel) if user is None else user
    pairs = np.stack([recording.windows[:-1], recording.windows[1:]], axis=-1)
    truth = None if recording.truth is None else recording.truth[1:]
    return _specimen(
        model,
        pairs,
        truth,
        name="kid-ppg",
        description=f"KID-PPG, heart rate from wrist PPG, on {recording.source}",
        samples=ppg_files.WINDOW + ppg_files.HOP,
        featured_site="block1.2.relu#1",
    )


def paper_ppg(
    *,
    weights: PathLike | None = None,
    input: PathLike | None = None,
    fs: float | None = None,
    column: str | int | None = None,
) -> Specimen:
    """The heart-rate network of the paper's Fig. 3, on 215 such windows. GPL-3.0-only.

    The windows are from subject 6: a network trained without another subject has been trained on
    them.

    Args:
        weights: Keras file (HDF5) of this network, such as ``model_S5.h5`` (trained without
            subject 5) from the paper's code. Required: no package contains it.
        input: your own PPG, 8 s or more; `input`, `fs` and `column` are as in :func:`kid_ppg`.
            Without it the windows come from the `kid-ppg` wheel.
        fs: sampling rate of `input`, in Hz.
        column: name of a column of `input`, or its number from 0; needed if there are several.

    Raises:
        RequestError: `weights` is missing, the wheel can't be fetched, or a file is not valid.
    """
    needs = "paper-ppg needs the Keras file (HDF5) of the paper's network, such as model_S5.h5"
    if weights is None:
        raise RequestError(f"weights are missing: {needs}")
    path = _weights_file(weights)
    if zipfile.is_zipfile(path):
        raise RequestError(f"{path} is a wheel or another archive: {needs}")
    _check_options(input, fs, column)
    user = None if input is None else _Recording.from_file(input, fs, column, at_least=1)
    model = PaperPPG().eval()
    keras_weights.load(model, path, str(path))
    recording = _Recording.from_wheel(WHEEL.locate()) if user is None else user
    return _specimen(
        model,
        recording.windows,
        recording.truth,
        name="paper-ppg",
        description=f"heart-rate network of Kechris et al. (2024), Fig. 3, on {recording.source}",
        samples=ppg_files.WINDOW,
        featured_site="block1.2.relu#0",
    )


class _Recording(NamedTuple):
    """PPG windows ``[n, 256]``, true heart rates ``[n]`` in BPM if known, and the source."""

    windows: Array
    truth: Array | None
    source: str

    @classmethod
    def from_file(
        cls, input: PathLike, fs: float | None, column: str | int | None, at_least: int
    ) -> "_Recording":
        if fs is None:
            raise RequestError(f"fs is missing: the sampling rate of {input}, in Hz")
        windows = ppg_files.to_windows(ppg_files.read_signal(input, column), fs, at_least=at_least)
        return cls(ppg_files.to_scale(windows), None, os.path.basename(input))

    @classmethod
    def from_wheel(cls, wheel: Path) -> "_Recording":
        windows, truth = read_windows(read_member(wheel, _WINDOWS))
        return cls(windows, truth, "PPG-DaLiA subject 6, stairs")


def _check_options(input: PathLike | None, fs: float | None, column: str | int | None) -> None:
    given = [name for name, value in (("fs", fs), ("column", column)) if value is not None]
    if input is None and given:
        raise RequestError(f"{given[0]} describes your own input: give input too")


def _weights_file(path: PathLike) -> Path:
    if not os.path.isfile(path):
        raise RequestError(f"there is no file {path} to read weights from")
    return Path(path)


def _specimen(
    model: nn.Module, inputs: Array, truth: Array | None, *, name: str, description: str,
    samples: int, featured_site: str,
) -> Specimen:  # fmt: skip
    """The specimen of `model` on `inputs`.

    `truth` is their heart rates in BPM, None if unknown. Each input is of `samples` samples of the
    recording, the next one begins a hop later.
    """
    batches = torch.split(torch.from_numpy(inputs).float(), BATCH)
    return Specimen(
        name=name,
        description=description,
        license="GPL-3.0-only",
        model=model,
        inputs=batches,
        n_inputs=len(inputs),
        fs=FS,
        time_axis=1,  # [N, 256], or pairs of windows [N, 256, 2]
        metric=_scores,
        targets=None if truth is None else torch.from_numpy(truth),
        error=None if truth is None else _error,
        error_name="heart-rate MAE (BPM)",
        block=4 * math.ceil(samples / ppg_files.HOP),  # four times as many as share samples
        f0=(_estimates(model, batches) if truth is None else truth) / 60,
        f0_name="estimated heart rate" if truth is None else "heart rate",
        per_minute=True,
        featured_site=featured_site,
    )


def _estimates(model: nn.Module, batches: Iterable[Tensor]) -> Array:
    """The network's estimates ``[n]`` in BPM; NaN where the estimate is not plausible."""
    with torch.inference_mode():
        outputs = torch.cat([model(batch) for batch in batches])
    rates: Array = outputs.view(len(outputs), -1)[:, 0].double().numpy()
    low, high = PLAUSIBLE
    return np.where((rates >= low) & (rates <= high), rates, np.nan)


def _error(outputs: Tensor, truth: Tensor) -> Tensor:
    """Absolute error of each estimate, in BPM."""
    return (outputs.view(len(outputs), -1)[:, 0].double() - truth.to(outputs.device)).abs()


def _scores(outputs: Tensor, truth: Tensor | None) -> Mapping[str, Tensor]:
    """Errors of all estimates and of the confident ones; the estimates if `truth` is None."""
    columns = outputs.double().view(len(outputs), -1)
    values = columns[:, 0] if truth is None else _error(outputs, truth)
    name = "estimated heart rate, mean over" if truth is None else "heart-rate MAE,"
    scores = {f"{name} all {{n}} windows (BPM)": values}
    if columns.shape[1] == 2:
        confident = values.where(columns[:, 1] < CONFIDENT, math.nan)
        scores[f"{name} {{n}} windows with σ < {CONFIDENT:.0f} BPM (BPM)"] = confident
        if truth is None:
            scores["σ of the estimate, mean over all {n} windows (BPM)"] = columns[:, 1]
    return scores
