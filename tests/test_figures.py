"""The examples that draw the paper's figures, against SciPy and closed forms."""

import contextlib
import io

import figure1
import figure2
import figure5
import numpy as np
import pandas as pd
import pytest
import scipy.signal
from matplotlib.figure import Figure
from scipy.integrate import quad
from scipy.special import binom


def run(example, folder):
    """The table that `--quick` writes, and what it prints."""
    name, text = example.__name__, io.StringIO()
    with contextlib.redirect_stdout(text):
        assert example.main(["--quick", "--out", str(folder)]) == 0
    assert {file.name for file in folder.iterdir()} == {f"{name}.csv", f"{name}.png"}
    assert (folder / f"{name}.png").stat().st_size > 20_000
    text = " ".join(text.getvalue().split())
    assert text.count("Paper: ") == text.count("Here: ") > 1
    return pd.read_csv(folder / f"{name}.csv"), text


def test_figure1_has_the_errors_of_the_series(tmp_path):
    table, text = run(figure1, tmp_path)
    x = tones(np.arange(8192) / 1024)
    taylor, chebyshev, away = (
        table[table["method"] == method].set_index("terms")
        for method in ("taylor", "chebyshev", "taylor, no zero crossing")
    )
    # The sum by hand: of binomial coefficients and powers of g.
    for n in (10, 100):
        powers = (x**2 / 8 - 1) ** np.arange(n)[:, np.newaxis]
        series = x / 2 + np.sqrt(2) * binom(0.5, np.arange(n)) @ powers
        error = series - np.maximum(x, 0)
        rms = np.sqrt((error**2).mean() / (np.maximum(x, 0) ** 2).mean())
        assert taylor["relative_rms"][n] == pytest.approx(rms, rel=1e-9)
        assert taylor["largest"][n] == pytest.approx(np.abs(error).max(), rel=1e-9)
        paper = np.sqrt(((x - series) ** 2).mean() / (x**2).sum())
        assert taylor["paper"][n] == pytest.approx(paper, rel=1e-9)
    assert taylor["relative_rms"][100] == pytest.approx(0.0100, abs=1e-4)
    assert taylor["paper"][100] == pytest.approx(0.00694, abs=1e-5)
    assert chebyshev["relative_rms"][100] < taylor["relative_rms"][100] / 10
    # −ρ ≤ g ≤ ρ: the remainder of a series with terms n^−1½·ρⁿ falls slightly faster than ρⁿ.
    low, high = ((x + 6) ** 2).min(), ((x + 6) ** 2).max()
    falls = (away["relative_rms"][20] / away["relative_rms"][10]) ** 0.1
    assert 0.8 < falls / ((high - low) / (high + low)) < 1
    assert "0.694%" in text


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return run(figure2, tmp_path_factory.mktemp("figure2"))


@pytest.fixture(scope="module")
def fifth(tmp_path_factory):
    return run(figure5, tmp_path_factory.mktemp("figure5"))


def tones(time):
    return sum(np.cos(2 * np.pi * f * time) for f in (5, 10, 20, 40))


def spectrum(y):
    """SciPy's power spectrum of one second: bin k is k Hz."""
    freq, power = scipy.signal.periodogram(y, 1024, scaling="spectrum", detrend=False)
    assert freq[7] == 7
    return power


