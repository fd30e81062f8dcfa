"""What a ReLU should do, in closed form.

Every function predicts a number that :mod:`spectroscope.statistics` measures, so that the two
can stand side by side in a report.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr


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
    with np.errstate(over="ignore"):  # z² may overflow: φ is then 0, as it should be
        density = np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi)
    dc: NDArray[np.float64] = sigma * density + mu * ndtr(z)
    return np.where(sigma == 0, np.maximum(mu, 0.0), dc)
