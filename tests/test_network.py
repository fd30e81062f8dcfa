"""What feeds what, against torch.fx and graphs written by hand; and where it is drawn."""

import gc
import json
import math
import operator
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from torch import fx, nn

import spectroscope
from spectroscope.capture.network import NetworkTracker, Node, merged

OPERATIONS = {
    nn.Conv2d: "convolution",
    nn.Linear: "linear",
    nn.ReLU: "activation",
    nn.ReLU6: "activation",
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d), "pooling"),
    **dict.fromkeys((F.relu, torch.relu), "activation"),
    F.interpolate: "resampling",
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, F.max_pool2d), "pooling"),
}


def traced(model):
    """Operation and numbers of the inputs of each node, by torch.fx."""
    graph = fx.symbolic_trace(model).graph
    nodes, sources = [], {}
    for node in graph.nodes:
        before = list(dict.fromkeys(x for a in node.all_input_nodes for x in sources[a]))
        if node.target is getattr or node.target == "size":
            before = []  # a shape
        operation = {"placeholder": "input", "output": "output"}.get(node.op)
        if node.op == "call_module":
            operation = OPERATIONS.get(type(model.get_submodule(node.target)))
        elif node.op == "call_function":
            operation = OPERATIONS.get(node.target)
        elif node.op == "call_method" and node.target == "mean":
            operation = "pooling"
        if operation is None and len(before) > 1:
            operation = "join"
        if operation is None:
            sources[node] = before
        else:
            sources[node] = [len(nodes)]
            nodes.append((operation, before))
    return nodes


def recorded(report):
    """The same, by a report."""
    frame = report.network()
    number = {name: i for i, name in enumerate(frame["node"])}
    return [
        (operation, [number[name] for name in inputs])
        for operation, inputs in zip(frame["operation"], frame["inputs"], strict=True)
    ]


def report_of(model, *inputs, forwards=1, **options):
    with spectroscope.record(model, **{"spectra": False, **options}) as recorder:
        for _ in range(forwards):
            model(*inputs)
    return recorder.report()


def edges(report):
    """The inputs of each node by name."""
    frame = report.network()
    return dict(zip(frame["node"], frame["inputs"], strict=True))


@pytest.mark.parametrize(
    "name",
    ["resnet18", "googlenet", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "vgg11",
     "shufflenet_v2_x0_5", "squeezenet1_1", "segmentation.lraspp_mobilenet_v3_large"],
)  # fmt: skip
def test_nodes_and_edges_are_those_of_fx(name):
    torchvision = pytest.importorskip("torchvision")
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    options |= {"weights_backbone": None} if "lraspp" in name else {}
    make = operator.attrgetter(name)(torchvision.models)
    model = make(weights=None, **options).eval()
    assert recorded(report_of(model, torch.randn(1, 3, 64, 64))) == traced(model)


