"""A model that we didn't write: in-place ReLUs, each called two or three times a forward."""

import pytest
import torch
import torchvision

import spectroscope


@pytest.mark.parametrize(("name", "calls"), [("resnet18", 17), ("resnet50", 49)])
def test_resnets(name, calls):
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(x)
        with spectroscope.record(model) as recorder:
            during = model(x)
        after = model(x)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    sites = recorder.report().sites()
    assert len(sites) == calls
    assert sites["decimation"].tolist()[0] == 2
    assert sites["decimation"].tolist()[-1] == 32
    assert (sites["dc_in"] < sites["dc_out"]).all()
