"""`Tracker` records training without changing it."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import nothing_is_left
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spectroscope
from spectroscope.training.tracker import Tracker


def network():
    return nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(4 * 14, 2),
    )  # fmt: skip


def train(model, epochs, tracker=None):
    """Adam on noise; the mean loss of each epoch, and the random numbers' state at the end."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []

    def epoch():
        total = torch.zeros(())
        for batch in torch.randn(3, 5, 1, 16):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            total += loss.detach() / 3
        losses.append(total.item())
        return total

    for _ in range(epochs):
        if tracker is None:
            epoch()
        else:
            with tracker.epoch() as numbers:
                numbers["loss"] = epoch()
    return losses, torch.get_rng_state()


def moved(model, amount):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += amount


def distances(tracker, column="distance"):
    return tracker.weights().pivot(index="epoch", columns="parameter", values=column)


def test_training_is_bit_identical():
    plain = network()
    tracked = copy.deepcopy(plain)
    tracker = Tracker(tracked)
    (losses, state), (expected, expected_state) = train(tracked, 3, tracker), train(plain, 3)
    assert losses == expected
    assert torch.equal(state, expected_state)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, tracked.state_dict()[name]), name
    assert tracker.numbers()["loss"].tolist() == losses
    assert nothing_is_left()


def test_distances_match_numpy():
    model = network()
    tracker = Tracker(model)
    states = [copy.deepcopy(model.state_dict())]
    for _ in range(3):
        train(model, 1, tracker)
        states.append(copy.deepcopy(model.state_dict()))
    names = [name for name, _ in model.named_parameters()]
    table = tracker.weights()
    assert table["parameter"].tolist() == names * 4
    assert table["epoch"].tolist() == np.repeat(range(4), len(names)).tolist()
    for row in table.itertuples():
        start, now = (states[e][row.parameter].double().numpy() for e in (0, row.epoch))
        distance = np.sqrt(np.sum((now - start) ** 2))
        np.testing.assert_allclose(row.distance, distance, rtol=1e-6)
        if start.any():
            relative = distance / np.sqrt(np.sum(start**2))
            np.testing.assert_allclose(row.relative_distance, relative, rtol=1e-6)
        else:  # the bias of the batch norm
            assert np.isnan(row.relative_distance)
    assert table["relative_distance"].notna().sum() == 4 * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_distances_are_no_coarser_than_float32(dtype):
    weight = torch.linspace(-300, 300, 4001).to(dtype)
    start = weight.clone()
    tracker = Tracker(nn.Identity(), weights=[("weight", weight)])
    with tracker.epoch():
        weight.copy_(weight * -1.3)
    wide = np.complex128 if dtype.is_complex else np.float64
    before, after = (
        (t if dtype.is_complex else t.double()).numpy().astype(wide) for t in (start, weight)
    )
    # In half precision the difference would round, as it doesn't between w and 2·w; and its
    # squares add up to 6·10⁸, where float16 ends at 6.6·10⁴.
    expected = np.linalg.norm(after - before)
    np.testing.assert_allclose(distances(tracker)["weight"][1], expected, rtol=1e-7)


def test_tables_are_of_the_block_alone():
    model = network().eval()
    tracker = Tracker(model, select="2")
    inputs = torch.randn(3, 7, 1, 16)
    for x in inputs:
        model(torch.randn(50, 1, 16))  # as in training outside of the block
        with tracker.epoch(), torch.no_grad():
            model(x[:3])
            model(x[3:])
    sites, dc = tracker.sites(), tracker.dc()
    assert sites["epoch"].tolist() == [1, 2, 3]
    assert sites["n_samples"].tolist() == [7] * 3
    assert dc[["epoch", "channel"]].to_numpy().tolist() == [[e, c] for e in (1, 2, 3)
                                                            for c in range(4)]  # fmt: skip
    y = torch.stack([model[:3](x) for x in inputs]).detach().double()
    np.testing.assert_allclose(dc["dc_out"], y.mean((1, 3)).flatten(), rtol=1e-6)
    active = (y > 0).double().mean((1, 2, 3))
    np.testing.assert_allclose(sites["active_fraction"], active, rtol=1e-12)
    assert sites.columns[0] == dc.columns[0] == "epoch"


