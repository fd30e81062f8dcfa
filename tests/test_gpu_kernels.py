"""The kernels for GPUs, in Triton's interpreter: the results of the loops for the CPU, to rounding.

On a GPU itself tests/test_cuda.py sees them at work.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

CODE = """
import contextlib, torch
from spectroscope.dsp.kernels import dispatch, gpu
from spectroscope.dsp.moments import ChannelMoments, LineMoments

torch.cuda.device = lambda _: contextlib.nullcontext()  # the interpreter has none
torch.manual_seed(0)

def assert_same(x, y=None, lines=1):
    length = x[0, 0].numel() // lines
    shape = x.shape[1], 2, (len(x) + 1) // 2, lines, length
    dtype = dispatch.computed_in(x, y).to_complex()
    expected_out, actual_out = (torch.full(shape, 7 + 7j, dtype=dtype) for _ in range(2))
    expected = torch.full((8, x.shape[1], len(x), lines), 7.0, dtype=torch.float64)
    table = torch.rand(27, x.shape[1] + 2, dtype=torch.float64)
    tables = [table.clone() for _ in range(3)]
    everything = range(len(x))
    dispatch.read_lines(x, y, lines, everything, 1, tables[0], None, expected, expected_out)
    flat = x.reshape(*x.shape[:2], -1), None if y is None else y.reshape(*y.shape[:2], -1)
    moments = gpu.center_lines(*flat, lines, actual_out)
    gpu.add_moments(moments, 1, tables[1])
    batch = LineMoments(expected, length).of_inputs().of_channels()
    c = slice(1, -1)
    tables[2][:, c] = ChannelMoments(table[:, c]).merge(batch).table
    assert torch.equal(tables[1][:, [0, -1]], table[:, [0, -1]])
    for other in tables[:1] + tables[2:]:
        assert_same_channels(ChannelMoments(tables[1]), ChannelMoments(other))
    means = torch.rand(4, x.shape[1] + 2, dtype=torch.float64)
    added = means.clone()
    gpu.add_means(moments, 1, added)
    means[:, c] += LineMoments(expected, length).mean_products()
    torch.testing.assert_close(added, means, rtol=1e-12, atol=0)
    actual, expected = moments.fields, expected.clone()
    rounding = 1e-12 * expected[2:5].max().item()
    torch.testing.assert_close(actual[:2], expected[:2], rtol=1e-14, atol=1e-15)
    incomplete = expected[6:].lt(length).any(0)
    actual[4, incomplete], expected[4, incomplete] = 0, 0
    torch.testing.assert_close(actual[2:5], expected[2:5], rtol=1e-9, atol=rounding)
    assert torch.equal(actual[5:], expected[5:])
    eps = torch.finfo(dtype).eps
    if len(x) % 2:
        torch.view_as_real(actual_out)[:, :, -1, ..., 1] = 0
    parts = map(torch.view_as_real, (actual_out, expected_out))
    torch.testing.assert_close(*parts, rtol=4 * eps, atol=4 * eps)
    first, second = batch.table, batch.table.roll(1, 1)
    merged = first.clone(), first.clone()
    gpu.merge(merged[0], second)
    dispatch.merge_moments(merged[1], second)
    for table in merged:
        expected = ChannelMoments(first).merge(ChannelMoments(second))
        assert_same_channels(ChannelMoments(table), expected)

def assert_same_channels(actual, expected):
    for name in "weight", "mean", "m2":
        for mine, other in (actual.dc, expected.dc), (actual.joint, expected.joint):
            mine, other = getattr(mine, name), getattr(other, name)
            scale = other.abs().max().item()
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12 * scale + 1e-20)
    torch.testing.assert_close(actual.sums, expected.sums, rtol=1e-11, atol=0)

for dtype in torch.float32, torch.float64, torch.float16, torch.bfloat16:
    assert_same(torch.randn(2, 3, 37).to(dtype))
for shape in (1, 1, 3), (1, 2, 2600), (66, 1, 2), (1, 35, 2, 3), (3, 4, 1):
    x = torch.randn(shape)
    assert_same(x)
    assert_same(x, x.abs() - 1)
assert_same(torch.randn(2, 5, 40)[:, 1:4])
assert_same(torch.randn(2, 5, 4, 9), lines=4)
x = 1e4 + torch.randn(3, 4, 30)
assert_same(x)
x[0, 0, :2] = torch.tensor([torch.nan, -torch.inf])
x[1, 1] = torch.nan
x[2, 3, 0] = torch.inf
x[2, 2, 7] = -torch.inf
for y in None, x - 1:
    assert_same(x, y)
    assert_same(x.view(3, 4, 5, 6), y if y is None else y.view(3, 4, 5, 6), lines=5)
for shape in (3, 2, 5, 2, 35), (2, 2, 2, 1, 600), (1, 2, 40, 1, 3):
  for dtype in torch.complex128, torch.complex64:
    both = torch.randn(shape, dtype=dtype)
    sums = torch.full((4, shape[0], shape[4]), 7.0, dtype=torch.float64)
    gpu.products(torch.view_as_real(both), sums)
    x, y = both.to(torch.complex128).unbind(1)
    cross = (x.conj() * y).sum((1, 2))
    powers = [(side * side.conj()).real.sum((1, 2)) for side in (x, y)]
    expected = torch.stack([*powers, cross.real, cross.imag])
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
print("the same")
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
def test_gpu_kernels_agree_with_the_compiled_loops():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr
