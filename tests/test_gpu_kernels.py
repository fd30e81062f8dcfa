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
from spectroscope.dsp.moments import ChannelMoments

torch.cuda.device = lambda _: contextlib.nullcontext()  # the interpreter has none
torch.manual_seed(0)

def assert_same(x, ill_conditioned):
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    expected, length = dispatch.relu_moments(wide), wide[0, 0].numel()
    assert expected.one_pass != ill_conditioned
    rows = expected.rows
    if expected.one_pass:
        rows[5:7], rows[7:] = 0, length
    actual = gpu.row_moments(x, (*x.shape[:2], length), x.view(*x.shape[:2], -1).stride())
    rounding = rows[3].max().sqrt().item() * 1e-14 / length**0.5 + 1e-15
    torch.testing.assert_close(actual[[0, 1, 5, 6]] + actual[[5, 6, 0, 1]],
                               rows[[0, 1, 5, 6]] + rows[[5, 6, 0, 1]], rtol=1e-14, atol=rounding)
    torch.testing.assert_close(actual[2:4], rows[2:4], rtol=1e-11, atol=0)
    assert torch.equal(actual[[4, 7, 8]], rows[[4, 7, 8]])
    finite = actual[7:].eq(length).all(0)
    wide, rectified = torch.full((2, *x.shape), 7.0, dtype=torch.float64)
    strides = x.view(*x.shape[:2], -1).stride()
    gpu.to_float64(x, (*x.shape[:2], length), strides, finite, wide, rectified)
    given = x.double().contiguous()
    dispatch.zero_nonfinite_rows(given, finite)
    assert torch.equal(wide, given) and torch.equal(rectified, given.relu())
    channels = expected.reduce_batch()
    reduced = ChannelMoments(gpu.reduce_batch(actual, length))
    assert_same_channels(reduced, channels)
    other = ChannelMoments(channels.table.roll(1, 1))
    merged = ChannelMoments(gpu.merge(reduced.table, other.table))
    assert_same_channels(merged, channels.merge(other))
    assert_same_channels(dispatch.merge_moments(channels, other), channels.merge(other))

def assert_same_channels(actual, expected):
    for name in "weight", "mean", "m2":
        for mine, other in (actual.dc, expected.dc), (actual.joint, expected.joint):
            mine, other = getattr(mine, name), getattr(other, name)
            scale = other.abs().max().item()
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12 * scale + 1e-30)
    torch.testing.assert_close(actual.sums, expected.sums, rtol=1e-11, atol=0)

for dtype in torch.float32, torch.float64, torch.float16, torch.bfloat16:
    assert_same(torch.randn(2, 3, 37).to(dtype), False)
for shape in (1, 1, 3), (1, 2, 2600), (66, 1, 2), (1, 35, 2, 3):
    x = torch.randn(shape)
    assert_same(x, False)
    if len(shape) == 3:
        assert_same(x.transpose(1, 2).contiguous().transpose(1, 2), False)
assert_same(torch.randn(2, 5, 40)[:, 1:4, 1:], False)
x = 1e4 + torch.randn(3, 4, 30)
assert_same(x, True)
x[0, 0, :2] = torch.tensor([torch.nan, -torch.inf])
x[1, 1] = torch.nan
x[2, 3, 0] = torch.inf
assert_same(x, True)
for shape, room in ((5, 3, 2, 35), 3), ((2, 2, 1, 600), 0), ((40, 1, 1, 3), 1):
    x, y = torch.randn(2, *shape, dtype=torch.complex128)
    sums = torch.randn(3, shape[1], shape[3], dtype=torch.float64)
    imag = torch.zeros(room, shape[3], dtype=torch.float64)
    cross = (x.conj() * y).sum((0, 2))
    powers = [(side * side.conj()).real.sum((0, 2)) for side in (x, y)]
    expected = sums + torch.stack([*powers, cross.real])
    gpu.add_products(*map(torch.view_as_real, (x, y)), sums, imag)
    torch.testing.assert_close(sums, expected, rtol=1e-12, atol=1e-12)
    if room:
        torch.testing.assert_close(imag, cross.imag, rtol=1e-12, atol=1e-12)
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