def test_spectra_are_optional():
    model = nn.ReLU()
    tracker, plain = Tracker(model, spectra=True, fs=32.0), Tracker(model)
    tone = torch.cos(2 * torch.pi * 4 / 32 * torch.arange(64.0)).view(1, 1, 64)
    for scale in (1, 3):
        with tracker.epoch(), plain.epoch():
            model(scale * tone)
    for epoch, scale in ((1, 1), (2, 3)):
        spectra = tracker.report(epoch).spectra()
        at_4_hz = spectra[(spectra["freq"] == 4) & (spectra["side"] == "in")]["power"]
        np.testing.assert_allclose(at_4_hz, scale**2 / 2, rtol=1e-6)
    with pytest.raises(spectroscope.RequestError, match="no spectra were recorded"):
        plain.report(1).spectra()
    for epoch in (0, 3):
        with pytest.raises(spectroscope.RequestError, match=f"epoch={epoch} must be from 1 to 2"):
            tracker.report(epoch)


def test_a_block_that_raises_is_not_an_epoch():
    model = network()
    tracker = Tracker(model)
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), tracker.epoch() as numbers:
            numbers["loss"] = 1.0
            train(model, 1)
            raise error
        assert nothing_is_left()
    assert tracker.weights()["epoch"].unique().tolist() == [0]
    assert tracker.numbers().empty
    assert tracker.sites().empty
    train(model, 1, tracker)
    assert tracker.sites()[["epoch", "n_samples"]].to_numpy().tolist() == [[1, 15]]


def test_blocks_without_a_forward_and_models_without_a_relu():
    model = nn.Linear(3, 2)
    tracker = Tracker(model)
    assert tracker.dc().columns.tolist() == ["epoch", *spectroscope.record(model).report().dc()]
    with tracker.epoch():
        moved(model, 0.5)
    with tracker.epoch() as numbers:  # and nothing warns
        model(torch.randn(5, 3))
        numbers["loss"] = 2
    assert tracker.sites().empty
    assert tracker.dc().empty
    np.testing.assert_allclose(distances(tracker)["weight"], [0, *[0.5 * 6**0.5] * 2], rtol=1e-6)
    pd.testing.assert_frame_equal(
        tracker.numbers(), pd.DataFrame({"epoch": [1, 2], "loss": [np.nan, 2.0]})
    )
    model = nn.Sequential(model, nn.ReLU())
    tracker = Tracker(model)
    for ran in (False, True, False):
        with tracker.epoch():
            if ran:
                model(torch.randn(5, 3))
    assert tracker.sites()["epoch"].tolist() == [2]


def test_unrecordable_activations_are_warned_about():
    with pytest.warns(FutureWarning, match=r"torch\.jit\.script"):
        scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    tracker = Tracker(nn.Sequential(nn.Identity(), scripted))
    with pytest.warns(UserWarning, match="nothing was recorded.*TorchScript"), tracker.epoch():
        pass
    model = network()
    tracker = Tracker(model, select="5/relu")
    with pytest.warns(UserWarning, match="no selected activation was called"), tracker.epoch():
        model(torch.randn(2, 1, 16))


