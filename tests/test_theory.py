"""Rectified Gaussian signals, against quadrature and Monte Carlo; kinds of arrays; refusals."""

import functools
import itertools

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import torch
from scipy.special import ndtr

from spectroscope import theory

close = functools.partial(np.testing.assert_allclose, rtol=0)


def density(x):
    return np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)


def second_moment(mean, variance):
    """E[ReLU(x)²] of Gaussian x."""
    std = np.sqrt(variance)
    return (mean**2 + variance) * ndtr(mean / std) + mean * std * density(mean / std)


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1.7, 0.3), (-4, 2), (-12, 2), (1e4, 1)])
def test_gaussian_dc_and_gain_are_moments_of_the_density(mean, std):
    def integral(factor):
        value, _ = scipy.integrate.quad(
            lambda z: factor(z) * (mean + std * z) * density(z),
            *(max(-mean / std, -40), 40),
            **{"epsabs": 0, "epsrel": 1e-10, "limit": 500},
        )
        return value

    assert theory.gaussian_dc(mean, std) == pytest.approx(integral(lambda z: 1), rel=1e-9)
    gain = integral(lambda z: z / std)  # covariance of output and input, over the variance
    assert theory.gaussian_gain(mean, std) == pytest.approx(gain, rel=1e-9)


@pytest.mark.parametrize("z", [-6, -20, -37])
def test_gaussian_dc_is_good_where_almost_nothing_passes(z):
    with mpmath.workdps(40):
        expected = float(2 * (mpmath.npdf(z) + z * mpmath.ncdf(z)))
    assert theory.gaussian_dc(2 * z, 2) == pytest.approx(expected, rel=2e-12, abs=0)


def test_gradients_of_gaussian_dc():
    mean = torch.tensor([-100.0, -3, 0, 1, 100], dtype=torch.float64, requires_grad=True)
    std = torch.ones(5, dtype=torch.float64, requires_grad=True)
    actual = torch.autograd.grad(theory.gaussian_dc(mean, std).sum(), (mean, std))
    z = mean.detach().numpy()
    close(actual, [ndtr(z), density(z)], atol=1e-14)


def test_gaussian_of_a_constant_is_its_relu():
    np.testing.assert_array_equal(theory.gaussian_dc([-2.0, 0.0, 3.0], 0.0), [0, 0, 3])
    np.testing.assert_array_equal(theory.gaussian_gain([-2.0, 0.0, 3.0], 0.0), [0, 0.5, 1])
    actual = theory.gaussian_autocorrelation(np.zeros(2), [-2.0, 3.0])
    np.testing.assert_array_equal(actual, [[0, 0], [9, 9]])


@pytest.mark.parametrize(
    ("function", "always_open"), [(theory.gaussian_dc, np.inf), (theory.gaussian_gain, 1)]
)
def test_gaussian_of_what_is_not_finite(function, always_open):
    assert np.isnan(function([np.nan, 1, np.nan], [1, np.nan, 0])).all()
    assert function([-np.inf, np.inf], 1.0).tolist() == [0, always_open]


def test_the_gain_is_the_distribution_function_far_below_zero():
    z = np.array([-37, -30, -9, -8, -5, -1, 0, 2, 9.0])
    expected = [float(mpmath.ncdf(value)) for value in z]
    np.testing.assert_allclose(theory.gaussian_gain(3 * z, 3.0), expected, rtol=1e-12)


@pytest.mark.parametrize("mean", [-3, -1, -0.2, 0, 0.5, 3, 10])
def test_autocorrelation_is_the_mean_product_of_a_rectified_pair(mean):
    rho = np.array([-0.999, -0.9, -0.3, 0, 0.5, 0.95, 0.999])

    def integrand(x, rho):  # the second of the pair, given the first, is Gaussian too
        std = np.sqrt(1 - rho**2)
        z = (mean + rho * (x - mean)) / std
        return x * density(x - mean) * std * (density(z) + z * ndtr(z))

    expected = []
    for r in rho:
        bends = [mean - mean / r, mean] if r else [mean]
        bounds = sorted({0.0, *(b for b in bends if 0 < b < max(mean, 0) + 12), max(mean, 0) + 12})
        pieces = [
            scipy.integrate.quad(integrand, *ends, (r,), epsabs=1e-13, epsrel=1e-12, limit=200)[0]
            for ends in itertools.pairwise(bounds)
        ]
        expected.append(sum(pieces))
    actual = theory.gaussian_autocorrelation(4 * np.r_[1, rho], 2 * mean)
    close(actual[1:], 4 * np.array(expected), atol=4e-12)
    close(actual[0], 4 * second_moment(mean, 1), atol=4e-12)


