"""Every activation call of any model is seen and named, or reported."""

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import Calls, Swish, nothing_is_left, sites_of
from torch import nn

import spectroscope

ZERO = torch.zeros(())


RECTIFIERS = {
    "relu": [
        F.relu,
        lambda x: F.relu(x, inplace=True),
        F.relu_,
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        torch.ops.aten.relu,
        torch.ops.aten.relu_.default,
        lambda x: F.relu(input=x),
    ],
    "clamp": [
        lambda x: x.clamp(0),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_(min=0.0),
        lambda x: torch.clamp(x, min=0),
        lambda x: torch.clamp_(x, 0),
        lambda x: torch.clamp(input=x, min=0),
        lambda x: x.clamp(min=ZERO),
    ],
    "clip": [lambda x: x.clip(0), lambda x: x.clip_(min=0), lambda x: torch.clip(x, 0)],
    "clamp_min": [
        lambda x: x.clamp_min(0),
        lambda x: x.clamp_min_(0),
        lambda x: torch.clamp_min(x, 0),
    ],
    "threshold": [
        lambda x: F.threshold(x, 0, 0),
        lambda x: F.threshold(x, threshold=0, value=0, inplace=True),
        lambda x: torch.threshold(x, 0, 0),
        lambda x: F.threshold_(x, 0.0, 0.0),
    ],
    "maximum": [
        lambda x: torch.maximum(x, ZERO),
        lambda x: torch.maximum(ZERO, x),
        lambda x: x.maximum(ZERO),
    ],
    "max": [lambda x: torch.max(x, ZERO), lambda x: x.max(ZERO)],
    "hardtanh": [lambda x: F.hardtanh(x, 0, 9), lambda x: F.hardtanh_(x, min_val=0, max_val=9)],
    "relu6": [F.relu6, lambda x: F.relu6(x, inplace=True)],
}


@pytest.mark.parametrize(
    ("name", "function"), [(name, f) for name, fs in RECTIFIERS.items() for f in fs]
)
def test_a_function_that_rectifies_is_seen_once_with_its_true_input(name, function):
    x = torch.randn(4, 3, 5)
    expected_in, expected_out = x.double().mean((0, 2)), x.double().relu().mean((0, 2))
    model = Calls(function)
    with spectroscope.record(model) as recorder:
        model(x)
    dc = recorder.report().dc()
    assert dc["site"].unique().tolist() == [f"/{name}#0"]
    assert dc["dc_in"].tolist() == pytest.approx(expected_in.tolist(), rel=1e-12)
    assert dc["dc_out"].tolist() == pytest.approx(expected_out.tolist(), rel=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(min=1),
        lambda x: x.clamp(0, 1),
        lambda x: x.clamp(0, torch.tensor(6.0)),
        lambda x: x.clamp(max=0),
        lambda x: x.clamp_min(-1),
        F.hardtanh,
        lambda x: F.threshold(x, 0, 1),
        lambda x: x.max(),
        lambda x: x.max(1).values,
        lambda x: torch.maximum(x, torch.ones(())),
        lambda x: torch.maximum(x, -x),
        lambda x: torch.maximum(x, x.sign() ** 2 - 1),  # zero by chance
        F.gelu,
        lambda x: F.leaky_relu(x, 0.1),
        torch.sigmoid,
    ],
)
def test_a_function_that_does_not_is_not(function):
    model = Calls(function)
    with pytest.warns(UserWarning, match="nothing was recorded"):
        assert sites_of(model, torch.randn(2, 3, 4)) == []


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.ReLU(), "ReLU"),
        (nn.ReLU(inplace=True), "ReLU"),
        (nn.ReLU6(), "ReLU6"),
        (nn.Hardtanh(0, 2), "Hardtanh"),
        (nn.Hardtanh(0, 6), "ReLU6"),
        (nn.Threshold(0, 0), "ReLU"),
        (nn.LeakyReLU(0), "ReLU"),
    ],
)
def test_modules_of_the_family_are_seen_under_their_name(module, kind):
    model = nn.Sequential(nn.Identity(), module)
    with spectroscope.record(model) as recorder:
        model(torch.randn(2, 3, 4))
    sites = recorder.report().sites()
    assert sites["site"].tolist() == ["1#0"]
    assert sites["kind"].tolist() == [kind]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.LeakyReLU(), "LeakyReLU"),
        (nn.PReLU(), "PReLU"),
        (nn.ELU(inplace=True), "ELU"),
        (nn.GELU(), "GELU"),
        (nn.SiLU(), "SiLU"),
        (nn.Hardswish(), "Hardswish"),
        (nn.Mish(), "Mish"),
        (nn.Mish(inplace=True), "Mish"),
        (nn.Softplus(), "Softplus"),
        (nn.RReLU(), "RReLU"),
        (nn.Softshrink(), "Softshrink"),
        (nn.Hardshrink(), "Hardshrink"),
        (nn.SELU(inplace=True), "SELU"),
        (nn.CELU(), "CELU"),
        (nn.Tanh(), "Tanh"),
        (nn.Sigmoid(), "Sigmoid"),
    ],
)
def test_other_kinds_are_seen_when_asked_for(module, kind):
    model = nn.Sequential(module, nn.ReLU())
    x = torch.randn(2, 3, 4)
    assert sites_of(model, x.clone()) == ["1#0"]
    assert sites_of(model, x.clone(), kinds=[kind]) == ["0#0", "1#0"]
    assert sites_of(model, x.clone(), kinds=type(module)) == ["0#0", "1#0"]
    function = {"PReLU": lambda x: F.prelu(x, torch.ones(1))}.get(
        kind, getattr(F, "leaky_relu" if kind == "LeakyReLU" else kind.lower(), None)
    )
    (site,) = sites_of(Calls(function), x, kinds=kind)
    assert site.startswith("/")


