"""The user's own PPG: reading, windows, and the message for every fault."""

import importlib.util
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import signal

import spectroscope
from spectroscope import run
from spectroscope.adapters import heart_rate
from spectroscope.adapters.support import ppg_files
from spectroscope.adapters.support.ppg_files import read_signal, to_scale, to_windows
from spectroscope.adapters.support.ppg_pickle import read_windows

RAMP = np.arange(500.0)


def write(folder, name, content):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("one.csv", "ppg\n1.5\n2\n-3\n", None),
        ("bare.csv", "1.5\n2\n-3", None),
        ("bom.csv", "\ufeffppg\r\n1.5\r\n2\r\n-3\r\n\r\n", "ppg"),
        ("two.csv", "time, ppg\n0,1.5\n1,2\n2,-3\n", "ppg"),
        ("two.csv", "time,ppg\n0,1.5\n1,2\n2,-3\n", "1"),
        ("two.csv", "time,ppg\n0,1.5\n1,2\n2,-3\n", 1),
        ("bare-two.csv", "0,1.5\n1,2\n2,-3\n", 1),
        ("x.NPY", np.array([1.5, 2, -3], np.float32), None),
        ("x.npz", {"ppg": np.array([1.5, 2, -3])}, None),
        ("x.npz", {"a": np.zeros(3), "ppg": np.array([1.5, 2, -3])}, "ppg"),
        # An object array beside it is ignored.
        ("x.npz", {"meta": np.array([{}], object), "ppg": np.array([1.5, 2, -3])}, "ppg"),
    ],
)
def test_a_signal_is_read(tmp_path, name, content, column):
    path = write(tmp_path, name.lower(), content).rename(tmp_path / name)
    signal = read_signal(path, column)
    assert signal.dtype == np.float64
    assert signal.tolist() == [1.5, 2, -3]


def test_a_name_goes_before_a_number(tmp_path):
    path = write(tmp_path, "x.csv", "x,0\n1,9\n2,9\n")
    assert read_signal(path, "0").tolist() == [9, 9]
    assert read_signal(path, 1).tolist() == [9, 9]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("x.txt", "1\n2\n", None, r"x\.txt must be a \.csv, \.npy, \.npz file"),
        ("x.csv", "", None, "x.csv is empty"),
        ("x.csv", b"\xff\xfe\x00", None, "cannot read .*UnicodeDecodeError"),
        ("x.csv", "a,b\n1,2\n", None, r"column must say which of .*x\.csv is the PPG: a, b"),
        ("x.csv", "a,b\n1,2\n", "c", r"x\.csv has no column 'c': it has a, b"),
        ("x.csv", "a,b\n1,2\n", 2, "has no column 2: it has a, b"),
        ("x.csv", "a,b\n1,2\n", -1, "has no column -1: it has a, b"),
        ("x.csv", ",".join("abcdefghijk") + "\n", None, "a, b, c, d, e, f, g, h and 3 more"),
        ("x.csv", "a\n1\n2,5\n3\n", None, "cannot read .*Expected 1 fields in line 3"),
        ("x.csv", "a\n1,2\n3,4\n", None, "cannot read .*header or names does not match"),
        ("x.csv", "a\n1\noops\n3\n", None, r"real numbers, but has 'oops' at sample 1"),
        ("x.csv", "t;a\n1;2\n", None, "column must say which of .*: t, a"),
        ("x.csv", "a,b\n1,2\n1,x\n", "b", "'b' of .* has 'x' at sample 1"),
        ("x.csv", "a\n1\n\n\n4\ninf\n6\nnan\n8", None, r"\(2 at sample 1, 1 at sample 4, 1 at"),
        ("x.csv", "a\n" + "1\nnan\n" * 9 + "1", None, "1 at sample 9 and 4 more gaps"),
        ("x.npy", b"", None, "cannot read .*x.npy"),
        ("x.npy", b"garbage", None, "cannot read .*x.npy"),
        ("x.npy", np.zeros((2, 5)), None, r"must be one signal, \[T\], but its shape is \[2, 5\]"),
        ("x.npy", np.zeros(()), None, r"its shape is \[\]"),
        ("x.npy", np.zeros(4, complex), None, "must be real numbers, but has complex128"),
        ("x.npy", np.zeros(4, bool), None, "must be real numbers, but has bool"),
        ("x.npy", np.array(["1", "b"]), None, "must be real numbers, but has .*'b'.* at sample 1"),
        ("x.npz", {"a": RAMP, "b": RAMP}, None, "which of .* is the PPG: a, b"),
        ("x.npz", {"a": RAMP}, "b", "has no column 'b': it has a"),
        ("x.npz", {}, None, "it has none"),
        ("x.npz", b"PK\x03\x04", None, "cannot read .*x.npz"),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_is_one_line_that_names_it(tmp_path, name, content, column, message):
    path = write(tmp_path, name, content)
    with pytest.raises(spectroscope.RequestError, match=message) as error:
        read_signal(path, column)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_nothing_is_unpickled(tmp_path, capsys, name):
    evil = np.array([Evil()], object)
    contents = [pickle.dumps(Evil()), evil if name == "x.npy" else {"ppg": evil}]
    for content in contents:
        path = write(tmp_path, name, content)
        with pytest.raises(spectroscope.RequestError, match="cannot read"):
            read_signal(path)
    assert "ran" not in capsys.readouterr().out
    pickle.loads(pickle.dumps(Evil()))  # the pickle would have printed it: the test can fail
    assert "ran" in capsys.readouterr().out


