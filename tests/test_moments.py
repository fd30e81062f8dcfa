"""Moments, against exact rational arithmetic."""

from fractions import Fraction

import pytest
import torch
from helpers import DC_TABLE

from spectroscope.dsp.moments import (
    X_M2,
    X_MEAN,
    XY,
    Y_FINITE,
    Y_M2,
    Y_MEAN,
    Y_POSITIVE,
    LineMoments,
    Moments,
)


def exact_moments(values):
    """Mean and M2 of float64 numbers in rational arithmetic."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((n - mean) ** 2 for n in numbers))


def test_line_moments_are_right_far_from_zero():
    x = 1e4 + torch.randn(3, 1, 1, 1001, dtype=torch.float64)
    fields = LineMoments.of(x, x.abs()).fields[:, :, 0, 0]
    for c, row in enumerate(x[:, 0, 0]):
        mean, m2 = exact_moments(row)
        assert fields[[X_MEAN, Y_MEAN], c].tolist() == pytest.approx([mean] * 2, rel=1e-15)
        assert fields[[X_M2, Y_M2, XY], c].tolist() == pytest.approx([m2] * 3, rel=1e-13)


def test_line_moments_leave_out_nonfinite_values():
    x = torch.tensor([[1.0, torch.nan, 3.0, -torch.inf], [torch.inf] * 4, [0.0, -1, 2, 5]])
    x = x.double().view(3, 1, 1, 4)
    moments = LineMoments.of(x, x)
    fields = moments.fields[:, :, 0, 0]
    assert fields[Y_FINITE].tolist() == [2, 0, 4]
    assert fields[Y_MEAN].tolist() == [2, 0, 1.5]
    assert fields[Y_M2].tolist() == [2, 0, 21]
    assert fields[Y_POSITIVE].tolist() == [2, 0, 2]
    assert moments.finite.flatten().tolist() == [False, False, True]
    assert moments.means.flatten().tolist() == [0, 0, 1.5] * 2


def test_moments_of_lines_merge_to_those_of_inputs():
    x = 1e4 + torch.randn(2, 3, 5, 7, dtype=torch.float64)
    x[1, 2, 3, 4] = torch.nan
    y = x.square() / 1e4
    lines = LineMoments.of(x, y).of_inputs()
    inputs = LineMoments.of(x.flatten(2).unsqueeze(2), y.flatten(2).unsqueeze(2))
    assert lines.length == inputs.length == 35
    assert torch.equal(lines.finite, inputs.finite)
    finite = inputs.finite.expand(8, -1, -1)
    torch.testing.assert_close(
        lines.fields[..., 0][finite], inputs.fields[..., 0][finite], rtol=1e-11, atol=0
    )
    assert lines.fields[X_M2, 1, 2].item() == pytest.approx(inputs.fields[X_M2, 1, 2].item())


@pytest.mark.parametrize("cuts", [[], [1], [500], [3, 3, 4, 999]])
def test_moments_of_parts_merge_to_those_of_the_stream(cuts):
    values = 1e4 + torch.randn(2, 1000, dtype=torch.float64)
    weights = torch.randint(0, 5, (2, 1000)).double()
    parts = [
        Moments.of(values[:, a:b], weights[:, a:b])
        for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    for c in range(2):
        repeated = values[c].repeat_interleave(weights[c].long())
        mean, m2 = exact_moments(repeated)
        assert merged.weight[c].item() == len(repeated)
        assert merged.mean[c].item() == pytest.approx(mean, rel=1e-15)
        assert merged.m2[c].item() == pytest.approx(m2, rel=DC_TABLE)


def test_moments_of_channels_without_values_merge():
    values = 1e4 + torch.randn(2, 4, dtype=torch.float64)
    weights = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1]]).double()
    merged = Moments.of(values[:, :2], weights[:, :2]).merge(
        Moments.of(values[:, 2:], weights[:, 2:])
    )
    assert merged.weight.tolist() == [0, 3]
    assert merged.m2[0] == 0
    mean, m2 = exact_moments(values[1, 1:])
    assert merged.mean[1].item() == pytest.approx(mean, rel=1e-15)
    assert merged.m2[1].item() == pytest.approx(m2, rel=DC_TABLE)
