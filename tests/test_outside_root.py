"""Activations that run outside `model(x)` are named after the methods on the Python stack."""

import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spectroscope
from spectroscope.capture.frames import FrameValue

X = torch.linspace(-1, 1, 32).reshape(2, 1, 16)


class Autoencoder(nn.Module):
    def __init__(net):  # noqa: N805, any name is a method's
        super().__init__()
        net.e, net.r = nn.Conv1d(1, 2, 3), nn.ReLU()

    def encode(net, x):  # noqa: N805
        return F.relu(net.r(net.r(net.e(x)) - 0.1))

    def forward(net, x):  # noqa: N805
        return net.encode(x).mean(-1)

    def fit(net, batches):  # noqa: N805
        for batch in batches:
            net.e(batch)
            net.r(batch)


def recorded(model, run, warning=None):
    """Inputs by site; and the report."""
    with torch.no_grad():
        if warning is None:
            with spectroscope.record(model) as recorder:
                run(model)
        else:
            with pytest.warns(UserWarning, match=warning), spectroscope.record(model) as recorder:
                run(model)
    report = recorder.report()
    return report.sites().set_index("site")["n_samples"].to_dict(), report


def test_a_method_is_counted_by_outermost_call_and_said_once():
    inside, _ = recorded(Autoencoder(), lambda model: model(X))
    assert inside == {"r#0": 2, "r#1": 2, "/relu#0": 2}
    counts, _ = recorded(
        Autoencoder(), lambda model: model.encode(X), r"only parts of it ran \(encode\(\)\)"
    )
    assert counts == inside

    def both(model):
        model(X)
        model.encode(X)
        model.encode(X)

    counts, _ = recorded(Autoencoder(), both, r"parts of it ran apart \(encode\(\)\)")
    assert counts == {name: 6 for name in inside}


def test_values_of_a_method_are_those_of_its_tensors():
    model = Autoencoder()
    _, report = recorded(model, lambda model: model.encode(X), "only parts")
    with torch.no_grad():
        expected = model.encode(X).double().mean((0, 2))
    dc = report.dc()
    measured = dc.loc[dc["site"] == "/relu#0", "dc_out"]
    assert measured.to_list() == pytest.approx(expected.tolist(), rel=1e-9)


def test_a_generator_is_one_call_and_what_its_user_does_between_is_none():
    class Stream(Autoencoder):
        def forward(self, x):
            for chunk in x.split(8, -1):
                yield self.encode(chunk)

    def run(model):
        for chunk in model(X):
            F.relu(chunk)

    counts, _ = recorded(Stream(), run, r"parts of it ran apart \(forward\(\)\)")
    assert counts == dict.fromkeys(["r#0", "r#1", "/relu#0", "r#2", "r#3", "/relu#1"], 2)


def test_threads_in_a_forward_are_seen_in_modules_and_said():
    class Threads(Autoencoder):
        def forward(self, x):
            with ThreadPoolExecutor(2) as pool:
                return sum(pool.map(self.encode, (x, x * 2)))

    counts, _ = recorded(Threads(), lambda model: model(X), "encode.. in another thread")
    assert counts == {"r#0": 4, "r#1": 4}


def test_a_loop_over_inputs_is_no_call():
    counts, _ = recorded(Autoencoder(), lambda model: model.fit(iter([X] * 100)), r"only .*\(r\)")
    assert counts == {"r#0": 200}


def test_a_method_that_loops_over_more_than_can_be_numbered_says_so():
    class Looping(Autoencoder):
        def encode(self, x):
            for _ in range(300):
                self.r(x)

    counts, report = recorded(Looping(), lambda model: model.encode(X), "1 place is not recorded")
    assert counts == {f"r#{call}": 2 for call in range(256)}
    assert "more than 256 times in one encode()" in report.coverage()["reason"].item()


