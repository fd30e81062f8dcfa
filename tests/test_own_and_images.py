"""Models by name: torchvision's on a folder of images or built-in ones, and the user's own."""

import re
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import spectroscope
from spectroscope import run
from spectroscope.adapters import torchvision_models
from spectroscope.adapters.support.images import builtin_images
from spectroscope.cli import main


@pytest.fixture
def photos(tmp_path):
    """Three images in two folders, one of them broken, and a file that is not an image."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    Image.fromarray(noise[..., 0]).save(folder / "more" / "grey.jpg")
    (folder / "broken.jpeg").write_bytes(b"not at all")
    (folder / "notes.txt").write_text("mine")
    return folder


def inspected(name, **options):
    return run.inspect(spectroscope.specimen(name, **options))


def test_a_folder_of_images_is_read_and_a_broken_one_named(photos):
    specimen = spectroscope.specimen("torchvision:squeezenet1_1", weights=None, input=photos)
    with pytest.warns(UserWarning, match=r"skipped .*broken\.jpeg: UnidentifiedImageError"):
        report, _, _ = run.inspect(specimen)
    assert set(report.dc()["n_samples"]) == {2}
    assert set(report.spectra("features.1")["freq_unit"]) == {"cycles/pixel"}


def test_an_image_is_prepared_as_the_weights_ask(photos):
    specimen = spectroscope.specimen("torchvision:resnet18", weights=None, input=photos / "a.png")
    (batch,) = specimen.inputs
    prepare = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    with Image.open(photos / "a.png") as image:
        expected = prepare(torchvision.transforms.functional.pil_to_tensor(image))
    assert torch.equal(batch[0], expected)


def test_random_weights_are_the_same_every_time_and_touch_no_generator():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (
        spectroscope.specimen("torchvision:squeezenet1_1", weights="none") for _ in "ab"
    )
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [("squeezenet1_0", 18), ("lraspp_mobilenet_v3_large", 18), ("r3d_18", 2),
     ("ssdlite320_mobilenet_v3_large", 18)],
)  # fmt: skip
def test_probes_go_through_models_of_every_kind(model, inputs):
    specimen = spectroscope.specimen(f"torchvision:{model}", weights=None)
    extra = len(builtin_images(8)) - 18  # scikit-learn's photographs
    assert specimen.n_inputs in (inputs, inputs + extra)
    report, _, _ = run.inspect(specimen, limit=2, spectra=False)
    assert report.coverage()["status"].isin(["fired", "not asked for"]).all()


def test_a_pair_of_images_has_a_flow(photos):
    (photos / "broken.jpeg").unlink()
    report, _, _ = inspected("torchvision:raft_small", weights=None, input=photos)
    assert report.dc()["n_samples"].max() >= 1
    with pytest.raises(spectroscope.RequestError, match="needs two images or more"):
        spectroscope.specimen("torchvision:raft_small", weights=None, input=photos / "a.png")


def test_a_grating_has_its_power_at_its_frequency():
    for name, image in builtin_images(64).items():
        if name.startswith("grating") and name.endswith((" 0°", " 90°")):
            period = int(name.split()[2].rstrip(","))
            power = np.abs(np.fft.fft2(image[0].double() - 0.5)) ** 2
            fy, fx = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij")
            along = fx if name.endswith(" 0°") else fy
            assert power[np.abs(along) == 1 / period].sum() == pytest.approx(power.sum())
    pink = np.abs(np.fft.fft2(builtin_images(128)["1/f noise"][0].double())) ** 2
    rows = pink[0, 1:40]
    slope = np.polyfit(np.log(np.arange(1, 40)), np.log(rows), 1)[0]
    assert -2.5 < slope < -1.5  # along one axis


def test_a_checkpoint_is_loaded_and_says_what_does_not_fit(tmp_path):
    model = torchvision.models.squeezenet1_1(weights=None)
    path = tmp_path / "mine.pt"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    loaded = spectroscope.specimen("torchvision:squeezenet1_1", weights=str(path)).model
    assert torch.equal(loaded.features[0].weight, model.features[0].weight)
    del state["module.features.0.weight"]
    torch.save(state | {"other": torch.ones(1)}, path)
    with pytest.raises(
        spectroscope.RequestError,
        match=r"1 missing \(features.0.weight\) and 1 unexpected \(other\)",
    ):
        spectroscope.specimen("torchvision:squeezenet1_1", weights=str(path))
    torch.save(model, path)  # a whole module: to read it would be to run code
    with pytest.raises(spectroscope.RequestError, match="damaged, or not only tensors"):
        spectroscope.specimen("torchvision:squeezenet1_1", weights=str(path))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet81", {}, "no model 'resnet81'; the nearest: resnet18"),
        ("torchvision:resnet18", {"weights": "IMAGENET"}, "which has IMAGENET1K_V1, DEFAULT, none"),
        ("torchvision", {}, "missing a required argument: 'model'"),
        ("torchvision:resnet18", {"weights": None, "input": "nowhere"}, "no folder or image"),
        ("torchvision:resnet18", {"weights": None, "fs": 3.0}, "it accepts model, weights, input"),
        ("kid-ppg:x", {}, "kid-ppg:x can't be made with these options"),
        ("nowhere:model", {}, "ModuleNotFoundError: No module named 'nowhere'"),
        ("collections:Counter", {}, "returns a Counter, not an nn.Module or a Specimen"),
        ("torch.nn:ReLU", {}, "--input x.npy or x.pt"),
        ("torch.nn:ReLU", {"input": "x.csv"}, "must be a .npy or .pt file"),
        ("torch.nn:ReLU", {"input": "x.npy"}, "cannot read an array from x.npy"),
        ("torch.nn:ReLU", {"input": "x.pt"}, "cannot read x.pt: No such file"),
    ],
)
def test_what_can_not_be_made_is_one_line(name, options, message):
    with pytest.raises(spectroscope.RequestError) as raised:
        spectroscope.specimen(name, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_network_it_says_what_to_pass(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", fail)
    with pytest.raises(
        spectroscope.RequestError, match=r"no network\); pass the file as --weights PATH"
    ):
        spectroscope.specimen("torchvision:resnet18")


def test_a_torchvision_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(spectroscope.RequestError, match=r'needs torchvision .*"\.\[adapters\]"$'):
        spectroscope.specimen("torchvision:resnet18")


def test_a_torchvision_that_does_not_match_torch_is_one_line(monkeypatch):
    class Mismatch:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision.models":
                raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.delitem(sys.modules, "torchvision.models")
    monkeypatch.setattr(sys, "meta_path", [Mismatch(), *sys.meta_path])
    message = rf"does not match torch {re.escape(torch.__version__)} \(operator .* exist\): pip"
    with pytest.raises(spectroscope.RequestError, match=message) as raised:
        spectroscope.specimen("torchvision:resnet18")
    assert "\n" not in str(raised.value)


def test_the_five_likeliest_classes_are_named():
    outputs = torch.tensor([[0.0, 9.0, 1.0], [5.0, 0.0, 0.0]])
    labels = torchvision_models._top_classes(["cat", "dog", "fish"], lambda: ["a.png"])(outputs, 0)
    assert labels[0].startswith("a.png: dog 100%, fish 0%, cat 0%")
    assert labels[1].startswith("input 1: cat 99%")


OWN = """
    from torch import nn
    import spectroscope, torch

    def network():
        return nn.Sequential(nn.Conv1d(2, 3, 5, stride=2), nn.ReLU())

    def whole():
        return spectroscope.Specimen(
            "mine", "of my own", "MIT", network().eval(), [torch.randn(4, 2, 64)], 4, fs=10.0
        )
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a module `mine` in it."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # modules of the current folder are added to it
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main() replaces it
    yield tmp_path
    sys.modules.pop("mine", None)


