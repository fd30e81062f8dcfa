"""Every column from its definition in schema.py, computed in NumPy and SciPy.

The oracle, above the tests, imports nothing of the package. The tests compare it with every column
of `dc()`, `sites()`, `introduced()`, `spectra()`, `cross_spectra()` and `harmonics()`: over lengths
odd and even, 1 to 5, dtypes, offsets, inputs with NaN, and any split of the inputs.
"""

import itertools

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from helpers import DC_TABLE, SPECTRUM, report_of
from torch import nn

CHANNELS, INPUTS = 3, 7


# ---------------------------------------------------------------- oracle


def split_of_power(x, y):
    """Gain, and power of gain·x and of y − gain·x over y's, without each input's own DC."""
    x, y = (side - side.mean(-1, keepdims=True) for side in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = (x * y).sum() / (x * x).sum()
        total = np.where((y * y).sum() > 0, (y * y).sum(), np.nan)
        return gain, gain**2 * (x * x).sum() / total, ((y - gain * x) ** 2).sum() / total


def finite_dc(x):
    """DC of each input over its finite values, and their number, each ``[N]``."""
    count = np.isfinite(x).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(x), x, 0).sum(-1) / count, count


def dc_table(x, y):
    """Columns of `dc()` of one channel, of sides ``[N, T]``."""
    (dc_in, n_in), (dc_out, n_out) = finite_dc(x), finite_dc(y)
    ac = [np.nansum((side - dc[:, None])[np.isfinite(side)] ** 2) / n.sum()
          for side, dc, n in ((x, dc_in, n_in), (y, dc_out, n_out))]  # fmt: skip
    values_in, values_out = x[np.isfinite(x)], y[np.isfinite(y)]
    dc_power = np.nansum(n_out * dc_out**2) / n_out.sum()
    mean, std = values_in.mean(), values_in.std()
    rows = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
    gain, preserved, introduced = split_of_power(x[rows], y[rows])
    power = (y[rows] ** 2).sum() or np.nan
    gaussian = mean * scipy.stats.norm.cdf(mean / std) + std * scipy.stats.norm.pdf(mean / std)
    return {
        "n_samples": len(x),
        "dc_in": np.nanmean(dc_in),
        "dc_out": np.nanmean(dc_out),
        "dc_out_std": np.nanstd(dc_out),
        "ac_rms_in": np.sqrt(ac[0]),
        "ac_rms_out": np.sqrt(ac[1]),
        "active_fraction": (values_out > 0).mean(),
        "dc_fraction": dc_power / (dc_power + ac[1] or np.nan),
        "dc_gaussian": gaussian,
        "dc_gaussian_residual": values_out.mean() - gaussian,
        "preserved_fraction": preserved,
        "introduced_fraction": introduced,
        "regression_gain": gain,
        "half_x_ratio": (x[rows] ** 2 / 4).sum() / power,
        "half_abs_ratio": (x[rows] ** 2 / 4).sum() / power,
        "nonfinite": (~np.isfinite(x)).sum(),
        "nonfinite_out": (~np.isfinite(y)).sum(),
    }


