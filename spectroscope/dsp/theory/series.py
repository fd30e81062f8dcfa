"""ReLU as a polynomial: the paper's Taylor series, and Chebyshev's.

ReLU(x) = ½x + ½|x|, |x| = √(x²), and x² = A·(1 + g) with g = x²/A − 1, so that
ReLU(x) = ½x + ½√A·Σ c_n gⁿ, c_n = binom(½, n) (Kechris et al., arXiv 2407.16556). The series of
√(1 + g) converges where |g| ≤ 1, that is where x² ≤ 2A, and like ρⁿ where |g| ≤ ρ < 1. But at
every zero crossing of x, g = −1. There, and so in the mean, the error falls only like a power of
the number of terms N: largest error ~N^−½, RMS ~N^−¾, DC ~N^−1.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectroscope.dsp.theory.arrays import Values, tensors


def series_coefficients(terms: int) -> NDArray[np.float64]:
    """Taylor coefficients c_0 … of √(1 + g) at g = 0: c_n = (−1)ⁿ(2n)! / ((1 − 2n)(n!)²4ⁿ).

    Args:
        terms: number of coefficients, ≥ 1.

    Returns:
        ``[terms]``, dimensionless; binom(½, n), by c_n = c_{n−1}·(3/2 − n)/n.

    Raises:
        ValueError: `terms` is less than 1.

    >>> series_coefficients(5).tolist()
    [1.0, 0.5, -0.125, 0.0625, -0.0390625]
    """
    if terms < 1:
        raise ValueError(f"{terms=} must be 1 or more")
    n = np.arange(1, terms)
    return np.cumprod(np.concatenate([[1.0], (1.5 - n) / n]))


def relu_series(x: Values, terms: int, a: Values | None = None) -> Any:
    """The paper's approximation of ReLU(x): ½x + ½√A·Σ c_n (x²/A − 1)ⁿ, n = 0 … terms − 1.

    A polynomial of degree 2·(terms − 1) in x.

    Args:
        x: ``[..., T]``, any unit.
        terms: ≥ 1.
        a: the paper's A, in x's unit squared, broadcast against ``[..., 1]``. None: ½·max x² of
            each signal, the smallest with which the series converges, and the best, because the
            error at the zero crossings is proportional to √A. The paper takes
            ½·(Σ|amplitudes|)².

    Returns:
        As x.

    Raises:
        ValueError: `a` is less than ½·max x², so that the series diverges; `terms` is less than 1.

    >>> relu_series([-1.0, 0.0, 1.0], 100).round(3).tolist()  # slow where x = 0
    [0.0, 0.02, 1.0]
    """
    (x, *given), back = tensors(*([x] if a is None else [x, a]))
    root, g = _root_and_g(x, given[0] if given else None)
    total = torch.zeros_like(g)
    for c in reversed(series_coefficients(terms).tolist()):  # Horner
        total = total * g + c
    return back(0.5 * x + 0.5 * root * total)


def relu_series_terms(x: Values, terms: int, a: Values | None = None) -> Any:
    """The terms ½√A·c_n·gⁿ of :func:`relu_series`, as signals.

    Args:
        x: ``[..., T]``.
        terms: ≥ 1.
        a: as of :func:`relu_series`.

    Returns:
        ``[terms, ..., T]``, in x's unit. With ½x they add up to :func:`relu_series`; the mean of
        each over the last axis is its contribution to the DC.

    Raises:
        ValueError: as of :func:`relu_series`.

    >>> relu_series_terms([1.0, 0.0], 3).round(4).tolist()
    [[0.3536, 0.3536], [0.1768, -0.1768], [-0.0442, -0.0442]]
    """
    (x, *given), back = tensors(*([x] if a is None else [x, a]))
    root, g = _root_and_g(x, given[0] if given else None)
    signals, power = [], 0.5 * root * torch.ones_like(g)
    for c in series_coefficients(terms).tolist():
        signals.append(c * power)
        power = power * g
    return back(torch.stack(signals))


def relu_series_phasors(phasors: Values, terms: int, a: float | None = None) -> Any:
    """The spectrum of each term of :func:`relu_series`, exact and without folding.

    For a periodic signal x(t) = Re Σ p_k·exp(2πi·k·f·t), k = 0 … K. The spectrum of gⁿ is that of g
    convolved n times with itself (the paper's section on frequency), and the spectrum of g is that
    of x²: DC, sums and differences. So term n reaches up to 2·n·K·f.

    Args:
        phasors: ``[K + 1]``, real or complex: amplitude, and phase as of a cosine, at DC (real)
            and at every multiple of a base frequency f, in any unit.
        terms: ≥ 1.
        a: the paper's A, in that unit squared. None: ½·(Σ|p_k|)², the paper's choice.

    Returns:
        ``[terms, 2·K·(terms − 1) + 1]``, complex, phasors likewise. Column 0 is the DC of each
        term; at the others the power of a spectral line is ``|p|²/2``.

    Raises:
        ValueError: `a` is less than ½·(Σ|p_k|)², `phasors` is empty, or its DC isn't real.

    >>> relu_series_phasors([0.0, 1.0], 2).real.round(4).tolist()  # a cosine, A = ½: g = cos 2ωt
    [[0.3536, 0.0, 0.0], [0.0, 0.0, 0.1768]]
    """
    from scipy.signal import convolve  # takes a second, which recording need not wait for

    (given,), back = tensors(phasors)
    p = given.detach().cpu().numpy()
    if p.ndim != 1 or not len(p):
        raise ValueError(f"phasors must be [K + 1], of DC and K harmonics; found {list(p.shape)}")
    if p[0].imag != 0:
        raise ValueError(f"the phasor of DC must be real, found {p[0]}")
    coefficients = series_coefficients(terms)
    scale = float(np.abs(p).sum())  # no square may overflow
    if a is not None:
        _check(float(a), 0.5 * scale * scale, "½·(Σ|phasors|)²")
    root = scale / math.sqrt(2) if a is None else math.sqrt(a)
    half = p[1:] / (scale or 1.0) / 2
    two_sided = np.concatenate([half[::-1].conj(), p[:1].real / (scale or 1.0), half])
    g = convolve(two_sided, two_sided) * (scale / (root or 1.0)) ** 2
    g[len(g) // 2] -= 1  # x²/A − 1
    spectra = np.zeros((terms, 2 * (len(p) - 1) * (terms - 1) + 1), np.complex128)
    power = np.full(1, 0.5 * root, np.complex128)
    for n, c in enumerate(coefficients):
        power = convolve(power, g) if n else power
        middle = len(power) // 2
        spectra[n, : middle + 1] = c * power[middle:]
    spectra[:, 1:] *= 2  # one-sided
    return back(torch.from_numpy(spectra).to(given.device))


def relu_chebyshev(x: Values, terms: int, limit: Values | None = None) -> Any:
    """ReLU(x) ≈ ½x + ½L·(2/π + (4/π)·Σ (−1)^{n+1}/(4n² − 1)·T_2n(x/L)), n = 1 … terms − 1.

    The Chebyshev series of ``|x|`` on [−L, L]: a polynomial of the degree of :func:`relu_series`
    with as many terms, but its largest error falls like N^−1, not N^−½ (Trefethen, *Approximation
    Theory and Approximation Practice*, chapters 3 and 7). For one tone of amplitude L term n is
    its harmonic 2n, because T_2n(cos θ) = cos 2nθ.

    Args:
        x: ``[..., T]``, any unit.
        terms: ≥ 1.
        limit: L, in x's unit, broadcast against ``[..., 1]``; None: ``max |x|`` of each signal.

    Returns:
        As x.

    Raises:
        ValueError: `limit` is less than ``max |x|``, so that the series diverges; `terms` is less
            than 1.

    >>> relu_chebyshev([-1.0, 0.0, 1.0], 100).round(4).tolist()
    [0.0, 0.0016, 1.0]
    """
    if terms < 1:
        raise ValueError(f"{terms=} must be 1 or more")
    (x, *given), back = tensors(*([x] if limit is None else [x, limit]))
    peak = _peak(x)
    if given:
        _check(given[0], peak, "max |x|", "the polynomials grow without bound")
        peak = given[0]
    u = x / torch.where(peak > 0, peak, 1.0)
    v = 2 * u.square() - 1  # T_2n(u) = T_n(2u² − 1)
    b_1 = b_2 = torch.zeros_like(v)
    for n in range(terms - 1, 0, -1):  # Clenshaw
        c = 4 / math.pi * (-1) ** (n + 1) / (4 * n * n - 1)
        b_1, b_2 = 2 * v * b_1 - b_2 + c, b_1
    return back(0.5 * x + 0.5 * peak * (v * b_1 - b_2 + 2 / math.pi))


class ApproximationError(NamedTuple):
    """Errors of an approximation of ReLU(x), and the number that the paper gives instead.

    Attributes:
        relative_rms: RMS of approximation − ReLU(x) over RMS of ReLU(x).
        dc: relative error of the DC: mean of the approximation over that of ReLU(x), − 1.
        paper: √(mean((x − approximation)²) / Σx²), as the paper's script computes the 0.69 % under
            its Fig. 1. It is the relative RMS distance to the *input*, divided by √T. So it is
            almost the same for ReLU(x) itself, however good the approximation, and falls with the
            signal's length.
    """

    relative_rms: Any
    dc: Any
    paper: Any


def approximation_error(x: Values, approximation: Values) -> ApproximationError:
    """Errors of an approximation of ReLU(x), over the last axis.

    Args:
        x: ``[..., T]``, the ReLU's input, any unit.
        approximation: ``[..., T]`` of its output, in the same.

    Returns:
        Each ``[...]``, dimensionless; NaN where ReLU(x) is all zero.

    >>> approximation_error([-1.0, 1.0], [0.0, 1.01]).relative_rms.round(3)
    np.float64(0.01)
    """
    (x, approximation), back = tensors(x, approximation)
    relu = x.clamp_min(0)
    mean = torch.where((relu > 0).any(-1), relu.mean(-1), math.nan)
    rms = ((approximation - relu).square().mean(-1) / relu.square().mean(-1)).sqrt() + 0 * mean
    paper = ((x - approximation).square().mean(-1) / x.square().sum(-1)).sqrt()
    return ApproximationError(back(rms), back(approximation.mean(-1) / mean - 1), back(paper))


def _root_and_g(x: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    """√A and g = x²/A − 1, without x², which may overflow."""
    peak = _peak(x)
    root = peak / math.sqrt(2)
    if a is not None:
        _check(a, peak.square() / 2, "½·max x²")
        root = a.sqrt()
    return root, (x / torch.where(root > 0, root, 1.0)).square() - 1


def _peak(x: Tensor) -> Tensor:
    """Max |x| of each signal, ``[..., 1]``."""
    if not x.numel():
        return x.new_zeros(*x.shape[:-1], 1) if x.dim() else x
    return x.abs().amax(-1, keepdim=True) if x.dim() else x.abs()


def _check(
    given: Tensor | float, least: Tensor | float, name: str, why: str = "|x²/a − 1| > 1 somewhere"
) -> None:
    """Raise if a value is less than `least` by more than rounding; NaN passes."""
    given, least = torch.as_tensor(given), torch.as_tensor(least)
    if given.dim() and given.shape[-1] != 1:
        shape = list(given.shape)
        raise ValueError(f"one number for each signal, [..., 1], is taken, found {shape}")
    wrong = given < least * (1 - 1e-12)
    if wrong.any():
        worst = (least - given).where(wrong, torch.tensor(-math.inf).to(least)).argmax()
        value = given.expand_as(wrong).flatten()[worst].item()
        bound = least.expand_as(wrong).flatten()[worst].item()
        raise ValueError(
            f"{value:.6g} is less than {name} = {bound:.6g}: {why}, and the series diverges"
        )
