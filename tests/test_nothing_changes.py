"""Looking changes nothing: outputs, gradients, models, modes; and nothing of us is left."""

import contextlib
import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import Calls, Swish, nothing_is_left, sites_of
from torch import nn
from torch.utils.checkpoint import checkpoint

import spectroscope


def bn_net():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), Calls(F.relu), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(6 * 36, 4), Calls(torch.relu),
    )  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_the_same_to_the_bit(train, dtype, format):
    model = bn_net().to(dtype).to(memory_format=format).train(train)
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 3, 8, 8, dtype=dtype).to(memory_format=format).requires_grad_()

    def run():
        torch.manual_seed(1)
        model.load_state_dict(state)
        model.zero_grad()
        x.grad = None
        y = model(x)
        y.float().square().sum().backward()
        result = [y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]
        return [t.detach().clone() for t in result] + [torch.get_rng_state()]

    before = run()
    with spectroscope.record(model) as outer, spectroscope.record(model, select="2"):
        during = run()
    for a, b, c in zip(before, during, run(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    assert len(outer.report().sites()) == 3


def test_autocast_and_inference_mode():
    model, x = bn_net().eval(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        with spectroscope.record(model) as recorder:
            during = model(x)
    assert before.dtype == torch.bfloat16
    assert torch.equal(before, during)
    with torch.inference_mode():
        model(x)
    assert len(recorder.report().sites()) == 3


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("activation", [F.relu, nn.ReLU(), F.gelu])
def test_transformers_keep_their_fused_path(train, grad, activation):
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation=activation, batch_first=True
    )
    model = nn.TransformerEncoder(layer, 2).train(train)
    x = torch.randn(3, 7, 16)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    mask[0, 4:] = True
    kinds = ["GELU"]

    def run():
        return model(x, src_key_padding_mask=mask)

    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: nested tensors are a prototype
        before = run()
        with spectroscope.record(model, kinds=kinds, channel_axis=-1) as recorder:
            during = run()
        after = run()
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    coverage = recorder.report().coverage()
    if train or grad:
        assert coverage["fired"].sum() == 2
        shapes = recorder.report().sites()["shape"].tolist()
        assert shapes == [(32, 7), (32, 7)]
    else:
        unseen = coverage[coverage["status"] == "cannot be seen"]
        assert unseen["reason"].str.contains("fused kernel").tolist() == [True, True]


def test_attention_keeps_its_fast_path_under_two_recorders():
    model = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(3, 7, 16)

    def run():
        return model(x, x, x, need_weights=False)[0]

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = run()
        with spectroscope.record(model), spectroscope.record(model):
            during = run()
    assert torch.equal(before, during)


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["module", "hook", "attention", "function", "observer"])
def test_nothing_is_left_after_an_exception(error, where, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    model = nn.Sequential(nn.ReLU(), Calls(F.relu), Calls(lambda x: attention(x, x, x)[0]))
    model[2].attention = attention
    handle = None
    if where == "module":
        model[1].function = fail
    elif where == "hook":
        handle = model[1].register_forward_hook(fail)
    elif where == "attention":
        monkeypatch.setattr(F, "multi_head_attention_forward", fail)
    elif where == "function":
        monkeypatch.setattr(torch, "relu", fail)
    else:
        monkeypatch.setattr("spectroscope.recorder.reduce", fail)
    if where == "observer" and error is RuntimeError:
        # What goes wrong with looking is not the model's business.
        with pytest.warns(UserWarning, match="RuntimeError while observing"):
            sites_of(model, torch.randn(2, 3, 4))
    else:
        with pytest.raises(error), spectroscope.record(model):
            model(torch.randn(2, 3, 4))
    assert nothing_is_left()
    monkeypatch.undo()
    if handle is not None:
        assert list(model[1]._forward_hooks) == [handle.id]
        handle.remove()
    model[1].function = F.relu
    assert sites_of(model, torch.randn(2, 3, 4), spectra=False) == ["0#0", "1/relu#0"]
    assert nothing_is_left()


def test_a_part_that_fails_and_is_caught_is_left_again():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = nn.Sequential(nn.ReLU(), Raises(ValueError()))

        def forward(self, x):
            with contextlib.suppress(ValueError):
                self.part(x)
            return x.relu()

    assert sites_of(Tries(), torch.randn(2, 3, 4)) == ["part.0#0", "/relu#0"]


def test_recording_goes_on_after_an_interrupt_that_was_caught():
    model = nn.Sequential(nn.ReLU(), Raises(KeyboardInterrupt()))
    x = torch.randn(2, 3, 4)
    with spectroscope.record(model) as recorder:
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                model(x)
        model[1] = nn.Identity()
        model(x)
    assert recorder.report().sites()["n_samples"].tolist() == [8]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("compiled", [False, True])
def test_two_recorders_at_once_end_in_any_order(order, compiled):
    model, x = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU(), Calls(F.relu)), torch.randn(2, 3, 4)
    if compiled:
        model = torch.compile(model, backend="eager")
    recorders = [spectroscope.record(model) for _ in order]
    for recorder in recorders:
        recorder.__enter__()
    for i in order:
        model(x)
        recorders[i].__exit__(None, None, None)
    model(x)
    samples = [r.report().sites()["n_samples"].tolist() for r in recorders]
    assert [samples[i] for i in order] == [[2, 2], [4, 4]]
    assert nothing_is_left()


class Spy(torch.overrides.TorchFunctionMode):
    """A mode of the user's own."""

    def __init__(self):
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", "?"))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("inside", [False, True])
def test_a_mode_of_the_users_sees_the_model_and_none_of_our_work(inside):
    model, x = nn.Sequential(nn.ReLU(), Calls(F.relu)), torch.randn(2, 3, 4)
    with Spy() as alone:
        model(x)
    first, second = (spectroscope.record(model), Spy()) if inside else (Spy(), None)
    if inside:
        with first as recorder, second as spy:
            model(x)
    else:
        with first as spy, spectroscope.record(model) as recorder:
            model(x)
    assert len(recorder.report().sites()) == 2
    assert spy.seen == alone.seen
    assert nothing_is_left()


def test_a_model_can_be_copied_and_pickled_while_it_is_recorded():
    model, x = bn_net().eval(), torch.randn(2, 3, 8, 8)
    model = nn.Sequential(*(m for m in model if not isinstance(m, Calls)))  # lambdas don't pickle
    with spectroscope.record(model) as recorder:
        model(x)
        copied = copy.deepcopy(model)
        pickled = pickle.loads(pickle.dumps(model))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        assert torch.equal(copied(x), model(x))
        assert torch.equal(pickled(x), model(x))
    assert recorder.report().sites()["n_samples"].tolist() == [6]  # the copies' calls aren't its


def test_the_reports_and_recorders_survive_copying():
    model = nn.ReLU()
    with spectroscope.record(model) as recorder:
        model(torch.randn(2, 3, 4))
    report = pickle.loads(pickle.dumps(recorder.report()))
    assert report.dc().equals(recorder.report().dc())


@pytest.mark.parametrize("backward", [torch.Tensor.backward, torch.autograd.backward])
def test_checkpointing_counts_a_forward_once(backward):
    inner = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU(), Calls(F.relu))
    model = Calls(lambda x: checkpoint(inner, x, use_reentrant=False))
    model.inner = inner
    x = torch.randn(2, 3, 8, requires_grad=True)
    with spectroscope.record(model) as recorder:
        backward(model(x).sum())
    assert recorder.report().sites()["n_samples"].tolist() == [2, 2]


def test_tracing_within_a_recording_traces_the_model_alone():
    model, x = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU(), Swish()), torch.randn(2, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = str(torch.jit.trace(model, x, check_trace=False).inlined_graph).count("aten::")
        with spectroscope.record(model, kinds=[Swish]) as recorder:
            model(x)
            traced = torch.jit.trace(model, x, check_trace=False)
            assert str(traced.inlined_graph).count("aten::") == expected
    assert recorder.report().sites()["n_samples"].tolist() == [2, 2]


def test_no_activation_is_kept():
    import weakref

    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), Calls(F.relu))
    kept = []

    def note(module, args, output):
        kept.append(weakref.ref(output))

    handles = [m.register_forward_hook(note) for m in model]
    with torch.no_grad(), spectroscope.record(model):
        model(torch.randn(2, 2, 4))
        assert [ref() for ref in kept] == [None] * 3
    for handle in handles:
        handle.remove()
