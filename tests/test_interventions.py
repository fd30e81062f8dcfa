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
    x = x.clone().requires_grad_(grad)
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


def on_a_slice(x):
    F.relu_(x[:, 1:])
    return x


def residual(x):
    y = F.relu(x) * 1
    y += x
    return y.relu_()


@pytest.mark.parametrize("function", [
    torch.relu, torch.relu_, partial(F.relu, inplace=True), lambda x: x.clamp_(min=0), F.relu6,
    lambda x: torch.maximum(torch.zeros(()), x), lambda x: F.hardtanh_(x, 0, 2), residual,
    on_a_slice, lambda x: F.relu(x[:, ::2]), lambda x: (x.relu_(), x)[1],
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_an_operation_that_does_nothing_changes_no_bit(function, dtype, format):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Calls(function), Calls(lambda x: x * x)).to(dtype)
    model, x = model.to(memory_format=format), torch.randn(2, 3, 7, 8, dtype=dtype)
    x = x.to(memory_format=format)
    expected = outcome(model, x), outcome(model, x, grad=False)
    with intervene(model, None, same), intervene(model, None, lambda y, _: y.clone()):
        assert_same(outcome(model, x), expected[0])
        assert_same(outcome(model, x, grad=False), expected[1])
        with torch.inference_mode():
            assert_same([model(x)], expected[1])


def network(name, request):
    """A network of others, and data to run it on."""
    if name == "kid-ppg":
        specimen = request.getfixturevalue("kid_ppg")
        return copy.deepcopy(specimen.model), specimen.inputs[0][:8]
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    return model, torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "kid-ppg"])
def test_networks_of_others_stay_the_same_to_the_bit(name, request):
    model, x = network(name, request)
    expected = outcome(model, x)
    with intervene(model, None, same):
        found = outcome(model, x)
    assert_same(found, expected)


def small():
    return nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4),
        Calls(torch.relu), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2),
    ).double()  # fmt: skip


@pytest.mark.parametrize(("operation", "by_hand"), [(same, lambda y: y), *SURGERIES])
def test_training_is_that_of_the_model_with_the_surgery(operation, by_hand):
    x, model = torch.randn(5, 2, 9, dtype=torch.float64), small()
    other = copy.deepcopy(model)
    other[1].forward = lambda x: by_hand(F.relu(x))
    optimizers = [torch.optim.Adam(each.parameters()) for each in (model, other)]
    for _ in range(3):
        with intervene(model, "1", operation):
            outputs = [model(x), other(x)]
        for y, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            y.square().sum().backward()
            optimizer.step()
    found, expected = (list(each.state_dict().values()) for each in (model, other))
    (assert_same if operation is same else assert_close)(found, expected)


def basic_block(self, changes, x):
    """That of ResNet, with a change after each of its ReLU's two calls."""
    y = changes[0](self.relu(self.bn1(self.conv1(x))))
    y = self.bn2(self.conv2(y))
    y += self.downsample(x)
    return changes[1](self.relu(y))


@pytest.mark.parametrize(("operation", "by_hand"), SURGERIES)
@pytest.mark.parametrize(("name", "site"), [
    ("resnet18", "layer2.0.relu#0"), ("resnet18", "layer2.0.relu#1"),
    ("googlenet", "inception3a.branch2.0/relu#0"),
    ("kid-ppg", "block2.1.relu#0"), ("kid-ppg", "block2.1.relu#1"),
])  # fmt: skip
def test_outputs_and_gradients_are_those_after_surgery(operation, by_hand, name, site, request):
    model, x = network(name, request)
    model, x = model.double(), x.double()
    other, changes = copy.deepcopy(model), [lambda y: y] * 2
    changes[int(site[-1])] = by_hand
    if name == "resnet18":
        other.layer2[0].forward = partial(basic_block, other.layer2[0], changes)
    elif name == "googlenet":
        part = other.inception3a.branch2[0]
        part.forward = lambda x: by_hand(F.relu(part.bn(part.conv(x))))
    else:  # which runs its blocks twice
        part, left = other.block2[1], iter(changes)
        part.forward = lambda x: next(left)(F.relu(part.conv(F.pad(x, (8, 0)))))
    with intervene(model, site, operation):
        found = outcome(model, x)
    expected = outcome(other, x)
    assert_close(found, expected)
    assert not torch.allclose(model(x), expected[0])


def test_a_linear_read_out_after_global_pooling_has_the_dc_alone(request):
    model, x = network("resnet18", request)
    with torch.no_grad():
        expected = model(x)
        with intervene(model, "layer4.1.relu#1", only_dc):
            torch.testing.assert_close(model(x), expected)
        with intervene(model, "layer4.1.relu#1", remove_dc):
            torch.testing.assert_close(model(x), model.fc.bias.expand(2, -1))


