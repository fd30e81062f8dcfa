"""KID-PPG: the port against TensorFlow's activations, and the main job on real recordings."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import scipy.signal
import torch

import spectroscope
from spectroscope import run
from spectroscope.adapters import heart_rate
from spectroscope.adapters.support import keras_weights, wheels
from spectroscope.adapters.support.ppg_networks import KidPPG
from spectroscope.adapters.support.ppg_pickle import read_windows


def relative(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def test_the_port_agrees_with_tensorflow_at_every_site(kid_ppg, golden):
    seen = {}

    def keep(name):
        def hook(module, args, output):
            seen.setdefault(name, []).append((args[0].clone(), output.clone()))

        return hook

    modules = [(n, m) for n, m in kid_ppg.model.named_modules() if isinstance(m, torch.nn.ReLU)]
    handles = [module.register_forward_hook(keep(name)) for name, module in modules]
    with torch.inference_mode():
        output = kid_ppg.model(golden["pairs"])
    for handle in handles:
        handle.remove()
    sites = 0
    for name, calls in seen.items():
        windows = ("prev", "cur") if len(calls) == 2 else ("dense",)
        for window, sides in zip(windows, calls, strict=True):
            sites += 1
            for side, actual in zip(("pre", "post"), sides, strict=True):
                if window == "dense":
                    expected = golden[f"dense.{side}"]
                else:
                    expected = golden[f"{window}.{name.removesuffix('.relu')}.{side}"].mT
                # Relative to the largest value of each array; float32 rounding gives 1e-6.
                assert relative(actual, expected) < 1e-5, (name, window, side)
    assert sites == 19
    mean, scale = golden["params"].unbind(1)
    assert relative(output[:, 0], mean) < 1e-5
    assert relative(output[:, 1], 1 + torch.nn.functional.softplus(scale)) < 1e-5


def test_the_demo_windows_are_the_references(kid_ppg, golden):
    first = next(iter(kid_ppg.inputs))[:4]
    assert torch.equal(first, golden["pairs"])
    np.testing.assert_allclose(kid_ppg.f0[:4] * 60, golden["hr_true"], rtol=1e-15)


@pytest.fixture(scope="module")
def inspection(kid_ppg):
    return run.inspect(kid_ppg)


def test_the_main_job_sees_19_sites_and_1120_channels(inspection):
    report = inspection.report
    sites, dc = report.sites(), report.dc()
    assert len(sites) == 19
    assert len(dc) == 1120
    assert dc["n_samples"].eq(214).all()
    assert dc["nonfinite"].eq(0).all()
    rates = sites.assign(block=sites["module"].str.split(".").str[0]).groupby("block")["fs"]
    assert rates.unique().map(list).drop("dense_relu").to_dict() == {
        "block1": [32.0],
        "block2": [8.0],
        "block3": [4.0],
    }
    assert sites.set_index("site").loc["dense_relu#0", ["ac_rms_in", "ac_rms_out"]].eq(0).all()
    assert report.coverage()["status"].eq("fired").all()


def test_the_model_really_works(inspection):
    everything, sure = inspection.scores.values()
    # A network with the wrong weights or windows is tens of BPM off (the heart rates span 50).
    assert everything < 7
    assert sure < 3


def test_the_recording_is_of_the_reference_activations(kid_ppg, golden):
    with torch.inference_mode(), spectroscope.record(kid_ppg.model, fs=32.0) as recorder:
        kid_ppg.model(golden["pairs"])
    dc = recorder.report().dc().set_index(["site", "channel"])
    for call, window in enumerate(("prev", "cur")):
        for conv in ("block1.0", "block2.1", "block3.2"):
            actual = dc.loc[f"{conv}.relu#{call}"]
            for column, side in (("dc_in", "pre"), ("dc_out", "post")):
                expected = golden[f"{window}.{conv}.{side}"].double().mean((0, 1))
                error = np.abs(actual[column] - expected.numpy()).max()
                assert error < 1e-5 * expected.abs().max().item()


def test_any_batch_size_gives_the_same_table(kid_ppg, inspection):
    with torch.inference_mode(), spectroscope.record(kid_ppg.model, fs=32.0) as recorder:
        for batch in torch.cat(list(kid_ppg.inputs)).split(75):
            kid_ppg.model(batch)
    actual, expected = recorder.report().dc(), inspection.report.dc()
    # In float32 the network rounds differently at another batch size, over nine layers.
    for column in ("dc_out", "ac_rms_out"):
        np.testing.assert_allclose(actual[column], expected[column], rtol=1e-4, atol=1e-4)


def test_weights_come_from_a_weights_file_too(kid_ppg, tmp_path):
    path = tmp_path / "weights.h5"
    path.write_bytes(wheels.read_member(heart_rate.WHEEL.locate(), heart_rate._WEIGHTS))
    model = spectroscope.specimen("kid-ppg", weights=path).model
    for a, b in zip(model.parameters(), kid_ppg.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = ["a"]
        h5.create_group("a").attrs["weight_names"] = ["a/kernel:0"]
        h5["a/a/kernel:0"] = np.ones((3, 1, 32), np.float32)
    with pytest.raises(
        spectroscope.RequestError,
        match=r"not fit KidPPG: an array has shape \(3, 1, 32\) instead of",
    ):
        keras_weights.load(KidPPG(), path, "weights.h5")


def test_what_is_no_weights_file_is_refused(kid_ppg, tmp_path):
    path = tmp_path / "weights.h5"
    with pytest.raises(spectroscope.RequestError, match=r"no file .*weights\.h5"):
        spectroscope.specimen("kid-ppg", weights=path)
    path.write_bytes(b"nothing")
    with pytest.raises(spectroscope.RequestError, match="not a Keras weights file"):
        spectroscope.specimen("kid-ppg", weights=path)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Evil()), "asks for 'builtins.print': refused"),
        (pickle.dumps({"X": Evil()}), "asks for 'builtins.print': refused"),
        (pickle.dumps({"X": 1}), "not a pickle of PPG windows"),
        (pickle.dumps({"X": [[[1.0] * 100]] * 5, "y": [1.0] * 5}), r"must be \[n, 256\]"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "numbers of type 'V8'"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "numbers of type 'O'"),
        (b"", "not a pickle of PPG windows"),
        (b"\x80\x04garbage", "not a pickle of PPG windows"),
    ],
)
def test_the_pickle_is_read_without_running_anything(capsys, content, message):
    with pytest.raises(spectroscope.RequestError, match=message) as error:
        read_windows(content)
    assert "\n" not in str(error.value)
    assert "ran" not in capsys.readouterr().out


def wheel_with(path, windows):
    """Write a wheel like KID-PPG's but with another pickle."""
    original = zipfile.ZipFile(heart_rate.WHEEL.locate())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(heart_rate._WEIGHTS, original.read(heart_rate._WEIGHTS))
        archive.writestr(heart_rate._WINDOWS, windows)


