"""What was asked for, what was seen, and what is said of the rest."""

import re
import warnings

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from torch import nn

import spectroscope
from spectroscope.page.coverage import commonest_reason, summarize_coverage


@pytest.mark.parametrize(
    ("select", "sites"),
    [
        ("0", ["0#0"]),
        ("*", ["0#0", "1.0#0", "1.0#1"]),
        ("1.*#1", ["1.0#1"]),
        (["0", "*#1"], ["0#0", "1.0#1"]),
        (lambda name, module: name.startswith("1"), ["1.0#0", "1.0#1"]),
    ],
)
def test_select(select, sites):
    shared = nn.ReLU()
    model = nn.Sequential(nn.ReLU(), nn.Sequential(shared, shared))
    with spectroscope.record(model, select=select) as recorder:
        model(torch.randn(2, 3, 4))
    report = recorder.report()
    assert report.sites()["site"].tolist() == sites
    coverage = report.coverage().set_index("module")
    assert coverage["fired"].to_dict() == {"0": 1, "1.0": 2}


def test_select_that_fits_nothing_names_what_there_is():
    with pytest.raises(spectroscope.RequestError, match=r"matches no activation of Sequential.* 0"):
        spectroscope.record(nn.Sequential(nn.ReLU()), select="block*")


def test_what_is_not_a_module_is_refused():
    with pytest.raises(TypeError, match=r"nn\.Module, not builtin"):
        spectroscope.record(torch.relu)
    with pytest.raises(spectroscope.RequestError, match="fs=0"):
        spectroscope.record(nn.ReLU(), fs=0)


def test_coverage_tells_what_fired_and_what_can_not_be_seen():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()
            self.scripted = torch.jit.script(nn.Sequential(nn.ReLU()))

        def forward(self, x):
            return self.scripted(self.used(x))

    with pytest.warns(FutureWarning, match=r"torch\.jit\.script"):
        model = Partly()
    with (
        pytest.warns(UserWarning, match=r"Partly: 1 place is not recorded.*scripted"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(2, 3, 4))
    coverage = recorder.report().coverage().set_index("module")
    assert coverage["status"].to_dict() == {
        "used": "fired",
        "unused": "never fired",
        "scripted": "cannot be seen",
    }
    assert "TorchScript" in coverage.loc["scripted", "reason"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda model: None, "it did not run"),
        (lambda model: model(torch.ones(1, 2)), "no selected activation"),
    ],
)
def test_that_nothing_was_recorded_is_said(run, message):
    model = nn.Linear(2, 2)
    with (
        pytest.warns(UserWarning, match=f"Linear: nothing was recorded: {message}"),
        spectroscope.record(model) as recorder,
    ):
        run(model)
    report = recorder.report()
    assert report.dc().empty
    assert "dc_out" in report.dc()
    assert report.sites().empty
    assert "dc_out" in report.sites()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(3), r"\[3\] has no channel_axis=1"),
        (torch.ones(2, 3, 4, device="meta"), "without values"),
        (torch.ones(2, 3, 4, dtype=torch.int32), "torch.int32 is not a real floating-point type"),
        (torch.ones(2, 3).to_sparse(), "not a dense tensor"),
    ],
)
def test_what_can_not_be_reduced_is_reported_and_left_alone(tensor, reason):
    model = nn.ReLU()
    with pytest.warns(UserWarning, match=reason), spectroscope.record(model) as recorder:
        model(tensor)
    coverage = recorder.report().coverage()
    # A call without values isn't counted.
    assert coverage["status"].item() == ("cannot be seen" if tensor.is_meta else "incomplete")
    assert re.search(reason, coverage["reason"].item())