def test_what_is_not_there_is_said():
    with pytest.raises(spectroscope.RequestError, match=r"no file nowhere\.csv to read a PPG"):
        read_signal("nowhere.csv")


@pytest.mark.parametrize("fs", [25.0, 32, 64.0, 100, 117.3, 128.0, 250.0, 1000 / 7])
def test_a_tone_stays_where_it_is_at_any_rate(fs):
    time = np.arange(round(20 * fs)) / fs
    windows = to_windows(700 + 3 * np.cos(2 * np.pi * 1.7 * time), fs)
    assert windows.shape == (7, 256)
    for number, window in enumerate(windows):
        expected = 700 + 3 * np.cos(2 * np.pi * 1.7 * (np.arange(256) / 32 + 2 * number))
        # Near the ends the resampling filter extrapolates.
        inside = slice(32, 224)
        np.testing.assert_allclose(window[inside], expected[inside], atol=0.02)


def test_what_would_fold_is_taken_out():
    time = np.arange(2000) / 100
    windows = to_windows(np.cos(2 * np.pi * 30 * time), 100)  # folds to 2 Hz at 32 Hz
    assert np.abs(windows[:, 32:224]).max() < 0.01


def test_windows_are_8_s_long_and_2_s_apart():
    windows = to_windows(RAMP, 32)
    assert windows[:, 0].tolist() == [0, 64, 128, 192]
    assert windows[:, -1].tolist() == [255, 319, 383, 447]
    windows[0] = 0  # a copy, not a view of the input
    assert RAMP[1] == 1
    assert len(to_windows(RAMP[:256], 32)) == 1
    assert len(to_windows(RAMP[:320], 32, at_least=2)) == 2
    assert len(to_windows(np.arange(800.0), 100)) == 1


@pytest.mark.parametrize(
    ("fs", "at_least", "message"),
    [
        (100, 1, r"is 5\.0 s long \(500 samples at 100 Hz\), but 8 s are needed"),
        (60.0, 2, r"is 8\.3 s long \(500 samples at 60 Hz\), but 10 s are needed"),
        (0, 1, "fs=0.0 must be positive"),
        (-32, 1, "fs=-32.0 must be positive"),
        (np.nan, 1, "fs=nan must be positive"),
        (np.inf, 1, "fs=inf must be positive"),
        (5, 1, "fs=5.0 is too low"),
        ("x", 1, "fs='x' must be a number"),
        (1e9, 1, "but 8 s are needed"),
    ],
)
def test_rates_and_lengths_that_will_not_do(fs, at_least, message):
    with pytest.raises(spectroscope.RequestError, match=message):
        to_windows(RAMP, fs, at_least=at_least)


def test_the_unit_of_the_sensor_does_not_matter():
    windows = np.random.default_rng(0).normal(size=(5, 256)) * np.array([[1, 2, 3, 4, 5]]).T
    scaled = to_scale(windows)
    np.testing.assert_allclose(to_scale(512 + windows / 300), scaled, atol=1e-8)
    assert np.median(scaled.std(1)) == pytest.approx(ppg_files.SCALE)
    np.testing.assert_allclose(scaled.mean(1), 0, atol=1e-12)
    ratio = scaled / (windows - windows.mean(1, keepdims=True))
    np.testing.assert_allclose(ratio, ratio[0, 0])  # the weak stay weaker


@pytest.mark.parametrize("value", [0.0, 512.7])
def test_a_constant_is_no_pulse(value):
    with pytest.raises(spectroscope.RequestError, match="no pulse in the PPG"):
        to_scale(to_windows(np.full(2000, value), 100))


