"""Rectified Gaussian signals, exact.

For a stationary Gaussian process the output's autocorrelation follows from the input's alone (R.
Price, "A useful theorem for nonlinear devices having Gaussian inputs", IRE Transactions on
Information Theory 4, 1958), and its power spectrum by a Fourier transform.
"""

import math
from typing import Any

import numpy as np
import torch

from spectroscope.dsp.theory.arrays import Values, tensors


def gaussian_dc(mean: Values, std: Values) -> Any:
    """DC of ReLU(x) for Gaussian x, exact: σ·φ(μ/σ) + μ·Φ(μ/σ).

    The mean of a rectified normal variable (the first moment of the censored normal: Tobin,
    *Econometrica* 26, 1958). A measured DC that differs shows that the input isn't Gaussian.

    Args:
        mean: μ, any shape, in the unit of x.
        std: σ ≥ 0, broadcast against `mean`, in the unit of x. σ = 0 gives ReLU(μ).

    Returns:
        E[ReLU(x)], in the unit of x; NaN where either argument is NaN.

    Raises:
        ValueError: a σ is negative.

    >>> float(gaussian_dc(0.0, 1.0))  # 1/√(2π)
    0.3989422804014327
    """
    (mu, sigma), back = tensors(mean, std)
    if (sigma < 0).any():
        raise ValueError(f"std must be ≥ 0, found {sigma.min().item():.6g}")
    z = torch.where(sigma > 0, mu / torch.where(sigma > 0, sigma, 1.0), 0.0)
    # Far below zero the two terms nearly cancel. With erfcx, Φ(z) = φ(z)·√(π/2)·erfcx(−z/√2),
    # they share the factor φ, and rounding affects only 1 − |z|·(…) ≈ 1/z².
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    below = z.clamp_max(0)
    tail = 1 + below * math.sqrt(math.pi / 2) * torch.special.erfcx(-below / math.sqrt(2))
    dc = torch.where(z < 0, sigma * density * tail, sigma * density + mu * torch.special.ndtr(z))
    dc = torch.where(sigma == 0, mu.clamp_min(0), dc)
    return back(torch.where(mu == -math.inf, 0.0, dc))


def gaussian_gain(mean: Values, std: Values) -> Any:
    """Bussgang's gain of ReLU for Gaussian x: Φ(μ/σ), the fraction of time with x > 0.

    Cross-correlation of output and input is the input's autocorrelation times this (J. J. Bussgang,
    "Crosscorrelation functions of amplitude-distorted Gaussian signals", 1952): ½ without DC.

    Args:
        mean: μ, any shape and unit.
        std: σ ≥ 0, broadcast against it, in the same unit; 0 gives 0, ½, 1 for μ < 0, = 0, > 0.

    Returns:
        Dimensionless; NaN where either argument is.

    Raises:
        ValueError: a σ is negative.

    >>> float(gaussian_gain(0.0, 2.0))
    0.5
    """
    (mu, sigma), back = tensors(mean, std)
    if (sigma < 0).any():
        raise ValueError(f"std must be ≥ 0, found {sigma.min().item():.6g}")
    constant = torch.where(mu == 0, mu, mu.sign() * math.inf)
    z = torch.where(sigma == 0, constant, mu / sigma)
    return back(torch.erfc(-z / math.sqrt(2)) / 2)  # torch's ndtr is 0 from −9 down