def test_a_model_of_ones_own_runs_on_an_array(own):
    np.save("x.npy", np.random.default_rng(0).standard_normal((70, 2, 64)))
    torch.save(nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU()).state_dict(), "w.pt")
    options = ["--input", "x.npy", "--fs", "50", "--weights", "w.pt", "--out", "out"]
    assert main(["inspect", "mine:network", *options]) == 0
    sites = spectroscope.load(own / "out").sites()
    assert sites["fs"].item() == 25
    assert sites["n_samples"].item() == 70
    assert (own / "out" / "spectra.png").exists()


def test_a_specimen_of_ones_own_runs(own, capsys):
    assert main(["inspect", "mine:whole"]) == 0
    assert "mine: of my own (MIT)" in capsys.readouterr().out


@pytest.mark.parametrize("docstring", ["", '\nwhole.__doc__ = "Mine: a test."\n'])
def test_another_distribution_can_add_a_specimen(own, capsys, monkeypatch, docstring):
    """As pip installs it: a folder on the path with metadata that names an entry point."""
    if docstring:  # not in the source: the module is imported
        (own / "mine.py").write_text(textwrap.dedent(OWN) + docstring)
    else:
        source = textwrap.dedent(OWN).replace("whole():", 'whole():\n    """Mine: a test."""')
        (own / "mine.py").write_text(source)
    info = own / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spectroscope.adapters]\nmine = mine:whole\n")
    monkeypatch.syspath_prepend(own)
    for arguments, printed in (
        (["list"], "Mine: a test."),
        (["inspect", "mine"], "mine: of my own"),
    ):
        assert main(arguments) == 0
        assert printed in capsys.readouterr().out
        assert ("mine" in sys.modules) == bool(docstring or arguments[0] == "inspect")
