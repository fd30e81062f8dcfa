"""Frequency responses of the filters that convolutions are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def response(
    kernel: Tensor, freq: Tensor, *, dilation: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """What a convolution layer does to exp(2πi·f·n): its output at n over its input at n·stride.

    Σ_k w_k·exp(2πi·f·(k·dilation − padding)). Layers correlate: w isn't reversed, and the
    conjugate of ``scipy.signal.freqz(w)`` is this with no padding. Borders are left out.

    Args:
        kernel: real, ``[..., K]`` for D = 1, ``[..., K, K']`` for D = 2.
        freq: ``[F, D]``, in cycles per sample of the layer's input.
        dilation: of each of the D axes.
        padding: likewise, zeros in front.

    Returns:
        complex128, ``[..., F]``, output per input.

    >>> moving_average = torch.ones(2) / 2
    >>> response(moving_average, torch.tensor([[0.0], [0.25]]), dilation=[1], padding=[0]).abs()
    tensor([1.0000, 0.7071], dtype=torch.float64)
    """
    found = kernel.to(torch.complex128)
    for axis in range(freq.shape[1]):
        taps = kernel.shape[kernel.dim() - freq.shape[1] + axis]
        place = torch.arange(taps, dtype=torch.float64) * dilation[axis] - padding[axis]
        phase = 2 * math.pi * freq[:, axis].double() * place.unsqueeze(-1)  # [K, F]
        turn = torch.polar(torch.ones_like(phase), phase)
        if axis == 0:
            # The taps of this axis are the first of those left.
            found = torch.tensordot(found.movedim(kernel.dim() - freq.shape[1], -1), turn, dims=1)
        else:
            found = (found * turn).sum(-2)
    return found
