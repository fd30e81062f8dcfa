"""The filters that make the channels of a site, against perturbed filters."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from torch import nn
from torch.overrides import TorchFunctionMode

import spectroscope

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class ReluInputs(TorchFunctionMode):
    """Copies of the inputs of every ReLU, in the order of calls."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in ("relu", "relu_"):
            self.inputs.append(args[0].clone())
        return function(*args, **(kwargs or {}))


def relu_inputs(model, x, kept, layer=None, number=None):
    """The input of each ReLU, if every convolution and linear layer returns what is `kept`.

    Is nothing kept yet, then what they return is. A change of one filter of `layer` does not spread
    to the channels that are computed from those of the layer.
    """
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):

            def keep(module, args, output, name=name):
                if layer is None:
                    kept[name] = output.detach().clone()
                    return None
                output = kept[name].clone()
                if name == layer:
                    axis = -1 if isinstance(module, nn.Linear) else 1
                    # So much that no ReLU hides it.
                    output.select(axis, number).add_(1e4)
                return output

            handles.append(module.register_forward_hook(keep))
    with torch.no_grad(), ReluInputs() as seen:
        model(x)
    for handle in handles:
        handle.remove()
    return seen.inputs


def changed_channels(before, after, axes):
    """Channels, along `axes`, of each ReLU's input that differ."""
    return [
        set(torch.nonzero((a != b).movedim(axis, 0).flatten(1).any(1)).flatten().tolist())
        for a, b, axis in zip(before, after, axes, strict=True)
    ]


def named(sources, layer, number):
    """The channels that are this filter, according to the ranges of a site."""
    return {
        channel
        for part in sources
        if part.layer == layer
        for channel in range(part.channel, part.channel + part.size)
        if part.filter + channel - part.channel == number
    }


