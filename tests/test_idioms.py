"""ReLUs in other words are recorded, or said; what is no activation is neither."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Calls
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import spectroscope
from spectroscope.capture.rectified import RectifiedTensors
from spectroscope.experiments.operations import remove_dc

WORDS = {
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "maximum": lambda x: torch.maximum(0 * x, x),
    "fmax": lambda x: torch.fmax(x, torch.tensor(0.0)),
    "clamp": lambda x: x.clamp(min=x.new_zeros(x.shape[-1])),
    "clamp_min": lambda x: torch.clamp_min(x, torch.full((), 0.0)),
    "mul": lambda x: x * (x > 0),
    "multiply": lambda x: torch.multiply(torch.gt(x, 0).float(), x),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "leaky_relu": lambda x: F.leaky_relu(x, negative_slope=0.0),
}
MORE_WORDS = {
    "mask of zeros": lambda x: x * (x >= torch.zeros(())).to(x.dtype),
    "heaviside": lambda x: torch.heaviside(x, torch.zeros(())) * x,
    "method where": lambda x: x.where(x > 0, torch.zeros_like(x)),
    "where of the opposite": lambda x: torch.where(x < 0, torch.zeros_like(x), x),
    "masked_fill of the opposite": lambda x: x.masked_fill(~(x > 0), 0.0),
    "in place": lambda x: in_place(x.clone()),
    "mask in place": lambda x: mask_in_place(x),
    "masked_fill in place": lambda x: filled(x.clone()),
    "LeakyReLU": nn.LeakyReLU(0),
    "RReLU": nn.RReLU(0, 0),
    "rrelu": lambda x: F.rrelu(x, 0.0, 0.0),
    "Hardtanh": nn.Hardtanh(0, torch.inf),
    "mask of a copy": lambda x: x * (x.clone() > 0),
    "mask without gradient": lambda x: x * (x.detach() > 0),
    "copy filled in place": lambda x: x.clone().masked_fill_(x < 0, 0),
    "without the negative part": lambda x: x - x.clamp(max=0),
    "sub": lambda x: torch.sub(x, torch.clamp_max(x, 0)),
    "subtract": lambda x: torch.subtract(x, torch.minimum(torch.zeros_like(x), x)),
}


def in_place(x):
    x *= x > 0
    return x


def mask_in_place(x):
    mask = (x > 0).to(x.dtype)
    mask.mul_(x)
    return mask


def filled(x):
    return x.masked_fill_(x <= 0, 0)


def report_of(model, *args, **options):
    with torch.no_grad(), spectroscope.record(model, **options) as recorder:
        for _ in range(3):  # the first is tracked, the others repeat it
            model(*args)
    return recorder.report()


def coverage_of(model, *args, **options):
    return report_of(model, *args, **options).coverage().set_index("place")["status"].to_dict()


@pytest.mark.parametrize("words", [*WORDS.values(), *MORE_WORDS.values()])
def test_a_relu_in_other_words_is_recorded(words):
    x = torch.randn(4, 3, 8)
    dc = report_of(Calls(words), x).dc()
    assert dc["kind"].unique().tolist() == ["ReLU"]
    assert dc["call"].unique().tolist() == [0]
    for side, values in (("dc_in", x), ("dc_out", np.maximum(x.numpy(), 0))):
        expected = np.asarray(values, dtype=np.float64).mean((0, 2))
        assert dc[side].to_numpy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("place", WORDS)
def test_its_place_is_the_function(place):
    assert coverage_of(Calls(WORDS[place]), torch.randn(2, 3, 4)) == {f"/{place}": "fired"}


@pytest.mark.parametrize("words", [*WORDS.values(), *MORE_WORDS.values()])
def test_it_can_be_changed_and_nothing_else_changes(words):
    model, x = Calls(words), torch.randn(4, 3, 8)
    before = model(x)
    with spectroscope.record(model):
        assert torch.equal(model(x), before)
    with spectroscope.intervene(model, None, remove_dc):
        changed = model(x)
    assert changed.numpy() == pytest.approx(
        (before - before.mean(-1, keepdim=True)).numpy(), abs=1e-6
    )
    assert torch.equal(model(x), before)


OTHER_WORDS = [
    lambda x: x * (x > 1),
    lambda x: x * (x < 0),
    lambda x: torch.where(x > 0, x, -x),
    lambda x: torch.where(x > 0, 0.0, x),
    lambda x: torch.where(x < 0, x, 0.0),
    lambda x: x.masked_fill(x > 0, 0),
    lambda x: x.masked_fill(x < 0, 1),
    lambda x: torch.maximum(x, torch.full_like(x, 2)),
    lambda x: torch.minimum(x, torch.zeros_like(x)),
    lambda x: (x + 1).mul_(x > 0),
    lambda x: x * ((x + 1).clone() > 0),
    lambda x: (x + 1).clone().masked_fill_(x < 0, 0),
    lambda x: x - x.clamp(max=1),
    lambda x: x - x.clamp(-1, 0),
    lambda x: x - torch.min(x, 0)[0],
    lambda x: torch.sub(x, x.clamp(max=0), alpha=2),
    lambda x: x.clamp(max=0) - x,
    lambda x: (x - 1) - x.clamp(max=0),
    lambda x: x + x.clamp(max=0),
]


@pytest.mark.parametrize("function", OTHER_WORDS)
def test_what_is_similar_is_no_relu(function):
    with pytest.warns(UserWarning, match="nothing was recorded"):
        assert coverage_of(Calls(function), torch.randn(2, 3, 4)) == {}


def test_a_mask_of_what_was_overwritten_since_is_none():
    def function(x):
        x = x.clone()
        mask = x > 0
        x += 1
        return x * mask

    with pytest.warns(UserWarning, match="nothing was recorded"), torch.inference_mode():
        assert coverage_of(Calls(function), torch.randn(2, 3, 4)) == {}


def assigned(x):
    x = x.clone()
    x[x < 0] = 0
    return x


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (assigned, r"/setitem \(x\[x < 0\] = 0 is a ReLU that returns nothing"),
        (lambda x: (x + x.abs()) / 2, r"/add \(x \+ \|x\| is twice a ReLU"),
        (lambda x: 0.5 * (torch.abs(x) + x), r"/add \(x \+ \|x\| is twice a ReLU"),
    ],
)
def test_what_cannot_be_recorded_is_said(function, reason):
    with pytest.warns(UserWarning, match=reason):
        (status,) = coverage_of(Calls(function), torch.randn(2, 3, 4)).values()
    assert status == "cannot be seen"


def forgetful(x):
    x = x + 0
    y, mask = x.clone(), x < 0
    del x
    return y.masked_fill_(mask, 0)


def test_a_copy_is_known_when_the_original_is_gone():
    assert coverage_of(Calls(forgetful), torch.randn(2, 3, 4)) == {"/masked_fill": "fired"}


def positive_parts(x):
    y = torch.zeros_like(x)
    y[x > 0] = x[x > 0]
    return y


IN_UNKNOWN_WORDS = {
    "mul": lambda x: x * (x.sign() + 1) / 2,
    "neg": lambda x: -(-x).clamp(max=0),
    "where": lambda x: torch.where(x > 0, x, torch.tensor(0.0).expand_as(x)),
    "max": lambda x: torch.stack([x, torch.zeros_like(x)]).max(0)[0],
    "lerp": lambda x: torch.lerp(x.abs(), x, 0.5),
    "setitem": positive_parts,
    "index_put": lambda x: x.clone().index_put_((x < 0,), torch.tensor(0.0)),
    "add": lambda x: (0.5 * x + 0.5 * (x * x).sqrt()).flatten(1) ** 2,
    "addcmul": lambda x: torch.addcmul(x * 0, x, (x > 0).to(x), value=0.3),  # rounds
}


@pytest.mark.parametrize("place", IN_UNKNOWN_WORDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_relu_in_unknown_words_is_said(place, dtype, transposed):
    x = torch.randn(4, 3, 8).to(dtype)
    x = x.transpose(0, 1) if transposed else x
    model = nn.Sequential(Calls(IN_UNKNOWN_WORDS[place]), nn.Flatten(), nn.ReLU())
    with pytest.warns(UserWarning, match=f"0/{place} .its result is a ReLU"):
        coverage = coverage_of(model, x)
    assert coverage == {f"0/{place}": "cannot be seen", "2": "fired"}


def test_a_relu_in_unknown_words_of_a_subclass_of_tensors_is_said():
    class Own(torch.Tensor):
        pass

    with pytest.warns(UserWarning, match="/neg .its result is a ReLU"):
        coverage_of(Calls(IN_UNKNOWN_WORDS["neg"]), torch.randn(4, 3, 8).as_subclass(Own))


def test_a_relu_in_unknown_words_is_said_after_a_first_input_of_zeros():
    model = nn.Sequential(Calls(IN_UNKNOWN_WORDS["neg"]), nn.ReLU())
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="0/neg .its result is a ReLU"),
        spectroscope.record(model, spectra=False),
    ):
        for scale in range(20):
            model(torch.randn(4, 3, 8) * scale)


def test_a_relu_in_unknown_words_is_said_once_and_beside_others():
    model = Calls(lambda x: F.relu(x - 1) + (x * (x.sign() + 1) / 2).reshape(-1, 8).view_as(x) * 2)
    with pytest.warns(UserWarning, match="1 place is not recorded in full"):
        coverage = coverage_of(model, torch.randn(4, 3, 8))
    assert coverage == {"/relu": "fired", "/mul": "cannot be seen"}


def in_numpy(x):
    return torch.from_numpy(np.maximum(x.numpy(), 0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
@pytest.mark.parametrize("made", ["by NumPy", "by TorchScript"])
def test_a_relu_that_is_made_where_functions_cannot_be_seen_is_said(made):
    @torch.jit.script
    def scripted(x):
        return torch.relu(x)

    hidden = {"f": in_numpy if made == "by NumPy" else scripted}
    model = nn.Sequential(Calls(lambda x: hidden["f"](x)), nn.Conv1d(3, 2, 3), nn.ReLU())
    with pytest.warns(UserWarning, match="1/conv1d .its argument is a ReLU"):
        coverage = coverage_of(model, torch.randn(4, 3, 8))
    assert coverage == {"1/conv1d": "cannot be seen", "2": "fired"}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.relu(x.to_sparse()).to_dense(),
        lambda x: torch.relu(x.to_mkldnn()).to_dense() * 1,
        lambda x: torch.func.vmap(torch.relu)(x) + 0,
    ],
)
def test_a_relu_whose_result_cannot_be_read_is_said_once(function):
    with pytest.warns(UserWarning, match="call 0: "):
        coverage = coverage_of(Calls(function), torch.randn(4, 3, 8))
    assert coverage == {"/relu": "incomplete"}


FIRST = torch.arange(8) < 2
NO_NEW_RELU = {
    "views of both sides": lambda x: x.transpose(1, 2) + x.relu().transpose(1, 2),
    "pooling of both sides": lambda x: F.max_pool1d(x, 2) + F.max_pool1d(x.relu(), 2),
    "scaled": lambda x: x.relu() * 3 / 4,
    "in place": lambda x: x.clone().relu_().mul_(2).view(-1),
    "by way of Python": lambda x: x + torch.tensor(x.relu().tolist()),
    "padding": lambda x: x.relu() + (p := torch.where(FIRST, -1.0, x.abs())) * (p != -1),
    "mask": lambda x: x.relu() + 0 * (x.abs() * ~FIRST),
    "own kind": lambda x: x.relu() + F.elu(x, 0.0),
}


@pytest.mark.parametrize("function", NO_NEW_RELU.values(), ids=list(NO_NEW_RELU))
def test_what_has_the_values_of_a_relu_for_another_reason_is_not_said(function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coverage = coverage_of(Calls(function), torch.randn(4, 3, 8))
    assert coverage.pop("/elu", "not asked for") == "not asked for"
    assert coverage == {"/relu": "fired"}


def test_a_module_of_another_kind_with_the_values_of_a_relu_is_not_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coverage = coverage_of(nn.Sequential(nn.PReLU(init=0), nn.ReLU()), torch.randn(4, 3, 8))
    assert coverage == {"0": "not asked for", "1": "fired"}


def test_what_is_kept_for_comparison_is_bounded(monkeypatch):
    kept = []

    class Counted(RectifiedTensors):
        def _add(self, tensor):
            kept.append(sum(map(len, self._values.values())))
            return super()._add(tensor)

    def loop(x):
        for _ in range(1000):
            x = torch.randn(4, 3, 8) + 0 * x  # other signs
        for _ in range(1000):
            x = x * 1.001
        return F.relu(x)

    monkeypatch.setattr("spectroscope.capture.passes.RectifiedTensors", Counted)
    assert coverage_of(Calls(loop), torch.randn(4, 3, 8)) == {"/relu": "fired"}
    assert len(kept) > 3000
    assert max(kept) < 1200


def test_comparing_changes_nothing():
    model, x = nn.Sequential(nn.Conv1d(3, 4, 3), *map(Calls, IN_UNKNOWN_WORDS.values())), {}
    given = torch.randn(4, 3, 16, requires_grad=True)
    for recorded in (False, True):
        given.grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with spectroscope.record(model) if recorded else nullcontext():
                output = model(given)
        output.sum().backward()
        x[recorded] = output, given.grad.clone()
    assert all(map(torch.equal, x[False], x[True]))


def test_a_difference_of_two_relus_is_two_relus():
    model = Calls(lambda x: F.relu(x) - F.relu(x - 6))
    assert report_of(model, torch.randn(2, 3, 4)).sites()["site"].tolist() == ["/relu#0", "/relu#1"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_scripted_function_is_said():
    @torch.jit.script
    def scripted(x):
        return torch.relu(x)

    @torch.jit.script
    def doubled(x):
        return 2 * x

    model = nn.Sequential(Calls(lambda x: scripted(doubled(x))), nn.ReLU())
    with pytest.warns(UserWarning, match=r"0/scripted \(TorchScript runs it: its ReLU cannot"):
        coverage = coverage_of(model, torch.randn(2, 3, 4))
    assert coverage == {"0/scripted": "cannot be seen", "1": "fired"}


class Losses(nn.Module):
    """What is rectified besides activations."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.embedding = nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Embedding(32, 2)
        self.scale = nn.Parameter(torch.randn(2))
        self.register_buffer("offset", torch.randn(2))

    def forward(self, x, lengths):
        weights = [
            F.relu(self.scale),
            (self.scale.abs() - 1).clamp(min=0),
            self.scale * (self.scale > 0),
        ]
        weights += [torch.maximum(self.offset[None], torch.zeros(())), self.relu(self.scale)]
        positions = (torch.arange(14) - 3).clamp(min=0)
        distances = (torch.arange(14.0)[:, None] - torch.arange(14.0)).clamp(min=0)
        h = self.relu(self.conv(x) + self.embedding(positions).T + distances[3])
        shorter = F.relu(lengths - 2), (lengths.float()[:, None] - 2).clamp(min=0)
        hinge = (
            F.relu(1 - h.sum((1, 2))),
            F.relu(1 - h.mean()),
            (1 - h.flatten(1).mean(1)).clamp(min=0),
        )
        return h, weights, shorter, hinge