@pytest.mark.parametrize("inside", [False, True])
def test_a_recorder_sees_what_the_model_gets(inside):
    model, x = small().eval(), torch.randn(4, 2, 52, dtype=torch.float64)
    for operation in (remove_dc, low_pass(2)):
        recorder = spectroscope.record(model, fs=10.0)
        contexts = [recorder, intervene(model, "1", operation, fs=10.0)]
        with contexts[inside], contexts[not inside], torch.no_grad():
            model(x)
        report = recorder.report()
        assert report.coverage()["reason"].tolist() == ["", ""]
        with torch.no_grad():
            given, dc = model[0](x), report.dc().set_index("site")
            y = given.relu() - mean(given.relu())
            y = torch.fft.irfft(torch.fft.rfft(given.relu()) * (torch.arange(26) <= 10), n=50) \
                if operation is not remove_dc else y  # fmt: skip
            expected = zip((given, y, model[3](model[2](y))), ("0", "1", "3"), strict=True)
        means = {name: mean(tensor).mean(0).flatten().tolist() for tensor, name in expected}
        assert dc.loc["1#0", "dc_in"].tolist() == pytest.approx(means["0"])
        assert dc.loc["1#0", "dc_out"].tolist() == pytest.approx(means["1"], abs=1e-14)
        assert dc.loc["4/relu#0", "dc_in"].tolist() == pytest.approx(means["3"])
    power = report.spectra("1#0").query("side == 'out'")
    assert power.query("freq > 2")["power"].max() < 1e-28 < power.query("freq <= 2")["power"].min()


@pytest.mark.parametrize("function", [F.relu, F.relu_, on_a_slice, lambda x: (x.relu_(), x)[1]])
def test_several_go_on_from_each_other_in_the_order_in_which_they_were_opened(function):
    model, x = nn.Sequential(Calls(lambda x: x * 1), Calls(function)), torch.randn(2, 3, 8)
    first, second = (intervene(model, None, operation) for operation in (plus_one, double))
    y = function(x.clone())
    changed = slice(1 if function is on_a_slice else 0, None)
    for contexts, expected in (((first, second), (y + 1) * 2), ((second, first), y * 2 + 1)):
        with contexts[0], contexts[1]:
            found = model(x)
        assert torch.equal(found[:, changed], expected[:, changed])
        assert torch.equal(found[:, : changed.start], y[:, : changed.start])


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


@pytest.mark.parametrize(("channels", "changed"), [
    (None, [0, 1, 2, 3]), ([1, -1], [1, 3]), (-4, [0]), ([2, 2], [2]), ([], []),
    ({"0": [2], "1#0": [0]}, [0]), ({"0*": [2]}, [0, 1, 2, 3]),
])  # fmt: skip
@pytest.mark.parametrize(("shape", "axis"), [
    ((2, 4, 9), 1), ((2, 9, 4), -1), ((4, 9), 0), ((2, 4), 1), ((2, 4, 3, 5, 7), 1), ((2, 4, 1), 1),
])  # fmt: skip
def test_channels_by_number_on_any_axis(channels, changed, shape, axis):
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(shape)
    expected, seen = x.relu().movedim(axis, 0).clone(), []

    def operation(y, firing):
        numbers = range(4) if firing.channels is None else firing.channels.tolist()
        seen.append((firing.name, list(numbers), firing.input.shape == y.shape, y.shape[1]))
        return 2 * y

    expected[changed] *= 2
    with intervene(model, "1#0", operation, channels=channels, channel_axis={"1": axis}):
        assert torch.equal(model(x), expected.movedim(0, axis))
    assert seen == [("1#0", changed, True, len(changed))]


def fails(error, *_):
    raise error


@pytest.mark.parametrize(("operation", "options", "error", "match"), [
    (same, {"channels": [4]}, RequestError, r"channels=\[4\]: 0#0 has 4"),
    (same, {"channels": [-5]}, RequestError, r"channels=\[-5\]: 0#0 has 4"),
    (same, {"channel_axis": 3}, RequestError, r"at 0#0: \[2, 4, 8\] has no channel_axis=3"),
    (partial(fails, ValueError("mine")), {}, ValueError, "^mine$"),
    (partial(fails, KeyboardInterrupt("mine")), {}, KeyboardInterrupt, "^mine$"),
    (lambda y, _: y[:1], {}, RequestError, r"0#0 must return a real tensor \[2, 4, 8\], not torch"),
    (lambda y, _: None, {}, RequestError, "not <class 'NoneType'>"),
    (lambda y, _: y * 1j, {}, RequestError, r"not torch.complex64 \[2, 4, 8\]"),
])  # fmt: skip
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), Swish()])
def test_what_goes_wrong_is_raised_and_leaves_nothing(operation, options, error, match, activation):
    model, x = nn.Sequential(activation, nn.Sequential(Swish())), torch.randn(2, 4, 8)
    once, expected = activation(x.clone()), model(x.clone())
    wrong = intervene(model, "0", operation, kinds=[Swish], **options)
    with pytest.raises(error, match=match), spectroscope.record(model), wrong:
        model(x.clone())
    assert nothing_is_left()
    assert torch.equal(model(x.clone()), expected)
    with intervene(model, "0", double, kinds=[Swish]):
        assert torch.equal(model[0](x.clone()), 2 * once)


