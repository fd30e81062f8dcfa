"""Against scipy, closed forms, quadrature and exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import torch

from spectroscope.dsp import theory
from spectroscope.dsp.moments import Moments, row_moments


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (1.7, 0.3), (-4, 2), (-12, 2), (1e4, 1)])
def test_gaussian_dc_is_the_integral_of_the_rectified_density(mean, std):
    def integrand(z):
        return max(mean + std * z, 0) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    expected, _ = scipy.integrate.quad(
        integrand, max(-mean / std, -40), 40, epsabs=0, epsrel=1e-11, limit=500
    )
    assert theory.gaussian_dc(mean, std) == pytest.approx(expected, rel=1e-9)


def test_gaussian_dc_of_a_constant_is_its_relu():
    np.testing.assert_array_equal(theory.gaussian_dc([-2.0, 0.0, 3.0], 0.0), [0, 0, 3])


def test_gaussian_dc_passes_nan_on_and_refuses_a_negative_std():
    assert np.isnan(theory.gaussian_dc(np.nan, 1.0))
    with pytest.raises(ValueError, match=r"std must be ≥ 0, found -1\.0"):
        theory.gaussian_dc(0.0, -1.0)


def exact_moments(values):
    """Mean and M2 of float64 numbers in rational arithmetic."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((n - mean) ** 2 for n in numbers))


def test_row_moments_are_right_far_from_zero():
    rows = 1e4 + torch.randn(3, 1001, dtype=torch.float64)
    found = row_moments(rows, torch.empty_like(rows))
    for n, row in enumerate(rows):
        mean, m2 = exact_moments(row)
        assert found.mean[n].item() == pytest.approx(mean, rel=1e-15)
        assert found.m2[n].item() == pytest.approx(m2, rel=1e-13)


def test_row_moments_leave_out_what_is_not_finite():
    rows = torch.tensor([[1.0, torch.nan, 3.0, -torch.inf], [torch.inf] * 4, [0.0, -1, 2, 5]])
    rows = rows.double()
    mean, m2, positive, _, finite = row_moments(rows, torch.empty_like(rows))
    assert finite.tolist() == [2, 0, 4]
    assert mean.tolist() == [2, 0, 1.5]
    assert m2.tolist() == [2, 0, 21]
    assert positive.tolist() == [2, 0, 2]


@pytest.mark.parametrize("cuts", [[], [1], [500], [3, 3, 4, 999]])
def test_moments_merge_to_the_moments_of_the_whole(cuts):
    values = 1e4 + torch.randn(1000, 2, dtype=torch.float64)
    weights = torch.randint(0, 5, (1000, 2)).double()
    pieces = [
        Moments.of(values[a:b], torch.zeros_like(values[a:b]), weights[a:b])
        for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)
    ]
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    for c in range(2):
        repeated = values[:, c].repeat_interleave(weights[:, c].long())
        mean, m2 = exact_moments(repeated)
        assert merged.weight[c].item() == len(repeated)
        assert merged.mean[c].item() == pytest.approx(mean, rel=1e-15)
        assert merged.m2[c].item() == pytest.approx(m2, rel=1e-13)


def test_moments_of_channels_that_were_not_seen_yet_merge():
    values = 1e4 + torch.randn(4, 2, dtype=torch.float64)
    weights = torch.tensor([[0, 0], [0, 1], [0, 1], [0, 1]]).double()
    rests = torch.zeros_like(values)
    merged = Moments.of(values[:2], rests[:2], weights[:2]).merge(
        Moments.of(values[2:], rests[2:], weights[2:])
    )
    assert merged.weight.tolist() == [0, 3]
    assert merged.m2[0] == 0
    mean, m2 = exact_moments(values[1:, 1])
    assert merged.mean[1].item() == mean
    assert merged.m2[1].item() == pytest.approx(m2, rel=1e-14)
