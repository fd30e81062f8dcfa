"""What a ReLU should do, in closed form.

Every function predicts a number that :mod:`spectroscope.statistics` measures, so that the two
can stand side by side in a report.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, ndtr


def gaussian_dc(mean: ArrayLike, std: ArrayLike) -> NDArray[np.float64]:
    """DC of ReLU(x) for Gaussian x, exact: σ·φ(μ/σ) + μ·Φ(μ/σ).

    The mean of a rectified normal variable (the first moment of the censored normal: Tobin,
    *Econometrica* 26, 1958). Where the input isn't Gaussian the difference to the measured
    DC says so.

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
    mu, sigma = np.broadcast_arrays(np.asarray(mean, np.float64), np.asarray(std, np.float64))
    if np.any(sigma < 0):
        raise ValueError(f"std must be ≥ 0, found {sigma.min()}")
    z = np.divide(mu, sigma, out=np.zeros_like(mu), where=sigma > 0)
    with np.errstate(over="ignore", invalid="ignore"):
        # Far below zero the two terms nearly cancel; written with erfcx, Φ(z) = φ(z)·√(π/2)·
        # erfcx(−z/√2), they share the factor φ and only 1 − |z|·(…) ≈ 1/z² is left to rounding.
        density = np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)
        below = np.minimum(z, 0)
        tail = density * (1 + below * np.sqrt(np.pi / 2) * erfcx(-below / np.sqrt(2)))
        dc: NDArray[np.float64] = np.where(z < 0, sigma * tail, sigma * density + mu * ndtr(z))
    dc = np.where(sigma == 0, np.maximum(mu, 0.0), dc)
    return np.where(mu == -np.inf, 0.0, dc)