def test_nothing_is_left_where_the_model_raises():
    model = nn.Sequential(nn.ReLU(), Calls(partial(fails, ValueError("its own"))))
    with pytest.raises(ValueError, match="its own"), intervene(model, None, double):
        model(torch.randn(2, 3, 8))


@pytest.mark.parametrize("x", [torch.randn(2, 3, 8).to_sparse(), torch.arange(24).view(2, 3, 4),
                               torch.randn(2, 3, 4, device="meta")])  # fmt: skip
def test_what_can_not_be_changed_is_refused(x):
    model = nn.ReLU()
    with pytest.raises(RequestError, match="can't intervene at #0: "), intervene(model, None, same):
        model(x)
    with pytest.raises(RequestError, match="matches no activation of ReLU"):
        intervene(model, "layer*", same)
    for operation, options in (("remove_dc", {}), (same, {"channels": [0.5]})):
        with pytest.raises(TypeError):
            intervene(model, None, operation, **options)


def quiet(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        return function(*args)


def scripted():
    return nn.Sequential(nn.ReLU(), quiet(torch.jit.script, nn.Sequential(nn.ReLU())))


def encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0].relu()


class ByKeyword(nn.Sequential):
    def forward(self, x):
        return self[0](x=x)


@pytest.mark.parametrize(("make", "select", "message"), [
    (scripted, None, r"1 place is not changed in full: 1 \(TorchScript runs it"),
    (scripted, "1.0", r"nothing was changed: 1 \(TorchScript runs it"),
    (scripted, ["0", "1#0"], r"1 place is not changed in full: 1 \(TorchScript"),
    (scripted, lambda name, module: name == "1", r"nothing was changed: 1 \(TorchScript"),
    (encoder, None, r"nothing was changed: layers.0/relu \(one fused kernel; .* layers.1/relu"),
    (encoder, "layers.1*", r"nothing was changed: layers.1/relu \(one fused kernel"),
    (encoder, "layers.1.linear1", r"nothing was changed: layers.1/relu \(one fused kernel"),
    (partial(Attention, 4, 2), None, r"nothing was changed: itself \(calls in its own forward"),
    (partial(nn.RNN, 4, 8, nonlinearity="relu"), None, r"/rnn_relu \(its ReLU is part of a fused"),
    (lambda: ByKeyword(Swish()), "0", r"0 \(it was called without a positional tensor\)"),
    (lambda: nn.Sequential(*[nn.ReLU()] * 2), ["0", "1#1"], r"select='1#1' \(fits no call\)$"),
    (lambda: Calls(torch.tanh), None, "nothing was changed: 1 Tanh call was seen"),
])  # fmt: skip
def test_what_is_not_changed_is_said(make, select, message):
    model, options = make(), {"channel_axis": -1, "kinds": [Swish]}
    with (
        torch.inference_mode(),
        pytest.warns(UserWarning, match=message),
        intervene(model, select, double, **options),
    ):
        model(torch.randn(2, 5, 4))


def test_what_does_not_run_is_said_and_what_was_not_asked_for_is_not():
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(2, 3, 8)
    intervention = intervene(model, None, double)
    with pytest.warns(UserWarning, match="nothing was changed: it did not run"), intervention:
        pass
    with (
        pytest.warns(UserWarning, match=r"1 place is not changed in full: 1 \(never ran\)"),
        intervention,
    ):
        model[0](x)
    with pytest.warns(UserWarning, match=r"nothing was changed: 1 \(never ran\)"), intervention:
        pass
    model = scripted()
    with intervene(model, "0", double):
        assert torch.equal(model(x), 2 * x.relu())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inner", [nn.Sequential(nn.ReLU()), F.relu, Swish()])
def test_activation_checkpointing_is_refused_where_gradients_flow(reentrant, inner):
    inner = inner if isinstance(inner, nn.Module) else Calls(inner)
    model = nn.Sequential(Calls(lambda x: checkpoint(inner, x, use_reentrant=reentrant)), nn.ReLU())
    model[0].inner, x = inner, torch.randn(2, 3, 8, requires_grad=True)
    expected = 2 * inner(x).detach().relu()
    inside = intervene(model, "0*", double, kinds=[Swish])
    with pytest.raises(RuntimeError, match="can't follow into activation checkpointing"), inside:
        model(x)
    with intervene(model, "1", double):  # behind it
        y = model(x)
    y.sum().backward()
    torch.testing.assert_close(y, expected)
    with torch.no_grad(), inside:
        assert torch.equal(quiet(model, x.detach()), expected)


