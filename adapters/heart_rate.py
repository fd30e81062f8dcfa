"""Heart-rate CNNs on wrist PPG: KID-PPG, with its trained weights and real recordings.

KID-PPG (Kechris et al., 2024) estimates the heart rate and its own uncertainty from two
overlapping 8 s windows of PPG. Weights and windows are in the wheel of the `kid-ppg` project
(GPL-3.0), which asks for TensorFlow and an old Python; only the two files are taken from it.
"""

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from spectroscope.adapters import keras_weights
from spectroscope.adapters.wheels import PinnedWheel, read_member
from spectroscope.errors import RequestError
from spectroscope.specimens import Specimen

FS = 32.0  # Hz
BATCH = 64
# The model is sure of itself where its σ is below this (BPM).
SURE = 8.0

WHEEL = PinnedWheel(
    "kid-ppg",
    "0.0.4",
    "kid_ppg-0.0.4-py3-none-any.whl",
    "1147d0b0120c45438d02c88f5c972cf652bb295a436698aa130948d8fcb848c0",
)
_WEIGHTS = "kid_ppg/model_weights/kid_ppg_weights.h5"
_WINDOWS = "kid_ppg/demo/demo_data/PPGDalia_S6_stairs.pkl"

Array = NDArray[np.float64]


class CausalConv(nn.Sequential):
    """Causal convolution (kernel 5, dilation 2) and ReLU, ``[N, C, T]`` → ``[N, filters, T]``."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.pad = nn.ConstantPad1d((8, 0), 0.0)
        self.conv = nn.Conv1d(channels, filters, kernel_size=5, dilation=2)
        self.relu = nn.ReLU()


def _block(channels: int, filters: int, pool: int) -> nn.Sequential:
    return nn.Sequential(
        CausalConv(channels, filters),
        CausalConv(filters, filters),
        CausalConv(filters, filters),
        nn.AvgPool1d(pool),
    )


class KidPPG(nn.Module):
    """KID-PPG in PyTorch; layers are registered in the order of the Keras model's."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(1, 32, pool=4)
        self.block2 = _block(32, 48, pool=2)
        self.block3 = _block(48, 64, pool=2)
        self.attention = nn.MultiheadAttention(64, num_heads=4, batch_first=True)
        self.norm = nn.LayerNorm(64, eps=1e-3)
        self.dense = nn.Linear(16 * 64, 256)
        self.dense_relu = nn.ReLU()
        self.head = nn.Linear(256, 2)

    def _features(self, window: Tensor) -> Tensor:
        features: Tensor = self.block3(self.block2(self.block1(window.unsqueeze(1))))
        return features.transpose(1, 2)

    def forward(self, pairs: Tensor) -> Tensor:
        """Heart rate of the second window of each pair.

        Args:
            pairs: ``[N, 256, 2]``, windows n − 1 and n of raw PPG at 32 Hz.

        Returns:
            ``[N, 2]``: mean and standard deviation σ of the estimate, in BPM.
        """
        previous, current = self._features(pairs[..., 0]), self._features(pairs[..., 1])
        attended, _ = self.attention(current, previous, previous, need_weights=False)
        features = self.norm(attended + current).flatten(1)
        mean, scale = self.head(self.dense_relu(self.dense(features))).unbind(1)
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


def kid_ppg(*, weights: str | os.PathLike[str] | None = None) -> Specimen:
    """KID-PPG: heart rate from wrist PPG, on 214 real window pairs (PPG-DaLiA, stairs).

    Args:
        weights: the `kid-ppg` wheel, or a Keras weights file (HDF5) of this network, to use
            instead of the wheel that pip fetches. With a weights file the windows still come
            from the wheel.

    Raises:
        RequestError: the wheel can't be fetched, or a file isn't what it should be.
    """
    path = None if weights is None else Path(weights)
    if path is not None and not os.path.isfile(path):
        raise RequestError(f"there is no file {path} to read weights from")
    if path is not None and zipfile.is_zipfile(path):
        WHEEL.verify(path)
        wheel, path = path, None
    else:
        wheel = WHEEL.locate()
    model = KidPPG().eval()
    source = io.BytesIO(read_member(wheel, _WEIGHTS)) if path is None else path
    keras_weights.load(model, source, str(wheel if path is None else path))
    windows, heart_rates = read_windows(read_member(wheel, _WINDOWS))
    pairs = torch.from_numpy(np.stack([windows[:-1], windows[1:]], axis=-1)).float()
    truth = torch.from_numpy(heart_rates[1:])

    def metric(outputs: Tensor) -> Mapping[str, float]:
        mean, sigma = outputs.cpu().double().unbind(1)
        error, sure = (mean - truth).abs(), sigma < SURE
        over = {
            f"all {len(error)} windows": error,
            f"{int(sure.sum())} windows with σ < {SURE:.0f} BPM": error[sure],
        }
        return {f"heart-rate MAE, {what} (BPM)": part.mean().item() for what, part in over.items()}

    return Specimen(
        name="kid-ppg",
        description="KID-PPG, heart rate from wrist PPG, on PPG-DaLiA subject 6, stairs",
        license="GPL-3.0-only",
        model=model,
        inputs=torch.split(pairs, BATCH),
        n_inputs=len(pairs),
        fs=FS,
        metric=metric,
        f0=heart_rates[1:] / 60,
        f0_name="heart rate",
        per_minute=True,
        showpiece="block1.2.relu#1",
    )
