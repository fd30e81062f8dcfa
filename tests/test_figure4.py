"""Fig. 4: networks in parallel train as if alone; values of the tracker against NumPy."""

import figure4
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spectroscope.training.tracker import Tracker


def generator():
    return torch.Generator().manual_seed(3)


def alone(networks, repetition, activation):
    """A network of torch's own layers with the weights of one repetition."""
    conv1, conv2 = (nn.Conv1d(c, 32, 3, bias=False, dtype=torch.float64) for c in (1, 32))
    dense1, dense2 = (nn.Linear(32, n, dtype=torch.float64) for n in (32, 3))
    with torch.no_grad():
        conv1.weight.copy_(networks.conv1[repetition])
        conv2.weight.copy_(networks.conv2[repetition])
        dense1.weight.copy_(networks.dense1[repetition].T)
        dense2.weight.copy_(networks.dense2[repetition].T)
        dense1.bias.zero_()
        dense2.bias.zero_()
    return nn.Sequential(
        nn.ConstantPad1d((2, 0), 0.0), conv1, activation(),
        nn.ConstantPad1d((2, 0), 0.0), conv2, activation(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), dense1, nn.ReLU(), dense2,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ReLU", "linear, DC added"])
def test_side_by_side_is_as_if_alone(name):
    kind = figure4.NETWORKS[name]
    networks = figure4.Networks(3, kind.activation, generator()).double()
    singles = [alone(networks, r, kind.activation) for r in range(3)]
    start = [[m[1].weight.detach().clone(), m[4].weight.detach().clone()] for m in singles]
    labels = torch.arange(3).repeat_interleave(64).expand(3, -1)
    inputs = figure4.cosines(labels, generator(), kind).double()
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3, eps=1e-7)
    tracker = Tracker(networks, weights=networks.convolutions())
    random, again = generator(), generator()
    for _ in range(2):
        losses = figure4.train(networks, optimizer, inputs, labels, random)
        with tracker.epoch() as numbers:
            numbers.update({f"loss/{r}": loss for r, loss in enumerate(losses)})
    orders = [torch.rand(3, 192, generator=again).argsort(1) for _ in range(2)]
    tables = tracker.numbers(), tracker.weights().set_index(["epoch", "parameter"])["distance"]
    for r, (single, before) in enumerate(zip(singles, start, strict=True)):
        optimizer = torch.optim.Adam(single.parameters(), lr=1e-3, eps=1e-7)
        for epoch, order in enumerate(orders, 1):
            losses = []
            for batch in order[r].split(64):
                optimizer.zero_grad()
                loss = F.cross_entropy(single(inputs[r, batch].unsqueeze(1)), labels[r, batch])
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            tracked = tables[0].set_index("epoch")[f"loss/{r}"][epoch]
            np.testing.assert_allclose(tracked, np.mean(losses), rtol=1e-6)
            for number, layer in enumerate((1, 4)):
                now = single[layer].weight.detach()
                distance = np.linalg.norm(now - before[number])
                tracked = tables[1][epoch, f"conv{number + 1}/{r}"]
                np.testing.assert_allclose(tracked, distance, rtol=1e-7)
        expected = dict(single.named_parameters())
        for name, parameter in (
            ("conv1", expected["1.weight"]), ("conv2", expected["4.weight"]),
            ("dense1", expected["8.weight"].T), ("bias1", expected["8.bias"]),
            ("dense2", expected["10.weight"].T), ("bias2", expected["10.bias"]),
        ):  # fmt: skip
            trained = getattr(networks, name)[r].detach().view_as(parameter)
            torch.testing.assert_close(trained, parameter.detach(), rtol=1e-8, atol=1e-10)
    assert (
        len({tuple(order[:9].tolist()) for order in orders[0]}) == 3
    )  # a different order for each


def test_initial_weights_are_glorots():
    networks = figure4.Networks(20, nn.ReLU, generator())
    for name, inputs, outputs in (
        ("conv1", 3, 96), ("conv2", 96, 96), ("dense1", 32, 32), ("dense2", 32, 3),
    ):  # fmt: skip
        weights = getattr(networks, name).detach()
        limit = (6 / (inputs + outputs)) ** 0.5
        assert 0.98 * limit < weights.abs().max() <= limit
        assert weights.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
        assert len(weights.flatten(1).unique(dim=0)) == 20
    assert not networks.bias1.any()
    assert not networks.bias2.any()


