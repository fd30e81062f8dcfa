"""Rectified tones, exact.

One tone with an offset has closed forms. For several tones of incommensurate frequencies, averages
over time are averages over independent uniform phases. Those are integrals over products of Bessel
functions, the characteristic function of such a sum (S. O. Rice, "Mathematical analysis of random
noise", Bell System Technical Journal 24, 1945, part IV).
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import jv
from torch import Tensor

from spectroscope.dsp.theory.arrays import Values, tensors

Floats = NDArray[np.float64]

# Truncation error of a sum, relative to the range of the signal; and the longest sum, whose
# truncation error is 1e-10 at most (of a single tone).
_TAIL = 1e-12
_LONGEST = 1 << 20


def cosine_harmonics(
    amplitude: Values, offset: Values = 0.0, orders: int | Sequence[int] | NDArray[np.int_] = 8
) -> Any:
    """Amplitudes c_n of the harmonics of ReLU(offset + amplitude·cos θ) = Σ c_n·cos nθ, exact.

    The output is positive where ``|θ| < α``, cos α = −offset/amplitude. Fourier's integrals over
    that interval are c_0 = (offset·α + amplitude·sin α)/π and, with amplitude/π before each,
    c_1 = α − sin α·cos α and c_n = (sin (n−1)α/(n−1) − sin (n+1)α/(n+1))/n: the harmonics of an
    amplifier by conduction angle (S. C. Cripps, *RF Power Amplifiers*, chapter 3). Without offset
    that is amplitude/π, amplitude/2, and 2·amplitude/(π(1 − n²))·cos(nπ/2) of even n.

    Args:
        amplitude: ≥ 0, any shape, any unit.
        offset: broadcast against it, in the same unit.
        orders: a number K for 0 … K, or the orders themselves, each ≥ 0; 0 is the DC.

    Returns:
        ``[..., orders]``, in the same unit, signed. In sampled signals the harmonics above the
        Nyquist frequency fold.

    Raises:
        ValueError: an amplitude or an order is negative.

    >>> cosine_harmonics(1.0, 0.0, [0, 1, 2, 4]).round(4).tolist()
    [0.3183, 0.5, 0.2122, -0.0424]
    """
    order_list = range(orders + 1) if isinstance(orders, (int, np.integer)) else list(orders)
    lowest = orders if isinstance(orders, (int, np.integer)) else min(order_list, default=0)
    if lowest < 0:
        raise ValueError(f"orders must be ≥ 0, found {lowest}")
    (a, mu), back = tensors(amplitude, offset)
    if (a < 0).any():
        raise ValueError(f"amplitude must be ≥ 0, found {a.min().item():.6g}")
    alpha = conduction_angle(mu, a)
    amplitudes = []
    for n in order_list:
        if n == 0:
            amplitudes.append(rectified_tone_dc(mu, a))
        elif n == 1:
            amplitudes.append(a / math.pi * (alpha - 0.5 * (2 * alpha).sin()))
        else:
            below, above = (((n + step) * alpha).sin() / (n + step) for step in (-1, 1))
            amplitudes.append(a / (math.pi * n) * (below - above))
    return back(torch.stack(amplitudes, -1) if amplitudes else alpha.new_zeros(*alpha.shape, 0))


def conduction_angle(offset: Tensor, amplitude: Tensor) -> Tensor:
    """α such that ReLU(offset + amplitude·cos θ) is positive for |θ| < α; radians, from 0 to π.

    Args:
        offset: any shape and unit.
        amplitude: ≥ 0, of the same shape and unit; 0 gives 0 or π.
    """
    # arccos(−offset/amplitude), accurate for angles near 0 too.
    divisor = torch.where(amplitude == 0, 1.0, amplitude)
    ratio = (offset + divisor) / (2 * divisor)
    ratio = torch.where(amplitude == 0, (offset > 0).to(offset), ratio)
    return 2 * ratio.clamp(0, 1).sqrt().asin()


def rectified_tone_dc(offset: Tensor, amplitude: Tensor) -> Tensor:
    """DC of ReLU(offset + amplitude·cos θ), as of :func:`cosine_harmonics`; without checks.

    Args:
        offset: any shape and unit.
        amplitude: ≥ 0, of the same shape and unit; 0 gives ReLU(offset).
    """
    angle = conduction_angle(offset, amplitude)
    tone = (offset * angle + amplitude * angle.sin()) / math.pi
    return torch.where(offset.abs() >= amplitude, offset.clamp_min(0), tone)


def tones_dc(amplitudes: Values, offset: Values = 0.0, noise: Values = 0.0) -> Any:
    """DC of ReLU(offset + Σ a_i·cos φ_i + noise), tones of independent phase and Gaussian noise.

    ½·offset + (1/π)·∫₀^∞ (1 − cos(offset·u)·exp(−(noise·u)²/2)·Π J₀(a_i·u))/u² du.

    Args:
        amplitudes: ``[..., K]``, K ≥ 0, any unit.
        offset: ``[...]``, in the same unit.
        noise: ``[...]``, its standard deviation, ≥ 0, in the same unit.

    Returns:
        ``[...]``, in the same unit; without gradient. The error is at most 1e-10 of the signal's
        largest possible value, and mostly far smaller; NaN where an argument is.

    Raises:
        ValueError: a `noise` is negative, or `amplitudes` has no axis.

    >>> tones_dc([1.0, 1.0, 1.0, 1.0]).round(5)
    np.float64(0.57267)
    """
    (a, mu, sigma), back = tensors(amplitudes, offset, noise)
    if a.dim() == 0:
        raise ValueError("amplitudes must have an axis of tones, [..., K]; found a number")
    return back(_phase_average(a, [0] * a.shape[-1], mu, sigma))


def intermodulation(
    amplitudes: Values, orders: Sequence[int], offset: Values = 0.0, noise: Values = 0.0
) -> Any:
    """Amplitude of cos(Σ m_i·φ_i) in ReLU(offset + Σ a_i·cos φ_i + noise), exact.

    The intermodulation product at Σ m_i·f_i, signed: (1, −1) is the difference of two tones, (2, 0)
    the second harmonic of the first. (1, 0) is the paper's ½·a_1, plus the contribution of ½|x| if
    there is an offset: −(2/π)·∫₀^∞ cos(offset·u + mπ/2)·exp(−(noise·u)²/2)·Π J_{m_i}(a_i·u)/u² du,
    m = Σ|m_i|.

    Args:
        amplitudes: ``[..., K]``, any unit.
        orders: K integers m_i, not all 0 (for the DC see :func:`tones_dc`).
        offset: ``[...]``, in the same unit.
        noise: ``[...]``, its standard deviation, ≥ 0, in the same unit.

    Returns:
        ``[...]``, as :func:`tones_dc`.

    Raises:
        ValueError: `orders` are all 0, or their number isn't that of the tones; a `noise` is
            negative.

    >>> intermodulation([1.0, 1.0], (1, -1)).round(5)  # 8/(3π²)
    np.float64(0.27019)
    """
    (a, mu, sigma), back = tensors(amplitudes, offset, noise)
    if a.dim() == 0 or a.shape[-1] != len(orders):
        raise ValueError(f"{orders=} must be one for each tone of [..., K] = {list(a.shape)}")
    magnitudes = [abs(operator.index(order)) for order in orders]
    if not any(magnitudes):
        raise ValueError(f"{orders=}: that is the DC, see tones_dc")
    return back(_phase_average(a, magnitudes, mu, sigma))


def _phase_average(a: Tensor, orders: list[int], mu: Tensor, sigma: Tensor) -> Tensor:
    """Average of ReLU(x), or of ReLU(x)·2·cos Σ m_i·φ_i, over phases and noise."""
    a, mu, sigma = a.detach(), mu.detach(), sigma.detach()
    if (sigma < 0).any():
        raise ValueError(f"noise must be ≥ 0, found {sigma.min().item():.6g}")
    shape = np.broadcast_shapes(a.shape[:-1], mu.shape, sigma.shape)
    rows = [value.expand(shape).reshape(-1).cpu().numpy().tolist() for value in (mu, sigma)]
    tones = a.expand(*shape, a.shape[-1]).reshape(math.prod(shape), a.shape[-1]).abs().cpu().numpy()
    signs = a.sign() ** a.new_tensor(orders)
    averages = [
        _average_of_abs(amplitudes, orders, offset, noise)
        for amplitudes, offset, noise in zip(tones, *rows, strict=True)
    ]
    value = a.new_tensor(averages).view(shape) * signs.prod(-1)
    if not any(orders):
        return 0.5 * (mu + value)
    linear = a[..., orders.index(1)] if sum(orders) == 1 else 0.0
    return 0.5 * (value + linear)


def _average_of_abs(a: Floats, orders: list[int], mu: float, sigma: float) -> float:
    """As :func:`_phase_average`, of |x|, by the Fourier series of |x| on an interval [−L, L].

    There |x| = L/2 − (4L/π²)·Σ cos(kπx/L)/k² over odd k: Bessel's integral, sampled at u = kπ/L,
    and exact as long as |x| ≤ L.
    """
    total = sum(orders)
    reach = float(a.sum()) + 9 * sigma  # noise exceeds that with probability 1e-19
    limit = abs(mu) + reach
    if not math.isfinite(limit):
        return math.nan
    if abs(mu) >= reach:  # x never changes sign
        tone = float(a[orders.index(1)]) if total == 1 else 0.0
        return abs(mu) if total == 0 else math.copysign(tone, mu)
    m = np.array(orders, np.float64)
    longest = _series_length(a, m, sigma, limit)
    step = 1 << 15
    series = 0.0
    for first in range(1, longest, 2 * step):
        k = np.arange(first, min(first + 2 * step, longest + 1), 2, dtype=np.float64)
        u = k * (math.pi / limit)
        # cos(mu·u + total·π/2), exact for multiples of π/2.
        factor = (np.cos, np.sin, np.cos, np.sin)[total % 4](mu * u) * (1, -1, -1, 1)[total % 4]
        product = factor * np.exp(-0.5 * np.square(sigma * u)) / np.square(k)
        for tone, order in zip(a, m, strict=True):
            product *= jv(order, tone * u)
        series += float(product.sum())
    series *= -4 * limit / math.pi**2
    return limit / 2 + series if total == 0 else 2 * series


def _series_length(a: Floats, m: Floats, sigma: float, limit: float) -> int:
    """Largest k of the sum: the envelope of the terms beyond it is below `_TAIL`·limit.

    √x·|J_m(x)| is bounded (A. Ya. Olenko, "Upper bound on √x·J_ν(x) and its applications", Integral
    Transforms and Special Functions 17, 2006).
    """
    cube = np.cbrt(np.maximum(m, 1))
    bound = np.where(m > 0, 0.675 * np.sqrt(cube + 1.856 / cube + 1.034 / cube**3), 0.798)
    k = 2.0 ** np.arange(5, 21)
    u = k * (math.pi / limit)
    with np.errstate(divide="ignore"):
        each = np.minimum(1, bound / np.sqrt(a * u[:, np.newaxis]))
    envelope = np.exp(-0.5 * np.square(sigma * u)) * each.prod(1)
    small = 4 / math.pi**2 * envelope / (2 * k) < _TAIL
    return int(k[small.argmax()]) if small.any() else _LONGEST