@pytest.fixture(scope="module")
def demo(kid_ppg, tmp_path_factory):
    """The demo windows as the one recording that they were cut from, in another unit."""
    content = heart_rate.read_member(heart_rate.WHEEL.locate(), heart_rate._WINDOWS)
    windows, _ = read_windows(content)
    ppg = np.concatenate([windows[0], *windows[1:, -64:]])
    path = tmp_path_factory.mktemp("demo") / "demo.csv"
    pd.DataFrame({"t": np.arange(len(ppg)) / 32, "ppg": 2000 + ppg / 7}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def own(demo):
    return spectroscope.specimen("kid-ppg", input=demo, fs=32, column="ppg")


def test_an_own_recording_gives_the_estimates_that_the_windows_give(kid_ppg, own):
    assert own.n_inputs == 214
    assert own.f0_name == "estimated heart rate"
    expected, windows = torch.cat(list(kid_ppg.inputs)), torch.cat(list(own.inputs))
    np.testing.assert_allclose(
        windows, expected - expected.mean(1, keepdim=True), rtol=1e-3, atol=1e-3
    )
    with torch.inference_mode():
        rates = own.model(windows)[:, 0].double().numpy()
    np.testing.assert_allclose(own.f0 * 60, rates, rtol=1e-5)
    error = np.abs(own.f0 - kid_ppg.f0).mean() * 60
    assert error < 7.5  # 6.4 BPM on the windows as they are
    inspection = run.inspect(own, spectra=False)
    everything, sure, sigma = inspection.scores
    assert everything == "estimated heart rate, mean over all 214 windows (BPM)"
    assert "windows with σ < 8 BPM" in sure
    assert inspection.scores[everything] == pytest.approx(rates.mean(), rel=1e-5)
    assert inspection.scores[sigma] > 1  # the minimum of the network
    assert len(inspection.report.harmonics()) > 0


def test_the_same_at_another_rate(own, demo, tmp_path):
    ppg = ppg_files.read_signal(demo, "ppg")
    faster = signal.resample_poly(ppg, 25, 8, padtype="line")
    path = write(tmp_path, "demo.npz", {"ppg": faster})
    resampled = spectroscope.specimen("kid-ppg", input=path, fs=100)
    # Both filters attenuate what is near 16 Hz.
    assert resampled.n_inputs == 214
    difference = np.abs(resampled.f0 - own.f0) * 60
    assert np.median(difference) < 0.5


def test_estimates_that_no_heart_has_are_unknown():
    class Says(torch.nn.Module):
        def forward(self, x):
            return x[:, 0]

    said = [29.9, 30.0, 100.0, 220.0, 220.1, float("nan")]
    batches = [torch.tensor(said[:4]).unsqueeze(1), torch.tensor(said[4:]).unsqueeze(1)]
    estimates = heart_rate._estimates(Says(), batches)
    np.testing.assert_array_equal(estimates, [np.nan, 30, 100, 220, np.nan, np.nan])


def test_without_any_estimate_only_the_harmonics_are_missing(kid_ppg, demo, tmp_path, monkeypatch):
    monkeypatch.setattr(heart_rate, "PLAUSIBLE", (500.0, 600.0))
    own = spectroscope.specimen("kid-ppg", input=demo, fs=32, column="ppg")
    assert np.isnan(own.f0).all()
    inspection = run.inspect(own, limit=32)
    run.export(own, inspection.report, tmp_path / "out")
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"dc.csv", "spectra.png"} <= written
    assert "harmonics.csv" not in written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "{demo}", "column": "ppg"}, r"fs is missing: the sampling rate of .*demo"),
        ({"input": "{demo}", "fs": 32}, "column must say which of .*: t, ppg"),
        ({"fs": 32}, "fs describes your own input: give input too"),
        ({"column": "ppg"}, "column describes your own input: give input too"),
        ({"input": "{demo}", "fs": 2000, "column": "ppg"}, "but 10 s are needed"),
        ({"input": "nowhere.csv", "fs": 32}, "no file nowhere.csv"),
    ],
)
def test_options_that_do_not_fit_together(demo, options, message):
    given = {k: str(demo) if v == "{demo}" else v for k, v in options.items()}
    with pytest.raises(spectroscope.RequestError, match=message) as error:
        spectroscope.specimen("kid-ppg", **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "column", "fs", "seconds"),
    [("data.csv", None, 100.0, 24), ("data2.csv", "hr", 117.3, 127)],
)
def test_real_recordings_of_another_sensor(kid_ppg, dataset, column, fs, seconds):
    # Not imported: importing heartpy 1.2.7 fails with a recent matplotlib.
    heartpy = importlib.util.find_spec("heartpy")
    if heartpy is None:
        pytest.skip("needs heartpy's recordings")
    path = f"{heartpy.submodule_search_locations[0]}/data/{dataset}"
    own = spectroscope.specimen("kid-ppg", input=path, fs=fs, column=column)
    assert own.n_inputs == (seconds - 8) // 2
    scores = run.inspect(own, spectra=False).scores
    # Another sensor at another place on the body: the estimates are wrong, with a large σ.
    assert all("estimate" in name for name in scores)
    everything, _, sigma = scores.values()
    assert np.isfinite([everything, sigma]).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("PPG \u00b5V\n1.5\n2.5\n".encode("latin-1"), [1.5, 2.5]),
        (b"ppg;time\n1,5;0\n2,5;1\n", [1.5, 2.5]),
        (b"ppg;time\r\n1.5;0\r\n2.5;1\r\n", [1.5, 2.5]),
        ("ppg\n1.5\n2.5\n".encode("utf-16"), [1.5, 2.5]),
    ],
)
def test_a_csv_as_excel_saves_it(tmp_path, content, expected):
    (tmp_path / "x.csv").write_bytes(content)
    assert read_signal(tmp_path / "x.csv", 0).tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"ppg\n", "has no samples"), (b"", "is empty"), (b"\n\n", "is empty"), (b"a;b\n", "no samp")],
)
def test_a_csv_without_samples_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(spectroscope.RequestError, match=message) as caught:
        read_signal(tmp_path / "x.csv", 0)
    assert len(str(caught.value)) < len(str(tmp_path)) + 60
