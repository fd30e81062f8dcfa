"""A site has the name of the module it is in, however the model is wrapped, called or written."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import spectroscope
from spectroscope.io import load_checkpoint


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.Sequential(nn.Conv1d(2, 2, 3), nn.ReLU()))


def checkpointed(model):
    return nn.Sequential(model[0], checkpoint_wrapper(model[1]))


WRAPPERS = {
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "a compiled part": lambda model: nn.Sequential(
        model[0], torch.compile(model[1], backend="eager")
    ),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "checkpoint_wrapper": checkpointed,
    "several": lambda model: torch.compile(nn.DataParallel(checkpointed(model)), backend="eager"),
}


def report_of(model, x=None):
    with spectroscope.record(model) as recorder, torch.no_grad():
        model(torch.ones(2, 1, 16) if x is None else x)
    return recorder.report()


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_do_not_change_names(wrap):
    bare, wrapped = report_of(small()), report_of(wrap(small()))
    assert wrapped.sites()["site"].tolist() == ["1.1#0"]
    assert wrapped.coverage()["place"].tolist() == ["1.1"]
    assert bare.compare(wrapped).unmatched().empty
    assert bare.merge(wrapped).sites()["n_samples"].tolist() == [4]
    assert wrapped.about["model"].startswith("Sequential,")


def test_a_users_own_module_named_module_keeps_its_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = small()

        def forward(self, x):
            return self.module(x)

    assert report_of(Own()).sites()["site"].tolist() == ["module.1.1#0"]
    assert report_of(nn.DataParallel(Own())).sites()["site"].tolist() == ["module.1.1#0"]


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_checkpoints_of_wrapped_models_are_loaded_and_into_wrapped_models(wrap, tmp_path):
    source, path = small(), tmp_path / "weights.pt"
    for saved, target in ((wrap(source), small()), (source, wrap(small())),
                          (wrap(source), wrap(small()))):  # fmt: skip
        for parameter in target.parameters():
            parameter.data.zero_()
        torch.save(saved.state_dict(), path)
        load_checkpoint(target, path)
        for a, b in zip(source.parameters(), target.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_checkpoint_with_weights_of_a_module_named_module_is_loaded(tmp_path):
    def own():
        return nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})

    source, target = own(), own()
    torch.save({f"module.{k}": v for k, v in source.state_dict().items()}, tmp_path / "a.pt")
    torch.save(source.state_dict(), tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        for parameter in target.parameters():
            parameter.data.zero_()
        load_checkpoint(target, tmp_path / name)
        assert torch.equal(target["module"].weight, source["module"].weight)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv1d(2, 2, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return torch.relu(self.act(self.conv(self.act(x))) - 0.1)


class Traceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.Conv1d(1, 2, 3, stride=2), nn.Sequential(Block(), Block())
        self.last = nn.ReLU6(inplace=True)

    def forward(self, x):
        return self.last(self.blocks(self.first(x).relu_())).clamp(min=0)


TRACERS = {
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "strict export": lambda model, x: torch.export.export(model, (x,), strict=True).module(),
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
}


@pytest.mark.parametrize("trace", TRACERS.values(), ids=TRACERS)
def test_traced_graphs_have_the_names_of_the_modules_they_were_traced_from(trace):
    torch.manual_seed(0)
    model, x = Traceable().eval(), torch.randn(3, 1, 32)
    expected, report = report_of(model, x), report_of(trace(model, x), x)
    spectroscope.assert_close(report, expected)
    assert expected.sites()["site"].to_list() == [
        "/relu#0", "blocks.0.act#0", "blocks.0.act#1", "blocks.0/relu#0", "blocks.1.act#0",
        "blocks.1.act#1", "blocks.1/relu#0", "last#0", "/clamp#0",
    ]  # fmt: skip
    table = report.sites()
    assert table["decimation"].to_list() == [2.0] * 9
    part = report_of(nn.Sequential(trace(model, x)), x).sites()["site"].to_list()
    assert part == [f"0{'' if name[0] == '/' else '.'}{name}" for name in table["site"]]


class Extensible(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.more, self.grows = nn.Conv1d(1, 2, 3), nn.ModuleList(), False

    def forward(self, x):
        if self.grows and not self.more:
            self.more.append(nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.ReLU()))
        x = nn.ReLU()(self.conv(x))  # made here, it has no name
        for module in self.more:
            x = module(x)
        return x


@pytest.mark.parametrize("in_forward", [False, True])
def test_a_module_put_into_the_model_while_it_is_recorded_has_its_name(in_forward):
    model, x = nn.Sequential(Extensible()), torch.randn(2, 1, 32)
    with spectroscope.record(model, fs=32.0) as recorder:
        model(x)
        model[0].grows = in_forward
        if not in_forward:
            model[0].more.append(nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.ReLU()))
        for _ in range(3):
            model(x)
    report = recorder.report()
    sites = report.sites().set_index("site")
    assert sites["n_samples"].to_dict() == {"0/relu#0": 8, "0.more.0.1#0": 6}
    assert sites["source"].to_dict() == {"0/relu#0": "0.conv", "0.more.0.1#0": "0.more.0.0"}
    assert sites["fs"].to_list() == [32, 16]
    assert report.coverage()["status"].unique().tolist() == ["fired"]


def test_a_replaced_module_has_the_name_of_its_place():
    model, x = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()), torch.randn(2, 1, 32)
    with spectroscope.record(model) as recorder:
        model(x)
        model[1] = nn.Sequential(nn.BatchNorm1d(2), model[1], nn.ReLU())
        model(x)
        with torch.no_grad():
            nn.Sequential(nn.ReLU(), nn.ReLU())(x)  # is no part of it
    coverage = recorder.report().coverage().set_index("place")["fired"]
    assert coverage.to_dict() == {"1": 1, "1.1": 1, "1.2": 1}