def test_figure2_is_what_numpy_makes_of_it(second):
    table, text = second
    first = np.maximum(tones(np.arange(1024) / 1024), 0)
    signals = [first]
    for _ in range(2):
        signals.append(np.maximum(1024 * (np.roll(signals[-1], -1) - signals[-1]), 0))
    averaged = [first]
    for _ in range(5):
        averaged.append(sum(np.roll(averaged[-1], step) for step in range(-4, 5)) / 9)
    assert table["network"].tolist() == ["h_dif"] * 3 + ["h_avg"] * 6 + ["input"]
    given = tones(np.arange(1024) / 1024)
    for (_, row), y in zip(table.iterrows(), [*signals, *averaged, given], strict=True):
        power = spectrum(y)
        ac = power[1:].sum()
        assert row["dc"] == pytest.approx(y.mean(), abs=1e-12)
        assert row["ac_rms"] == pytest.approx(y.std())
        assert row["above_100_hz"] == pytest.approx(power[101:].sum() / ac, abs=1e-12)
        if row["network"] == "input":
            assert np.isnan(row["folded"])
        else:
            assert row["folded"] == pytest.approx(power[np.arange(513) % 5 > 0].sum() / ac)
        below = np.cumsum(power[1:]) / ac
        edge = int(row["band_edge_hz"])
        assert below[edge - 1] >= 0.99 > below[edge - 2]
    # The whole band, and a narrow one. Text and table agree.
    assert table["band_edge_hz"][2] > 500
    assert table["band_edge_hz"][8] == 40
    assert f"{table['above_100_hz'][2]:.1%} of it is above 100 Hz" in text


def test_after_figure2s_first_relu_averages_are_all_that_happens(second):
    table, _ = second
    rows = table[table["network"] == "h_avg"]
    np.testing.assert_allclose(rows["regression_gain"][1:], 1, rtol=1e-12)
    assert rows["off_filters"].max() < 1e-13
    freq = np.arange(1, 513)
    average = np.sin(9 * np.pi * freq / 1024) / (9 * np.sin(np.pi * freq / 1024))
    power = spectrum(np.maximum(tones(np.arange(1024) / 1024), 0))[1:]
    for times, fraction in enumerate(rows["above_100_hz"]):
        left = power * average ** (2 * times)
        assert fraction == pytest.approx(left[100:].sum() / left.sum())
    # The DC equals that in continuous time: 1,024 samples have as many phases of 0.2 s.
    exact, _ = quad(lambda t: max(tones(t), 0), 0, 0.2, limit=500)
    np.testing.assert_allclose(rows["dc"], exact / 0.2, rtol=1e-5)


def test_without_its_last_two_relus_figure2s_differences_are_a_filter(second):
    table, _ = second
    fractions = table.loc[table["network"] == "h_dif", "filters_above_100_hz"]
    power = spectrum(np.maximum(tones(np.arange(1024) / 1024), 0))[1:]
    for times, share in enumerate(fractions):
        left = power * np.sin(np.pi * np.arange(1, 513) / 1024) ** (2 * times)
        assert share == pytest.approx(left[100:].sum() / left.sum())


def test_figure2_is_the_same_of_one_second_and_of_eight(second, tmp_path, monkeypatch):
    quick, _ = second
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # drawn above
    assert figure2.main(["--out", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "figure2.csv"), quick, atol=1e-12)


@pytest.fixture(scope="module")
def brute():
    """Outputs of `--quick` by NumPy: class → [cosine, filter], with and without the ReLU."""
    weight = figure5.network(figure5.QUICK_FILTERS)[0].weight.detach().numpy()[:, 0]
    by_class = {}
    for hz in (3, 5, 10):
        freq, x = (t.numpy() for t in figure5.cosines(hz, figure5.QUICK_COSINES))
        z = x[:, :, :-1] * weight[:, :1] + x[:, :, 1:] * weight[:, 1:]
        by_class[hz] = freq, np.maximum(z, 0).mean(-1), z.mean(-1)
    return weight, by_class


def test_figure5s_cosines_are_of_their_class():
    for hz in (3, 5, 10):
        freq, x = (t.numpy() for t in figure5.cosines(hz, 30))
        assert np.abs(freq - hz).max() <= 0.1
        assert freq.std() > 0.03
        peak = np.abs(np.fft.rfft(x[:, 0] * np.hanning(256), 8192)).argmax(-1) * 32 / 8192
        np.testing.assert_allclose(peak, freq, atol=0.02)
        np.testing.assert_allclose(x.std(-1), np.sqrt(0.5), rtol=0.02)


