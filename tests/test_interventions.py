"""`intervene` is surgery on the model, done by hand elsewhere, and leaves no scar."""

import copy
import threading
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import Calls, Swish, nothing_is_left
from torch import nn
from torch.utils.checkpoint import checkpoint

import spectroscope
from spectroscope import RequestError, intervene, low_pass, only_dc, remove_dc


@pytest.fixture(autouse=True)
def _leaves_nothing():
    yield
    assert nothing_is_left()


def same(y, firing):
    return y


def double(y, firing):
    return 2 * y


def plus_one(y, firing):
    return y + 1


def mean(y):
    return y.mean(tuple(range(2, y.dim())), keepdim=True)


# By hand, what remove_dc and only_dc do.
SURGERIES = [(remove_dc, lambda y: y - mean(y)), (only_dc, lambda y: mean(y).expand_as(y).clone())]


def outcome(model, x, grad=True):
    """The output and, if asked for, all gradients of one forward and backward."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        y = model(x)
    if not grad:
        return [y]
    model.zero_grad()
    (y.float().square() * torch.arange(1, y.numel() + 1).view(y.shape)).sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * b.abs().max().item())


def out_of_place(x):
    return torch.clamp(x, min=0, out=torch.empty_like(x))


def on_a_slice(x):
    x = x * 1
    F.relu_(x[:, 1:])
    return x


def residual(x):
    y = F.relu(x)
    y = y * 1
    y += x
    return y.relu_()


FUNCTIONS = [
    torch.relu, torch.relu_, partial(F.relu, inplace=True), lambda x: x.clamp_(min=0), residual,
    lambda x: torch.maximum(torch.zeros(()), x), F.relu6, partial(F.hardtanh, min_val=0, max_val=2),
    on_a_slice, lambda x: (x.relu_(), x)[1],
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_an_operation_that_does_nothing_changes_no_bit(function, dtype, format):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Calls(function), nn.Conv2d(4, 2, 1)).to(dtype)
    model, x = model.to(memory_format=format), torch.randn(2, 3, 7, 8, dtype=dtype)
    x = x.to(memory_format=format)
    expected = outcome(model, x), outcome(model, x, grad=False)
    with intervene(model, None, same), intervene(model, None, lambda y, _: y.clone()):
        assert_same(outcome(model, x), expected[0])
        assert_same(outcome(model, x, grad=False), expected[1])
        with torch.inference_mode():
            assert_same([model(x)], expected[1])


def test_an_output_given_beforehand_gets_what_the_model_gets():
    x, y = torch.randn(2, 3, 8), torch.empty(2, 3, 8)
    model = Calls(lambda x: torch.clamp(x, min=0, out=y))
    with torch.no_grad(), intervene(model, None, double):
        assert model(x) is y
    assert torch.equal(y, 2 * x.relu())


MODELS = {
    "resnet18": (torchvision.models.resnet18, {}),
    "googlenet": (torchvision.models.googlenet, {"init_weights": False, "aux_logits": False}),
    "densenet121": (torchvision.models.densenet121, {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_others_stay_the_same_to_the_bit(name):
    make, options = MODELS[name]
    model, x = make(weights=None, **options).eval(), torch.randn(2, 3, 64, 64)
    expected = outcome(model, x)
    with intervene(model, None, same):
        found = outcome(model, x)
    assert_same(found, expected)


def test_kid_ppg_stays_the_same_to_the_bit(kid_ppg):
    model, x = kid_ppg.model, kid_ppg.inputs[0][:8]
    expected = outcome(model, x)
    with intervene(model, None, same):
        assert_same(outcome(model, x), expected)


def small():
    return nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4),
        Calls(torch.relu), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


@pytest.mark.parametrize(("operation", "by_hand"), [(same, lambda y: y), *SURGERIES])
def test_training_is_that_of_the_model_with_the_surgery(operation, by_hand):
    x, (trained, expected) = torch.randn(5, 2, 9, dtype=torch.float64), (small().double(),) * 2
    expected = copy.deepcopy(trained)
    expected[1].forward = lambda x: by_hand(F.relu(x))
    for model in (trained, expected):
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            if model is trained:
                with intervene(model, "1", operation):
                    y = model(x)  # backward, outside
            else:
                y = model(x)
            y.square().sum().backward()
            optimizer.step()
    found, expected = (list(model.state_dict().values()) for model in (trained, expected))
    (assert_same if operation is same else assert_close)(found, expected)


def block(self, x, first, second):
    """BasicBlock of ResNet, with an operation on each of its ReLU's two calls."""
    y = first(self.relu(self.bn1(self.conv1(x))))
    y = self.bn2(self.conv2(y))
    y += self.downsample(x)
    return second(self.relu(y))


