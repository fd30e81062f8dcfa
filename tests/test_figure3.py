"""The paper's network against NumPy, and the example that draws Fig. 3."""

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import REFERENCE
from matplotlib.figure import Figure

import spectroscope
from spectroscope import run
from spectroscope.adapters.support import keras_weights
from spectroscope.adapters.support.ppg_networks import KidPPG, PaperPPG

EXAMPLE = Path(__file__).parents[1] / "examples" / "figure3.py"


@pytest.fixture(scope="module")
def weights():
    path = REFERENCE / "model_S5.h5"
    if not path.exists():
        pytest.skip("needs the weights of the paper's network, which are missing")
    return path


@pytest.fixture(scope="module")
def paper_ppg(kid_ppg, weights):
    return spectroscope.specimen("paper-ppg", weights=weights)


def keras_arrays(path):
    """Arrays of the weights file by name."""
    arrays = {}

    def keep(name, item):  # any other return value than None ends the visit
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as h5:
        h5["model_weights"].visititems(keep)
    return arrays


def numpy_forward(arrays, x):
    """The network as its file describes it, [N, 256] → [N], in float64 and Keras's layout.

    Layers are identified by name; the adapter identifies them by order.
    """
    names = sorted({n.rsplit("/", 1)[0] for n in arrays if "conv1d" in n})
    x = x[..., None].astype(np.float64)
    for number, name in enumerate(names):
        kernel, bias = arrays[f"{name}/kernel:0"], arrays[f"{name}/bias:0"]
        padded = np.pad(x, ((0, 0), (8, 0), (0, 0)))
        taps = [padded[:, 2 * k : 2 * k + x.shape[1]] @ kernel[k] for k in range(5)]
        x = np.maximum(sum(taps) + bias, 0)
        if number % 3 == 2:
            pool = 4 if number == 2 else 2
            x = x.reshape(len(x), -1, pool, x.shape[2]).mean(2)

    def part(layer):
        (prefix,) = {n.rsplit("/", 1)[0] for n in arrays if f"{layer}/" in n and "kernel" in n}
        return arrays[f"{prefix}/kernel:0"].astype(np.float64), arrays[f"{prefix}/bias:0"]

    query, key, value = (
        np.einsum("ntc,chd->nhtd", x, kernel) + bias[:, None]
        for kernel, bias in map(part, ("query", "key", "value"))
    )
    score = np.exp(query @ key.swapaxes(-1, -2) / 4)  # √16, the width of a head
    kernel, bias = part("attention_output")
    x = np.einsum("nhtd,hdc->ntc", score / score.sum(-1, keepdims=True) @ value, kernel) + bias
    (gamma,), (beta,) = ([a for n, a in arrays.items() if s in n] for s in ("gamma", "beta"))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3) * gamma + beta
    kernel, bias = part("dense_10")
    x = np.maximum(x.reshape(len(x), -1) @ kernel + bias, 0)
    kernel, bias = part("dense_11")
    return (x @ kernel + bias)[:, 0]


def test_the_port_agrees_with_numpy(paper_ppg, weights):
    windows = torch.cat(list(paper_ppg.inputs))
    with torch.inference_mode():
        rates = paper_ppg.model(windows).numpy()
    expected = numpy_forward(keras_arrays(weights), windows.numpy())
    assert rates.shape == (215,)
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_the_network_of_the_paper_works(paper_ppg):
    inspection = run.inspect(paper_ppg, spectra=False)
    ((name, error),) = inspection.scores.items()
    assert name == "heart-rate MAE, all 215 windows (BPM)"
    heart_rates = paper_ppg.f0 * 60
    # The best constant estimate has 9.2 BPM.
    assert error < 0.6 * np.abs(heart_rates - np.median(heart_rates)).mean()
    sites = inspection.report.sites()
    assert len(sites) == 10
    assert sites["fs"][:9].tolist() == [32.0] * 3 + [8.0] * 3 + [4.0] * 3
    assert paper_ppg.featured_site in set(sites["site"])


def test_an_own_recording_of_one_window(weights, tmp_path):
    path = tmp_path / "ppg.npy"
    np.save(path, np.cos(2 * np.pi * 1.5 * np.arange(800) / 100))
    own = spectroscope.specimen("paper-ppg", weights=weights, input=path, fs=100)
    assert own.n_inputs == 1
    assert own.f0.shape == (1,)
    scores = run.inspect(own, spectra=False).scores
    (mean,) = scores.values()
    assert 30 < mean < 220


def write_keras(model, path):
    """The arrays of `model` as a Keras file has them."""
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = ["all"]
        slots = [slot for layer in keras_weights._layers(model) for slot in
                 keras_weights._slots(layer)]  # fmt: skip
        names = [f"array{number}" for number in range(len(slots))]
        h5.create_group("all").attrs["weight_names"] = names
        for name, (_, shape, _) in zip(names, slots, strict=True):
            h5[f"all/{name}"] = np.zeros(shape, np.float32)