def gaussian_autocorrelation(autocovariance: Values, mean: Values = 0.0) -> Any:
    """Autocorrelation E[y(t)·y(t + τ)] of y = ReLU(x), x stationary and Gaussian, exact.

    By Price's theorem its second derivative with respect to the input's autocovariance is the joint
    density at 0. So with ρ(τ), with μ in units of σ, and with φ, Φ of the standard normal

        R_y/σ² = (φ(μ) + μΦ(μ))² + ρ·Φ(μ)² + (1/2π)·∫₀^{arcsin ρ} (ρ − sin θ)·e^{−μ²/(1 + sin θ)} dθ

    (integrated numerically, to 1e-11 of σ²); for μ = 0 it is (√(1 − ρ²) + ρ·(π − arccos ρ))/2π, the
    arc-cosine kernel of order 1 (Cho and Saul, "Kernel methods for deep learning", 2009).

    Args:
        autocovariance: ``[..., lags]`` of x, the first at lag 0: the variance; in x's unit squared.
        mean: ``[...]``, μ of x, in x's unit.

    Returns:
        ``[..., lags]``, in x's unit squared; includes the square of y's DC.

    Raises:
        ValueError: a variance is negative, or `autocovariance` has no axis.

    >>> gaussian_autocorrelation([1.0, 0.0, 1.0]).round(4).tolist()  # ½ and 1/2π
    [0.5, 0.1592, 0.5]
    """
    (covariance, mean), back = tensors(autocovariance, mean)
    if covariance.dim() == 0:
        raise ValueError("autocovariance must have an axis of lags, [..., lags]; found a number")
    variance = covariance[..., :1]
    if (variance < 0).any():
        raise ValueError(f"the variance must be ≥ 0, found {variance.min().item():.6g}")
    mean, std = mean.unsqueeze(-1), variance.sqrt()
    dc, gain = gaussian_dc(mean, std), gaussian_gain(mean, std)
    constant = variance == 0
    rho = torch.where(constant, 0.0, covariance / torch.where(constant, 1.0, variance)).clamp(-1, 1)
    square = torch.where(constant, 0.0, mean / torch.where(constant, 1.0, std)).square()
    half = rho.asin() / 2
    curved = torch.zeros_like(rho)
    for node, weight in zip(*(values.tolist() for values in _GAUSS_LEGENDRE), strict=True):
        sine = (half * (1 + node)).sin()
        curved = curved + weight * (rho - sine) * torch.exp(-square / (1 + sine))
    return back(dc.square() + variance * (rho * gain.square() + curved * half / (2 * math.pi)))


def gaussian_spectrum(power: Values, length: int, mean: Values = 0.0) -> Any:
    """Power spectrum of y = ReLU(x) from the power spectrum of a Gaussian x, exact.

    The transform of :func:`gaussian_autocorrelation`, on a circle of `length` samples: components
    above the Nyquist frequency fold, as they do in the sampled signal. It holds for a window cut
    from a longer recording too, leakage aside.

    Args:
        power: ``[..., length // 2 + 1]``, one-sided, scaled as `Report.spectra` and
            `scipy.signal.periodogram(..., scaling="spectrum", detrend=False)`, averaged over
            inputs, boxcar window; in x's unit squared.
        length: T, samples.
        mean: ``[...]``, μ of x; bin 0 of `power` is μ² plus the variance of the windows' means.

    Returns:
        As `power`, of the output.

    Raises:
        ValueError: `power` hasn't length // 2 + 1 bins.

    >>> gaussian_spectrum([0.0, 0.5, 0.5], 4).round(4).tolist()  # half the power in total
    [0.192, 0.1704, 0.1375]
    """
    (power, mean), back = tensors(power, mean)
    if power.dim() == 0 or power.shape[-1] != length // 2 + 1:
        shape = list(power.shape)
        raise ValueError(f"power must be [..., {length // 2 + 1}] for {length=}, found {shape}")
    one_sided = torch.full((length // 2 + 1,), 2.0, dtype=power.dtype, device=power.device)
    one_sided[0] = 1
    if length % 2 == 0:
        one_sided[-1] = 1
    first = (power[..., :1] - mean.square().unsqueeze(-1)).clamp_min(0)
    varying = torch.cat([first, power[..., 1:].expand(*first.shape[:-1], -1)], -1)
    covariance = torch.fft.irfft(varying / one_sided, n=length, norm="forward")
    output = torch.fft.rfft(gaussian_autocorrelation(covariance, mean), norm="forward")
    return back((output.real * one_sided).clamp_min(0))


_GAUSS_LEGENDRE = np.polynomial.legendre.leggauss(96)
