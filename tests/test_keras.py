"""Keras 3 on its torch backend: names, channels, rates and values, against Keras' own layers."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import spectroscope
from spectroscope.cli import main

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="Keras (the extra [keras]) isn't installed")
layers = keras.layers
# Keras copies torch's tensors into NumPy's arrays in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

FS = 32.0
TONE = 4.0  # Hz


def functional():
    keras.utils.set_random_seed(0)
    x = keras.Input((64, 3))
    y = layers.Conv1D(8, 5, padding="same", activation="relu", name="first")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU(name="second")(layers.Conv1D(4, 3, padding="same", name="conv")(y))
    y = layers.Conv1D(5, 3, strides=2, padding="same", name="strided")(y)
    y = layers.Activation("relu", name="third")(y)
    return keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(y)))


def tone(count=6):
    rng = np.random.default_rng(0)
    time = np.arange(64) / FS
    phase, amplitude = rng.uniform(0, 2 * np.pi, (count, 1, 3)), rng.uniform(1, 2, (count, 1, 3))
    return (amplitude * np.cos(2 * np.pi * TONE * time[:, None] + phase)).astype(np.float32)


def recorded(model, run, **options):
    with spectroscope.record(model, **options) as recorder, torch.no_grad():
        run(model)
    return recorder.report()


def sites(model, x):
    return recorded(model, lambda model: model(x)).sites()["site"].to_list()


def output_of(model, layer, x):
    """What Keras says that a layer returns."""
    reader = keras.Model(model.input, model.get_layer(layer).output)
    return np.asarray(reader(x).detach(), np.float64)


def test_sites_have_the_layers_names_and_their_channels():
    model, x = functional(), tone()
    report = recorded(model, lambda model: model(x))
    table = report.sites().set_index("site")
    assert table["channels"].to_dict() == {
        "first/relu#0": 8, "second/relu#0": 4, "third/relu#0": 5
    }  # fmt: skip
    assert table["channel_axis"].isin([-1, 2]).all()
    dc = report.dc().set_index(["site", "channel"])
    before = {"second": "conv", "third": "strided"}
    for name in ("first", "second", "third"):
        for column, layer in (("dc_out", name), ("dc_in", before.get(name))):
            if layer is not None:
                expected = output_of(model, layer, x).mean((0, 1))
                measured = dc.loc[f"{name}/relu#0", column].to_numpy()
                np.testing.assert_allclose(measured, expected, rtol=1e-9, atol=1e-12)


def test_frequencies_are_in_hz_at_each_layers_own_rate():
    model, x = functional(), torch.from_numpy(tone())
    report = recorded(model, lambda model: model(x), fs=FS)
    assert report.sites().set_index("site")["fs"].to_dict() == {
        "first/relu#0": 32.0, "second/relu#0": 32.0, "third/relu#0": 16.0
    }  # fmt: skip
    spectra = report.spectra("first")
    line = spectra[(spectra["side"] == "in") & (spectra["freq"] > 0)]
    strongest = line.loc[line.groupby("channel")["power"].idxmax(), "freq"]
    assert strongest.to_list() == [TONE] * 8
    # Against NumPy on what Keras' own layer returns.
    output = output_of(model, "third", x)
    expected = 2 * (np.abs(np.fft.rfft(output, axis=1)[:, 4]) / 32) ** 2
    table = report.spectra("third").query("side == 'out' and freq == 2.0").set_index("channel")
    np.testing.assert_allclose(table["power"].to_numpy(), expected.mean(0), rtol=1e-5, atol=1e-9)


def test_a_model_is_not_changed():
    x, target = tone(), np.ones((6, 2), np.float32)

    def trained(record):
        model = functional()
        model.compile("sgd", "mse")
        before = model.predict(x, verbose=0)
        if record:
            recorded(model, lambda model: [model.predict(x, verbose=0), fit(model)])
        else:
            model.predict(x, verbose=0)
            fit(model)
        return [before, model.predict(x, verbose=0), *model.get_weights()]

    def fit(model):
        with torch.enable_grad():
            model.fit(x, target, epochs=2, batch_size=3, verbose=0, shuffle=False)

    for plain, seen in zip(trained(False), trained(True), strict=True):
        np.testing.assert_array_equal(plain, seen)


def test_batches_of_predict_are_calls_of_the_model():
    report = recorded(functional(), lambda model: model.predict(tone(), batch_size=2, verbose=0))
    assert report.sites()["n_samples"].to_list() == [6, 6, 6]
    assert report.sites()["call"].to_list() == [0, 0, 0]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="net")
        self.conv = layers.Conv1D(4, 3, activation="relu", name="one")
        self.blocks = [layers.Dense(3, activation="relu", name="two"), functional()]
        self.each = layers.TimeDistributed(layers.Dense(2, activation="relu", name="d"), name="t")

    def call(self, x):
        self.blocks[1](x)
        return keras.ops.relu(self.each(self.blocks[0](self.conv(x)[:, :2])))


def test_layers_in_lists_in_other_layers_and_in_other_models():
    model = Subclassed()
    nested = model.blocks[1].name
    assert sites(model, tone()) == [
        *(f"{nested}.{name}/relu#0" for name in ("first", "second", "third")),
        "one/relu#0", "two/relu#0", "t.d/relu#0", "t.d/relu#1", "/relu#0",
    ]  # fmt: skip


def test_a_call_of_its_own():
    class Own(Subclassed):
        def __call__(self, x):
            return super().__call__(x) + 1

    assert sites(Own(), tone())[-3:] == ["t.d/relu#0", "t.d/relu#1", "/relu#0"]


def test_layers_of_one_name_are_told_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.ReLU(name="act"), layers.ReLU(name="act")

        def call(self, x):
            return self.b(self.a(x))

    assert sites(Twins(), tone()) == ["act/relu#0", "act@1/relu#0"]


def test_layers_within_torch_and_modules_within_keras():
    inner = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    model = nn.Sequential(layers.ReLU(name="act"), layers.TorchModuleWrapper(inner, name="torch"))
    assert sites(model, torch.from_numpy(tone())) == ["0/relu#0", "1.module.1#0"]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    functional().save("model.keras")
    np.save("x.npy", tone())


@pytest.mark.usefixtures("saved")
def test_a_file_is_a_specimen(capsys):
    main(["inspect", "model.keras", "--input", "x.npy", "--fs", "32", "--out", "report"])
    assert "first/relu#0" in capsys.readouterr().out
    report = spectroscope.load("report")
    assert report.sites()["fs"].to_list() == [32.0, 32.0, 16.0]
    expected = recorded(functional(), lambda model: model(tone()))
    np.testing.assert_allclose(report.dc()["dc_out"], expected.dc()["dc_out"], rtol=1e-9)


def edited(path, edit):
    """Copy `model.keras` with another description of the model."""
    with zipfile.ZipFile("model.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                edit(config["config"]["layers"][2])
                data = json.dumps(config).encode()
            new.writestr(name, data)


UNSAFE = {
    "Lambda": {"class_name": "Lambda", "module": "keras.layers"},
    "TorchModuleWrapper": {"class_name": "TorchModuleWrapper", "module": "keras.layers"},
    "Mine": {"class_name": "Mine", "module": None, "registered_name": "Mine"},
    "Thing": {"class_name": "Thing", "module": "keras_of_another.layers"},
    "function": {"class_name": "function", "module": "os", "config": "system"},
}


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("name", UNSAFE)
def test_a_file_with_code_is_refused_in_one_line(name, capsys):
    edited("bad.keras", lambda layer: layer.update(UNSAFE[name]))
    assert main(["inspect", "bad.keras", "--input", "x.npy"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"spectroscope: bad.keras is not loaded: {name} has code that isn't Keras' own; "
        "give the model as package.module:callable\n"
    )


@pytest.mark.usefixtures("saved")
def test_a_file_that_cannot_be_read_is_one_line(capsys):
    for path, message in (("no.keras", "isn't a file"), ("x.keras", "isn't a file")):
        (open("x.keras", "wb")).close()
        assert main(["inspect", path, "--input", "x.npy"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    edited("bad.keras", lambda layer: layer["config"].update(axis="none"))
    assert main(["inspect", "bad.keras", "--input", "x.npy"]) == 2
    error = capsys.readouterr().err
    assert "bad.keras can't be loaded" in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("saved")
def test_keras_on_another_backend_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert main(["inspect", "model.keras", "--input", "x.npy"]) == 2
    assert capsys.readouterr().err == (
        "spectroscope: model.keras needs keras on torch, but it runs on jax: start Python with "
        "KERAS_BACKEND=torch\n"
    )