def test_figure5_is_what_numpy_makes_of_it(brute, fifth):
    table, text = fifth
    weight, by_class = brute
    assert table["class_hz"].tolist() == [3, 5, 10] * len(weight)
    for hz, (freq, output, linear) in by_class.items():
        rows = table[table["class_hz"] == hz]
        np.testing.assert_allclose(rows[["tap_0", "tap_1"]], weight)
        for column, values in {
            "dc_out": output.mean(0),
            "dc_out_std": output.std(0),
            "dc_in": linear.mean(0),
            "lowest": output.min(0),
            "highest": output.max(0),
        }.items():
            np.testing.assert_allclose(rows[column], values, rtol=1e-9, atol=1e-15)
        for number in range(0, len(weight), 10):
            _, response = scipy.signal.freqz(weight[number], worN=[hz], fs=32)
            assert rows["gain"].iloc[number] == pytest.approx(np.abs(response[0]))
            _, response = scipy.signal.freqz(weight[number], worN=freq, fs=32)
            predicted = (np.abs(response) / np.pi).mean()
            assert rows["predicted"].iloc[number] == pytest.approx(predicted)
        # Over a class the effects of the window's ends average out; without ReLU nothing is left.
        np.testing.assert_allclose(rows["dc_out"], rows["predicted"], rtol=5e-3)
        assert rows["dc_in"].abs().max() < 0.01 * rows["dc_out"].mean()
    assert f"filter 0 (taps {weight[0, 0]:.3f}, {weight[0, 1]:.3f})" in text


def test_figure5_counts_the_filters_that_order_and_separate(brute, fifth):
    table, text = fifth
    weight, by_class = brute
    outputs = [by_class[hz][1] for hz in (3, 5, 10)]
    ordered, separated = [], []
    for number, (first, second) in enumerate(weight):
        classes = [output[:, number] for output in outputs]
        if first * second > 0:  # a low-pass
            classes.reverse()
        means = [values.mean() for values in classes]
        ordered.append(means == sorted(means))
        ranges = sorted((min(values), max(values)) for values in classes)
        separated.append(ranges[0][1] < ranges[1][0] and ranges[1][1] < ranges[2][0])
    rows = table[table["class_hz"] == 3]
    assert rows["ordered"].tolist() == ordered
    assert rows["separated"].tolist() == separated
    assert sum(ordered) > 0.98 * len(weight)
    assert f"in the order of |H| in {sum(ordered)}." in text
    assert f"class of every cosine in {sum(separated)} of {len(weight)} filters" in text


def test_what_figure5_has_beyond_its_prediction_is_the_window():
    model = figure5.network(3)
    for hz in (3, 5, 10):
        freq, x = figure5.cosines(hz, 2000)
        total, half, remainder = figure5.deviations(figure5.run(model, freq, x))
        # Mean of A·cos over n samples: A·sin(nω/2)/(n·sin(ω/2)), times the cosine of a phase.
        omega = 2 * np.pi * freq.numpy() / 32
        mean = np.sin(255 * omega / 2) / (255 * np.sin(omega / 2))
        expected = np.pi / 2 * np.sqrt((mean**2 / 2).mean())  # of ½x, over A/π
        np.testing.assert_allclose(np.sqrt((half**2).mean(0)), expected, rtol=0.1)
        np.testing.assert_allclose(total, half + remainder, atol=1e-15)
        assert np.sqrt((remainder**2).mean()) < 0.003
        assert np.sqrt((total**2).mean()) < 0.012


@pytest.mark.parametrize("example", [figure2, figure5])
def test_an_example_says_what_is_wrong(example, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert example.main(["--quick", "--out", str(tmp_path / "file")]) == 2
    assert f"{example.__name__}: cannot write to" in capsys.readouterr().err