def test_a_class_of_ones_own_is_recorded_whole():
    model = nn.Sequential(Swish(), nn.ReLU())
    x = torch.randn(5, 3, 8)
    assert sites_of(model, x) == ["0/relu#0", "1#0"]
    with pytest.warns(UserWarning, match=r"parts of it ran apart \(0\)"):
        with spectroscope.record(model, kinds=[Swish]) as recorder:
            y = model[0](x), model(x)
    report = recorder.report()
    assert report.sites()["site"].tolist() == ["0#0", "1#0"]
    assert report.sites()["kind"].tolist() == ["Swish", "ReLU"]
    expected = y[0].double().mean((0, 2)).tolist()
    assert report.dc().query("site == '0#0'")["dc_out"].tolist() == pytest.approx(expected)
    assert report.dc()["dc_gaussian"].isna().tolist() == [True] * 3 + [False] * 3


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        spectroscope.RequestError, match=r"kind 'Gelu' is neither .* nor one of all, CELU"
    ):
        spectroscope.record(nn.ReLU(), kinds=["Gelu"])


class Branches(nn.Module):
    """Functional and module ReLUs, a shared one under two names, a loop, and a residual `+=`."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Conv1d(3, 3, 1)), nn.Sequential(nn.Conv1d(3, 3, 1))
        self.a.act = self.b.act = nn.ReLU(inplace=True)
        self.loop = nn.ReLU()
        self.times = 2

    def forward(self, x):
        y = F.relu(self.a(x)) + self.b(x).relu()
        for _ in range(self.times):
            y = self.loop(y - 0.1)
        y += x
        return {"y": (torch.relu_(y), [y])}


def test_names_tell_branches_loops_and_functions_apart():
    expected = ["a.act#0", "/relu#0", "b.act#0", "/relu#1", "loop#0", "loop#1", "/relu#2"]
    model, x = Branches(), torch.randn(2, 3, 8)
    assert sites_of(model, x) == expected
    with spectroscope.record(model) as recorder:
        for model.times in (2, 0, 3, 1):
            model(x)
    counts = recorder.report().sites().set_index("site")["n_samples"].to_dict()
    # A site is the same from forward to forward; one that a forward doesn't reach counts less.
    assert counts == {name: 8 for name in expected} | {"loop#0": 6, "loop#1": 4, "loop#2": 2}


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("b.*", ["b.act#0"]),
        ("/relu#1", ["/relu#1"]),
        ("*/relu", ["/relu#0", "/relu#1", "/relu#2"]),
        (["loop", "a.act"], ["a.act#0", "loop#0", "loop#1"]),
        (lambda name, module: isinstance(module, Branches), ["/relu#0", "/relu#1", "/relu#2"]),
    ],
)
def test_select_takes_functions_too(select, expected):
    assert sites_of(Branches(), torch.randn(2, 3, 8), select=select) == expected


def test_outputs_in_dictionaries_and_inputs_from_generators():
    model = nn.Sequential(Calls(lambda inputs: sum(x.relu() for x in inputs)))
    assert sites_of(model, (torch.randn(2, 3, 4) for _ in range(3))) == [
        f"0/relu#{call}" for call in range(3)
    ]


def test_lazy_modules():
    model = nn.Sequential(nn.LazyConv1d(4, 3), nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that lazy modules are under development
        assert sites_of(model, torch.randn(2, 3, 8)) == ["1#0"]


def test_modules_made_during_the_forward_belong_to_their_maker():
    model = nn.Sequential(Calls(lambda x: nn.ReLU()(x)))
    assert sites_of(model, torch.randn(2, 3, 8)) == ["0/relu#0"]


def test_a_module_exchanged_after_record_was_called():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    recorder = spectroscope.record(model)
    model[0] = nn.ReLU()
    with recorder:
        model(torch.randn(2, 3, 8))
    assert recorder.report().sites()["site"].tolist() == ["0#0", "1#0"]


class Tree(nn.Module):
    """Calls itself."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x, depth=2):
        return self.relu(x) if depth == 0 else self(x, depth - 1) + self(-x, depth - 1)