class Functional(nn.Module):
    """Functions, methods, in-place operations and operators; a branch, a gate and a skip."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, 3))
        self.mix = nn.Conv1d(4, 4, 1)
        self.register_buffer("scale", torch.ones(4, 1))
        self.out = nn.Parameter(torch.randn(2, 4))

    def forward(self, x, *, extra):
        x = F.relu(F.conv1d(x["signal"], self.weight, padding=1)) * self.scale
        y = self.mix(x).relu_()
        y += x + torch.zeros_like(x)
        gate = self.mix(y.mean(-1, keepdim=True)).sigmoid()
        y = F.avg_pool1d(gate * y, 2)[..., ::2]
        y = torch.cat([y, extra[0] * torch.ones(1)], 1)
        return {"logits": y.amax(-1)[:, :4] @ self.out.T, "features": [y]}


def test_graph_of_functions_as_written_by_hand():
    x, extra = torch.randn(2, 1, 32), torch.randn(2, 3, 8)
    model = Functional()
    with spectroscope.record(model, fs={"signal": 64.0, "extra": 16.0}, spectra=False) as recorder:
        model({"signal": x}, extra=[extra])
    assert edges(recorder.report()) == {
        "input:x.signal": (),
        "input:extra.0": (),
        "conv1d@0": ("input:x.signal",),
        "/relu#0": ("conv1d@0",),
        "mix/conv1d@0": ("/relu#0",),
        "/relu#1": ("mix/conv1d@0",),
        "add@0": ("/relu#1", "/relu#0"),
        "mean@0": ("add@0",),
        "mix/conv1d@1": ("mean@0",),
        "mul@0": ("mix/conv1d@1", "add@0"),
        "avg_pool1d@0": ("mul@0",),
        "getitem@0": ("avg_pool1d@0",),
        "cat@0": ("getitem@0", "input:extra.0"),
        "amax@0": ("cat@0",),
        "matmul@0": ("amax@0",),
        "output:0": ("matmul@0",),
        "output:1": ("cat@0",),
    }
    frame = recorder.report().network().set_index("node")
    assert frame.loc["getitem@0", "operation"] == "resampling"
    assert frame.loc["matmul@0", "operation"] == "linear"
    assert frame.loc[["conv1d@0", "avg_pool1d@0", "getitem@0"], "fs"].tolist() == [64, 32, 16]
    assert frame.loc["cat@0", "shape"] == (7, 8)
    assert frame.loc["/relu#1", "site"] == "/relu#1"


def test_reused_modules_are_a_node_for_each_call():
    relu, conv = nn.ReLU(), nn.Conv1d(2, 2, 3, padding=1)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = conv, relu

        def forward(self, x):
            return self.relu(self.conv(self.relu(self.conv(x)))) + self.conv(x)

    assert edges(report_of(Twice(), torch.randn(1, 2, 8))) == {
        "input:x": (),
        "conv/conv1d@0": ("input:x",),
        "relu#0": ("conv/conv1d@0",),
        "conv/conv1d@1": ("relu#0",),
        "relu#1": ("conv/conv1d@1",),
        "conv/conv1d@2": ("input:x",),
        "add@0": ("relu#1", "conv/conv1d@2"),
        "output:0": ("add@0",),
    }


def written_into(x):
    y = torch.zeros(2, 4, 8)
    y[:, :2] = F.relu(x)
    y[:, 2:] = F.avg_pool1d(x, 3, 1, 1)
    return y


def part_in_place(x):
    y = F.avg_pool1d(x, 3, 1, 1)
    y[:, :1].relu_()
    return y


def part_added_to(x):
    y = F.avg_pool1d(x, 3, 1, 1)
    y[:, :1].add_(F.relu(x)[:, :1])
    return y


def whole_in_place(x):
    y = F.avg_pool1d(x, 3, 1, 1)
    y.flatten(1).relu_()
    return y


@pytest.mark.parametrize(
    ("function", "sources"),
    [
        (written_into, {"/relu#0", "avg_pool1d@0"}),
        (part_in_place, {"/relu#0", "avg_pool1d@0"}),
        (part_added_to, {"add@0", "avg_pool1d@0"}),
        (whole_in_place, {"/relu#0"}),
        (lambda x: torch.where(x > 0, F.relu(x), F.avg_pool1d(x, 3, 1, 1)),
         {"/relu#0", "avg_pool1d@0", "input:args.0"}),
        (lambda x: F.relu(x).view_as(F.avg_pool1d(x, 3, 1, 1)), {"/relu#0"}),
        (lambda x: F.relu(x) + torch.randn(2, 2, 8) + torch.tensor([1.0]), {"/relu#0"}),
    ],
)  # fmt: skip
def test_where_an_output_comes_from(function, sources):
    report = report_of(Calls(function), torch.randn(2, 2, 8))
    found = edges(report)
    (source,) = found["output:0"]
    assert set(found[source] if source.startswith(("setitem", "where")) else (source,)) == sources
    assert not any(name.startswith("unknown") for name in found)


def test_what_cannot_be_followed_is_unknown():
    model = Calls(lambda x: F.relu(x) + torch.from_numpy(F.relu(x).numpy() * 2))
    found = edges(report_of(model, torch.randn(2, 2, 8)))
    assert found["add@0"] == ("/relu#0", "unknown:0")
    assert found["unknown:0"] == ()
    model = Calls(lambda x: F.relu(torch.tensor(F.relu(x).tolist())))
    assert edges(report_of(model, torch.randn(2, 2, 8)))["/relu#1"] == ("unknown:0",)


def test_a_module_whose_inside_is_not_seen_is_a_node():
    model = nn.Sequential(
        nn.Conv1d(2, 2, 1), Calls(lambda x: torch.from_numpy(x.detach().numpy() * 2)), nn.ReLU()
    )
    found = edges(report_of(model, torch.randn(2, 2, 8)))
    assert found["1@0"] == ("0/conv1d@0",)
    assert found["2#0"] == ("1@0",)


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_has_its_inputs_fused_or_not(gradients):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            a, b = self.first(x), self.second(x)
            return self.relu(self.attention(query=a, key=b, value=b, need_weights=False)[0])

    with torch.set_grad_enabled(gradients):
        frame = report_of(Attends().eval(), torch.randn(2, 5, 8)).network()
    attention = frame[frame["operation"] == "attention"]
    assert attention["inputs"].tolist() == [("first/linear@0", "second/linear@0")]
    assert edges_of(frame)["relu#0"] == tuple(attention["node"])


def edges_of(frame):
    return dict(zip(frame["node"], frame["inputs"], strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_compiled_and_scripted_modules():
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
    found = edges(report_of(torch.compile(model), torch.randn(2, 1, 8)))
    assert found["1#0"] == ("0/conv1d@0",)
    inner = torch.jit.script(nn.Sequential(nn.Conv1d(2, 2, 1)))
    model = nn.Sequential(nn.Conv1d(1, 2, 3), inner, nn.ReLU())
    with pytest.warns(UserWarning, match="TorchScript runs it"):
        found = edges(report_of(model, torch.randn(2, 1, 8)))
    assert found["2#0"] == ("1@0",)
    assert found["1@0"] == ("0/conv1d@0",)


def test_a_repeated_forward_is_not_followed(monkeypatch):
    calls = []
    for name in ("update", "add_site", "known_sources", "add_module", "start", "end"):
        method = getattr(NetworkTracker, name)

        def counted(self, *args, method=method, **kwargs):
            calls.append(method)
            return method(self, *args, **kwargs)

        monkeypatch.setattr(NetworkTracker, name, counted)
    model, x = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()), torch.randn(2, 1, 8)
    with spectroscope.record(model, spectra=False):
        model(x)
        once = len(calls)
        model(x)
    assert len(calls) == once > 0


def test_an_intervention_follows_nothing(monkeypatch):
    for name in ("update", "known_sources", "add_site"):
        monkeypatch.setattr(NetworkTracker, name, lambda *args, **kwargs: pytest.fail("followed"))
    model, x = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()), torch.randn(2, 1, 8)
    with spectroscope.intervene(model, "*", spectroscope.remove_dc):
        output = model(x)
    assert output.mean(-1).abs().max() < 1e-6


def test_no_tensor_is_kept():
    alive = []
    conv = nn.Conv1d(1, 2, 3)

    def function(x):
        y = F.relu(conv(x)) + 0
        alive.append(weakref.ref(y))
        return y.sum()

    model = Calls(function)
    with spectroscope.record(model, spectra=False):
        model(torch.randn(2, 1, 8))
        gc.collect()
        assert alive[0]() is None


def test_saved_loaded_and_merged(tmp_path):
    model = nn.Sequential(nn.Conv1d(1, 2, 3, stride=2), nn.ReLU())
    first = report_of(model, torch.randn(2, 1, 64))
    first.save(tmp_path)
    loaded = spectroscope.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.network(), first.network())
    both = loaded.merge(report_of(model, torch.randn(2, 1, 32))).network()
    assert both["shape"].tolist() == [(1, None), (2, None), (2, None), (2, None)]
    assert both["decimation"].tolist() == [1, 2, 2, 2]
    assert both["inputs"].tolist() == first.network()["inputs"].tolist()


def test_a_file_of_an_earlier_version_has_no_network(tmp_path):
    report_of(nn.ReLU(), torch.randn(2, 1, 64)).save(tmp_path)
    with np.load(tmp_path / "report.npz") as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"]))
    assert header.pop("network")
    np.savez(tmp_path / "report.npz", **arrays | {"header": np.array(json.dumps(header))})
    report = spectroscope.load(tmp_path)
    assert report.network().empty
    assert list(report.network())[:2] == ["node", "operation"]
    with pytest.raises(
        ValueError, match=r"empty: expected rows from report.network\(\), of a report"
    ):
        spectroscope.plots.network(report.network())


def test_branches_that_depend_on_the_data_are_all_there():
    def function(x):
        y = F.relu(x)
        return y.mean(-1) if x.mean() > 0 else F.max_pool1d(y, 2).mean(-1)

    model = Calls(function)
    with spectroscope.record(model, spectra=False) as recorder:
        model(torch.ones(1, 2, 8))
        model(-torch.ones(1, 2, 8))
        model(-torch.ones(1, 2, 8))
    assert edges(recorder.report())["mean@0"] == ("/relu#0", "max_pool1d@0")


def test_aliasing_is_at_the_downsampling_it_happens_in():
    model = nn.Sequential(nn.ReLU(), nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.BatchNorm1d(2),
                          nn.MaxPool1d(2), nn.Conv1d(2, 2, 1), nn.ReLU()).eval()  # fmt: skip
    report = report_of(model, torch.randn(4, 1, 64), spectra=True)
    frame = report.network().set_index("node")
    above = report.sites().set_index("site")["above_next_nyquist"]
    assert frame["above_nyquist"].dropna().to_dict() == {"4/max_pool1d@0": above["2#0"]}
    assert frame["aliasing_from"].dropna().to_dict() == {"4/max_pool1d@0": "2#0"}
    assert math.isnan(above["6#0"])


def test_aliasing_is_at_every_stride_that_reads_the_site():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.skip = nn.Conv1d(1, 1, 3, stride=2, padding=1), nn.Conv1d(1, 1, 1, 2)
            self.faster = nn.Conv1d(1, 1, 1, 4)

        def forward(self, x):
            y = F.relu(x)
            return F.relu(self.main(y) + self.skip(y)).sum() + self.faster(y).sum()

    report = report_of(Block().eval(), torch.randn(4, 1, 64), spectra=True)
    above = report.sites().set_index("site")["above_next_nyquist"]["/relu#0"]
    frame = report.network().set_index("node")
    # Behind the third, at a quarter of the rate, the Nyquist frequency is another.
    assert frame["above_nyquist"].dropna().to_dict() == {
        "main/conv1d@0": above, "skip/conv1d@0": above
    }  # fmt: skip


def test_merge_of_nodes():
    a = Node("join", "add", ("x", "y"), (2, 8), 1.0)
    b = Node("join", "add", ("y", "z"), (2, 4), 2.0)
    assert merged({"n": a, "m": a}, {"n": b, "k": b}) == {
        "n": Node("join", "add", ("x", "y", "z"), (2, None), None), "m": a, "k": b
    }  # fmt: skip