class Shuffle(nn.Module):
    """Two groups whose channels are interleaved, then half of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.out = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.cat([self.a(x), self.b(x)], 1)
        n, c, h, w = x.shape
        x = F.relu(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        x = F.relu(x.chunk(2, 1)[1] + 1)
        x = F.relu(self.depthwise(F.max_pool2d(x, 2)))
        x = F.relu(x.mean((2, 3)).unsqueeze(-1)).squeeze(-1)
        return F.relu(self.out(x).view(n, 5, 1).expand(n, 5, 2).permute(0, 2, 1))


def torchvision_model(name):
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["shuffle", "resnet18", "googlenet", "densenet121", "shufflenet_v2_x0_5"]
)
def test_a_perturbed_filter_changes_the_channels_that_are_named(name):
    torch.manual_seed(0)
    model = (Shuffle() if name == "shuffle" else torchvision_model(name)).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), spectroscope.record(model, spectra=False) as recorder:
        model(x)
    recording = recorder.recording()
    sites = list(recording.records)
    assert [*recording.sources] == sites
    axes = [1, 1, 1, 1, 2] if name == "shuffle" else [1] * len(sites)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, LAYERS)]
    chosen = layers if name == "shuffle" else [layers[i] for i in torch.randperm(len(layers))[:8]]
    kept = {}
    before = relu_inputs(model, x, kept)
    for layer, module in chosen:
        count = module.weight.shape[0]
        for number in {0, count - 1, count // 3}:
            after = relu_inputs(model, x, kept, layer, number)
            changed = changed_channels(before, after, axes)
            assert len(changed) == len(sites)
            for site, channels in zip(sites, changed, strict=True):
                assert named(recording.sources[site], layer, number) == channels, (site, layer)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(1, 3, 3, padding=1), nn.Conv1d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv2(torch.relu(self.conv1(x)))))


def report_of_dead_channels():
    torch.manual_seed(0)
    model = Plain().eval()
    with torch.no_grad():
        for layer, number in ((model.conv1, 1), (model.conv2, 3)):
            layer.bias.fill_(9)
            layer.weight[number], layer.bias[number] = 0, -1
    with torch.no_grad(), spectroscope.record(model) as recorder:
        model(torch.randn(2, 1, 16))
    return recorder.report()


def test_dead_channels_and_their_filters(tmp_path):
    report = report_of_dead_channels()
    dead = report.dead()
    assert dead[["site", "channel", "source", "filter"]].to_numpy().tolist() == [
        ["/relu#0", 1, "conv1", 1],
        ["/relu#1", 3, "conv2", 3],
    ]
    assert report.sites()["source"].tolist() == ["conv1", "conv2"]
    assert set(report.spectra("conv2")["site"]) == {"/relu#1"}
    assert set(report.spectra(["conv*"])["site"]) == set(report.sites()["site"])
    report.save(tmp_path / "saved")
    loaded = spectroscope.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(loaded.dead(), dead)
    pd.testing.assert_frame_equal(loaded.sites(), report.sites())
    merged = loaded.merge(report)
    assert merged.sites()["source"].tolist() == ["conv1", "conv2"]


def test_unknown_sources_are_missing():
    """Channels of the input, a mixture of channels, or a sum with either have no known filter."""
    conv = nn.Conv1d(3, 3, 1)
    for function in (
        lambda x: x,
        lambda x: conv(x) + x,
        lambda x: torch.tensordot(conv(x), torch.ones(3, 3), ([1], [0])),
        lambda x: conv(x)[:, torch.tensor([2, 0, 1])],
        lambda x: conv(x).flip(1),
        lambda x: conv(x).softmax(1),
        lambda x: conv(x).sort(1).values,
    ):
        model = nn.Sequential(Calls(function), nn.ReLU())
        with torch.no_grad(), spectroscope.record(model) as recorder:
            model(torch.randn(2, 3, 8) - 9)
        report = recorder.report()
        assert report.sites()["source"].isna().all()
        assert report.dead()[["source", "filter"]].isna().all(axis=None)


def test_gates_and_sums():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.skip = nn.Conv1d(2, 4, 3), nn.Conv1d(2, 4, 3)
            self.gate = nn.Linear(4, 4)

        def forward(self, x):
            y = self.conv(x)
            y = y * torch.sigmoid(self.gate(y.mean(-1))).unsqueeze(-1)
            y += self.skip(x)
            return F.relu(torch.cat([y, self.skip(x)], 1).mT)

    model = Gated()
    with torch.no_grad(), spectroscope.record(model) as recorder:
        model(torch.randn(2, 2, 16))
    sites = recorder.report().sites()
    assert sites["channel_axis"].item() == 2
    # `skip` twice, so the channels of its filters are not those of its position.
    assert sites["source"].item() == "conv, skip"
    parts = recorder.recording().sources[sites["site"].item()]
    assert named(parts, "skip", 1) == {1, 5}
    assert named(parts, "conv", 1) == {1}
    assert sum(part.size for part in parts) == 12


class Alternating(nn.Module):
    """A forward that skips its first block every second time, as stochastic depth does."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv1d(n, 4, 3, padding=1) for n in (1, 4, 4))
        self.forwards = 0

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in (self.a, self.b)[self.forwards % 2 :]:
            x = x + F.relu(block(x))
        self.forwards += 1
        return x


def test_a_call_of_other_layers_in_other_forwards_has_no_known_source():
    model, x = Alternating().eval(), torch.randn(2, 1, 16)
    with torch.no_grad():
        model.a.bias.fill_(-1e3)  # dead channels, but not of one filter
        model.b.bias.fill_(-1e3)
        with spectroscope.record(model, spectra=False) as recorder:
            for _ in range(4):  # the second is not tracked from where it differs
                model(x)
    report = recorder.report()
    sources = report.sites().set_index("site")["source"]
    assert sources["/relu#0"] == "stem"
    assert sources[["/relu#1"]].isna().all()
    assert sources["/relu#2"] == "b"
    of_both = report.dead().query("site == '/relu#1'")
    assert len(of_both) == 4
    assert of_both["source"].isna().all()