def test_another_wheel_is_refused(kid_ppg, tmp_path):
    path = tmp_path / heart_rate.WHEEL.filename
    wheel_with(path, pickle.dumps(Evil()))
    with pytest.raises(spectroscope.RequestError, match="its SHA-256 is"):
        spectroscope.specimen("kid-ppg", weights=path)


def test_a_damaged_cache_is_fetched_again(kid_ppg, tmp_path, monkeypatch, capfd):
    good = heart_rate.WHEEL.locate()
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(good.parent))
    cached = tmp_path / good.name
    cached.write_bytes(good.read_bytes()[:-1])
    assert heart_rate.WHEEL.locate() == cached
    assert cached.read_bytes() == good.read_bytes()
    assert "fetching it again" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == [cached]


def test_spectra_of_real_ppg_are_welchs_of_the_windows_end_to_end(kid_ppg):
    ppg = torch.cat(list(kid_ppg.inputs))[:, :, 1].double()  # [N, 256]
    model = torch.nn.ReLU()
    for window in ("boxcar", "hann"):
        with spectroscope.record(model, fs=32.0, window=window) as recorder:
            for batch in ppg.unsqueeze(1).split(50):
                model(batch)
        options = {"fs": 32.0, "window": window, "nperseg": 256, "noverlap": 0,
                   "detrend": "constant", "scaling": "spectrum"}  # fmt: skip
        x, y = (side.flatten().numpy() for side in (ppg, ppg.relu()))
        report = recorder.report()
        for side, signal in (("in", x), ("out", y)):
            freq, power = scipy.signal.welch(signal, **options)
            rows = report.spectra()
            rows = rows[rows["side"] == side]
            np.testing.assert_allclose(rows["freq"], freq)
            np.testing.assert_allclose(rows["power"][1:], power[1:], rtol=1e-9)
        cross, table = scipy.signal.csd(x, y, **options)[1], report.cross_spectra()
        found_cross = (table["cross_real"] + 1j * table["cross_imag"]).to_numpy()
        np.testing.assert_allclose(found_cross[1:], cross[1:], rtol=1e-9, atol=1e-12)
