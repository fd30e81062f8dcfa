"""Frequency responses of convolution layers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def response(
    kernel: Tensor, freq: Tensor, *, dilation: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Frequency response of a convolution layer.

    Of the input exp(2πi·f·n), its output at n over its input at n·stride is
    Σ_k w_k·exp(2πi·f·(k·dilation − padding)). Layers correlate, without reversing w, so without
    padding this is the conjugate of ``scipy.signal.freqz(w)``. Borders are left out.

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
    result = kernel.to(torch.complex128)
    for axis in range(freq.shape[1]):
        taps = kernel.shape[kernel.dim() - freq.shape[1] + axis]
        position = torch.arange(taps, dtype=torch.float64) * dilation[axis] - padding[axis]
        phase = 2 * math.pi * freq[:, axis].double() * position.unsqueeze(-1)  # [K, F]
        phasor = torch.polar(torch.ones_like(phase), phase)
        if axis == 0:
            taps_last = result.movedim(kernel.dim() - freq.shape[1], -1)
            result = torch.tensordot(taps_last, phasor, dims=1)
        else:
            result = (result * phasor).sum(-2)
    return result