def test_a_model_that_calls_itself():
    assert sites_of(Tree(), torch.randn(2, 3, 8)) == [f"relu#{call}" for call in range(4)]


def test_activations_outside_the_model_are_not_its():
    model, other = nn.ReLU(), nn.ReLU()
    x = torch.randn(2, 3, 8)
    with spectroscope.record(model) as recorder:
        other(x.relu() + F.relu(x) + model(x))
    assert recorder.report().coverage()["fired"].tolist() == [1]


class ModReLU(nn.Module):
    """A activation of complex numbers."""

    def forward(self, z):
        return (z.abs() - 0.1).relu() * torch.sgn(z)


def test_complex_activations_are_left_alone_and_reported():
    model, z = nn.Sequential(ModReLU()), torch.randn(2, 3, 4, dtype=torch.complex64)
    expected = model(z)
    with (
        pytest.warns(UserWarning, match=r"torch.complex64 is not a real"),
        spectroscope.record(model, kinds=[ModReLU]) as recorder,
    ):
        assert torch.equal(model(z), expected)
    assert recorder.report().coverage()["status"].tolist() == ["incomplete"]
    assert sites_of(model, z) == ["0/relu#0"]  # of its magnitude, which is real


def test_threads_that_run_the_model_at_once_are_seen():
    model = nn.Sequential(nn.ReLU(), Calls(F.relu), nn.Sequential(Calls(torch.relu_)))
    rounds, threads = 20, 4
    x = torch.randn(3, 2, 50)

    def work():
        for _ in range(rounds):
            model(x.clone())

    with spectroscope.record(model) as recorder:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        model(x.clone())
        for worker in workers:
            worker.join()
    report = recorder.report()
    samples = report.sites().set_index("site")["n_samples"].to_dict()
    assert samples == {
        site: 3 * (rounds * threads + 1) for site in ("0#0", "1/relu#0", "2.0/relu#0")
    }
    assert report.coverage()["fired"].tolist() == [rounds * threads + 1] * 3
    assert nothing_is_left()


def test_replicas_in_other_threads_are_reported():
    model = nn.Sequential(nn.ReLU())

    def forward_like_data_parallel(x):
        replica = model._replicate_for_data_parallel()
        replica._modules["0"] = model[0]._replicate_for_data_parallel()
        worker = threading.Thread(target=replica, args=(x,))
        worker.start()
        worker.join()
        return x

    outer = Calls(forward_like_data_parallel)
    outer.model = model
    with (
        pytest.warns(UserWarning, match="DataParallel runs copies"),
        spectroscope.record(outer) as recorder,
    ):
        outer(torch.randn(2, 3, 4))
    assert "(replicas)" in recorder.report().coverage()["place"].tolist()