def test_views_are_measured_until_their_memory_is_replaced():
    model = nn.Linear(3, 2)
    views = [(f"row {r}", row) for r, row in enumerate(model.weight.detach())]
    tracker = Tracker(model, weights=iter([*views, ("bias", model.bias)]))
    with tracker.epoch(), torch.no_grad():
        model.weight[1] -= 2
    table = distances(tracker)
    assert table["row 0"].tolist() == table["bias"].tolist() == [0, 0]
    np.testing.assert_allclose(table["row 1"], [0, 2 * 3**0.5], rtol=1e-6)
    with tracker.epoch():
        model.double()  # new memory, which the views don't point to
        moved(model, 1.0)
    table = distances(tracker)
    assert table.loc[2, ["row 0", "row 1"]].isna().all()
    np.testing.assert_allclose(table["bias"], [0, 0, 2**0.5], rtol=1e-6)


def test_replaced_parameters_are_compared_by_name():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    start = model[0].weight.detach().clone()
    tracker = Tracker(model)
    with tracker.epoch():
        model[0].weight = nn.Parameter(start + 1)
        model[1] = nn.Linear(2, 5)
        del model[2]
    table = distances(tracker).loc[1]
    np.testing.assert_allclose(table["0.weight"], 6**0.5, rtol=1e-6)
    assert table[["1.weight", "2.weight", "2.bias"]].isna().all()


def test_numbers_are_read_at_the_end_of_the_block():
    tracker = Tracker(nn.Identity())
    running = torch.zeros(1, requires_grad=True) + 1
    for epoch in range(3):
        with tracker.epoch() as numbers:
            numbers["running"] = running
            running += epoch
            if epoch == 1:
                numbers["lr"] = np.float32(0.5)
    expected = pd.DataFrame(
        {"epoch": [1, 2, 3], "running": [1.0, 2, 4], "lr": [np.nan, 0.5, np.nan]}
    )
    pd.testing.assert_frame_equal(tracker.numbers(), expected)


def test_values_that_are_not_numbers_are_refused():
    tracker = Tracker(nn.Identity())
    for name, value, message in (
        ("loss", torch.zeros(4), r"loss must be one number, not a tensor \[4\]"),
        ("loss", "low", "loss must be one number, not 'low'"),
        ("loss", None, "loss must be one number, not None"),
        ("epoch", 3, "a number can't be called 'epoch'"),
    ):
        with pytest.raises(spectroscope.RequestError, match=message), tracker.epoch() as numbers:
            numbers[name] = value
    assert tracker.numbers().empty


class NoWaiting(TorchDispatchMode):
    """Fails at operations that wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        assert function is not torch.ops.aten.nonzero.default
        return function(*args, **(kwargs or {}))


def test_recording_does_not_synchronise_the_device():
    model = network()
    with NoWaiting():
        tracker = Tracker(model)
        with tracker.epoch() as numbers:
            moved(model, 1.0)
            numbers["loss"] = torch.ones(1)
    with NoWaiting(), pytest.raises(AssertionError):
        tracker.weights()
    with NoWaiting(), pytest.raises(AssertionError):
        tracker.numbers()
    np.testing.assert_allclose(distances(tracker)["0.weight"][1], 12**0.5, rtol=1e-6)


def test_wrong_options_are_refused_before_training():
    model = network()
    with pytest.raises(spectroscope.RequestError, match="matches no activation"):
        Tracker(model, select="nowhere")
    with pytest.raises(TypeError, match="unexpected keyword argument 'spectrum'"):
        Tracker(model, spectrum=True)
    pairs = [("a", torch.zeros(1)), ("b", torch.zeros(1)), ("b", torch.ones(1))]
    with pytest.raises(spectroscope.RequestError, match="two weights are called 'b'"):
        Tracker(model, weights=pairs)


def test_iterator_options_hold_in_every_epoch():
    model = nn.Sequential(nn.ReLU(), nn.GELU(), nn.ReLU())
    tracker = Tracker(model, kinds=iter(["GELU"]), select=iter(["0", "1"]))
    for _ in range(2):
        with tracker.epoch():
            model(torch.randn(2, 3, 8))
    assert tracker.sites()["site"].tolist() == ["0#0", "1#0"] * 2


def curves(folder):
    """Of each tag (steps, values) in TensorBoard's event files in `folder`."""
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard, of the extra [tensorboard]",
    )
    table = events.EventAccumulator(str(folder))
    table.Reload()
    return {
        tag: ([e.step for e in table.Scalars(tag)], [e.value for e in table.Scalars(tag)])
        for tag in table.Tags()["scalars"]
    }


