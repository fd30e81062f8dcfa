"""torchvision's models: activation calls counted independently at the ATen dispatcher."""

import warnings

import pytest
import torch
import torchvision
from helpers import same
from independent import ASKED, Activations

import spectroscope


def model_and_inputs(name):
    module = torchvision.models.get_model_builder(name).__module__
    options = {}
    if "detection" in module or "segmentation" in module:
        options["weights_backbone"] = None
    if "googlenet" in name or "inception" in name:
        options["init_weights"] = False  # minutes of scipy.stats.truncnorm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, **options).eval()
    if "detection" in module:
        return model, ([torch.rand(3, 96, 128)],)
    if "optical_flow" in module:
        return model, (torch.rand(1, 3, 128, 128) * 2 - 1, torch.rand(1, 3, 128, 128) * 2 - 1)
    if "video" in module:
        frames, size = (16, 224) if name.startswith(("mvit", "s3d")) else (8, 64)
        return model, (torch.rand(1, 3, frames, size, size),)
    size = 224 if name.startswith(("swin", "maxvit")) else 128 if "inception" in name else 64
    size = getattr(model, "image_size", size)  # a vision transformer has a fixed image size
    return model, (torch.rand(1, 3, size, size),)


# Fast runs cover each mechanism once: modules, in-place, functional, ReLU6, only GELU, boxes.
EVERYDAY = {"resnet50", "googlenet", "inception_v3", "densenet121", "mobilenet_v2", "vit_b_32",
            "raft_small", "ssdlite320_mobilenet_v3_large", "quantized_resnet18"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.slow)
        for name in torchvision.models.list_models()
    ],
)
def test_every_activation_of_torchvision_is_seen_and_nothing_changed(name):
    model, inputs = model_and_inputs(name)

    def run():
        torch.manual_seed(1)
        return model(*inputs)

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a ViT has no ReLU; some boxes are no activations
        before = run()
        with spectroscope.record(model, spectra=False) as recorder:
            during = run()
        after = run()
        with Activations() as seen:
            run()
    coverage = recorder.report().coverage()
    asked_for = coverage[coverage["status"] != "not asked for"]
    assert asked_for["fired"].sum() == sum(kind not in ASKED.values() for kind in seen.kinds)
    assert same(before, during)
    assert same(before, after)


@pytest.mark.parametrize(("name", "calls"), [("resnet18", 17), ("googlenet", 57)])
def test_sites_of_known_models(name, calls):
    model, _ = model_and_inputs(name)
    with torch.inference_mode(), spectroscope.record(model) as recorder:
        model(torch.randn(2, 3, 64, 64))
    sites = recorder.report().sites()
    assert len(sites) == calls
    assert sites["decimation"].tolist()[0] == 2
    assert sites["decimation"].tolist()[-1] == 32
