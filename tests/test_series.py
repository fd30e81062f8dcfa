"""ReLU as a polynomial, against mpmath, NumPy's polynomials, closed forms and FFTs."""

import functools

import mpmath
import numpy as np
import pytest
import scipy.integrate
import torch
from scipy.special import binom

from spectroscope import theory

TIME = np.arange(8 * 1024) / 1024
FOUR_TONES = np.cos(2 * np.pi * np.outer([5, 10, 20, 40], TIME)).sum(0)  # the paper's Fig. 1
LINE = np.linspace(-1, 1, 20001)

close = functools.partial(np.testing.assert_allclose, rtol=0)


def relu(x):
    return np.maximum(x, 0)


def partial_sum(x, terms, a):
    """The paper's formula, to 40 digits."""
    with mpmath.workdps(40):
        x, a, half = mpmath.mpf(float(x)), mpmath.mpf(float(a)), mpmath.mpf("0.5")
        g = x**2 / a - 1
        root = mpmath.fsum(mpmath.binomial(half, n) * g**n for n in range(terms))
        return float((x + mpmath.sqrt(a) * root) / 2)


def series_terms(x, terms, a):
    """Its terms, on a new first axis."""
    n = np.arange(terms).reshape(-1, *[1] * np.ndim(x))
    return np.sqrt(a) / 2 * binom(0.5, n) * (x**2 / a - 1) ** n


def test_coefficients_are_the_binomials_of_one_half():
    with mpmath.workdps(40):
        expected = [float(mpmath.binomial(mpmath.mpf("0.5"), n)) for n in range(401)]
    np.testing.assert_allclose(theory.series_coefficients(401), expected, rtol=1e-13)


@pytest.mark.parametrize("a", [None, 2.0, 7.5])
@pytest.mark.parametrize("terms", [1, 2, 25, 400])
def test_series_is_the_paper_s_partial_sum(terms, a):
    x = np.array([-2, -1.3, 0, 1e-3, 0.8, 1.9])
    expected = [partial_sum(value, terms, a or 2.0) for value in x]
    close(theory.relu_series(x, terms, a), expected, atol=1e-14)
    actual = theory.relu_series_terms(x, terms, a)
    close(actual, series_terms(x, terms, a or 2.0), atol=1e-14)
    close(actual.sum(0) + x / 2, expected, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 1), (2, 3, 1), (), None])
def test_every_signal_has_an_a_of_its_own(shape):
    x = np.random.default_rng(0).normal(size=(2, 3, 50))
    given = None if shape is None else np.linspace(15, 20, int(np.prod(shape))).reshape(shape)
    a = (x**2).max(-1, keepdims=True) / 2 if shape is None else given
    expected = series_terms(x, 9, a)
    close(theory.relu_series_terms(x, 9, given), expected, atol=1e-13)
    close(theory.relu_series(x, 9, given), expected.sum(0) + x / 2, atol=1e-13)


@pytest.mark.parametrize(
    ("phasors", "terms", "a"),
    [
        ([0.0, 1.0], 30, None),
        ([0.4, 1 - 0.5j, 0, 0.3j], 12, 5.0),
        ([0.2, -0.5, 0.1j], 400, None),
        ([-2.0], 5, None),
        ([0.0, 0.0], 3, None),
        ([0.0, 0.0], 3, 2.0),
        ([0.0, 1e-200], 3, 2.0),
    ],
)
def test_phasors_are_the_fft_of_the_sampled_terms(phasors, terms, a):
    p = np.array(phasors)
    last = 2 * (len(p) - 1) * (terms - 1)  # the highest multiple that there is
    samples = 2 * last + 7
    base = np.exp(2j * np.pi * np.outer(np.arange(len(p)), np.arange(samples)) / samples)
    given = a or 0.5 * np.abs(p).sum() ** 2
    sampled = series_terms((p @ base).real, terms, given) if given else np.zeros((terms, samples))
    lines = np.fft.rfft(sampled, norm="forward")
    lines[:, 1:] *= 2
    actual = theory.relu_series_phasors(phasors, terms, a)
    assert actual.shape == (terms, last + 1)
    close(actual, lines[:, : last + 1], atol=1e-13)


@pytest.mark.parametrize(("terms", "rms"), [(10, 6.6), (50, 1.7), (100, 1.00), (400, 0.35)])
def test_the_paper_s_four_tones(terms, rms):
    error = theory.approximation_error(FOUR_TONES, theory.relu_series(FOUR_TONES, terms, a=8))
    assert 100 * error.relative_rms == pytest.approx(rms, abs=0.05 if rms > 1 else 0.005)


def test_the_paper_s_069_percent_is_no_measure_of_the_approximation():
    actual = [theory.relu_series(FOUR_TONES, terms) for terms in (100, 10)] + [relu(FOUR_TONES)]
    errors = theory.approximation_error(np.tile(FOUR_TONES, (3, 1)), actual)
    assert (100 * errors.paper).round(3).tolist() == [0.694, 0.703, 0.694]
    assert 100 * errors.dc[0] == pytest.approx(0.5, abs=0.05)
    assert errors.relative_rms[2] == errors.dc[2] == 0


@pytest.mark.parametrize(
    ("approximate", "measure", "exponent"),
    [
        (theory.relu_series, lambda error: np.abs(error).max(), -1 / 2),
        (theory.relu_series, lambda error: np.sqrt(np.mean(error**2)), -3 / 4),
        (theory.relu_series, np.mean, -1),
        (theory.relu_chebyshev, lambda error: np.abs(error).max(), -1),
    ],
)
def test_errors_fall_like_a_power_of_the_number_of_terms(approximate, measure, exponent):
    few, many = (measure(approximate(LINE, terms) - relu(LINE)) for terms in (64, 1024))
    assert np.log(many / few) / np.log(16) == pytest.approx(exponent, abs=0.01)


