"""Heart-rate networks for wrist PPG: KID-PPG, and the network of Kechris et al. (2024), Fig. 3.

Both are by the same authors (arXiv 2407.16556) and share three blocks of three convolutions, each
block ending in average pooling. Their inputs are windows of 8 s at 32 Hz. Layers are registered in
the order of the Keras models.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def _blocks() -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    return _block(1, 32, pool=4), _block(32, 48, pool=2), _block(48, 64, pool=2)


def _features(blocks: Iterable[nn.Module], windows: Tensor) -> Tensor:
    """Features at 2 Hz, ``[N, 16, 64]``, of windows ``[N, 256]``."""
    x = windows.unsqueeze(1)
    for block in blocks:
        x = block(x)
    return x.transpose(1, 2)


class KidPPG(nn.Module):
    """KID-PPG in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = _blocks()
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
        blocks = (self.block1, self.block2, self.block3)
        previous, current = (_features(blocks, window) for window in pairs.unbind(-1))
        attended, _ = self.attention(current, previous, previous, need_weights=False)
        x = self.norm(attended + current).flatten(1)
        mean, scale = self.head(self.dense_relu(self.dense(x))).unbind(1)
        return torch.stack([mean, 1 + F.softplus(scale)], dim=1)


class PaperPPG(nn.Module):
    """The network of Fig. 3: self-attention replaces the features instead of adding to them.

    The Keras file has dropout too, which has no effect in eval mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = _blocks()
        self.attention = nn.MultiheadAttention(64, num_heads=4, batch_first=True)
        self.norm = nn.LayerNorm(64, eps=1e-3)
        self.dense = nn.Linear(16 * 64, 32)
        self.dense_relu = nn.ReLU()
        self.head = nn.Linear(32, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Heart rate of each window.

        Args:
            windows: ``[N, 256]``, raw PPG at 32 Hz.

        Returns:
            ``[N]``, in BPM.
        """
        x = _features((self.block1, self.block2, self.block3), windows)
        attended, _ = self.attention(x, x, x, need_weights=False)
        rate: Tensor = self.head(self.dense_relu(self.dense(self.norm(attended).flatten(1))))
        return rate.squeeze(1)