@pytest.mark.parametrize(("operation", "by_hand"), SURGERIES)
@pytest.mark.parametrize("call", [0, 1])
def test_surgery_on_one_call_of_a_reused_in_place_relu(operation, by_hand, call):
    model, x = torchvision.models.resnet18(weights=None).double().eval(), torch.randn(2, 3, 48, 48)
    other = copy.deepcopy(model)
    changes = [by_hand if i == call else lambda y: y for i in (0, 1)]
    other.layer2[0].forward = lambda x: block(other.layer2[0], x, *changes)
    with intervene(model, f"layer2.0.relu#{call}", operation):
        found = outcome(model, x.double())
    assert_close(found, outcome(other, x.double()))


@pytest.mark.parametrize(("operation", "by_hand"), SURGERIES)
def test_surgery_on_a_functional_relu(operation, by_hand):
    make, options = MODELS["googlenet"]
    model, x = make(weights=None, **options).double().eval(), torch.randn(2, 3, 64, 64)
    other = copy.deepcopy(model)
    part = other.inception3a.branch2[0]
    part.forward = lambda x: by_hand(F.relu(part.bn(part.conv(x))))
    with intervene(model, "inception3a.branch2.0/relu", operation):
        found = outcome(model, x.double())
    assert_close(found, outcome(other, x.double()))


@pytest.mark.parametrize(("operation", "by_hand"), SURGERIES)
@pytest.mark.parametrize("call", [0, 1])
def test_surgery_on_one_window_of_kid_ppg(kid_ppg, operation, by_hand, call):
    model, x = copy.deepcopy(kid_ppg.model).double(), kid_ppg.inputs[0][:8].double()
    other, ran = copy.deepcopy(model), []

    def relu(x):
        ran.append(None)
        return by_hand(F.relu(x)) if len(ran) == call + 1 else F.relu(x)

    other.block2[1].relu.forward = relu
    with intervene(model, f"block2.1.relu#{call}", operation):
        found = outcome(model, x)
    assert_close(found, outcome(other, x))
    assert len(ran) == 2


def test_a_linear_read_out_after_global_pooling_has_the_dc_alone():
    model, x = torchvision.models.resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with intervene(model, "layer4.1.relu#1", only_dc):
            torch.testing.assert_close(model(x), expected)
        with intervene(model, "layer4.1.relu#1", remove_dc):
            torch.testing.assert_close(model(x), model.fc.bias.expand(2, -1))


@pytest.mark.parametrize("inside", [False, True])
def test_a_recorder_sees_what_the_model_gets(inside):
    model, x = small().double().eval(), torch.randn(4, 2, 50, dtype=torch.float64)
    contexts = [intervene(model, "1", remove_dc), spectroscope.record(model, fs=10.0)]
    with contexts[not inside] as a, contexts[inside] as b, torch.no_grad():
        model(x)
        true = model[0](x)
        next_in = model[3](model[2](true.relu() - mean(true.relu())))
    report = (b if inside else a).report()
    dc, spectra = report.dc().set_index("site"), report.spectra("1#0")
    assert dc.loc["1#0", "dc_out"].abs().max() < 1e-15
    assert dc.loc["1#0", "dc_in"].tolist() == pytest.approx(mean(true).mean(0).flatten().tolist())
    expected = mean(next_in).mean(0).flatten().tolist()
    assert dc.loc["4/relu#0", "dc_in"].tolist() == pytest.approx(expected)
    assert report.coverage()["reason"].tolist() == ["", ""]
    assert spectra.query("side == 'out' and freq > 0")["power"].min() > 1e-6
    filtered = intervene(model, "1", low_pass(2), fs=10.0)
    with filtered, torch.no_grad(), spectroscope.record(model, fs=10.0) as recorder:
        model(x)
    power = recorder.report().spectra("1#0").query("side == 'out'")
    assert power.query("freq > 2")["power"].max() < 1e-28 < power.query("freq <= 2")["power"].min()


@pytest.mark.parametrize("function", [F.relu, lambda x: (x.relu_(), x)[1], F.relu_])
@pytest.mark.parametrize("kinds", [[], [Calls]])
def test_several_go_on_from_each_other_in_the_order_in_which_they_were_opened(function, kinds):
    model, x = nn.Sequential(Calls(lambda x: x * 1), Calls(function)), torch.randn(2, 3, 8)
    first, second = (intervene(model, "1*", op, kinds=kinds) for op in (plus_one, double))
    with first, second:
        assert torch.equal(model(x), (x.relu() + 1) * 2)
    with second, first:
        assert torch.equal(model(x), x.relu() * 2 + 1)
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    with intervene(model, "1", double), intervene(model, "0", plus_one):
        assert torch.equal(model(x), (x.relu() + 1) * 2)