def test_scripted_and_traced_parts_are_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
        traced = torch.jit.trace(nn.Sequential(nn.ReLU()), torch.randn(2, 3, 4))
    model = nn.Sequential(nn.ReLU(), scripted, traced)
    with pytest.warns(UserWarning, match="2 places"), spectroscope.record(model) as recorder:
        model(torch.randn(2, 3, 4))
    coverage = recorder.report().coverage().set_index("place")["status"].to_dict()
    assert coverage == {"0": "fired", "1": "cannot be seen", "2": "cannot be seen"}


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_a_compiled_model_is_looked_at_as_it_was_before(how):
    model, x = nn.Sequential(nn.Sequential(nn.ReLU()), Calls(F.relu)), torch.randn(2, 3, 4)
    expected = model(x)
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model[0] = torch.compile(model[0], backend="eager")
    model(x)
    with spectroscope.record(model) as recorder:
        assert torch.equal(model(x), expected)
    assert recorder.report().sites()["site"].tolist() == ["0.0#0", "1/relu#0"]
    assert torch.equal(model(x), expected)


def test_a_function_transform_is_reported():
    model = nn.Sequential(nn.ReLU())
    with (
        pytest.warns(UserWarning, match=r"torch\.func transform"),
        spectroscope.record(model) as recorder,
    ):
        y = torch.func.vmap(model)(torch.randn(2, 3, 4))
    assert y.shape == (2, 3, 4)
    assert recorder.report().coverage()["status"].tolist() == ["incomplete"]


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.functionalize])
def test_a_constant_in_a_function_transform_is_reported_and_does_no_harm(transform):
    model, x = nn.Sequential(nn.ReLU()), torch.randn(2, 3, 4)
    weight = torch.randn(4)
    expected = transform(lambda w: (x.relu() * w).sum())(weight)
    with (
        pytest.warns(UserWarning, match=r"torch\.func transform"),
        spectroscope.record(model) as recorder,
    ):
        result = transform(lambda w: (model(x) * w).sum())(weight)
    assert torch.equal(result, expected)
    reasons = recorder.report().coverage()["reason"].tolist()
    assert reasons == ["call 0: inside a torch.func transform"]
    assert sites_of(model, x) == ["0#0"]  # workspaces of this thread are intact


class OwnReLU(nn.ReLU):
    def forward(self, x):
        return x.sign().add(1).mul(0.5) * x


def test_an_activation_with_a_forward_of_its_own_is_reported_or_recorded_whole():
    model, x = nn.Sequential(OwnReLU(), nn.ReLU()), torch.randn(2, 3, 4)
    with pytest.warns(UserWarning, match=r"0 \(ran 1 times without an activation call"):
        assert sites_of(model, x) == ["1#0"]
    assert sites_of(model, x, kinds=[OwnReLU]) == ["0#0", "1#0"]


def test_a_shared_activation_that_is_never_seen_is_reported_under_each_name():
    model = nn.Sequential(nn.Sequential(OwnReLU()), nn.Sequential())
    model[1].append(model[0][0])
    with (
        pytest.warns(UserWarning, match=r"nothing was recorded: 0.0 .*, 1.0 "),
        spectroscope.record(model) as recorder,
    ):
        model(torch.randn(2, 3, 4))
    assert recorder.report().coverage()["place"].tolist() == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("shape", "axis", "arranged"),
    [
        ((4, 7, 3), -1, (4, 3, 7)),
        ((4, 5, 6, 3), 3, (4, 3, 5, 6)),
        ((3, 7), 0, (1, 3, 7)),
        ((3,), 0, (1, 3)),
        ((4, 3), 1, (4, 3)),
    ],
)
def test_channels_may_be_on_any_axis(shape, axis, arranged):
    x = torch.randn(shape)
    model = nn.ReLU()
    with spectroscope.record(model, channel_axis=axis) as recorder:
        model(x)
    with spectroscope.record(model) as expected:
        model(x.movedim(axis, -1 if len(shape) == 1 else 0 if axis == 0 else 1).reshape(arranged))
    assert recorder.report().dc().equals(expected.report().dc())
    assert recorder.report().sites()["shape"].item() == arranged[1:]


def test_channel_axis_by_site():
    model = nn.Sequential(nn.ReLU(), Calls(lambda x: F.relu(x.mT)), nn.ReLU())
    with spectroscope.record(model, channel_axis={"1*": -1, "2#0": -1}) as recorder:
        model(torch.randn(2, 3, 8))
    assert recorder.report().sites()["shape"].tolist() == [(3, 8)] * 3
