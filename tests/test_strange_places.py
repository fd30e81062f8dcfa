"""Where a recorder must not be in the way: compilers, tracers, modes, threads, interrupts."""

import functools
import linecache
import sys
import threading
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import Calls, nothing_is_left
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

import spectroscope
from spectroscope.capture import hooks


@pytest.fixture(autouse=True)
def _leaves_nothing():
    yield
    assert nothing_is_left()


def quietly(model, *args, **options):
    """Record one forward; the output, and the coverage by place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with spectroscope.record(model, **options) as recorder:
            output = model(*args)
    return output, recorder.report().coverage().set_index("place")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor(1.0),
        lambda: torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(5, 4)]),
        lambda: torch.nested.nested_tensor([torch.ones(3, 4)] * 2, layout=torch.jagged),
        lambda: torch.ones(2, 3).to_mkldnn(),
        lambda: torch.ones(2, 3, dtype=torch.int64),
    ],
)
def test_odd_tensors_pass(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        x = make()
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    output, coverage = quietly(model, x)
    assert type(output) is type(x)
    assert coverage["status"].tolist() == ["incomplete"] * 2
    assert (coverage["reason"] != "").all()


def test_a_function_on_a_nested_tensor_is_reported_where_it_is():
    class Nested(nn.Module):
        def forward(self, x):
            return F.relu(torch.nested.as_nested_tensor([x, x[:3]])).to_padded_tensor(0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, coverage = quietly(Nested(), torch.randn(5, 4))
    assert coverage.index.tolist() == ["/relu"]
    assert coverage["reason"].tolist() == ["call 0: not a dense tensor"]


def test_a_failure_of_ours_is_reported_and_the_model_runs_on(monkeypatch):
    monkeypatch.setattr("spectroscope.capture.axis_tracker.output_axes", lambda *args: 1 / 0)
    model, x = nn.Sequential(nn.ReLU(), nn.ReLU()), torch.randn(2, 3, 4)
    output, coverage = quietly(model, x)
    assert torch.equal(output, x.relu())
    assert coverage.loc["0", "reason"] == "ZeroDivisionError while observing: division by zero"
    assert coverage["fired"].tolist() == [1, 1]


def test_the_first_reason_of_a_module_that_is_called_twice_stays():
    class Fails(spectroscope.Statistic):
        columns = {"size": ("1", "fails")}

        def reduce(self, call):
            raise ValueError(call.site.call)

    relu = nn.ReLU()
    model = nn.Sequential(relu, relu)
    with (
        pytest.warns(UserWarning, match="no Fails"),
        spectroscope.record(model, statistics=[Fails()]) as recorder,
    ):
        model(torch.randn(2, 3, 4))
    assert recorder.report().coverage()["reason"].tolist() == ["call 0: no Fails: ValueError: 0"]


@pytest.mark.parametrize(
    "run",
    [
        lambda: torch.vmap(torch.maximum)(torch.randn(4, 3), torch.randn(4)),
        lambda: torch.func.grad(lambda x: x.clamp(min=x.mean()).sum())(torch.randn(3)),
        lambda: torch.fx.symbolic_trace(nn.Sequential(Calls(lambda x: torch.clamp(x, min=0)))),
        lambda: torch.fx.symbolic_trace(nn.Sequential(Calls(lambda x: F.hardtanh(x, 0, 6)))),
    ],
)
def test_transforms_beside_and_inside_the_model(run):
    model = Calls(lambda x: (run(), x.relu())[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with spectroscope.record(model) as recorder:
            run()
            model(torch.randn(2, 3, 4))
    assert "/relu#0" in recorder.report().sites()["site"].tolist()


def test_tensors_of_another_kind_are_reported():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        output, coverage = quietly(nn.Sequential(nn.ReLU()), torch.empty(2, 3, 4))
    assert output.shape == (2, 3, 4)
    assert "FakeTensor" in coverage.loc["0", "reason"]


def test_filters_of_warnings_that_the_user_sets_meanwhile_stay():
    model = torch.compile(nn.ReLU(), backend="eager")
    with warnings.catch_warnings():
        with spectroscope.record(model):
            model(torch.randn(2, 3, 4))
            warnings.filterwarnings("ignore", "of the user's own")
        warnings.warn("of the user's own", stacklevel=1)


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_functions_in_a_forward_are_seen(fullgraph):
    compiled = torch.compile(lambda x: F.relu(x) * 2, backend="eager", fullgraph=fullgraph)
    model, x = Calls(compiled), torch.randn(2, 3, 4)
    expected = model(x)
    output, coverage = quietly(model, x)
    assert torch.equal(output, expected)
    assert coverage["fired"].to_dict() == {"/relu": 1}


def test_what_is_compiled_meanwhile_is_compiled_without_us():
    model, x = nn.ReLU(), torch.randn(2, 3, 4)
    compiled = torch.compile(lambda x: F.relu(x) * 2, backend="eager", fullgraph=True)
    with spectroscope.record(model), torch.compiler.set_stance("default"):
        model(x)
        assert torch.equal(compiled(x), x.relu() * 2)


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_dispatch_mode_of_the_users_sees_the_model_alone():
    model, x = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU(), Calls(F.relu)), torch.randn(2, 3, 4)
    with Operations() as alone:
        model(x)
    with Operations() as spied:
        _, coverage = quietly(model, x)
    assert spied.seen == alone.seen
    assert coverage["status"].eq("fired").all()


def test_selective_checkpointing_keeps_its_gradients():
    inner = nn.Sequential(nn.Conv1d(3, 3, 1), Calls(lambda x: F.relu(x) * x.sum(-1, keepdim=True)))
    save = partial(create_selective_checkpoint_contexts, [torch.ops.aten.sum.dim_IntList])
    model = Calls(lambda x: checkpoint(inner, x, use_reentrant=False, context_fn=save))
    model.inner = inner
    x = torch.randn(2, 3, 8, requires_grad=True)

    def gradient():
        x.grad = None
        model(x).square().sum().backward()
        return x.grad.clone()

    expected = gradient()
    with spectroscope.record(model) as recorder:
        assert torch.equal(gradient(), expected)
    assert recorder.report().sites()["n_samples"].tolist() == [2]


def test_make_fx_traces_the_model_alone():
    model, x = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU()), torch.randn(2, 3, 4)
    expected = make_fx(model)(x).code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with spectroscope.record(model):
            assert make_fx(model)(x).code == expected


def test_a_recorder_closed_while_a_worker_runs_leaves_the_worker_clean():
    inside, go_on = threading.Event(), threading.Event()

    def wait(x):
        inside.set()
        go_on.wait(10)
        return x.relu()

    model = nn.Sequential(nn.ReLU(), Calls(wait))
    left = []

    def work():
        model(torch.randn(2, 3, 4))
        left.append(torch.overrides._len_torch_function_stack())

    worker = threading.Thread(target=work)
    with spectroscope.record(model):
        worker.start()
        inside.wait(10)
    go_on.set()
    worker.join()
    assert left == [0]


def test_a_recording_ends_in_the_thread_in_which_it_began():
    model = nn.ReLU()
    recorder = spectroscope.record(model)
    recorder.__enter__()
    errors = []

    def end():
        try:
            recorder.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(str(error))

    worker = threading.Thread(target=end)
    worker.start()
    worker.join()
    assert errors == ["a recording must end in the thread in which it began"]
    hooks.remove(recorder._capture)  # what is left of it, here


def test_a_report_may_be_asked_for_while_workers_run():
    model = nn.Sequential(*(Calls(F.relu) for _ in range(30)))
    stop = threading.Event()

    def work():
        while not stop.is_set():
            model(torch.randn(2, 3, 4))

    with spectroscope.record(model, spectra=False) as recorder:
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for _ in range(20):
            recorder.recording()
        stop.set()
        for worker in workers:
            worker.join()
        model(torch.randn(2, 3, 4))
    assert len(recorder.report().sites()) == 30


def test_activations_inside_other_kernels_are_reported():
    model = nn.RNN(4, 5, nonlinearity="relu")
    _, coverage = quietly(model, torch.randn(7, 2, 4))
    assert coverage["status"].to_dict() == {"/rnn_relu": "cannot be seen"}
    model = Calls(lambda x: nn.RNNCell(3, 4, nonlinearity="relu")(x))
    _, coverage = quietly(model, torch.randn(2, 3))
    assert coverage["status"].to_dict() == {"/rnn_relu_cell": "cannot be seen"}


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0].relu()


def test_attention_with_a_forward_of_its_own_keeps_its_fast_path_and_is_reported():
    model = Attention(4, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 4)
    with torch.inference_mode():
        output, coverage = quietly(model, x)
        assert torch.equal(output, model(x))
    assert coverage["status"].tolist() == ["cannot be seen"]


def test_a_mode_entered_inside_a_suspended_layer_is_left_as_it_was():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    class Layer(nn.TransformerEncoderLayer):
        def forward(self, x):
            with Mode():
                return self.linear1(x)

    quietly(Layer(4, 2, 8), torch.randn(2, 3, 4))


def test_hardtanh_from_elsewhere_is_recorded_when_asked_for_by_class():
    model, x = nn.Sequential(nn.Hardtanh(), nn.Threshold(0.1, 2), nn.ReLU()), torch.randn(2, 3, 4)
    _, coverage = quietly(model, x, kinds=[nn.Hardtanh, nn.Threshold])
    assert coverage["fired"].tolist() == [1, 1, 1]
    assert coverage["kind"].tolist()[2] == "ReLU"


@pytest.mark.parametrize(
    ("forward", "call", "reason"),
    [
        (lambda self, x: x, lambda own, x: own(x=x), "without a positional tensor"),
        (lambda self, x: (x, x), lambda own, x: own(x)[0], "it returns a tuple"),
    ],
)
def test_a_class_of_ones_own_that_can_not_be_recorded_is_reported(forward, call, reason):
    own = type("Own", (nn.Module,), {"forward": forward})
    model = Calls(lambda x: call(model.own, x))
    model.own = own()
    _, coverage = quietly(model, torch.randn(2, 3, 4), kinds=[own])
    assert reason in coverage.loc["own", "reason"]


def test_a_child_that_knows_its_parent():
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    model[0].parent = model
    model.forward = lambda x: model[0][0](x)
    _, coverage = quietly(model, torch.randn(2, 3, 4))
    assert coverage["fired"].to_dict() == {"0.0": 1}


@pytest.mark.parametrize(
    "options", [{"channel_axis": 1.0}, {"channel_axis": {"*": None}}, {"select": nn.ReLU}]
)
def test_options_of_the_wrong_type_are_refused_at_once(options):
    with pytest.raises(TypeError):
        spectroscope.record(nn.ReLU(), **options)


OURS = ("hooks.py", "capture.py", "session.py", "dispatch.py", "call.py", "axes.py", "recorder.py",
        "recording.py", "moments.py", "memory.py")  # fmt: skip


@functools.cache
def takes_a_signal(file, number):
    """Whether CPython delivers signals there: not on a `try`, nor on a `with` again at its end."""
    return not linecache.getline(file, number).lstrip().startswith(("with ", "try:"))


@functools.cache
def is_ours(file):
    return file.endswith(OURS)


def interrupted(model, x, after):
    """Run a recording with a KeyboardInterrupt at the `after`th line of ours; whether one came."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        file = frame.f_code.co_filename
        if not is_ours(file):
            return None
        if event == "line" and takes_a_signal(file, frame.f_lineno):
            count += 1
            if count == after:
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    try:
        sys.settrace(trace)
        with spectroscope.record(model) as recorder:
            model(x)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    assert recorder.report().sites()["n_samples"].tolist() == [2, 2]
    return False


def test_an_interrupt_at_any_line_of_ours_leaves_nothing():
    model, x = nn.Sequential(nn.ReLU(), Calls(F.relu)), torch.randn(2, 3, 4)
    after, left = 1, []
    while interrupted(model, x, after):
        if not nothing_is_left():
            left.append(after)
            break
        after += 1
    assert after > 300
    assert left == []
