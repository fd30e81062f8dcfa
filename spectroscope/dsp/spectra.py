"""Power spectra of real signals, as scipy.signal defines them."""

import torch
from torch import Tensor


def power_spectrum(x: Tensor) -> Tensor:
    """One-sided power spectrum along the last axis.

    The meaning is that of ``scipy.signal.periodogram(x, scaling="spectrum", detrend=False)``:
    a tone A·cos that falls on a bin reads A²/2 there, the DC bin is the squared mean, and the
    bins sum to the mean square (Parseval), for even and for odd T.

    Args:
        x: real, floating point, ``[..., T]`` with T ≥ 1.

    Returns:
        ``[..., T // 2 + 1]``, in the square of x's unit. Bin k lies at k/T cycles per sample.

    >>> power_spectrum(2 * torch.cos(torch.arange(8) * torch.pi / 2)).round(decimals=3)
    tensor([0., 0., 2., 0., 0.])
    """
    length = x.shape[-1]
    spectrum = torch.fft.rfft(x, norm="forward")
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    # Each bin stands for its negative frequency too, but for DC and, at even length, Nyquist.
    power[..., 1 : (length + 1) // 2] *= 2
    return power