def test_one_that_is_in_force_is_not_entered_again():
    model, x = nn.Sequential(nn.ReLU()), torch.randn(2, 3, 8)
    intervention = intervene(model, None, double)
    for _ in range(2):
        with intervention as entered:
            assert entered is intervention
            with pytest.raises(RuntimeError, match="already"), intervention:
                pass
            assert torch.equal(model(x), 2 * x.relu())
        assert torch.equal(model(x), x.relu())


@pytest.mark.parametrize(("channels", "site", "changed"), [
    (None, "0#0", [0, 1, 2, 3]), ([1, -1], "0#0", [1, 3]), (-4, "0#0", [0]), ([2, 2], "0#0", [2]),
    ([], "0#0", []), ({"0": [2], "1#0": [0]}, "0#0", [2]), ({"0*": [2]}, "1#0", [0, 1, 2, 3]),
])  # fmt: skip
@pytest.mark.parametrize(("shape", "axis"), [
    ((2, 4, 9), 1), ((2, 9, 4), -1), ((4, 9), 0), ((2, 4), 1), ((2, 4, 3, 5, 7), 1), ((2, 4, 1), 1),
])  # fmt: skip
def test_channels_by_number_on_any_axis(channels, site, changed, shape, axis):
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(shape)
    expected, seen = x.relu().movedim(axis, 0).clone(), []

    def operation(y, firing):
        numbers = None if firing.channels is None else firing.channels.tolist()
        seen.append((firing.name, numbers, y.shape == firing.input.shape, y.shape[1]))
        return 2 * y

    expected[changed] *= 2
    with intervene(model, site, operation, channels=channels, channel_axis=axis):
        assert torch.equal(model(x), expected.movedim(0, axis))
    every = channels is None or (isinstance(channels, dict) and site == "1#0")
    assert seen == [(site, None if every else changed, True, len(changed))]


def fails(error):
    def operation(y, firing):
        raise error

    return operation


WRONG = [
    (same, {"channels": [4]}, RequestError, r"channels=\[4\]: 0#0 has 4"),
    (same, {"channels": [-5]}, RequestError, r"channels=\[-5\]: 0#0 has 4"),
    (same, {"channel_axis": 3}, RequestError, r"at 0#0: \[2, 4, 8\] has no channel_axis=3"),
    (fails(ValueError("mine")), {}, ValueError, "^mine$"),
    (fails(KeyboardInterrupt("mine")), {}, KeyboardInterrupt, "^mine$"),
    (lambda y, _: y[:1], {}, RequestError, r"0#0 must return a real tensor \[2, 4, 8\], not"),
    (lambda y, _: None, {}, RequestError, "not <class 'NoneType'>"),
    (lambda y, _: y * 1j, {}, RequestError, r"not torch.complex64 \[2, 4, 8\]"),
]


@pytest.mark.parametrize(("operation", "options", "error", "match"), WRONG)
@pytest.mark.parametrize("rectifier", [nn.ReLU(), nn.ReLU(inplace=True), Swish()])
def test_what_goes_wrong_is_raised_and_leaves_nothing(operation, options, error, match, rectifier):
    model, x = nn.Sequential(rectifier, nn.Sequential(Swish())), torch.randn(2, 4, 8)
    expected, first = model(x.clone()), rectifier(x.clone())
    recorder = spectroscope.record(model)
    wrong = intervene(model, "0", operation, kinds=[Swish], **options)
    with pytest.raises(error, match=match), recorder, wrong:
        model(x.clone())
    assert nothing_is_left()
    assert torch.equal(model(x.clone()), expected)
    with intervene(model, "0", double, kinds=[Swish]):
        assert torch.equal(model[0](x.clone()), 2 * first)


def test_what_is_no_operation_or_fits_no_rectifier_is_refused():
    with pytest.raises(TypeError, match="operation must be a function"):
        intervene(small(), None, "remove_dc")
    with pytest.raises(TypeError):
        intervene(small(), None, same, channels=[0.5])
    with pytest.raises(RequestError, match="fits no rectifier of Sequential"):
        intervene(small(), "layer*", same)


@pytest.mark.parametrize("x", [torch.randn(2, 3, 8).to_sparse(), torch.arange(24).view(2, 3, 4),
                               torch.randn(2, 3, 4, device="meta")])  # fmt: skip
