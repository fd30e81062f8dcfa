"""Rectified tones, against quadrature, closed forms, FFTs and long records."""

import functools

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from spectroscope import theory

NODES, WEIGHTS = np.polynomial.legendre.leggauss(80)
ORDERS = [(0, 0), (1, 0), (0, -1), (2, 0), (1, 1), (1, -1), (2, -1), (3, 0), (-3, 2), (0, 4)]
close = functools.partial(np.testing.assert_allclose, rtol=0)


def relu(x):
    return np.maximum(x, 0)


def density(x):
    return np.exp(-0.5 * np.square(x)) / np.sqrt(2 * np.pi)


def harmonic(n, a, offset):
    """c_n of ReLU(offset + a·cos θ), a > 0, integrated over the angle of conduction."""
    alpha = np.arccos(np.clip(-np.asarray(offset) / a, -1, 1))[..., np.newaxis]
    theta = alpha / 2 * (1 + NODES)
    wave = (np.asarray(offset)[..., np.newaxis] + a * np.cos(theta)) * np.cos(n * theta)
    return (2 if n else 1) / np.pi * (alpha / 2 * wave) @ WEIGHTS


def average(amplitudes, orders, offset=0.0, noise=0.0):
    """Of ReLU, or of ReLU·2·cos Σ m_i·φ_i, over the phases: trapezoids, exact where it is smooth.

    That it is where noise rounds the corner, or where the first tone is larger than all else
    together, and its own average is taken over the angle of conduction.
    """
    size = 128 if noise else 64
    grid = 2 * np.pi * np.arange(size) / size
    first = [] if noise else [np.zeros(1)]
    phases = np.meshgrid(*first, *[grid] * (len(orders) - len(first)), sparse=True)
    angle = sum(m * phase for m, phase in zip(orders, phases, strict=True))
    tones = [a * np.cos(phase) for a, phase in zip(amplitudes, phases, strict=True)]
    x = offset + sum(tones if noise else tones[1:])
    if noise:
        y = x * ndtr(x / noise) + noise * density(x / noise)
    else:
        y = harmonic(abs(orders[0]), amplitudes[0], x) / (2 if orders[0] else 1)
    return np.mean(y * np.cos(angle)) * (2 if any(orders) else 1)


@pytest.mark.parametrize("offset", [-2, -1, -1 + 1e-9, -0.99, -0.3, 0, 0.5, 1 - 1e-9, 1, 1.01, 2])
def test_harmonics_of_a_cosine_by_quadrature(offset):
    orders = [0, 1, 2, 3, 4, 17, 40]
    expected = [harmonic(n, 1.5, 1.5 * offset) for n in orders]
    actual = theory.cosine_harmonics(1.5, 1.5 * offset, orders)
    close(actual, expected, atol=5e-14)
    np.testing.assert_array_equal(theory.cosine_harmonics(1.5, 1.5 * offset, 4), actual[:5])


def test_harmonics_of_no_tone_are_its_offset_s_relu():
    actual = theory.cosine_harmonics([0.0, 0, 0], [-1.0, 0, 2], 3)
    np.testing.assert_array_equal(actual, [[0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]])


def test_total_harmonic_distortion_of_a_rectified_tone():
    c = theory.cosine_harmonics([[1.0], [3.0]], 0.0, np.arange(3000))
    assert c.shape == (2, 1, 3000)
    thd = np.sqrt((c[..., 2:] ** 2).sum(-1)) / c[..., 1]
    close(thd, np.sqrt(1 - 8 / np.pi**2), atol=1e-4)  # FACTS: 0.4352


def test_harmonics_fold_in_a_sampled_tone():
    sampled = relu(0.3 + np.cos(2 * np.pi * 5 * np.arange(64) / 64))
    lines = np.fft.rfft(sampled, norm="forward").real * np.r_[1, np.full(31, 2), 1]
    orders = np.arange(5000)
    at = (5 * orders + 32) % 64 - 32
    actual = np.bincount(np.abs(at), theory.cosine_harmonics(1.0, 0.3, orders), 33)
    close(actual, lines, atol=1e-5)


def phase_average(amplitudes, orders, offset=0.0, noise=0.0):
    if not any(orders):
        return theory.tones_dc(amplitudes, offset, noise)
    return theory.intermodulation(amplitudes, orders, offset, noise)


@pytest.mark.parametrize("orders", ORDERS)
def test_averages_over_phases_are_exact_to_ten_digits(orders):
    a = (1, -0.4)
    close(phase_average(a, orders, 0.2), average(a, orders, 0.2), atol=1e-10)
    for a in [(1, 1), (-1, 0.6), (0, 2), (1e-4, -1)]:  # noise rounds the corner
        for offset, noise in [(0, 0.2), (0.5, 0.3), (-1.5, 1)]:
            expected = average(a, orders, offset, noise)
            close(phase_average(a, orders, offset, noise), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "error"), [((1, 0.5, -0.4), 1e-12), ((1, 1e-3, 0), 1e-10), ((1, 1e-4, -1e-6), 1e-10)]
)
def test_tones_that_one_dominates(a, error):
    for orders in [(0, 0, 0), (2, -1, 1), (0, 0, 1)]:
        close(phase_average(a, orders, -0.05), average(a, orders, -0.05), atol=error)


