"""Compiled moments of both sides of a ReLU, against exact arithmetic, and without numba."""

import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import DC_TABLE, SPECTRUM, assert_spectra_close, values
from torch import nn

import spectroscope
from spectroscope.dsp.kernels import dispatch
from spectroscope.dsp.moments import (
    LINE_FIELDS,
    MEAN_ROWS,
    TABLE_ROWS,
    X_FINITE,
    X_M2,
    X_MEAN,
    XY,
    Y_M2,
    Y_POSITIVE,
    ChannelMoments,
    LineMoments,
)
from spectroscope.dsp.spectra import Transform

pytestmark = pytest.mark.usefixtures("two_threads")

SHAPES = [
    (2, 3, 1),
    (5, 40, 1, 1),
    (2, 3, 2),
    (1, 1, 4097),
    (3, 2, 5, 7),
    (2, 300, 3, 3),
    (2, 1, 2, 3, 4),
    (1, 2048, 2),
]


def whole(values):
    """Whole numbers and a unit: each value is its number over the unit, exactly."""
    ratios = [v.as_integer_ratio() for v in values]
    # Multiples of one power of two: whole numbers add up much faster than fractions.
    unit = max(below for _, below in ratios)
    return [above * (unit // below) for above, below in ratios], unit


def exact(values):
    """Mean, M2, number > 0 and number of the finite values, in rational arithmetic."""
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return 0.0, 0.0, 0, 0
    numbers, unit = whole(values)
    m2 = exact_product(values, values)
    return (
        float(Fraction(sum(numbers), len(values) * unit)),
        m2,
        sum(v > 0 for v in values),
        len(values),
    )


def exact_product(x, y):
    """Σ(x − mean of x)·(y − mean of y) in rational arithmetic."""
    (x, x_unit), (y, y_unit) = whole(x), whole(y)
    product = len(x) * sum(a * b for a, b in zip(x, y, strict=True)) - sum(x) * sum(y)
    return float(Fraction(product, len(x) * x_unit * y_unit))


def read(x, y=None, lines=1, chosen=None):
    """What is read of a batch, compiled.

    Returns:
        Fields ``[LINE_FIELDS, C, n, lines]`` and both sides without means ``[n, C, lines, T]`` of
        the chosen inputs, their products of means ``[MEAN_ROWS, C + 2]``, and the table
        ``[TABLE_ROWS, C + 2]`` of all inputs; the first and last channel are others.
    """
    channels, count = x.shape[1], len(x if chosen is None else chosen)
    fields = torch.full((LINE_FIELDS, channels, count, lines), 7.0, dtype=torch.float64)
    shape = channels, 2, (count + 1) // 2, lines, x[0, 0].numel() // lines
    out = torch.full(shape, 7 + 7j, dtype=dispatch.computed_in(x, y).to_complex())
    means = torch.zeros(MEAN_ROWS, channels + 2, dtype=torch.float64)
    table = torch.zeros(TABLE_ROWS, channels + 2, dtype=torch.float64)
    chosen = range(len(x)) if chosen is None else chosen
    dispatch.read_lines(x, y, lines, chosen, 1, table, means, fields, out)
    assert not table[:, [0, -1]].any()
    assert not means[:, [0, -1]].any()
    parts = torch.view_as_real(out).permute(1, 2, 5, 0, 3, 4).flatten(1, 2)  # [2, inputs, c, ...]
    assert not parts[:, count:].any()
    return fields, parts[:, :count], means[:, 1:-1], ChannelMoments(table[:, 1:-1])


def assert_exact(x, y=None):
    """The moments of `x` and of `y` or its ReLU are exact, and what is left without the mean."""
    fields, lines, _, table = read(x, y)
    fields, lines = fields[..., 0], [side.squeeze(2) for side in lines]
    sides = [side.double().flatten(2) for side in (x, x.relu() if y is None else y)]
    eps = torch.finfo(lines[0].dtype).eps
    finite_throughout = torch.stack([side.isfinite().all(2) for side in sides]).all(0)
    # Of lines as Python's numbers; compared all at once, because there are thousands.
    rows = [side.transpose(0, 1).flatten(0, 1).tolist() for side in sides]
    for side, given in enumerate(sides):
        moments = torch.tensor([exact(row) for row in rows[side]], dtype=torch.float64)
        mean, m2, positive, finite = moments.T.unflatten(1, fields.shape[1:])
        largest = given.nan_to_num(0, 0, 0).abs().amax(2)
        # Each of 8 sums or more has at most T/8 roundings, and the mean has a few.
        rounding = (given.shape[2] / 8 + 4) * 2**-53 * largest + 5e-324
        assert ((fields[X_MEAN + side] - mean).abs() <= rounding.T).all()
        torch.testing.assert_close(fields[X_M2 + side], m2, rtol=DC_TABLE, atol=1e-300)
        assert torch.equal(fields[X_FINITE + side], finite)
        if side == 1:
            assert torch.equal(fields[Y_POSITIVE], positive)
        left = torch.where(finite_throughout[:, :, None], given - mean.T[:, :, None], 0.0)
        atol = eps * left.abs().amax(2) + 2 * rounding
        off = (lines[side].double() - left).abs() - eps * left.abs()
        assert (off <= atol[:, :, None]).all()
    chosen = finite_throughout.T.flatten().tolist()
    products = [
        exact_product(*pair)
        for pair, whole in zip(zip(*rows, strict=True), chosen, strict=True)
        if whole
    ]
    of_finite = fields[:, finite_throughout.T]
    off = (of_finite[XY] - torch.tensor(products, dtype=torch.float64)).abs()
    assert (off <= DC_TABLE * (of_finite[X_M2] * of_finite[Y_M2]).sqrt()).all()
    assert_table(table, x, y)


def assert_table(table, x, y=None):
    """The table of the batch is that of torch's own operations in two passes."""
    sides = (side.double().transpose(0, 1).flatten(2) for side in (x, x.relu() if y is None else y))
    expected = LineMoments.of(*(side.unsqueeze(2) for side in sides)).of_channels()
    assert torch.equal(table.sums[:, 1:], expected.sums[:, 1:])
    for mine, other in (table.dc, expected.dc), (table.joint, expected.joint):
        assert torch.equal(mine.weight, other.weight)
        # A mean of thousands of numbers has some rounding, of the size of the largest.
        scale = x.double().nan_to_num(0, 0, 0).abs().amax().item()
        torch.testing.assert_close(mine.mean, other.mean, rtol=1e-14, atol=1e-14 * scale + 5e-324)
    for mine, other in (
        (table.dc.m2, expected.dc.m2),
        (table.sums[:, 0], expected.sums[:, 0]),
        (table.joint.m2, expected.joint.m2),
        (table.ac, expected.ac),
    ):
        scale = other.abs().max().item()  # of products, which may cancel
        torch.testing.assert_close(mine, other, rtol=DC_TABLE, atol=DC_TABLE * scale)


@pytest.mark.parametrize("chosen", [range(0, 7, 3), range(2, 7, 4), range(6, 7, 9), range(7, 7, 2)])
@pytest.mark.parametrize("compiled", [True, False])
def test_lines_of_chosen_inputs_alone_are_read(monkeypatch, chosen, compiled):
    if not compiled:
        monkeypatch.setattr(dispatch, "cpu_kernels", lambda: None)
    x = 3 + torch.randn(7, 4, 2, 5)
    x[3, 1, 0, 2] = torch.nan
    for y in (None, x.square()):
        fields, lines, means, table = read(x, y, 2, chosen)
        assert_table(table, x, y)
        part = slice(chosen.start, chosen.stop, chosen.step)
        if not chosen:
            continue
        of_part = read(x[part], None if y is None else y[part], 2)
        torch.testing.assert_close(fields, of_part[0], rtol=0, atol=0, equal_nan=True)
        assert all(torch.equal(a, b) for a, b in zip(lines, of_part[1], strict=True))
        torch.testing.assert_close(means, of_part[2], rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 3.0, -50.0, 1e4, -1e4])
def test_moments_of_both_sides_are_exact(shape, dtype, offset):
    x = (offset + torch.randn(shape)).to(dtype)
    assert_exact(x)
    assert_exact(x, x.abs() - 0.3)
    if x.dim() == 4:
        assert_exact(x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("lay", [
    lambda x: x[::2], lambda x: x[:, 1:4], lambda x: x[:1].expand(4, -1, -1),
    lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: x[1:, :, 3:50],
], ids=["samples", "channels", "expanded", "channels side by side", "slice"])  # fmt: skip
def test_memory_layout_does_not_matter(lay):
    assert_exact(lay(torch.randn(4, 6, 61)))


def test_a_tensor_of_zeros_without_memory():
    zeros = torch._efficientzerotensor((4, 3, 8))  # as forward-mode differentiation makes
    table = record(nn.ReLU(), zeros).dc()
    assert table["n_samples"].tolist() == [4, 4, 4]
    assert not table[["dc_in", "ac_rms_in", "ac_rms_out"]].to_numpy().any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nonfinite_values_are_left_out(layout):
    x = torch.randn(3, 4, 9, 11)
    x[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x[1, 2] = torch.nan
    x[2, 3, 4] = -torch.inf
    assert_exact(x.to(memory_format=layout))


@pytest.mark.parametrize("values", [
    [0.0] * 40, [7.25] * 40, [-3.5] * 40, [-0.0, 0.0] * 20, [1e-310, -1e-310] * 20,
    [1e150, -1e150] * 20, [1e-30] * 39 + [1e30], [1e8 + i for i in range(40)],
])  # fmt: skip
def test_extreme_values_are_exact(values):
    assert_exact(torch.tensor(values, dtype=torch.float64).view(1, 2, 20))


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_million_values_are_added_without_loss(side_by_side):
    x = 20 + torch.randn(1, 2, 1_000_003)
    lying = x.transpose(1, 2).contiguous().transpose(1, 2) if side_by_side else x
    fields, wide = read(lying)[0][..., 0], x[0, 1].numpy().astype(np.longdouble)
    mean = wide.mean()
    assert fields[X_MEAN, 1, 0].item() == pytest.approx(float(mean), rel=1e-14)
    assert fields[X_M2, 1, 0].item() == pytest.approx(
        float(((wide - mean) ** 2).sum()), rel=DC_TABLE
    )


@pytest.mark.parametrize("spectra", [1, 4, 5, 8])
@pytest.mark.parametrize("lengths", [(2,), (1030,), (2060,), (3, 5), (40, 54)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_products_are_numpys(spectra, lengths, dtype):
    transform = Transform.of(lengths, "boxcar", torch.device("cpu"))
    pairs, lines = -(-spectra // 2), 2 - spectra % 2
    signals = torch.randn(3, 2, pairs, lines, *lengths, 2, dtype=dtype.to_real())
    both = transform(torch.view_as_complex(signals)).flatten(4)
    power = torch.randn(2, 5, transform.bins, dtype=torch.float64)
    cross = torch.randn(5, transform.bins, dtype=torch.complex128)
    max_norm = torch.zeros(5, 40 if transform.radial else 0, dtype=torch.float64)
    before = power.clone(), cross.clone()
    dispatch.add_products(both, transform, 1, power, cross, max_norm)
    # The products of these very numbers, exactly.
    of_bins = np.zeros((3, 3, transform.bins), dtype=complex)
    x, y = both.to(torch.complex128).numpy().swapaxes(0, 1)
    products = [abs(x) ** 2, abs(y) ** 2, x.conj() * y]
    signs = 0 if transform.radial else 1j * transform.sign.numpy()
    of_components = np.stack([product.sum((1, 2)) for product in products])
    np.add.at(of_bins, np.s_[:, :, transform.bin], of_components.real + signs * of_components.imag)
    added = [power[:, 1:4] - before[0][:, 1:4], (cross - before[1])[None, 1:4]]
    scale = abs(of_bins).max()
    np.testing.assert_allclose(np.concatenate(added), of_bins, rtol=0, atol=1e-14 * scale)
    # Of each signal alone, one-sided.
    axes = tuple(range(-len(lengths), 0))
    x, y = np.moveaxis(np.fft.rfftn(signals.double().numpy(), axes=[a - 1 for a in axes]), 1, 0)
    product = (x.conj() * y).sum((1, 2, -1)).reshape(3, -1)
    squares = [(abs(side) ** 2).sum((1, 2, -1)).reshape(3, -1) for side in (x, y)]
    width = lengths[-1] // 2 + 1
    weights = np.where(np.arange(width) % (lengths[-1] / 2), 2, 1)
    weights = np.broadcast_to(weights, (*lengths[:-1], width)).ravel()
    f = [np.abs(np.fft.fftfreq(length)) for length in lengths[:-1]] + [np.fft.rfftfreq(lengths[-1])]
    f = np.stack(np.meshgrid(*f, indexing="ij")).reshape(len(lengths), -1) * max(lengths)
    bins = np.floor(np.hypot.reduce(f) + 0.5 + 1e-9).astype(int)
    squares_bins = np.floor(f.max(0) + 0.5 + 1e-9).astype(int)
    of_bins = np.zeros((3, 5, transform.bins), dtype=complex)
    of_max_norm = np.zeros(max_norm.shape)
    for k, (b, square) in enumerate(zip(bins, squares_bins, strict=True)):
        of_bins[:, 1:4, b] += weights[k] * np.stack([*squares, product])[:, :, k]
        if transform.radial:
            of_max_norm[1:4, square] += weights[k] * squares[1][:, k]
    if transform.radial:
        of_bins = of_bins.real
    eps = {torch.complex64: SPECTRUM, torch.complex128: 1e-13}[dtype]
    tolerance = {"rtol": 0, "atol": eps * abs(of_bins).sum(-1).max()}
    np.testing.assert_allclose(power - before[0], of_bins[:2].real, **tolerance)
    np.testing.assert_allclose(cross - before[1], of_bins[2], **tolerance)
    np.testing.assert_allclose(max_norm, of_max_norm, **tolerance)


@pytest.mark.parametrize("compiled", [True, False])
def test_products_of_means_leave_out_incomplete_inputs(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(dispatch, "cpu_kernels", lambda: None)
    x = 3 + torch.randn(4, 2, 3, 5, dtype=torch.float64)
    x[2, 1, 0, 4] = torch.nan
    means = read(x, x.square(), 3)[2]
    assert means[0].tolist() == [4, 3]
    for c, rest in ((0, [0, 1, 2, 3]), (1, [0, 1, 3])):
        a, b = x[rest, c].mean(-1).numpy(), x[rest, c].square().mean(-1).numpy()
        expected = [(a * a).sum(), (b * b).sum(), (a * b).sum()]
        np.testing.assert_allclose(means[1:, c], expected, rtol=1e-13)


def record(model, *batches, **options):
    with spectroscope.record(model, **options) as recorder:
        for batch in batches:
            model(batch)
    return recorder.report()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_reports_are_the_same_without_numba(monkeypatch, dtype, offset):
    x = (offset + torch.randn(7, 5, 6, 10)).to(dtype)
    x[2, 3, 1, 1] = torch.nan
    with_it = record(nn.ReLU(), x)
    assert dispatch.cpu_kernels() is not None
    monkeypatch.setattr(dispatch, "cpu_kernels", lambda: None)
    without = record(nn.ReLU(), x)
    pd.testing.assert_frame_equal(with_it.dc(), without.dc(), rtol=DC_TABLE, atol=0)
    for name in ("spectra", "cross_spectra"):
        tables = getattr(with_it, name)(), getattr(without, name)()
        for column in {"power", "cross_real"} & {*tables[0]}:
            found, expected = (values(table, column) for table in tables)
            total = values(without.spectra(), "power").sum(1)
            assert_spectra_close(found, expected, total)


def test_compiled_code_runs(monkeypatch):
    called = []
    cpu = dispatch.cpu_kernels()
    read_lines = cpu.read_lines
    monkeypatch.setattr(cpu, "read_lines", lambda *args: called.append(1) or read_lines(*args))
    record(nn.ReLU(), torch.randn(2, 3, 8))
    assert called


# Prints, of three processes that use one folder one after another, how many loops were on disk and
# the sum of the bits after a merge, and after a reading but for the third. They are forks of one
# that has imported everything and compiled nothing. Before the third the indexes on disk are
# damaged; their number is printed.
CACHE = """
import os, pathlib, torch
from spectroscope.dsp.kernels import dispatch
torch.manual_seed(0)
x = torch.randn(64, 6, 256, dtype=torch.float64)
table = torch.rand(27, 6, dtype=torch.float64)
dispatch.cpu_kernels()
from spectroscope.dsp.kernels.cpu.compilation import _compiled
for number in range(3):
    if number == 2:
        indexes = list(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi"))
        print(len(indexes), flush=True)
        for index in indexes:
            index.write_bytes(index.read_bytes()[:20])
    child = os.fork()
    if child == 0:
        dispatch.merge_moments(table, table.clone())
        bits = [table.view(torch.int64).sum().item()]
        if number < 2:
            dispatch.read_lines(x, None, 1, range(64), 0, table, None, None, None)
            bits.append(table.view(torch.int64).sum().item())
        print(len(_compiled), sum(loop.cache_hits for loop in _compiled), *bits, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_compiled_code_is_kept_on_disk_and_a_damaged_cache_costs_time_and_no_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CACHE],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, indexes, third = (line.split() for line in done.stdout.splitlines())
    assert first[:2] == ["2", "0"]
    assert second == ["2", "2", *first[2:]]
    assert int(indexes[0]) == 2
    assert third == ["1", "0", first[2]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it works")
def test_gpu_kernels_that_fail_raise_a_warning():
    pytest.importorskip("triton")
    with pytest.warns(UserWarning, match="on cuda:0 goes without compiled kernels.*Error: "):
        assert dispatch.gpu_kernels.__wrapped__(torch.device("cuda", 0)) is None
