"""The preserved and the introduced part of an activation's output, from power and cross-spectra.

The preserved part is the regression of the output on the input, with Bussgang's gain
("Crosscorrelation functions of amplitude-distorted Gaussian signals", 1952). For an input without
DC, distributed symmetrically, that is the ½x of ReLU(x) = ½x + ½|x| (Kechris et al., 2024).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


RELU_GAIN = 0.5


def introduced_power(
    power_in: Floats, power_out: Floats, cross: Floats, gain: float | Floats
) -> Floats:
    """Power of y − gain·x: S_y − 2·gain·Re S_xy + gain²·S_x, at each frequency.

    For ReLU and gain ½ that is the power spectrum of ½|x|, S_y − Re S_xy + ¼S_x.

    Args:
        power_in: S_x, any shape, in activation².
        power_out: S_y, likewise.
        cross: real part of S_xy, likewise.
        gain: broadcast against them.

    Returns:
        Likewise; at least 0, which it is where y = gain·x, to rounding.
    """
    return np.maximum(power_out - 2 * gain * cross + gain**2 * power_in, 0)


def coherence(
    power_in: Floats, power_out: Floats, cross: NDArray[np.complex128], averaged: Floats
) -> Floats:
    """Magnitude-squared coherence |S_xy|²/(S_x·S_y) of averaged spectra (scipy.signal.coherence).

    1 where the output is the input filtered. Of n independent spectra the average is biased towards
    1 by 1/n (G. C. Carter, "Coherence and time delay estimation", *Proc. IEEE* 75, 1987), and a
    single one has no coherence: it would be 1 whatever the spectra are.

    Args:
        power_in: S_x, any shape, in activation².
        power_out: S_y, likewise.
        cross: S_xy, likewise.
        averaged: n, broadcast against them.

    Returns:
        In [0, 1]; NaN where either power is 0 or n is 1.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        coherence: Floats = np.abs(cross) ** 2 / (power_in * power_out)
    return np.where(averaged > 1, coherence, np.nan)


def band_edge(power: Floats, share: float = 0.99) -> NDArray[np.int64]:
    """First bin up to which at least `share` of the AC power lies: the spectral roll-off.

    Args:
        power: ``[..., F]``, bin 0 is the DC.
        share: in (0, 1].

    Returns:
        ``[...]``, index of a bin; 0 where there is no AC power beyond the rounding error of a DC.
    """
    total = np.cumsum(power[..., 1:], axis=-1)
    has_ac = total[..., -1] > 1e-28 * power[..., 0]
    reached = total >= share * total[..., -1:] * (1 - 1e-12)
    edge: NDArray[np.int64] = np.where(has_ac, np.argmax(reached, axis=-1) + 1, 0)
    return edge