def test_autocorrelation_without_dc_is_the_arc_cosine_kernel():
    rho = np.linspace(-1, 1, 21)
    expected = (np.sqrt(1 - rho**2) + rho * (np.pi - np.arccos(rho))) / (2 * np.pi)
    actual = theory.gaussian_autocorrelation([np.r_[1, rho], 3 * np.r_[1, rho]])
    close(actual[:, 1:], np.outer([1, 3], expected), atol=1e-12)


@pytest.mark.parametrize("mean", [-1, -0.01, 0.003, 0.01, 0.03, 0.3, 2])
def test_autocorrelation_of_opposites(mean):
    both_open = (mean**2 - 1) * (2 * ndtr(mean) - 1) + 2 * mean * density(mean)
    actual = theory.gaussian_autocorrelation([1, -1], mean)
    close(actual, [second_moment(mean, 1), both_open if mean > 0 else 0], atol=1e-11)


def test_rounding_leaves_correlations_and_powers_in_their_range():
    actual = theory.gaussian_autocorrelation([1, 1 + 1e-15, -1 - 1e-15])
    close(actual, [0.5, 0.5, 0], atol=1e-13)
    line = np.zeros(33)
    line[4] = 1
    assert theory.gaussian_spectrum(line, 64).min() >= 0
    close(theory.gaussian_spectrum([0.01, 0, 0], 4, 0.1), [0.01, 0, 0], atol=1e-15)  # 0.1² > 0.01


@pytest.mark.parametrize(("length", "mean"), [(15, 0.0), (16, 0.7), (16, -0.5)])
def test_gaussian_spectrum_is_that_of_many_rectified_windows(length, mean):
    rng = np.random.default_rng(0)
    shape = rng.uniform(0.05, 1, length // 2 + 1) * np.r_[1, np.full(length // 2, 3)]
    windows = np.fft.irfft(shape * np.fft.rfft(rng.normal(size=(20000, length))), length) + mean
    scale = shape**2 / length * np.r_[1, np.full(length // 2 - 1, 2), 1 + length % 2]
    power = scale + np.r_[mean**2, np.zeros(length // 2)]
    _, spectra = scipy.signal.periodogram(np.maximum(windows, 0), scaling="spectrum", detrend=False)
    actual = theory.gaussian_spectrum(power, length, mean)
    standard_error = spectra.std(0) / np.sqrt(len(spectra))
    assert np.all(np.abs(spectra.mean(0) - actual) < 4 * standard_error)
    assert actual.sum() == pytest.approx(second_moment(mean, scale.sum()), abs=1e-12)


def test_one_spectrum_about_several_means():
    mean = np.array([0.0, 1.0])
    actual = theory.gaussian_spectrum([5.0, 1, 2], 4, mean)
    close(actual.sum(-1), second_moment(mean, 8 - mean**2), atol=1e-12)


CALLS = {
    "series_a": lambda v: theory.relu_series(v, 3, v[..., :1]),
    "series": lambda v: theory.relu_series(v, 3),
    "terms": lambda v: theory.relu_series_terms(v, 3),
    "phasors": lambda v: theory.relu_series_phasors(v, 3),
    "chebyshev": lambda v: theory.relu_chebyshev(v, 3),
    "error": lambda v: theory.approximation_error(v, v).dc,
    "harmonics": lambda v: theory.cosine_harmonics(v, v),
    "tones": theory.tones_dc,
    "intermodulation": lambda v: theory.intermodulation(v, (0, 1, -1)),
    "dc": lambda v: theory.gaussian_dc(1.0, v),
    "gain": lambda v: theory.gaussian_gain(v, 1),
    "autocorrelation": theory.gaussian_autocorrelation,
    "spectrum": lambda v: theory.gaussian_spectrum(v, 4),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_numpy_gives_numpy_and_tensors_give_tensors(call):
    values = np.array([2.0, 1.0, 0.5])
    expected = call(values)
    assert isinstance(expected, np.ndarray if expected.ndim else np.float64)
    assert expected.dtype in (np.float64, np.complex128)
    result = torch.from_numpy(np.asarray(expected)).dtype
    for kind in (np.float16, np.float32):
        np.testing.assert_array_equal(call(values.astype(kind)), expected)
    for device in ["cpu", *["cuda"] * torch.cuda.is_available()]:
        for kind in (torch.float16, torch.float32, torch.float64):
            actual = call(torch.tensor(values, dtype=kind, device=device))
            assert actual.device.type == device
            assert actual.dtype == result
            close(actual.cpu().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.gaussian_dc(0, [1, -1]), r"std must be ≥ 0, found -1"),
        (lambda: theory.gaussian_gain(0, -1), r"std must be ≥ 0, found -1"),
        (lambda: theory.gaussian_autocorrelation(1), r"autocovariance must have an axis .* number"),
        (lambda: theory.gaussian_autocorrelation([-2, 0]), r"the variance must be ≥ 0, found -2"),
        (
            lambda: theory.gaussian_spectrum([1, 1], 4),
            r"power must be \[..., 3\] for length=4, found .*2.*",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
