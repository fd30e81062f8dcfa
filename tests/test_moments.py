"""Moments, against exact rational arithmetic."""

from fractions import Fraction

import pytest
import torch

from spectroscope.dsp.moments import Moments, row_moments


def exact_moments(values):
    """Mean and M2 of float64 numbers in rational arithmetic."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((n - mean) ** 2 for n in numbers))


def test_row_moments_are_right_far_from_zero():
    rows = 1e4 + torch.randn(3, 1001, dtype=torch.float64)
    actual = row_moments(rows, torch.empty_like(rows))
    for n, row in enumerate(rows):
        mean, m2 = exact_moments(row)
        assert actual.mean[n].item() == pytest.approx(mean, rel=1e-15)
        assert actual.m2[n].item() == pytest.approx(m2, rel=1e-13)


def test_row_moments_leave_out_nonfinite_values():
    rows = torch.tensor([[1.0, torch.nan, 3.0, -torch.inf], [torch.inf] * 4, [0.0, -1, 2, 5]])
    rows = rows.double()
    mean, m2, positive, _, finite = row_moments(rows, torch.empty_like(rows))
    assert finite.tolist() == [2, 0, 4]
    assert mean.tolist() == [2, 0, 1.5]
    assert m2.tolist() == [2, 0, 21]
    assert positive.tolist() == [2, 0, 2]


@pytest.mark.parametrize("cuts", [[], [1], [500], [3, 3, 4, 999]])
def test_moments_of_parts_merge_to_those_of_the_stream(cuts):
    values = 1e4 + torch.randn(1000, 2, dtype=torch.float64)
    weights = torch.randint(0, 5, (1000, 2)).double()
    parts = [
        Moments.of(values[a:b], torch.zeros_like(values[a:b]), weights[a:b])
        for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    for c in range(2):
        repeated = values[:, c].repeat_interleave(weights[:, c].long())
        mean, m2 = exact_moments(repeated)
        assert merged.weight[c].item() == len(repeated)
        assert merged.mean[c].item() == pytest.approx(mean, rel=1e-15)
        assert merged.m2[c].item() == pytest.approx(m2, rel=1e-13)


def test_moments_of_channels_without_values_merge():
    values = 1e4 + torch.randn(4, 2, dtype=torch.float64)
    weights = torch.tensor([[0, 0], [0, 1], [0, 1], [0, 1]]).double()
    compensation = torch.zeros_like(values)
    merged = Moments.of(values[:2], compensation[:2], weights[:2]).merge(
        Moments.of(values[2:], compensation[2:], weights[2:])
    )
    assert merged.weight.tolist() == [0, 3]
    assert merged.m2[0] == 0
    mean, m2 = exact_moments(values[1:, 1])
    assert merged.mean[1].item() == mean
    assert merged.m2[1].item() == pytest.approx(m2, rel=1e-14)