def test_where_g_is_bounded_the_error_falls_exponentially():
    rho = 0.9
    x = np.sqrt(np.linspace(1 - rho, 1 + rho, 101))  # A = 1: |g| ≤ 0.9
    errors = [np.abs(theory.relu_series(x, terms, 1.0) - x).max() for terms in (100, 101)]
    assert errors[1] / errors[0] == pytest.approx(rho * (1 - 1.5 / 100), rel=2e-3)


def test_an_a_with_which_the_series_diverges_is_refused():
    power = np.mean(FOUR_TONES**2)
    with pytest.raises(ValueError, match=r"^2 is less than ½·max x² = 8: .* the series diverges$"):
        theory.relu_series(FOUR_TONES, 10, power)
    with pytest.raises(ValueError, match=r"^7 is less than ½·max x² = 8: "):  # the wrong one of two
        theory.relu_series_terms([[1, 2], [3, 4]], 3, [[2], [7]])
    with pytest.raises(ValueError, match=r"^1\.999 is less than"):
        theory.relu_series(2, 3, 1.999)
    assert theory.relu_series(2, 3, 2 * (1 - 1e-15)) == pytest.approx(theory.relu_series(2, 3))
    by_hand = [abs(partial_sum(4, terms, power) - 4) for terms in (5, 10, 20, 40)]
    assert np.all(np.diff(np.log10(by_hand)) > 3)


@pytest.mark.parametrize("approximate", [theory.relu_series, theory.relu_chebyshev])
def test_strange_signals(approximate):
    assert approximate(np.zeros((2, 3)), 5).tolist() == np.zeros((2, 3)).tolist()
    assert approximate([], 5).shape == (0,)
    assert approximate(np.ones((4, 0)), 5, np.ones((4, 1))).shape == (4, 0)
    assert approximate(-3.0, 5) == approximate([-3.0], 5)[0]
    for scale in (1e200, 1e-200):
        close(approximate(scale * LINE, 20) / scale, approximate(LINE, 20), atol=1e-14)
    actual = approximate([[1, np.nan], [1, 2]], 5)
    assert np.isnan(actual[0]).all()
    np.testing.assert_array_equal(actual[1], approximate([1, 2], 5))


@pytest.mark.parametrize(
    "function", [theory.relu_series, theory.relu_series_terms, theory.relu_chebyshev]
)
def test_gradients_of_series(function):
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, 7), x)
    assert torch.autograd.gradcheck(lambda x, a: function(x, 7, a), (x, a))


@pytest.mark.parametrize("limit", [None, 3.0])
@pytest.mark.parametrize("terms", [1, 2, 3, 60])
def test_chebyshev_is_numpy_s_sum(terms, limit):
    integrals = [
        scipy.integrate.quad(np.cos, 0, np.pi / 2, weight="cos", wvar=n)[0] * (n % 2 == 0)
        for n in range(2 * terms - 1)
    ]
    coefficients = np.array(integrals) * np.r_[2, np.full(2 * terms - 2, 4)] / np.pi
    size = limit or 1
    value = np.polynomial.chebyshev.chebval(LINE / size, coefficients)
    expected = LINE / 2 + size * value / 2
    close(theory.relu_chebyshev(LINE, terms, limit), expected, atol=1e-13)


def test_a_term_of_chebyshev_s_is_a_harmonic_of_a_tone():
    angle = 2 * np.pi * np.arange(500) / 500
    for n, amplitude in [(1, 2 / 3), (2, -2 / 15), (7, 2 / 195)]:
        term = np.subtract(*(theory.relu_chebyshev(3 * np.cos(angle), n + k) for k in (1, 0)))
        expected = 3 / np.pi * amplitude * np.cos(2 * n * angle)
        close(term, expected, atol=1e-14)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_huge_and_tiny_phasors(scale):
    actual = theory.relu_series_phasors([0, scale], 3) / scale
    close(actual, theory.relu_series_phasors([0, 1], 3), atol=1e-15)


def test_one_signal_with_several_a():
    a = np.array([[0.5], [2.0]])
    expected = [series_terms(LINE, 5, one).sum(0) + LINE / 2 for one in (0.5, 2.0)]
    close(theory.relu_series(LINE, 5, a), expected, atol=1e-14)


def test_errors_relative_to_nothing_are_nan():
    error = theory.approximation_error([-1, -2], [0.1, 0.1])
    assert np.isnan([error.relative_rms, error.dc]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.series_coefficients(0), r"terms=0 must be 1 or more"),
        (lambda: theory.relu_series(1, 0), r"terms=0 must be 1 or more"),
        (lambda: theory.relu_chebyshev(1, -2), r"terms=-2 must be 1 or more"),
        (
            lambda: theory.relu_chebyshev([1, -3], 2, 2),
            r"2 is less than max \|x\| = 3: .* diverges",
        ),
        (
            lambda: theory.relu_series_phasors([1, 1], 2, 1.9),
            r"1\.9 .* ½·\(Σ\|phasors\|\)² = 2: .*",
        ),
        (
            lambda: theory.relu_series_phasors([1j, 1], 2),
            r"the phasor of DC must be real, found 1j",
        ),
        (lambda: theory.relu_series_phasors([], 2), r"phasors must be \[K \+ 1\].* found \[0\]"),
        (lambda: theory.relu_series_phasors([0, 1], 0), r"terms=0 must be 1 or more"),
        (lambda: theory.relu_series([[1, 2], [3, 4]], 2, [8, 8]), r"one number .* found \[2\]"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