def test_inputs_are_cosines_of_their_class():
    labels = torch.arange(3).repeat_interleave(200).expand(2, -1)
    plain, raised, tapered = (
        figure4.cosines(labels, generator(), figure4.NETWORKS[name])
        for name in ("ReLU", "linear, DC added", "linear, no DC left")
    )
    assert plain.shape == (2, 600, 256)
    assert plain[..., 0].eq(1).all()
    # x[t − 1] + x[t + 1] = 2·cos(2πf/fs)·x[t], and x[0] is 1
    x = plain.double().numpy()
    frequency = np.arccos((x[..., 0] + x[..., 2]) / (2 * x[..., 1])) * 32 / (2 * np.pi)
    off = frequency - np.array([3, 5, 10])[labels]
    assert 0.09 < np.abs(off).max() < 0.1001
    assert np.abs(off.mean()) < 0.01
    assert np.unique(off.round(4)).size > 500  # different frequencies
    seconds = np.arange(256) / 32
    np.testing.assert_allclose(x, np.cos(2 * np.pi * frequency[..., None] * seconds), atol=2e-3)
    dc = np.moveaxis((raised - plain).double().numpy(), -1, 0)
    expected = np.array([1, 5, 19]) * 2**0.5 / 4
    np.testing.assert_allclose(dc, np.stack([expected[labels]] * 256), rtol=1e-5)
    assert tapered.double().mean(-1).abs().max() < 1e-8
    ratio = tapered.double().numpy() / x
    sound = np.abs(x) > 0.1
    expected = np.broadcast_to(16 / 5 * np.sin(np.pi * seconds / 8) ** 6, x.shape)
    np.testing.assert_allclose(ratio[sound], expected[sound], rtol=1e-5, atol=1e-7)
    probe = figure4.cosines(torch.arange(3).expand(2, -1), None, figure4.NETWORKS["ReLU"])
    pure = np.cos(2 * np.pi * np.array([3, 5, 10])[:, None] * seconds)
    np.testing.assert_allclose(probe, np.stack([pure, pure]), atol=1e-4)


@pytest.mark.parametrize("name", figure4.NETWORKS)
def test_dc_is_what_numpy_convolves(name):
    kind = figure4.NETWORKS[name]
    networks = figure4.Networks(2, kind.activation, generator())
    probe = figure4.cosines(torch.arange(3).expand(2, -1), None, kind)
    tracker = Tracker(networks, weights=networks.convolutions(), select="activation2",
                      kinds=[nn.Identity])  # fmt: skip
    with tracker.epoch() as numbers, torch.no_grad():
        networks(probe.transpose(0, 1))
        numbers["loss/0"] = numbers["loss/1"] = 0
    table = figure4.values(tracker).set_index(["quantity", "repetition", "epoch"])["value"]
    rectify = (lambda x: np.maximum(x, 0)) if name == "ReLU" else (lambda x: x)
    for r in range(2):
        dcs = []
        for signal in probe[r].double().numpy():
            x = [signal]
            for kernels in (networks.conv1[r], networks.conv2[r]):
                # torch correlates, so the kernel is reversed; the signal is preceded by zeros.
                kernels = kernels.detach().double().numpy()[..., ::-1]
                x = [rectify(sum(np.convolve(a, k)[:256] for a, k in zip(x, row, strict=True)))
                     for row in kernels]  # fmt: skip
            dcs.append(np.mean(x, axis=1))
        expected = np.sqrt(np.mean(np.var(dcs, axis=0)))
        np.testing.assert_allclose(table["dc", r, 1], expected, rtol=1e-3, atol=1e-7)


def test_the_example_writes_figure_and_table(tmp_path, capsys):
    assert figure4.main(["--quick", "--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"figure4.csv", "figure4.png"}
    assert "2 repetitions of 4 networks, 2 epochs each, in " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "figure4.csv")
    assert table.columns.tolist() == ["network", "epoch", "quantity", "mean", "std", "min", "max",
                                      "repetitions"]  # fmt: skip
    assert table["repetitions"].eq(2).all()
    assert set(table["network"]) == set(figure4.NETWORKS)
    assert not table.isna().any(axis=None)
    assert (table["min"] < table["max"])[table["epoch"] > 0].all()
    loss = table[table["quantity"] == "loss"].pivot(index="epoch", columns="network", values="mean")
    assert loss.index.tolist() == [1, 2]
    assert 1.05 < loss["linear"][2] < np.log(3)
    assert loss["linear, no DC left"][2] == pytest.approx(np.log(3), abs=1e-3)
    assert loss["ReLU"][2] < 0.7
    assert loss["linear, DC added"][2] < 0.85
    at_start = table[(table["epoch"] == 0)]
    assert set(at_start["quantity"]) == {"conv1", "conv2"}
    assert at_start["max"].eq(0).all()


def test_the_example_says_what_is_wrong(tmp_path, capsys):
    for arguments, message in (
        (["--repetitions", "0"], "repetitions=0 must be 1 or more"),
        (["--device", "nowhere"], "no device 'nowhere'"),
    ):
        assert figure4.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        assert f"figure4: {message}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