def test_a_change_of_channels_is_reported_and_what_was_there_kept():
    model = nn.ReLU()
    with (
        pytest.warns(UserWarning, match="3 channels, then 5"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.ones(2, 3, 8))
        model(torch.ones(2, 5, 8))
    assert recorder.report().dc()["n_samples"].tolist() == [2, 2, 2]


class Block(nn.Module):
    """The block of a ConvNeXt."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.LayerNorm(4)
        self.up, self.act, self.down = nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.down(self.act(self.up(y))).permute(0, 3, 1, 2)


def test_what_was_not_asked_for_is_said_with_the_remedy():
    model, x = nn.Sequential(*[Block() for _ in range(12)]), torch.randn(2, 4, 8, 8)
    message = (
        'Sequential: nothing was recorded: 12 GELU calls were seen, none recorded: kinds=["GELU"] '
        'or kinds="all"'
    )
    with (
        pytest.warns(UserWarning, match=f"^{re.escape(message)}$"),
        spectroscope.record(model) as recorder,
    ):
        model(x)
    coverage = recorder.report().coverage()
    assert coverage["place"].tolist() == [f"{i}.act" for i in range(12)]
    assert set(coverage["status"]) == {"not asked for"}
    assert coverage["fired"].tolist() == [1] * 12
    for kinds in ("all", ["GELU"], [nn.GELU]):
        with spectroscope.record(model, kinds=kinds) as recorder:
            model(x)
        assert recorder.report().sites()["kind"].tolist() == ["GELU"] * 12
        assert set(recorder.report().coverage()["status"]) == {"fired"}


@pytest.mark.parametrize(
    ("function", "place", "kind"),
    [
        (F.gelu, "/gelu", "GELU"),
        (lambda x: x.sigmoid(), "/sigmoid", "Sigmoid"),
        (torch.tanh, "/tanh", "Tanh"),
        (F.mish, "/mish", "Mish"),
        (F.softplus, "/softplus", "Softplus"),
        (F.selu_, "/selu", "SELU"),
        (F.celu, "/celu", "CELU"),
        (lambda x: F.leaky_relu(x, 0.1), "/leaky_relu", "LeakyReLU"),
        (lambda x: x.clamp(0, 20), "/clamp", "Clamp"),
        (lambda x: torch.clip(x, 0, torch.tensor(3.0)), "/clip", "Clamp"),
    ],
)
def test_another_kind_is_counted_and_recorded_when_asked_for(function, place, kind):
    model, x = nn.Sequential(nn.ReLU(), Calls(function)), torch.randn(4, 3, 8)
    with warnings.catch_warnings(), spectroscope.record(model) as recorder:
        warnings.simplefilter("error")
        model(x)
        model(x)
    report = recorder.report()
    assert report.sites()["site"].tolist() == ["0#0"]
    row = report.coverage().set_index("place").loc[f"1{place}"]
    assert (row["kind"], row["status"], row["fired"]) == (kind, "not asked for", 2)
    with spectroscope.record(model, kinds=kind) as recorder:
        model(x)
    expected = function(x.relu()).double().mean((0, 2)).tolist()
    dc = recorder.report().dc().query("kind == @kind")
    assert dc["dc_out"].tolist() == pytest.approx(expected, rel=1e-12)


def test_not_asked_for_is_merged_and_saved_and_on_the_page(tmp_path):
    model, x = nn.Sequential(nn.ReLU(), nn.GELU()), torch.randn(4, 3, 8)
    reports = []
    for kinds in ((), (), "all"):
        with spectroscope.record(model, kinds=kinds) as recorder:
            model(x)
        reports.append(recorder.report())
    unasked = reports[0].merge(reports[1])
    unasked.save(tmp_path)
    for report in (unasked, spectroscope.load(tmp_path)):
        assert report.coverage()["status"].tolist() == ["fired", "not asked for"]
        assert report.coverage()["fired"].tolist() == [2, 2]
    assert unasked.merge(reports[2]).coverage()["status"].tolist() == ["fired", "fired"]
    text = summarize_coverage(unasked.coverage()).text
    assert text == (
        "The only activation fired, 2 calls in total. None was missed. 2 calls of GELU were seen "
        'but not asked for: kinds="all" records them.'
    )


def test_the_fused_gelu_of_a_transformer_is_counted():
    model = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True).eval()
    with (
        torch.inference_mode(),
        pytest.warns(UserWarning, match="1 GELU call was seen, none recorded"),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(2, 5, 8))
    assert recorder.report().coverage()["place"].tolist() == ["/gelu"]


def test_the_commonest_reason_is_said_with_the_number_of_its_places():
    reasons = ["call 0: no harmonics: a", "call 2: no harmonics: a", "a replica", ""]
    for frame, sentence in (
        (reasons, "Reason, at 2 of them: no harmonics: a."),
        (reasons[:2], "Reason: no harmonics: a."),
        (reasons[3:], ""),
    ):
        assert commonest_reason(pd.DataFrame({"reason": frame})) == sentence


def test_missed_activations_are_counted_by_what_is_missing():
    status = ["incomplete", "never fired", "incomplete", "cannot be seen", "fired"]
    frame = pd.DataFrame({"place": list("abcde"), "kind": "ReLU", "status": status, "fired": 1,
                          "selected": True, "reason": ""})  # fmt: skip
    assert summarize_coverage(frame).warning == (
        "2 activations are recorded incompletely, 1 never fired, 1 cannot be seen."
    )
    assert summarize_coverage(frame[:1]).warning == "1 activation is recorded incompletely."