def test_tensors_that_can_not_be_changed_are_refused(x):
    model = nn.ReLU()
    with pytest.raises(RequestError, match="can't intervene at #0: "), intervene(model, None, same):
        model(x)


def test_nothing_is_left_where_the_model_raises():
    model = nn.Sequential(nn.ReLU(), Calls(lambda x: fails(ValueError("its own"))(x, None)))
    with pytest.raises(ValueError, match="its own"), intervene(model, None, double):
        model(torch.randn(2, 3, 8))


class Own(nn.Module):
    """Of which no ReLU can be seen, and which is called with a keyword."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)


def quiet(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, nested tensors a prototype
        return function(*args)


def scripted():
    return nn.Sequential(nn.ReLU(), quiet(torch.jit.script, nn.Sequential(nn.ReLU())))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize(("make", "select", "match"), [
    (scripted, None, r"not changed, or not always: 1 \(TorchScript runs it"),
    (scripted, "1.0", r"nothing was changed: 1 \(TorchScript runs it"),
    (scripted, ["0", "1#0"], r"not changed, or not always: 1 \(TorchScript"),
    (scripted, lambda name, module: name == "1", r"nothing was changed: 1 \(TorchScript"),
    (encoder, None, r"nothing was changed: layers.0/relu \(one fused kernel; .* layers.1/relu"),
    (encoder, "layers.1*", r"nothing was changed: layers.1/relu \(one fused kernel"),
    (encoder, "layers.1.linear1", r"nothing was changed: layers.1/relu \(one fused kernel"),
    (lambda: nn.RNN(4, 8, nonlinearity="relu"), None, r"/rnn_relu \(its ReLU is part of one"),
    (lambda: nn.Sequential(nn.ReLU(), nn.ReLU()), ["0", "1#1"], r"select='1#1' \(fits no call\)$"),
    (lambda: nn.Sequential(nn.ReLU()), "0#1", r"nothing was changed: select='0#1' \(fits no"),
    (lambda: nn.Sequential(nn.Tanh()), None, "nothing was changed: no rectifier that was asked"),
    (lambda: Calls(lambda x: nn.Tanh()(x), ), None, "nothing was changed: no rectifier"),
])  # fmt: skip
def test_what_is_not_changed_is_said(make, select, match):
    model = make()
    with torch.inference_mode(), pytest.warns(UserWarning, match=match):
        with intervene(model, select, double, channel_axis=-1):
            model(torch.randn(2, 5, 8 if make is encoder else 4))


def test_what_does_not_run_is_said():
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(2, 3, 8)
    model.forward = model[0].forward
    with pytest.warns(UserWarning, match=r"not changed, or not always: 1 \(never ran\)"):
        with intervene(model, None, double) as intervention:
            model[0](x)
    with pytest.warns(UserWarning, match="nothing was changed"), intervention:
        pass
    with pytest.warns(UserWarning, match="nothing was changed: it did not run"):
        with intervene(model, "1", double):
            pass
    with intervene(nn.Sequential(scripted(), nn.ReLU()), "1", double) as intervention:
        intervention._model(x)  # what wasn't asked for isn't spoken of


class Named(nn.Module):
    """Calls its rectifiers by keyword."""

    def __init__(self, rectifier):
        super().__init__()
        self.rectifier = rectifier

    def forward(self, x):
        name = "x" if isinstance(self.rectifier, Swish) else "input"
        return F.relu(input=self.rectifier(**{name: x}))


def test_arguments_by_keyword():
    model, x = Named(nn.ReLU()), torch.randn(2, 3, 8)
    with intervene(model, None, plus_one):
        assert torch.equal(model(x), x.relu() + 1 + 1)
    with pytest.warns(UserWarning, match=r"rectifier \(it was called without a tensor by position"):
        model = Named(Swish())
        with intervene(model, None, plus_one, kinds=[Swish]):
            assert torch.equal(model(x), Swish()(x).relu() + 1)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inner", [nn.Sequential(nn.ReLU()), F.relu, Swish()])
def test_activation_checkpointing_is_refused_where_gradients_flow(reentrant, inner):
    model = nn.Sequential(Calls(lambda x: checkpoint(inner, x, use_reentrant=reentrant)), nn.ReLU())
    model[0].inner, x = inner if isinstance(inner, nn.Module) else None, torch.randn(2, 3, 8)
    x.requires_grad_()
    expected, doubled = 2 * inner(x), intervene(model, "0*", double, kinds=[Swish])
    with pytest.raises(RuntimeError, match="can't follow into activation checkpointing"), doubled:
        model(x)
    with intervene(model, "1", double):
        model(x)
    with torch.no_grad(), doubled:
        assert torch.equal(model(x.detach()), expected.relu())


def test_tracing_is_refused():
    model, x = nn.Sequential(nn.ReLU()), torch.randn(2, 3, 8)
    with pytest.raises(RuntimeError, match=r"nor into torch\.jit\.trace"):
        with intervene(model, None, double):
            quiet(torch.jit.trace, model, x)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part", "a function"])
def test_a_compiled_model_runs_uncompiled_meanwhile(how):
    compilations, runs = [], []

    def backend(graph, inputs):
        compilations.append(graph)
        return lambda *args: (runs.append(None), graph(*args))[1]

    model, x = nn.Sequential(nn.Sequential(nn.ReLU()), Calls(F.relu)), torch.randn(2, 3, 4)
    if how == "wrapped":
        model = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
    elif how == "a part":
        model[0] = torch.compile(model[0], backend=backend)
    else:
        model[1].function = torch.compile(F.relu, backend=backend)
    expected, before = model(x), (len(compilations), len(runs))
    with intervene(model, None, plus_one):
        assert torch.equal(model(x), x.relu() + 1 + 1)
    assert (len(compilations), len(runs)) == before
    assert torch.equal(model(x), expected)
    assert (len(compilations), len(runs)) == (before[0], 2 * before[1])


def test_other_threads_run_the_changed_model():
    model, x, found = nn.Sequential(nn.ReLU(), Swish()), torch.randn(2, 3, 8), []

    def run():
        worker = threading.Thread(target=lambda: found.append(model(x)))
        worker.start()
        worker.join()

    with intervene(model, None, plus_one, kinds=[Swish]):
        run()
        found.append(model(x))
    run()
    assert torch.equal(found[0], Swish()(x.relu() + 1) + 1)
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], Swish()(x.relu()))


def test_what_the_operation_returns_is_not_the_models_to_overwrite():
    def forward(x):
        h = x * 1
        y = F.relu(h)
        y += 1
        return h, y

    model, x, kept = Calls(forward), torch.randn(2, 3, 8), torch.zeros(2, 3, 8)
    with intervene(model, None, lambda y, firing: firing.input):
        assert all(map(torch.equal, model(x), (x, x + 1)))
    with intervene(model, None, lambda y, firing: kept):
        assert torch.equal(model(x)[1], torch.ones(2, 3, 8))
    assert torch.equal(kept, torch.zeros(2, 3, 8))
    model = nn.ReLU()
    with torch.no_grad(), intervene(model, None, same):
        y = model(x)
    y.mul_(torch.ones((), requires_grad=True))  # no view made without gradients
    assert y.requires_grad


@pytest.mark.parametrize("rectifier", [nn.ReLU(inplace=True), Swish()])
def test_an_operation_may_run_the_model_itself(rectifier):
    model, x = nn.Sequential(rectifier), torch.randn(2, 3, 8)
    expected = rectifier(rectifier(x.clone())) + 1
    with spectroscope.record(model, kinds=[Swish]) as recorder:
        with intervene(model, None, lambda y, _: model(y.clone()) + 1, kinds=[Swish]):
            assert torch.equal(model(x.clone()), expected)
    assert recorder.report().coverage()["fired"].tolist() == [1]


def test_the_rate_at_rectifiers_of_ones_own_is_known():
    model = nn.Sequential(nn.Conv1d(1, 2, 1, stride=4), Swish(), nn.GELU(), nn.ReLU(inplace=True))
    found = []
    with intervene(model, None, lambda y, firing: (found.append(firing), y)[1], fs=8.0,
                   kinds=[Swish, "GELU"]):  # fmt: skip
        model(torch.randn(1, 1, 16))
    assert [(f.name, f.site.kind, f.fs, f.decimation) for f in found] == [
        ("1#0", "Swish", 8.0, 4.0), ("2#0", "GELU", 8.0, 4.0), ("3#0", "ReLU", 8.0, 4.0)
    ]  # fmt: skip


def test_selecting_by_a_function_and_a_model_in_a_model():
    inner, x = nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True)), torch.randn(2, 3, 8)
    model = nn.Sequential(inner, Calls(torch.neg), nn.ReLU())
    with intervene(inner, lambda name, module: name == "1", plus_one):
        with intervene(model, lambda name, module: name.startswith("0"), double):
            assert torch.equal(model[:2](x), -(2 * (2 * x.relu() + 1)))
    assert torch.equal(model[:2](x), -x.relu())