def test_tracing_is_refused():
    model, x = nn.Sequential(nn.ReLU()), torch.randn(2, 3, 8)
    refused = pytest.raises(RuntimeError, match=r"nor into torch\.jit\.trace")
    with refused, intervene(model, None, double):
        quiet(torch.jit.trace, model, x)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part", "a function"])
def test_a_compiled_model_runs_uncompiled_meanwhile(how):
    runs = []

    def backend(graph, inputs):
        return lambda *args: (runs.append(graph), graph(*args))[1]

    model, x = nn.Sequential(nn.Sequential(nn.ReLU()), Calls(F.relu)), torch.randn(2, 3, 4)
    if how == "wrapped":
        model = torch.compile(model, backend=backend)
    elif how == "in place":
        model.compile(backend=backend)
    elif how == "a part":
        model[0] = torch.compile(model[0], backend=backend)
    else:
        model[1].function = torch.compile(F.relu, backend=backend)
    expected, before = model(x), len(runs)
    with intervene(model, None, plus_one):
        assert torch.equal(model(x), x.relu() + 1 + 1)
    assert len(runs) == before > 0
    assert torch.equal(model(x), expected)
    assert len(runs) == 2 * before


def test_other_threads_run_the_changed_model():
    model, x, found = nn.Sequential(nn.ReLU(), Swish()), torch.randn(2, 3, 8), []

    def run():
        worker = threading.Thread(target=lambda: found.append(model(x)))
        worker.start()
        worker.join()

    with intervene(model, None, plus_one, kinds=[Swish]):
        run()
    run()
    assert torch.equal(found[0], Swish()(x.relu() + 1) + 1)
    assert torch.equal(found[1], Swish()(x.relu()))


def test_what_the_operation_returns_is_not_the_models_to_overwrite():
    def forward(x):
        h = x * 1
        y = F.relu(input=h)
        y += 1
        return h, y

    model, x, kept = Calls(forward), torch.randn(2, 3, 8), torch.zeros(2, 3, 8)
    with intervene(model, None, lambda y, firing: firing.input):
        assert all(map(torch.equal, model(x), (x, x + 1)))
    with intervene(model, None, lambda y, firing: kept):
        assert torch.equal(model(x)[1], torch.ones(2, 3, 8))
    assert torch.equal(kept, torch.zeros(2, 3, 8))
    y = torch.empty(2, 3, 8)
    model = Calls(lambda x: torch.clamp(x, min=0, out=y))
    with intervene(model, None, double):
        assert model(x) is y
    assert torch.equal(y, 2 * x.relu())
    model = nn.ReLU()
    with torch.no_grad(), intervene(model, None, same):
        y = model(x)
    y.mul_(torch.ones((), requires_grad=True))  # a view made without gradients can't be


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), Swish()])
def test_an_operation_may_run_the_model_itself(activation):
    model, x = nn.Sequential(activation), torch.randn(2, 3, 8)
    expected = activation(activation(x.clone())) + 1
    again = intervene(model, None, lambda y, _: model(y.clone()) + 1, kinds=[Swish])
    with spectroscope.record(model, kinds=[Swish]) as recorder, again:
        assert torch.equal(model(x.clone()), expected)
    assert recorder.report().coverage()["fired"].tolist() == [1]


def test_what_an_operation_is_told():
    model = nn.Sequential(nn.Conv1d(1, 2, 1, stride=4), Swish(), nn.GELU(), nn.ReLU(inplace=True))
    found, given = [], []
    for module in model[1:]:
        module.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    options = {"fs": 8.0, "decimation": {"2": 3}, "kinds": [Swish, "GELU"]}
    with intervene(model, None, lambda y, firing: (found.append(firing), y)[1], **options):
        model(torch.randn(1, 1, 16))
    assert [(f.name, f.site.kind, f.fs, f.decimation) for f in found] == [
        ("1#0", "Swish", 8.0, 4.0), ("2#0", "GELU", 8.0, 3.0), ("3#0", "ReLU", 8.0, 4.0)
    ]  # fmt: skip
    assert all(map(torch.equal, (f.input for f in found), given))


def test_a_model_in_a_model():
    inner, x = nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True)), torch.randn(2, 3, 8)
    model = nn.Sequential(inner, Calls(torch.neg))
    one = intervene(inner, lambda name, module: name == "1", plus_one)
    with one, intervene(model, lambda name, module: isinstance(module, nn.ReLU), double):
        assert torch.equal(model(x), -((2 * x.relu() + 1) * 2))
    assert torch.equal(model(x), -x.relu())
