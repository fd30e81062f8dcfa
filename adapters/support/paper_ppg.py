"""The heart-rate network of Fig. 3 of Kechris et al. (2024), and the part it shares with KID-PPG.

Both run windows of 8 s at 32 Hz through three blocks of three convolutions, each block ending in
average pooling; they differ in what comes after (arXiv 2407.16556; KID-PPG is of the same group).
"""

from collections.abc import Iterable

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


def blocks() -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The nine convolutions, new."""
    return _block(1, 32, pool=4), _block(32, 48, pool=2), _block(48, 64, pool=2)


def features(blocks: Iterable[nn.Module], windows: Tensor) -> Tensor:
    """What the `blocks` make of windows ``[N, 256]``: features at 2 Hz, ``[N, 16, 64]``."""
    x = windows.unsqueeze(1)
    for block in blocks:
        x = block(x)
    return x.transpose(1, 2)


class PaperPPG(nn.Module):
    """The network of Fig. 3: self-attention that replaces the features instead of adding to them.

    Its Keras file has dropout too, which does nothing outside training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = blocks()
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
        x = features((self.block1, self.block2, self.block3), windows)
        attended, _ = self.attention(x, x, x, need_weights=False)
        rate: Tensor = self.head(self.dense_relu(self.dense(self.norm(attended).flatten(1))))
        return rate.squeeze(1)
