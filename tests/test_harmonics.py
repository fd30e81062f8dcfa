"""Harmonics at exact frequencies, against least squares, DFTs, Fourier series and quadrature."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.signal
import torch
from helpers import report_of, tone
from torch import nn

import spectroscope
from spectroscope.dsp.harmonics import Harmonics
from spectroscope.dsp.harmonics import fit as fitted


def fit(x, freq):
    """Amplitudes ``[..., K]`` at `freq` that fit ``[..., T]`` best; all but DC and the first."""
    x = np.asarray(x, np.float64)
    turns = 2 * np.pi * np.outer(np.arange(x.shape[-1]), freq)
    basis = np.ones((len(turns), 1 + 2 * len(freq)))
    basis[:, 1::2], basis[:, 2::2] = np.cos(turns), np.sin(turns)
    found = np.linalg.lstsq(basis, x.reshape(-1, len(turns)).T, rcond=None)[0]
    size = np.hypot(found[1::2], found[2::2]).T.reshape(*x.shape[:-1], len(freq))
    return size, x - (basis[:, :3] @ found[:3]).T.reshape(x.shape)


def orders_apart(f0, orders, length):
    """Which orders are a bin from all others, DC and Nyquist's other side; and the fit's basis."""
    freq = [abs(k * f0 - round(k * f0)) for k in range(1, orders + 1)]
    inside = [min(f, 1 - 2 * f) * length >= 1 for f in freq]

    def near(k, others):
        return any(abs(freq[k] - freq[j]) * length < 1 for j in others if j != k)

    usable = [inside[k] and not near(k, range(orders)) for k in range(orders)]
    return np.array(usable), np.array([inside[k] and not near(k, range(k)) for k in range(orders)])


@pytest.mark.parametrize("length", [37, 64, 65, 20_001])
@pytest.mark.parametrize("orders", [1, 8])
def test_amplitudes_are_those_of_least_squares(length, orders):
    f0 = 1 / length + torch.rand(12, dtype=torch.float64) * (0.5 - 1 / length)
    x = 3 + torch.randn(12, 2, length, dtype=torch.float64)
    harmonics = Harmonics.of(f0, orders, length)
    found = fitted(x, harmonics, x.mean(-1), x.var(-1, correction=0)).amplitude.numpy()
    # A phase grows to 2π·8·f0·T/2 radians, and is rounded accordingly.
    rounding = np.finfo(float).eps * 4 * np.pi * length
    for n in range(12):
        used, basis = orders_apart(f0[n].item(), orders, length)
        assert harmonics.usable[n].tolist() == used.tolist()
        freq = f0[n].item() * np.arange(1, orders + 1)[basis]
        expected = fit(x[n], freq)[0][:, used[basis]]
        np.testing.assert_allclose(found[n][:, used], expected, rtol=1e-11, atol=rounding)
        assert (found[n][:, ~used] == 0).all()


@pytest.mark.parametrize("length", [400, 401])
def test_a_tone_off_the_bins_reads_its_amplitude_and_nothing_else(length):
    f0 = 3.37 / 100
    x = torch.cat([tone(f0, length, a, offset=5) for a in (0.5, 3.0)], 1)
    table = report_of(nn.ReLU(), x, fs=100.0, f0=3.37, harmonics=5).harmonics()
    found = table["amplitude_in"].to_numpy().reshape(2, 5)
    np.testing.assert_allclose(found[:, 0], [0.5, 3], rtol=1e-12)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-13)
    np.testing.assert_allclose(table["freq"], np.tile(3.37 * np.arange(1, 6), 2), rtol=1e-14)
    assert set(table["freq_unit"]) == {"Hz"}
    assert not table["folded"].any()
    expected = fit(x.relu()[0], f0 * np.arange(1, 6))[0]
    np.testing.assert_allclose(table["amplitude_out"], expected.ravel(), rtol=1e-11, atol=1e-13)


def test_a_rectified_tone_has_the_harmonics_of_its_fourier_series():
    # 200.3 samples a period: folded harmonics, from 2/(π·170²) down, lie between those looked at,
    # 60 bins and more away, and leak 1/60π of themselves; those from 32 on likewise less.
    amplitude, orders = 3.0, 30
    x = tone(1 / 200.3, 40_000, amplitude)
    table = report_of(nn.ReLU(), x, f0=1 / 200.3, harmonics=orders).harmonics()
    n = np.arange(1, orders + 1)
    expected = np.zeros(orders)
    expected[0] = amplitude / 2
    expected[1::2] = 2 * amplitude / (math.pi * (n[1::2] ** 2 - 1))
    np.testing.assert_allclose(table["amplitude_out"], expected, rtol=0, atol=3e-6)
    thd = math.sqrt((expected[1:] ** 2).sum()) / expected[0]
    np.testing.assert_allclose(table["thd_out"], thd, rtol=1e-5)
    # All of them: √(1 − 8/π²), of which those above 30 are 2·10⁻⁵.
    np.testing.assert_allclose(table["thd_out"], math.sqrt(1 - 8 / math.pi**2), rtol=5e-5)
    np.testing.assert_allclose(table["thd_in"], 0, atol=1e-12)


def test_each_input_has_its_own_fundamental():
    f0 = torch.tensor([2.8, 3.71, 5.1, 2.2])
    fs, amplitude = 32.0, [1.0, 2.0, 0.5, 3.0]
    x = torch.cat(
        [tone(f / fs, 300, a) for f, a in zip(f0.double().tolist(), amplitude, strict=True)]
    )
    x = torch.cat([x, torch.randn(4, 2, 300)], 1)
    model = nn.ReLU()
    together = report_of(model, x, fs=fs, f0=f0, harmonics=6)
    with spectroscope.record(model, fs=fs, harmonics=6) as recorder:
        for batch, of_batch in zip(x.split([1, 3]), f0.split([1, 3]), strict=True):
            recorder.f0 = of_batch
            model(batch)
    alone = [report_of(model, x[[n]], fs=fs, f0=f0[n].item(), harmonics=6) for n in (2, 0, 3, 1)]
    merged = alone[0].merge(alone[1]).merge(alone[2].merge(alone[3]))
    for report in (recorder.report(), merged):
        for name in ("harmonics", "dc"):
            pd.testing.assert_frame_equal(
                getattr(report, name)(), getattr(together, name)(), rtol=1e-11, atol=1e-13
            )
    first = together.harmonics().query("channel == 0 and harmonic == 1").iloc[0]
    assert first["amplitude_in"] == pytest.approx(np.sqrt(np.mean(np.square(amplitude))), rel=1e-11)
    assert first["freq"] == pytest.approx(f0.double().mean().item(), rel=1e-14)
    # The fourth harmonic of 5.1 Hz is above 16 Hz, those of the others are not.
    rows = together.harmonics().query("harmonic == 4").set_index(["channel", "folded"])
    of_output = x.relu().numpy()
    single = [fit(of_output[n], f0[n].item() / fs * np.arange(1, 7))[0][:, 3] for n in range(4)]
    for c in range(3):
        assert rows.loc[(c, True), "freq"] == pytest.approx(32 - 4 * f0[2].item(), rel=1e-14)
        assert rows.loc[(c, True), "amplitude_out"] == pytest.approx(single[2][c], rel=1e-10)
        rest = np.sqrt(np.mean([single[n][c] ** 2 for n in (0, 1, 3)]))
        assert rows.loc[(c, False), "amplitude_out"] == pytest.approx(rest, rel=1e-10)
        assert rows.loc[(c, False), "n_inputs"] == 3


def test_each_input_keeps_its_own_in_a_batch_reduced_in_pieces():
    f0, amplitude = [0.0123, 0.2371, 0.0317, 0.1], np.array([1.0, 5.0, 0.3, 2.0])
    x = torch.cat([tone(f, 100_000, a) for f, a in zip(f0, amplitude, strict=True)])
    row = report_of(nn.ReLU(), x, f0=f0, harmonics=2).harmonics().iloc[0]
    assert row["amplitude_in"] == pytest.approx(np.sqrt((amplitude**2).mean()), rel=1e-9)
    assert row["n_inputs"] == 4


def test_thd_is_of_inputs_in_which_all_harmonics_can_be_measured():
    """Behind a stride of 4 the second harmonic folds in the second input only."""
    conv = nn.Conv1d(1, 1, 1, stride=4, bias=False)
    nn.init.ones_(conv.weight)
    f0, amplitude = [1.0, 2.4, 8 / 3, 2.0], [1.0, 3.0, 9.0, 5.0]  # the last two fold onto others
    x = torch.cat(
        [
            tone(f / 32, 640, a) + tone(2 * f / 32, 640, 0.3 * a, phase=1)
            for f, a in zip(f0, amplitude, strict=True)
        ]
    )
    model = nn.Sequential(conv.double(), nn.ReLU())
    table = report_of(model, x, fs=32, f0=f0, harmonics=2).harmonics()
    np.testing.assert_allclose(table["thd_in"], 0.3, rtol=1e-10)
    assert table["n_inputs_thd"].eq(2).all()
    assert table["n_inputs_sinad"].eq(3).all()  # 2.0 Hz is apart from its second harmonic, 4.0 Hz


def test_the_noise_floor_is_that_of_white_noise():
    sigma, length, f0 = 0.5, 128, [0.0371, 0.052, 0.0433]
    x = torch.cat([tone(f, length, 0.3) for f in f0]).repeat(1000, 1, 1)
    x = torch.cat([x, 0 * x], 1) + sigma * torch.randn(3000, 2, length, dtype=torch.float64)
    report = report_of(nn.ReLU(), x, f0=f0 * 1000, harmonics=5)
    table = report.harmonics().query("not folded")
    floor = math.sqrt(4 * sigma**2 / length)
    assert table["n_inputs_noise"].eq(3000).all()
    # A mean of 3,000 to 6,000 squares that are exponentially distributed.
    np.testing.assert_allclose(table["noise_floor_in"], floor, rtol=0.03)
    expected = np.zeros((2, 5))
    expected[0, 0] = 0.3
    biased = np.sqrt(expected**2 + floor**2)
    np.testing.assert_allclose(table["amplitude_in"].to_numpy().reshape(2, 5), biased, rtol=0.03)
    error = table["debiased_in"].to_numpy().reshape(2, 5) ** 2 - expected**2
    np.testing.assert_allclose(error, 0, atol=0.06 * floor**2 + 0.02 * 0.3 * floor)
    alone = report_of(nn.ReLU(), x[:3], f0=f0, harmonics=5).harmonics()
    np.testing.assert_allclose(
        alone["debiased_out"],
        np.sqrt(np.maximum(alone["amplitude_out"] ** 2 - alone["noise_floor_out"] ** 2, 0)),
    )


@pytest.mark.parametrize("length", [60, 61])
def test_noise_next_to_harmonics_is_unbiased(length):
    """Also where the fit takes most of it: half-way is little more than a bin away."""
    f0 = torch.tensor([2.2 / length, 0.21], dtype=torch.float64).repeat(10_000)
    harmonics = Harmonics.of(f0, 3, length)
    x = torch.randn(20_000, 1, length, dtype=torch.float64)
    found = fitted(x, harmonics, x.mean(-1), x.var(-1, correction=0))
    for n in range(2):
        known = harmonics.noise_known[n]
        assert known.any()
        noise, power = (
            values[n::2, 0][:, known].mean(0).numpy()
            for values in (found.noise, found.amplitude.square())
        )
        np.testing.assert_allclose(noise, power, rtol=0.05)


def test_noise_is_unknown_where_nothing_lies_between_harmonics():
    f0 = [1.5 / 100, 0.0371]  # 0.75 bins to what is half-way
    x = torch.randn(2, 1, 100)
    table = report_of(nn.ReLU(), x, f0=f0, harmonics=3).harmonics()
    alone = report_of(nn.ReLU(), x[1:], f0=f0[1], harmonics=3).harmonics()
    assert table["n_inputs"].eq(2).all()
    assert table["n_inputs_noise"].eq(1).all()
    for name in ("noise_floor_in", "debiased_out"):
        np.testing.assert_allclose(table[name], alone[name])
    neither = report_of(nn.ReLU(), x[:1], f0=f0[:1], harmonics=3).harmonics()
    assert neither[["noise_floor_in", "debiased_in", "noise_floor_out"]].isna().all(axis=None)


def test_harmonics_above_nyquist_are_found_where_they_fold():
    x = torch.randn(3, 2, 320, dtype=torch.float64)
    table = report_of(nn.ReLU(), x, fs=32, f0=5).harmonics()
    folded = [5, 10, 15, 12, 7, 2, 3, 8]
    # Of whole periods, so that a DFT sees each by itself.
    turns = np.outer(np.array(folded) / 32, np.arange(320))
    for c, rows in table.groupby("channel"):
        np.testing.assert_allclose(rows["freq"], folded, rtol=1e-13)
        assert rows["folded"].tolist() == [False] * 3 + [True] * 5
        assert (rows["n_inputs"] == 3).all()
        for side, tensor in (("in", x), ("out", x.relu())):
            dft = 2 / 320 * tensor[:, c].numpy() @ np.exp(-2j * np.pi * turns).T
            expected = np.sqrt((np.abs(dft) ** 2).mean(0))
            np.testing.assert_allclose(rows[f"amplitude_{side}"], expected, rtol=1e-11)
            thd = np.sqrt((expected[1:] ** 2).sum()) / expected[0]
            np.testing.assert_allclose(rows[f"thd_{side}"], thd, rtol=1e-11)


@pytest.mark.parametrize(
    ("f0", "found"),
    [
        (9.6, {1}),  # 9.6, 12.8, 3.2, 6.4, 16, 6.4, 3.2, 12.8
        (8.0, set()),  # 8, 16, 8, 0, 8, …
        (6.4, set()),  # 6.4, 12.8, 12.8, 6.4, 0, …
        (32 / 3, set()),  # f0, f0, 0, …
        (3.2, {1}),  # 3.2, 6.4, 9.6, 12.8, 16, 12.8, 9.6, 6.4
        (0.1, set(range(1, 9))),  # a bin apart
        (0.05, set()),  # half a bin apart
    ],
)
def test_what_can_not_be_told_apart_is_left_out(f0, found):
    table = report_of(nn.ReLU(), torch.randn(2, 1, 320), fs=32, f0=f0).harmonics()
    known = table["amplitude_out"].notna()
    assert set(table["harmonic"][known]) == found
    assert (table["n_inputs"] == np.where(known, 2, 0)).all()
    assert len(table) == 8
    complete = len(found) == 8
    assert (table["n_inputs_thd"] == (2 if complete else 0)).all()
    assert table["thd_out"].notna().eq(complete).all()
    assert (table["n_inputs_sinad"] == (2 if 1 in found else 0)).all()
    assert table["sinad_out"].notna().eq(1 in found).all()


@pytest.mark.parametrize("f0", [5.0, 5.037])
def test_sinad_is_the_fundamental_over_the_rest(f0):
    noise = 0.01 * torch.randn(1, 1, 320, dtype=torch.float64)
    x = 0.3 + tone(f0 / 32, 320, 2.0) + tone(3 * f0 / 32, 320, 0.01) + noise
    table = report_of(nn.ReLU(), x, fs=32, f0=f0, harmonics=3).harmonics()
    for side, tensor in (("in", x), ("out", x.relu())):
        size, rest = fit(tensor[0, 0], f0 / 32 * np.arange(1, 4))
        expected = 10 * math.log10(size[0] ** 2 / 2 / np.mean(rest**2))
        # Of whole periods A²/2 is the power; of others that is so to a part in 4π periods.
        tolerance = 1e-9 if f0 == 5 else 0.02
        np.testing.assert_allclose(table[f"sinad_{side}"], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("f0", [4.3, "auto"])
def test_any_split_gives_the_same_harmonics(f0):
    x = tone(4.3 / 32, 200) + torch.randn(7, 3, 200)
    x[5, 1, 3] = torch.inf
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    whole = report_of(model, x, fs=32, f0=f0)
    parts = x.split([1, 2, 4])
    a, b, c = (report_of(model, part, fs=32, f0=f0) for part in parts)
    for report in (report_of(model, *parts, fs=32, f0=f0), c.merge(a.merge(b))):
        for name in ("harmonics", "dc"):
            pd.testing.assert_frame_equal(
                getattr(report, name)(), getattr(whole, name)(), rtol=1e-10, atol=1e-14
            )


def test_inputs_without_a_fundamental_or_not_finite_are_left_out():
    x = torch.randn(4, 2, 100, dtype=torch.float64)
    x[2, 1, 50] = torch.nan
    table = report_of(nn.ReLU(), x, f0=[0.031, math.nan, 0.043, 0.057], harmonics=3).harmonics()
    for c, rest in enumerate(([0, 2, 3], [0, 3])):
        rows = table[table["channel"] == c]
        assert (rows["n_inputs"] == len(rest)).all()
        for side, tensor in (("in", x), ("out", x.relu())):
            single = [
                fit(tensor[n, c], f * np.arange(1, 4))[0]
                for n, f in ((0, 0.031), (2, 0.043), (3, 0.057))
                if n in rest
            ]
            np.testing.assert_allclose(
                rows[f"amplitude_{side}"], np.sqrt(np.mean(np.square(single), 0)), rtol=1e-10
            )
    report = report_of(nn.ReLU(), x, f0=math.nan)
    with pytest.raises(spectroscope.RequestError, match="no harmonics were recorded"):
        report.harmonics()


@pytest.mark.parametrize(
    "f0", [0, -1, 16, 20, math.inf, [3, 17], "strongest", "3", [[3.0]], "AUTO"]
)
def test_what_is_no_fundamental_is_refused(f0):
    with pytest.raises(spectroscope.RequestError, match="f0"):
        spectroscope.record(nn.ReLU(), fs=32, f0=f0)
    recorder = spectroscope.record(nn.ReLU(), fs=32, f0=3)
    with pytest.raises(spectroscope.RequestError, match="f0"):
        recorder.f0 = f0
    assert recorder.f0 == 3


def test_the_fundamental_is_in_cycles_per_sample_without_fs():
    assert spectroscope.record(nn.ReLU(), f0=0.49).f0 == 0.49
    with pytest.raises(spectroscope.RequestError, match=r"between 0 and fs/2 = 0\.5"):
        spectroscope.record(nn.ReLU(), f0=0.5)


def test_as_many_fundamentals_as_inputs_or_none_are_found(tmp_path, capsys):
    model = nn.ReLU()
    with (
        pytest.warns(UserWarning, match="3 values of f0 for 2 inputs"),
        spectroscope.record(model, f0=[0.1, 0.2, 0.3]) as recorder,
    ):
        model(torch.randn(2, 1, 50))
    report = recorder.report()
    assert report.coverage()["status"].item() == "incomplete"
    assert report.dc()["n_samples"].item() == 2
    why = "3 values of f0 for 2 inputs; give one for all, or one per input of each batch"
    assert why in report.coverage()["reason"].item()
    with pytest.raises(
        spectroscope.RequestError, match=f"no harmonics were recorded.*; here {why}"
    ):
        report.harmonics()
    report.summary()
    for text in (str(report), capsys.readouterr().out):
        assert f"Reason: no harmonics: {why}" in " ".join(text.split())
    report.page(tmp_path / "report.html")
    head = (tmp_path / "report.html").read_text().partition("<figure")[0]
    assert f"Reason: no harmonics: {why}" in head


def test_behind_a_stride_harmonics_fold_at_the_sites_own_rate():
    conv = nn.Conv1d(1, 1, 1, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.randn(2, 1, 300, dtype=torch.float64)
    model = nn.Sequential(conv, nn.ReLU()).double()
    table = report_of(model, x, fs=32, f0=3.1, harmonics=6).harmonics()
    # At 16 Hz: 3.1, 6.2, then 9.3, 12.4, 15.5 and 18.6 folded.
    np.testing.assert_allclose(table["freq"], [3.1, 6.2, 6.7, 3.6, 0.5, 2.6], rtol=1e-13)
    assert table["folded"].tolist() == [False] * 2 + [True] * 4
    for side, tensor in (("in", x[..., ::2]), ("out", x[..., ::2].relu())):
        size = fit(tensor[:, 0], 3.1 / 16 * np.arange(1, 7))[0]
        np.testing.assert_allclose(
            table[f"amplitude_{side}"], np.sqrt((size**2).mean(0)), rtol=1e-10
        )


def rectified_mean(offset, amplitude):
    """Mean of ReLU(offset + amplitude·cos) over half a period, as over a whole."""
    edge = [math.acos(-offset / amplitude)] if abs(offset) < amplitude else None
    total, _ = scipy.integrate.quad(
        lambda angle: max(offset + amplitude * math.cos(angle), 0), 0, math.pi,
        points=edge, epsabs=1e-13, epsrel=1e-13,
    )  # fmt: skip
    return total / math.pi


def test_dc_tone_is_the_mean_of_the_integrals():
    # Offset and amplitude of two inputs, for each channel.
    cases = [
        [(0.0, 2.0), (0.7, 1.0)],
        [(-0.9, 1.0), (-3.0, 1.0)],
        [(3.0, 1.0), (0.2, 3.0)],
        [(0.4, 0.0), (-0.4, 0.0)],
    ]
    x = torch.stack(
        [torch.cat([tone(0.05, 400, *case[n][::-1])[0] for case in cases]) for n in (0, 1)]
    )
    row = report_of(nn.ReLU(), x, f0=0.05).dc()
    expected = [np.mean([rectified_mean(*pair) for pair in case]) for case in cases]
    np.testing.assert_allclose(row["dc_tone"], expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(row["dc_tone_residual"], row["dc_out"] - expected, atol=1e-13)
    assert report_of(nn.ReLU(), x).dc()["dc_tone"].isna().all()
    assert report_of(nn.ReLU6(), x, f0=0.05).dc()["dc_tone"].isna().all()


def test_saved_harmonics_are_loaded(tmp_path):
    x = torch.randn(3, 2, 90)
    report = report_of(nn.ReLU(), x, fs=32, f0=[2.9, 5.3, math.nan], harmonics=6)
    report.save(tmp_path / "saved")
    loaded = spectroscope.load(tmp_path / "saved")
    for name in ("harmonics", "dc"):
        pd.testing.assert_frame_equal(getattr(loaded, name)(), getattr(report, name)())
    with pytest.raises(spectroscope.RequestError, match="6 harmonics, then 8"):
        loaded.merge(report_of(nn.ReLU(), x, fs=32, f0=3))


def test_the_residual_of_a_tone_is_over_the_inputs_that_have_one():
    x = torch.randn(4, 1, 64)
    x[2:] += 100
    model = nn.ReLU()
    with spectroscope.record(model, f0=[0.1, 0.1, math.nan, math.nan]) as recorder:
        model(x)
    row = recorder.report().dc().iloc[0]
    expected = x[:2].relu().double().mean().item() - row["dc_tone"]
    assert row["dc_tone_residual"] == pytest.approx(expected)
