"""What a rectifier preserved of its input and what it introduced, from power and cross-spectra.

ReLU(x) = ½x + ½|x|: the first half keeps the input's spectrum, the second is everything new
(Kechris et al., 2024). For any other rectifier the input's share is what regression of the output
on the input gives it: Bussgang's gain ("Crosscorrelation functions of amplitude-distorted Gaussian
signals", 1952).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RELU_GAIN = 0.5


def introduced_power(
    power_in: Floats, power_out: Floats, cross: Floats, gain: float | Floats = RELU_GAIN
) -> Floats:
    """Power of y − gain·x: S_y − 2·gain·Re S_xy + gain²·S_x, at each frequency.

    For ReLU and gain ½ that is the power spectrum of ½|x|, S_y − Re S_xy + ¼S_x.

    Args:
        power_in: S_x, any shape, in activation².
        power_out: S_y, likewise.
        cross: real part of S_xy, likewise.
        gain: broadcast against them.

    Returns:
        Likewise, and never less than 0, which it is to rounding where y = gain·x.
    """
    return np.maximum(power_out - 2 * gain * cross + gain**2 * power_in, 0)


def coherence(power_in: Floats, power_out: Floats, cross: NDArray[np.complex128]) -> Floats:
    """Magnitude-squared coherence |S_xy|²/(S_x·S_y) of averaged spectra (scipy.signal.coherence).

    1 where the output is the input filtered; biased towards 1 by 1/n where only n spectra went into
    the average, and 1 throughout for n = 1.

    Returns:
        In [0, 1]; NaN where either power is 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.abs(cross) ** 2 / (power_in * power_out)
    return found


def band_edge(power: Floats, share: float = 0.99) -> NDArray[np.int64]:
    """First bin up to which at least `share` of the power beside DC lies: the spectral roll-off.

    Args:
        power: ``[..., F]``, bin 0 is the DC.
        share: in (0, 1].

    Returns:
        ``[...]``, index of a bin; 0 where there is no power but what rounding leaves of a DC.
    """
    total = np.cumsum(power[..., 1:], axis=-1)
    some = total[..., -1] > 1e-28 * power[..., 0]
    reached = total >= share * total[..., -1:] * (1 - 1e-12)
    found: NDArray[np.int64] = np.where(some, np.argmax(reached, axis=-1) + 1, 0)
    return found