def test_weights_of_the_other_network_are_refused(tmp_path):
    path = tmp_path / "other.h5"
    for make, other, shapes in (
        ("paper-ppg", KidPPG(), r"PaperPPG: .*\(1024, 256\) instead of \(1024, 32\)"),
        ("kid-ppg", PaperPPG(), r"KidPPG: .*\(1024, 32\) instead of \(1024, 256\)"),
    ):
        write_keras(other, path)
        ppg = tmp_path / "ppg.npy"
        np.save(ppg, np.sin(np.arange(400.0)))
        with pytest.raises(spectroscope.RequestError, match=rf"other\.h5 does not fit {shapes}"):
            spectroscope.specimen(make, weights=path, input=ppg, fs=32)


def test_what_is_no_weights_file_is_refused(tmp_path):
    with pytest.raises(spectroscope.RequestError, match=r"weights are missing: .* model_S5\.h5"):
        spectroscope.specimen("paper-ppg")
    with pytest.raises(spectroscope.RequestError, match=r"no file .*x\.h5"):
        spectroscope.specimen("paper-ppg", weights=tmp_path / "x.h5")
    archive = tmp_path / "x.whl"
    with archive.open("wb") as file:
        np.savez(file, a=1)
    with pytest.raises(spectroscope.RequestError, match=r"x\.whl is a wheel or another archive"):
        spectroscope.specimen("paper-ppg", weights=archive)


@pytest.fixture(scope="module")
def figure3():
    spec = importlib.util.spec_from_file_location("figure3", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_writes_figure_and_table(kid_ppg, figure3, tmp_path, capsys):
    assert figure3.main(["--quick", "--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"figure3.csv", "figure3.png"}
    assert "After convolution 6 (up to 240 BPM)" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "figure3.csv")
    assert sorted(table["convolution"].unique()) == list(range(10))
    dc = table[table["harmonic"] == 0]
    assert dc["over_dc"].eq(1).all()
    assert dc["over_std"][dc["convolution"] > 0].gt(0.3).all()  # there is DC in every layer
    third = table[(table["convolution"] == 3) & ~table["folded"]].set_index("harmonic")
    assert third["over_chance"][[1, 2, 3]].gt(1.5).all()
    # The input has them already, but not the fifth.
    first = table[(table["convolution"] == 0) & ~table["folded"]].set_index("harmonic")
    assert first["over_chance"][[1, 2, 3]].gt(1.4).all()
    assert first["over_chance"][5] < 1 < third["over_chance"][5]
    last = table[(table["convolution"] == 9) & table["harmonic"].gt(0)]
    assert last["folded"].all()  # all harmonics are above 120 BPM
    assert last["over_dc"].lt(0.6).all()


def test_a_known_signal_gives_known_harmonics(figure3):
    class Activation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block1 = torch.nn.ReLU()

        def forward(self, x):
            return self.block1(x.unsqueeze(1))

    f0 = np.array([1.0, 1.25, 1.5, 1.75])
    time = torch.arange(256, dtype=torch.float64) / 32
    tones = 3 * torch.cos(2 * torch.pi * torch.from_numpy(f0)[:, None] * time)
    table = figure3.harmonics_by_layer(Activation(), tones, f0).set_index("harmonic")
    given, table = (table[table["convolution"] == number] for number in (0, 1))
    assert given["over_std"][1] == pytest.approx(np.sqrt(2), rel=0.02)
    # ReLU(A·cos): DC A/π, fundamental A/2, even harmonics 2A/(π(n² − 1)), no odd ones; within 2 %
    # for what is above the Nyquist frequency and folds.
    expected = [1, np.pi / 2, 2 / 3, 0, 2 / 15]
    np.testing.assert_allclose(table["over_dc"][:5], expected, atol=0.02)
    assert table["over_chance"][1] > 30
    assert table["low"].isna().all()  # four windows can't tell


def test_the_example_says_what_is_wrong(figure3, tmp_path, capsys):
    assert figure3.main(["--weights", "nowhere.h5", "--out", str(tmp_path / "out")]) == 2
    assert "figure3: there is no file nowhere.h5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_with_the_papers_network(figure3, kid_ppg, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)  # drawn above
    assert figure3.main(["--weights", str(weights), "--quick", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("paper-ppg, 24 windows")


def test_intervals_of_ratios_cover_the_ratio(figure3):
    """Of autocorrelated series of the length of KID-PPG's, 0.90 or more."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        noise = rng.standard_normal((2, 214 + 4))
        x = np.exp(0.5 * sum(noise[:, k : k + 214] for k in range(5)) / np.sqrt(5))
        low, high = figure3.figures.ratio_interval(x[0] * 1.5, x[1], 20)
        covered += low < 1.5 < high
    assert 0.90 <= covered / 400 <= 0.99