def test_forward_called_without_call_has_the_modules_name():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.act = Autoencoder(), nn.ReLU()

        def forward(self, x):
            return F.relu(self.act.forward(self.block.forward(x)))

    names = ["block.r#0", "block.r#1", "block/relu#0", "act#0", "/relu#0"]
    assert list(recorded(Direct(), lambda model: model(X))[0]) == names
    counts, _ = recorded(Direct(), lambda model: model.forward(X), r"only .*\(forward\(\)\)")
    assert list(counts) == names


class Layer(nn.Module):
    """As in Keras: a module with a `__call__` of its own, which calls no hooks."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def __call__(self, *args, **kwargs):
        return self.call(*args, **kwargs)

    def call(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.function(x)


def test_layers_with_a_call_of_their_own_have_their_names():
    model = Layer(F.relu, Layer(torch.relu), Layer(torch.sigmoid, Layer(F.relu6)))
    counts, _ = recorded(
        model, lambda model: [model(X) for _ in range(3)], r"only .*\(__call__\(\)\)"
    )
    assert counts == {"layers.0/relu#0": 6, "layers.1.layers.0/relu6#0": 6, "/relu#0": 6}


def test_functions_of_others_are_no_activations_of_the_model():
    class Other(nn.Module):
        def forward(self, x):
            return F.relu(x)

    class Trainer:
        def step(self, model, x):
            return F.relu(Other()(model(x)))

    counts, _ = recorded(nn.Sequential(nn.ReLU()), lambda model: Trainer().step(model, X))
    assert counts == {"0#0": 2}


def test_no_tensor_is_kept_by_reading_a_frame():
    freed = []

    class Watching(nn.Module):
        def encode(self, x):
            x = x * 2
            watched = weakref.ref(x)
            x = F.relu(x)
            freed.append(watched() is None)
            return x

    recorded(Watching(), lambda model: model.encode(X), "only parts")
    assert freed == [True]


def test_two_recorders_number_by_themselves():
    model = Autoencoder()

    def run(model):
        model.encode(X)
        counts, _ = recorded(model, lambda model: model.encode(X), "only parts")
        assert counts == {"r#0": 2, "r#1": 2, "/relu#0": 2}

    counts, _ = recorded(model, run, "only parts")
    assert counts == {"r#0": 4, "r#1": 4, "/relu#0": 4}


def test_a_debugger_goes_on():
    events = []

    def trace(frame, event, arg):
        if frame.f_code is Autoencoder.encode.__code__:
            events.append(event)
            return trace
        return None

    def run(model):
        sys.settrace(trace)
        try:
            model.encode(X)
        finally:
            sys.settrace(before)

    before = sys.gettrace()
    counts, _ = recorded(Autoencoder(), run, "only parts")
    assert counts == {"r#0": 2, "r#1": 2, "/relu#0": 2}
    assert events == ["call", "line", "return"]


def test_an_interrupted_method_is_over():
    class Interrupting(Autoencoder):
        def encode(self, x, stop=False):
            x = self.r(x)
            if stop:
                self.r.register_forward_pre_hook(interrupt)
                self.r(x)
            return F.relu(x)

    def interrupt(module, args):
        raise KeyboardInterrupt

    def run(model):
        with pytest.raises(KeyboardInterrupt):
            model.encode(X, stop=True)
        model.r._forward_pre_hooks.clear()
        model.encode(X)

    counts, _ = recorded(Interrupting(), run, "only parts")
    assert counts == {"r#0": 4, "/relu#0": 2}


def test_a_value_ends_with_the_function_that_runs():
    owner, values = object(), []

    class Value:
        pass

    def keep():
        frame = sys._getframe(1)
        FrameValue.set(frame, owner, value := Value())
        assert FrameValue.get(frame, owner) is value
        assert FrameValue.get(frame, object()) is None
        return weakref.ref(value)

    def function():
        value = keep()
        values.append(value)
        return value() is not None

    assert function()
    assert values[0]() is None