def test_weights_positions_lengths_and_losses_are_no_activations():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = report_of(Losses(), torch.randn(2, 1, 16), torch.tensor([16, 9]))
    assert report.coverage()["place"].tolist() == ["relu"]
    assert report.coverage()["fired"].tolist() == [3]


def weight_modules():
    def parametrized(register):
        layer = nn.Conv1d(1, 2, 3)
        register(layer)
        return layer

    class LowRank(nn.Module):
        def forward(self, weight):
            return torch.relu(weight @ torch.ones(3, 3))

    return {
        "ReLU": parametrized(
            lambda layer: parametrize.register_parametrization(layer, "weight", nn.ReLU())
        ),
        "function": parametrized(
            lambda layer: parametrize.register_parametrization(layer, "weight", LowRank())
        ),
        "weight_norm": parametrized(parametrizations.weight_norm),
        "spectral_norm": parametrized(parametrizations.spectral_norm),
        "pruned": parametrized(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    }


@pytest.mark.parametrize("name", weight_modules())
@pytest.mark.parametrize("training", [False, True])
def test_parametrized_weights_are_no_activations(name, training):
    model = nn.Sequential(weight_modules()[name], nn.ReLU(), nn.AdaptiveAvgPool1d(1)).train(
        training
    )
    x = torch.randn(12, 1, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coverage_of(model, x) == {"1": "fired"}
        sites = spectroscope.importance(model.eval(), [x], "relative_l2")["site"]
    assert sites.unique().tolist() == ["1#0"]


def test_a_relu_on_weights_and_on_a_signal_is_recorded_on_the_signal():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.relu = nn.Parameter(torch.randn(3)), nn.ReLU()

        def forward(self, x):
            return self.relu(x * self.relu(self.weight)[:, None]) + self.relu(self.weight)[:, None]

    model, x = Both(), torch.randn(4, 3, 8)
    report = report_of(model, x)
    assert report.coverage()["fired"].tolist() == [3]
    weight = np.maximum(model.weight.detach().double().numpy(), 0)[:, None]
    expected = np.maximum(x.double().numpy() * weight, 0).mean((0, 2))
    assert report.dc()["dc_out"].to_numpy() == pytest.approx(expected, rel=1e-6)


class Streaming(nn.Module):
    """Keeps its last input in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(2, 3, 8))

    def forward(self, x):
        self.last.copy_(x)
        return F.relu(self.last)


@pytest.mark.parametrize(
    "model",
    [
        Streaming(),
        nn.Sequential(nn.Embedding(8, 3), nn.ReLU()),  # of whole numbers
        Calls(lambda x: F.relu(F.linear(torch.ones(2, 4), torch.ones(3, 4)) * x[..., 0])),
        Calls(lambda x: F.relu(torch.zeros(2, 3, 8).copy_(x))),
    ],
)
def test_a_signal_in_a_buffer_or_made_from_constants_is_an_activation(model):
    embeds = isinstance(model, nn.Sequential)
    x = torch.randint(8, (2, 5)) if embeds else torch.randn(2, 3, 8)
    assert set(coverage_of(model, x).values()) == {"fired"}


def test_an_optimized_input_is_a_signal():
    x = nn.Parameter(torch.randn(2, 3, 8))
    with spectroscope.record(model := nn.Sequential(nn.ReLU())) as recorder:
        model(x).sum().backward()
    assert recorder.report().sites()["n_samples"].tolist() == [2]
