"""Amplitudes at the multiples of a fundamental, at their exact frequencies.

Frequencies are in cycles per sample. Amplitudes are of cosines: A·cos(2πft + φ) reads A.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Samples projected at once.
_CHUNK = 1 << 14


class Harmonics(NamedTuple):
    """Frequencies of the harmonics of some fundamentals, in sampled signals of a given length.

    Attributes:
        f0: ``[N]``, the fundamentals, float64.
        freq: ``[N, K]``, the frequency of harmonic 1 … K, folded into [0, 1/2].
        folded: ``[N, K]``, whether k·f0 lies above the Nyquist frequency.
        usable: ``[N, K]``, whether the harmonic's amplitude can be separated from all others.
    """

    f0: Tensor
    freq: Tensor
    folded: Tensor
    usable: Tensor

    @classmethod
    def of(cls, f0: Tensor, orders: int, length: int) -> "Harmonics":
        """The harmonics of `f0`, as signals of `length` samples resolve them.

        A harmonic isn't usable if it lies less than 1/length, the width of a bin, from DC, from
        its own mirror image at Nyquist, or from the next harmonic. A folded one isn't usable
        either if it falls on another of the orders 1 … `orders`. (The one that isn't folded stays:
        its amplitude includes what folds onto it.)

        Args:
            f0: ``[N]``, in cycles per sample; NaN: unknown, and no harmonic is usable.
            orders: K ≥ 1.
            length: T.
        """
        f0 = f0.double()
        order = torch.arange(1, orders + 1, dtype=torch.float64, device=f0.device)
        true = f0.unsqueeze(-1) * order
        freq = (true - true.round()).abs()
        folded = true > 0.5
        # Less rounding: f0 = 1/T is the fundamental of a whole period.
        bin_width = (1 - 1e-9) / length
        usable = (freq >= bin_width) & (1 - 2 * freq >= bin_width)
        usable &= f0.unsqueeze(-1) >= bin_width
        near = (freq.unsqueeze(-1) - freq.unsqueeze(-2)).abs() < bin_width
        near &= ~torch.eye(orders, dtype=torch.bool, device=f0.device)
        return cls(f0, freq, folded, usable & ~(folded & near.any(-1)))


class Fit(NamedTuple):
    """Result of :func:`fit`.

    Attributes:
        dc: ``[N, C]``, in x's unit.
        amplitude: ``[N, C, K]``, likewise; 0 where not usable.
        noise_and_distortion: ``[N, C]``, power of x without the DC and the fundamental.
    """

    dc: Tensor
    amplitude: Tensor
    noise_and_distortion: Tensor


def fit(x: Tensor, harmonics: Harmonics, mean: Tensor, power: Tensor) -> Fit:
    """Fit DC and harmonics to x, all together, by least squares.

    So neither the DC nor a harmonic leaks into another, at any f0: where 1, cos and sin at the
    usable frequencies explain x, the amplitudes are exact (the multi-harmonic extension of IEEE
    Std 1057's sine fit). Anything else in x leaks as in a boxcar periodogram. The cosines and sines
    are powers of one rotating phasor, which aliases as the samples do, so folding is no special
    case.

    Args:
        x: float64, ``[N, C, T]``.
        harmonics: of N fundamentals, or of one for all, resolved at T.
        mean: ``[N, C]``, x's mean over T.
        power: likewise, its mean squared deviation from that.
    """
    samples, channels, length = x.shape
    count, orders = harmonics.freq.shape
    f0 = harmonics.f0.nan_to_num(0.25)  # unknown, so no harmonic is usable
    right = x.new_zeros(samples, channels, orders, 2)
    for start in range(0, length, _CHUNK):
        time = torch.arange(
            start, min(start + _CHUNK, length), dtype=torch.float64, device=x.device
        )
        phase = 2 * math.pi * f0.unsqueeze(-1) * (time - (length - 1) / 2)
        phasor = torch.polar(torch.ones_like(phase), -phase)
        power_of_phasor, basis = phasor, []
        for _ in range(orders):
            basis.append(torch.view_as_real(power_of_phasor))
            power_of_phasor = power_of_phasor * phasor
        table = torch.stack(basis, dim=-2).flatten(-2)  # [count, time, 2K]
        chunk = x[..., start : start + _CHUNK]
        right += torch.matmul(chunk, table).view(samples, channels, orders, 2)
    # Normal equations of x - mean = Σ c_j·exp(2πi·j·f0·t), j = -K … K. Time is counted from the
    # middle, so that the Gram matrix is real, and conjugate symmetry of c leaves one equation for
    # real and imaginary parts.
    order = torch.arange(-orders, orders + 1, dtype=torch.float64, device=x.device)
    gram = _dirichlet(f0.view(-1, 1, 1) * (order - order.unsqueeze(-1)), length)
    right = right / length
    zero = right.new_zeros(samples, channels, 1, 2)
    mirrored = torch.stack([right[..., 0], -right[..., 1]], -1).flip(2)
    right = torch.cat([mirrored, zero, right], dim=2)
    right[..., 0] -= mean.unsqueeze(-1) * gram[:, orders].unsqueeze(1)
    right[:, :, orders] = 0
    usable = harmonics.usable
    used = torch.cat([usable.flip(-1), usable.new_ones(count, 1), usable], dim=-1)
    both = used.unsqueeze(-1) & used.unsqueeze(-2)
    gram = torch.where(both, gram, torch.eye(2 * orders + 1, dtype=gram.dtype, device=x.device))
    right = (right * used.view(count, 1, -1, 1)).transpose(1, 2).flatten(2)  # [N, 2K + 1, 2C]
    # Inverted, because each solve with many right sides would start threads and wait for them.
    solved = torch.matmul(torch.linalg.inv_ex(gram).inverse, right)
    # The residual of the fit, and the power of the fitted harmonics beyond the fundamental.
    distortion = solved.clone()
    distortion[:, orders - 1 : orders + 2] = 0
    remainder = (torch.matmul(gram, distortion) * distortion - solved * right).sum(1)
    remainder = power + remainder.view(samples, channels, 2).sum(-1)
    coefficients = solved.view(samples, 2 * orders + 1, channels, 2).transpose(1, 2)
    positive = coefficients[:, :, orders + 1 :]
    amplitude = 2 * torch.hypot(positive[..., 0], positive[..., 1])
    return Fit(mean + coefficients[:, :, orders, 0], amplitude, remainder.clamp_min(0))


def dominant_frequency(x: Tensor) -> Tensor:
    """Frequency of the strongest component of each signal, in cycles per sample.

    The peak of the Hann-windowed periodogram, summed over channels and interpolated: by zero
    padding to eight times the length, then by a parabola through the logarithms of three points
    (J. O. Smith, *Spectral Audio Signal Processing*, "Quadratic Interpolation of Spectral Peaks").

    Args:
        x: real, ``[N, C, T]``.

    Returns:
        ``[N]``, float64, from one cycle in T up; NaN where x is constant, isn't finite, or T < 8.
    """
    samples, _, length = x.shape
    if length < 8:
        return torch.full((samples,), math.nan, dtype=torch.float64, device=x.device)
    if samples > 1:  # one by one: a whole batch, padded to eight times its length, is too large
        return torch.cat([dominant_frequency(sample) for sample in torch.split(x, 1)])
    pad = 8
    x = x.double()
    taper = torch.hann_window(length, periodic=False, dtype=torch.float64, device=x.device)
    spectrum = torch.fft.rfft((x - x.mean(-1, keepdim=True)) * taper, n=pad * length)
    power = (spectrum.real.square() + spectrum.imag.square()).sum(1)
    inside = power[:, pad:-1]
    best = inside.argmax(-1, keepdim=True) + pad
    low, middle, high = (power.gather(-1, best + step).log().squeeze(-1) for step in (-1, 0, 1))
    offset = (0.5 * (low - high) / (low - 2 * middle + high)).clamp(-0.5, 0.5)
    # A constant leaves nothing but rounding errors.
    scale = torch.finfo(torch.float64).eps * length * x.square().sum((1, 2))
    known = power.gather(-1, best).squeeze(-1) > scale
    return torch.where(known, (best.squeeze(-1) + offset) / (pad * length), math.nan)


def _dirichlet(freq: Tensor, length: int) -> Tensor:
    """Mean of exp(2πi·freq·t) over `length` samples around t = 0: sin(πTf) / (T·sin(πf))."""
    ratio = torch.sin(math.pi * length * freq) / (length * torch.sin(math.pi * freq))
    return torch.where(freq == 0, 1.0, ratio)