def spectra_of(x, y):
    """Power of both sides and cross-spectrum of one channel, over the inputs that are finite."""
    rows = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
    x, y = x[rows], y[rows]
    length = x.shape[-1]
    fx, fy = (np.fft.rfft(side) / length for side in (x, y))
    double = np.full(length // 2 + 1, 2.0)
    double[0] = 1
    if length % 2 == 0:
        double[-1] = 1
    return tuple(double * z.mean(0) for z in (np.abs(fx) ** 2, np.abs(fy) ** 2, fx.conj() * fy))


class Fitted:
    """Least squares fit of the DC and K harmonics of `f0` (cycles/sample) to a signal ``[T]``.

    Attributes:
        dc: the fitted DC.
        amplitude: ``[K]``, NaN where a harmonic can't be distinguished.
        folded: ``[K]``, above the Nyquist frequency.
        rest: power of what is neither DC nor fundamental.
    """

    def __init__(self, x, f0, orders):
        time, width = np.arange(len(x)), (1 - 1e-9) / len(x)
        freq = f0 * np.arange(1, orders + 1)
        self.folded = freq > 0.5
        freq = np.abs(freq - np.round(freq))
        resolved = (freq >= width) & (1 - 2 * freq >= width)
        near = (np.abs(freq[:, None] - freq) < width) & ~np.eye(orders, dtype=bool)
        fitted = resolved & ~np.tril(near).any(1)
        columns = [np.ones(len(x))]
        for f in freq[fitted]:
            columns += [np.cos(2 * np.pi * f * time), np.sin(2 * np.pi * f * time)]
        table = np.array(columns).T
        solved = np.linalg.lstsq(table, x, rcond=None)[0]
        self.dc, self.amplitude = solved[0], np.full(orders, np.nan)
        self.amplitude[fitted] = np.hypot(solved[1::2], solved[2::2])
        self.amplitude[~(resolved & ~near.any(1))] = np.nan
        self.rest = ((x - table[:, :3] @ solved[:3]) ** 2).mean()


# ---------------------------------------------------------------- tests

KINDS = [(length, torch.float32) for length in (1, 2, 3, 4, 5, 31, 32)]
KINDS += itertools.product((5, 32), (torch.float64, torch.float16, torch.bfloat16))


def signals(length, dtype, offset=0.0, rows=INPUTS, seed=0):
    """Inputs ``[N, C, T]`` whose DC and scale differ."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, CHANNELS, length)) * np.array([1, 3, 0.5])[:, None]
    x += rng.standard_normal((rows, CHANNELS, 1)) + offset
    return torch.from_numpy(x).to(dtype)


def recorded(x, splits=(), **options):
    """A report of x in the batches that end at `splits`."""
    return report_of(nn.ReLU(), *torch.tensor_split(x, list(splits)), **options)


def both(x):
    x = x.double().numpy()
    return x, np.where(np.isnan(x), np.nan, np.maximum(x, 0))


def assert_dc_table(report, x):
    x, y = both(x)
    table, parts = report.dc(), report.introduced()
    expected = [dc_table(x[:, c], y[:, c]) for c in range(CHANNELS)]
    for name in expected[0]:
        column = (table if name in table else parts)[name]
        values = [row[name] for row in expected]
        # Differences are exact to the rounding of what is subtracted.
        scale = max(np.abs(row["dc_in"]) + row["ac_rms_in"] for row in expected)
        atol = DC_TABLE * scale if name.startswith("dc_") and name != "dc_fraction" else 1e-14
        np.testing.assert_allclose(column, values, rtol=DC_TABLE, atol=atol, err_msg=name)
    return expected


@pytest.mark.parametrize(("length", "dtype"), KINDS, ids=str)
def test_dc_table(length, dtype):
    x = signals(length, dtype)
    for splits in ((), (1, 2, 6)):
        assert_dc_table(recorded(x, splits, spectra=False), x)
    merged = recorded(x[:3], spectra=False).merge(recorded(x[3:], (2,), spectra=False))
    assert_dc_table(merged, x)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_dc_table_far_from_zero(offset):
    x = signals(32, torch.float32, offset)
    assert_dc_table(recorded(x, (3,), spectra=False), x)


def with_gaps():
    x = signals(32, torch.float32)
    x[1, 0, 3] = torch.nan
    x[2, 1, 5], x[4, 1, 6] = torch.inf, -torch.inf
    return x


def test_dc_table_without_what_is_not_finite():
    assert_dc_table(recorded(with_gaps(), (3,), spectra=False), with_gaps())


def test_sites_are_means_and_fractions_of_all_channels():
    x = signals(32, torch.float32)
    report = recorded(x, (3,))
    expected, (site,) = assert_dc_table(report, x), report.sites().to_dict("records")
    for name in ("dc_in", "dc_out", "dc_out_std", "ac_rms_in", "ac_rms_out", "active_fraction",
                 "dc_gaussian", "dc_gaussian_residual"):  # fmt: skip
        assert site[name] == pytest.approx(np.mean([row[name] for row in expected]), rel=DC_TABLE)
    dc, ac = (sum(row[name] ** 2 for row in expected) for name in ("dc_out", "ac_rms_out"))
    dc += sum(row["dc_out_std"] ** 2 for row in expected)
    assert site["dc_fraction"] == pytest.approx(dc / (dc + ac), rel=DC_TABLE)
    power = np.array([row["ac_rms_out"] ** 2 for row in expected])
    for name in ("preserved_fraction", "introduced_fraction"):
        fraction = (power * [row[name] for row in expected]).sum() / power.sum()
        assert site[name] == pytest.approx(fraction, rel=DC_TABLE)
    assert site["dead_fraction"] == site["always_on_fraction"] == 0
    far = recorded(signals(8, torch.float64, 1e4)).sites()
    assert (far["always_on_fraction"].item(), far["dead_fraction"].item()) == (1, 0)


@pytest.mark.parametrize(("length", "dtype"), KINDS[1:], ids=str)
def test_spectra_and_cross_spectra(length, dtype):
    x = signals(length, dtype)
    for splits in ((), (1, 2, 6)):
        assert_spectra(recorded(x, splits), x)


def test_spectra_far_from_zero():
    x = signals(32, torch.float32, 1e4)
    assert_spectra(recorded(x, (3,)), x)


def test_spectra_of_inputs_that_are_finite():
    assert_spectra(recorded(with_gaps(), (3,)), with_gaps())


def assert_spectra(report, x):
    x, y = both(x)
    table, cross = report.spectra(), report.cross_spectra()
    for c in range(CHANNELS):
        power_in, power_out, product = spectra_of(x[:, c], y[:, c])
        total = np.array(
            [power_in.sum(), power_out.sum(), np.sqrt(power_in.sum() * power_out.sum())]
        )
        of_channel, rows = table[table["channel"] == c], cross[cross["channel"] == c]
        freq = np.fft.rfftfreq(x.shape[-1])
        for side, power, scale in (("in", power_in, total[0]), ("out", power_out, total[1])):
            given = of_channel[of_channel["side"] == side]
            np.testing.assert_allclose(given["freq"], freq, atol=1e-15)
            np.testing.assert_allclose(given["power"], power, rtol=0, atol=SPECTRUM * scale)
        for name, expected in (("cross_real", product.real), ("cross_imag", product.imag)):
            np.testing.assert_allclose(rows[name], expected, rtol=0, atol=SPECTRUM * total[2])
        n = (np.isfinite(x[:, c]).all(-1)).sum()
        assert (rows["n_inputs"] == n).all()
        gain = dc_table(x[:, c], y[:, c])["regression_gain"]
        for name, expected in (
            ("preserved", gain**2 * power_in),
            ("introduced", power_out - 2 * gain * product.real + gain**2 * power_in),
        ):
            scale = total[1] + gain**2 * total[0]
            np.testing.assert_allclose(rows[name], expected, rtol=0, atol=4 * SPECTRUM * scale)
        # Where there is 1e-3 of the power, 1e-6 of it is 1e-3: twice in each of two factors.
        strong = (power_in > 1e-3 * total[0]) & (power_out > 1e-3 * total[1])
        coherence = np.abs(product[strong]) ** 2 / (power_in * power_out)[strong]
        np.testing.assert_allclose(rows["coherence"].to_numpy()[strong], coherence, atol=4e-3)


def test_bins_of_the_introduced_power():
    x = signals(32, torch.float64)
    parts, (given, output) = recorded(x).introduced(), both(x)
    for c in range(CHANNELS):
        power_in, power_out, product = spectra_of(given[:, c], output[:, c])
        gain, _, introduced = split_of_power(given[:, c], output[:, c])
        of_bins = power_out - 2 * gain * product.real + gain**2 * power_in
        share = np.cumsum(power_in[1:]) / power_in[1:].sum()
        edge = 1 + int(np.argmax(share >= 0.99))
        total = power_out[1:].sum()
        row = parts.iloc[c]
        assert row["band_edge"] == pytest.approx(edge / 32)
        inside, above = of_bins[1 : edge + 1].sum() / total, of_bins[edge + 1 :].sum() / total
        assert row["introduced_in_band_fraction"] == pytest.approx(inside, rel=1e-9)
        assert row["introduced_above_band_fraction"] == pytest.approx(above, rel=1e-9, abs=1e-15)
        assert inside + above == pytest.approx(introduced)


@pytest.mark.parametrize("length", [31, 64])
def test_harmonics(length):
    x, orders = signals(length, torch.float32), 5
    f0 = np.array([0.071, 0.083, 0.125, 0.2, 0.25, 1 / 3, 0.09])  # some fold, some together
    options = {"f0": f0.tolist(), "harmonics": orders, "fs": 1.0}
    report = report_of(nn.ReLU(), x, **options)
    table = report.harmonics().set_index(["channel", "harmonic", "folded"])
    sides = both(x)
    for c in range(CHANNELS):
        fits = [[Fitted(side[n, c], f0[n], orders) for n in range(INPUTS)] for side in sides]
        for folded, k in itertools.product((False, True), range(orders)):
            squares = [[fit.amplitude[k] ** 2 for fit in of_side if fit.folded[k] == folded]
                       for of_side in fits]  # fmt: skip
            if not squares[0]:
                assert (c, k + 1, folded) not in table.index
                continue
            row, known = table.loc[(c, k + 1, folded)], np.isfinite(squares[0])
            assert row["n_inputs"] == known.sum()
            for name, values in zip(("amplitude_in", "amplitude_out"), squares, strict=True):
                expected = np.sqrt(np.mean(np.array(values)[known])) if known.any() else np.nan
                assert row[name] == pytest.approx(expected, rel=SPECTRUM, nan_ok=True)
        has_first = np.isfinite([fit.amplitude[0] for fit in fits[0]])
        complete = np.isfinite([fit.amplitude.sum() for fit in fits[0]])
        row = table.loc[c].iloc[0]
        assert row["n_inputs_sinad"] == has_first.sum() > row["n_inputs_thd"] == complete.sum() > 1
        for name, of_side in zip(("in", "out"), fits, strict=True):
            power = np.array([fit.amplitude**2 for fit in of_side])
            rest = sum(fit.rest for fit, known in zip(of_side, has_first, strict=True) if known)
            sinad = 10 * np.log10(power[has_first, 0].sum() / 2 / rest)
            assert row[f"sinad_{name}"] == pytest.approx(sinad, rel=SPECTRUM)
            thd = np.sqrt(power[complete, 1:].sum() / power[complete, 0].sum())
            assert row[f"thd_{name}"] == pytest.approx(thd, rel=SPECTRUM)
        tones = []
        for fit, known in zip(fits[0], has_first, strict=True):
            theta = np.arccos(np.clip(-fit.dc / fit.amplitude[0], -1, 1)) if known else 0
            tones.append((fit.dc * theta + fit.amplitude[0] * np.sin(theta)) / np.pi)
        row, tone = report.dc().iloc[c], np.mean(np.array(tones)[has_first])
        assert row["dc_tone"] == pytest.approx(tone, rel=SPECTRUM)
        rest = sides[1][has_first, c].mean() - tone
        assert row["dc_tone_residual"] == pytest.approx(rest, rel=SPECTRUM, abs=SPECTRUM)