def test_tensorboard_curves_match_the_outputs_of_the_relu(tmp_path):
    tensorboard = pytest.importorskip(
        "torch.utils.tensorboard", reason="needs tensorboard, of the extra [tensorboard]"
    )
    model, outputs = network(), []
    with torch.no_grad():
        model[1].bias[:2] -= torch.tensor([9.0, 1.0])  # of four channels one is dead, or two
    model[2].register_forward_hook(lambda module, args, y: outputs[-1].append(y.detach().double()))
    with tensorboard.SummaryWriter(tmp_path) as writer:
        tracker = Tracker(model, writer=writer)
        for _ in range(3):
            outputs.append([])
            train(model, 1, tracker)
    table = curves(tmp_path)
    expected = []
    for y in map(torch.cat, outputs):
        dc, active = y.mean(2), (y > 0).double()
        expected.append(
            {
                "dc_out/2#0": dc.mean(),
                "dc_out_std/2#0": dc.std(0, correction=0).mean(),
                "dc_fraction/2#0": dc.square().sum() * y.shape[2] / y.square().sum(),
                "active_fraction/2#0": active.mean(),
                "dead_fraction/2#0": (active.amax((0, 2)) == 0).double().mean(),
            }
        )
    assert table.keys() == expected[0].keys()
    for tag, (steps, values) in table.items():
        assert steps == [1, 2, 3]
        np.testing.assert_allclose(values, [float(e[tag]) for e in expected], rtol=1e-5)
    assert 0 < expected[0]["dead_fraction/2#0"] < 1


class Written(list):
    """A minimal writer."""

    def add_scalar(self, tag, value, step):
        self.append((tag, value, step))


def test_nan_is_not_written():
    class Functional(nn.Module):
        def forward(self, x):
            return torch.relu(x)

    written = Written()
    model = Functional()
    tracker = Tracker(model, writer=written)
    with tracker.epoch():
        model(-torch.ones(2, 3, 8))  # all dead: there is no power of which DC were a fraction
    with tracker.epoch():
        pass
    with pytest.raises(RuntimeError), tracker.epoch():
        model(torch.ones(2, 3, 8))
        raise RuntimeError
    with tracker.epoch():
        model(torch.ones(2, 3, 8))
    assert tracker.epochs == 3
    names = ["dc_out", "dc_out_std", "dc_fraction", "active_fraction", "dead_fraction"]
    dead = zip(names, [0, 0, None, 0, 1], strict=True)
    on = zip(names, [1, 0, 1, 1, 0], strict=True)
    assert written == [(f"{name}//relu#0", v, 1) for name, v in dead if v is not None] + [
        (f"{name}//relu#0", v, 3) for name, v in on
    ]


def test_a_writer_without_add_scalar_is_refused():
    with pytest.raises(TypeError, match="no add_scalar"):
        Tracker(nn.ReLU(), writer="runs/")


def test_sharded_weights_are_followed(tmp_path):
    """FSDP2, whose parameters are DTensors, gives the distances of the same model unsharded."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def train(model):
        tracker = spectroscope.Tracker(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(2):
            with tracker.epoch():
                model(x).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        with tracker.epoch(), torch.no_grad():
            model(x)  # the weights stay gathered
        return tracker.weights()

    torch.manual_seed(0)
    x = torch.randn(2, 1, 16)
    model = nn.Sequential(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU()), nn.Conv1d(2, 2, 3))
    expected = train(copy.deepcopy(model))
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        weights = train(model)
    finally:
        distributed.destroy_process_group()
    pd.testing.assert_frame_equal(weights, expected)