@pytest.mark.parametrize(("a", "offset"), [((1, 1), 0), ((0.8, -1), -0.7), ((1, -1), 1.5)])
def test_products_are_lines_of_the_fft_over_both_phases(a, offset):
    wave = np.cos(2 * np.pi * np.arange(512) / 512)
    lines = np.fft.rfft2(relu(offset + a[0] * wave[:, np.newaxis] + a[1] * wave), norm="forward")
    for m, n in [(0, 0), (1, 0), (-1, 1), (-2, 1)]:
        expected = lines[m, n].real
        close(phase_average(a, (m, n), offset), expected * (2 if m or n else 1), atol=1e-5)


def test_tones_of_incommensurate_frequencies():
    frequencies, a = np.sqrt([0.002, 0.003, 0.005]), (1, 0.9, -0.8)
    angles = 2 * np.pi * np.outer(frequencies, np.arange(1 << 19))
    y = relu(0.2 + a @ np.cos(angles))
    for orders in [(0, 0, 0), (1, 0, 0), (1, -1, 0), (0, 1, 1), (0, 0, 2), (1, 1, -1)]:
        expected = np.mean(y * np.cos(orders @ angles)) * (2 if any(orders) else 1)
        close(phase_average(a, orders, 0.2), expected, atol=1e-4)


def test_dc_of_tones_in_closed_form():
    cases = [([3], 3 / np.pi), ([2, 2], 8 / np.pi**2), ([1, 0, -1], 4 / np.pi**2), ([0, 0], 0)]
    for amplitudes, expected in cases:
        close(theory.tones_dc(amplitudes), expected, atol=3e-10)
    assert theory.tones_dc(np.ones(4)) == pytest.approx(0.57267, abs=5e-6)  # FACTS
    close(theory.tones_dc([1.0, 0.5], [-1.5, 1.5, 2]), [0, 1.5, 2], atol=3e-10)
    assert np.isnan(theory.tones_dc([[np.nan], [1]], [0, np.nan])).all()
    assert theory.intermodulation([1, 1], (1, -1)) == pytest.approx(8 / 3 / np.pi**2, abs=1e-10)


def test_many_tones_are_gaussian():
    amplitudes = np.full(100, np.sqrt(2 / 100))  # power 1
    for offset, noise in [(0, 0), (0.5, 0), (-0.5, 1)]:
        std = np.hypot(1, noise)
        expected = offset * ndtr(offset / std) + std * density(offset / std)
        close(theory.tones_dc(amplitudes, offset, noise), expected, atol=4e-4)


def test_offset_and_noise_are_broadcast_against_the_tones():
    amplitudes = np.array([[[1, 0.5]], [[0.3, 2]]])
    offset, noise = np.array([-1, 0, 0.4]), np.array([[0.2], [0.5]])
    for orders in [(0, 0), (1, 0), (1, -1)]:
        actual = phase_average(amplitudes, orders, offset, noise)
        assert actual.shape == (2, 3)
        for (i, j), value in np.ndenumerate(actual):
            expected = average(amplitudes[i, 0], orders, offset[j], noise[i, 0])
            assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tone", [0, 1e-6, 1e-3, 0.3])
def test_an_offset_beyond_the_tones_keeps_the_relu_open_or_shut(tone):
    a = (tone, -2 * tone)
    for orders, open_always in [((0, 0), 1), ((1, 0), a[0]), ((0, 1), a[1]), ((1, 1), 0)]:
        close(phase_average(a, orders, [1.0, -1.0]), [open_always, 0], atol=1e-10)


@pytest.mark.parametrize("offset", [-0.99, -0.95, 0.95, 0.99])
def test_an_offset_that_a_tone_just_overcomes(offset):
    for order in (0, 1, 2):
        close(phase_average([1], (order,), offset), harmonic(order, 1, offset), atol=2e-10)


def test_harmonics_about_an_unknown_offset_are_unknown():
    assert np.isnan(theory.cosine_harmonics(1.0, np.nan, 4)).all()


def test_averages_over_phases_have_no_gradient():
    a, offset = torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True)
    assert not theory.tones_dc(a, offset).requires_grad
    assert not theory.intermodulation(a, (1, 0)).requires_grad


def test_no_signals_at_all():
    assert theory.tones_dc(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.cosine_harmonics([1, -2]), r"amplitude must be ≥ 0, found -2"),
        (lambda: theory.cosine_harmonics(1, 0, [2, -1]), r"orders must be ≥ 0, found -1"),
        (lambda: theory.tones_dc(1), r"amplitudes must have an axis of tones.* found a number"),
        (lambda: theory.tones_dc([1], 0, [1, -0.5]), r"noise must be ≥ 0, found -0\.5"),
        (lambda: theory.intermodulation([1, 1], (1,)), r"orders=\(1,\) must be one .* = \[2\]"),
        (lambda: theory.intermodulation([1], (0,)), r"orders=\(0,\): that is the DC, see tones_dc"),
        pytest.param(
            lambda: theory.cosine_harmonics(1, 0, -1),
            r"orders must be ≥ 0, found -1",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
