"""Models by name: torchvision's on a folder of images or probes, and one's own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import spectroscope
from spectroscope import run
from spectroscope.adapters import torchvision_models
from spectroscope.adapters.support.images import probes


@pytest.fixture
def photos(tmp_path):
    """Three images in two folders, one of them broken, and a file that is none."""
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
    first, second = (spectroscope.specimen("torchvision:alexnet", weights="none") for _ in "ab")
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
    extra = len(probes(8)) - 18  # scikit-learn's photographs
    assert specimen.n_inputs in (inputs, inputs + extra)
    report, _, _ = run.inspect(specimen, limit=4)
    assert (report.coverage()["status"] == "fired").all()


def test_a_pair_of_images_has_a_flow(photos):
    (photos / "broken.jpeg").unlink()
    report, _, _ = inspected("torchvision:raft_small", weights=None, input=photos)
    assert report.dc()["n_samples"].max() >= 1
    with pytest.raises(spectroscope.RequestError, match="takes two images or more"):
        spectroscope.specimen("torchvision:raft_small", weights=None, input=photos / "a.png")


def test_a_grating_has_its_power_at_its_frequency():
    for name, image in probes(64).items():
        if name.startswith("grating") and name.endswith((" 0°", " 90°")):
            period = int(name.split()[2].rstrip(","))
            power = np.abs(np.fft.fft2(image[0].double() - 0.5)) ** 2
            fy, fx = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij")
            along = fx if name.endswith(" 0°") else fy
            assert power[np.abs(along) == 1 / period].sum() == pytest.approx(power.sum())
    pink = np.abs(np.fft.fft2(probes(128)["1/f noise"][0].double())) ** 2
    rows = pink[0, 1:40]
    slope = np.polyfit(np.log(np.arange(1, 40)), np.log(rows), 1)[0]
    assert -2.5 < slope < -1.5  # of one axis, on which the power of the plane's 1/f² lies


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
    with pytest.raises(spectroscope.RequestError, match="something else than tensors"):
        spectroscope.specimen("torchvision:squeezenet1_1", weights=str(path))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet81", {}, "no model 'resnet81'; the nearest: resnet18"),
        ("torchvision:resnet18", {"weights": "IMAGENET"}, "it has IMAGENET1K_V1, DEFAULT, none"),
        ("torchvision", {}, "missing a required argument: 'model'"),
        ("torchvision:resnet18", {"weights": None, "input": "nowhere"}, "no folder or image"),
        ("torchvision:resnet18", {"weights": None, "fs": 3.0}, "it takes model, weights, input"),
        ("kid-ppg:x", {}, "kid-ppg:x can't be made so"),
        ("nowhere:model", {}, "ModuleNotFoundError: No module named 'nowhere'"),
        ("collections:Counter", {}, "makes a Counter, not an nn.Module or a Specimen"),
        ("torch.nn:ReLU", {}, "--input x.npy or x.pt"),
        ("torch.nn:ReLU", {"input": "x.csv"}, "neither .npy nor .pt"),
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
    with pytest.raises(spectroscope.RequestError, match=r"no network\); --weights PATH"):
        spectroscope.specimen("torchvision:resnet18")


def test_a_torchvision_that_does_not_fit_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(spectroscope.RequestError, match="torchvision can't be imported"):
        spectroscope.specimen("torchvision:resnet18")


def test_the_five_likeliest_classes_are_named():
    outputs = torch.tensor([[0.0, 9.0, 1.0], [5.0, 0.0, 0.0]])
    labels = torchvision_models._top(["cat", "dog", "fish"], lambda: ["a.png"])(outputs, 0)
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


def test_a_model_of_ones_own_runs_on_an_array(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((70, 2, 64)))
    torch.save(nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU()).state_dict(), tmp_path / "w.pt")
    options = ["--input", "x.npy", "--fs", "50", "--checkpoint", "w.pt", "--out", "out"]
    done = subprocess.run(
        [Path(sys.executable).with_name("spectroscope"), "inspect", "mine:network", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sites = spectroscope.load(tmp_path / "out").sites()
    assert sites["fs"].item() == 25
    assert sites["n_samples"].item() == 70
    assert (tmp_path / "out" / "spectra.png").exists()
    done = subprocess.run(
        [sys.executable, "-m", "spectroscope", "inspect", "mine:whole"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "mine: of my own (MIT)" in done.stdout


def test_another_distribution_can_add_a_specimen(tmp_path):
    """As pip installs it: a folder on the path with metadata that names an entry point."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN) + '\nwhole.__doc__ = "Mine: a test."\n')
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spectroscope.adapters]\nmine = mine:whole\n")
    for arguments, said in ((["list"], "Mine: a test."), (["inspect", "mine"], "mine: of my own")):
        done = subprocess.run(
            [sys.executable, "-m", "spectroscope", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
