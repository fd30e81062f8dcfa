"""Fig. 4 of Kechris et al. (arXiv 2407.16556): what a network learns with and without DC.

    python examples/figure4.py [--repetitions 10] [--device cuda] [--out figure4/] [--quick]

Three classes of cosines, 3, 5 and 10 Hz ± 0.1, and three networks of two causal convolutions (32
filters, no bias), the mean over time, a dense layer of 32 with ReLU, and a dense layer of 3. Each
convolution is followed by a ReLU; or by nothing ("linear", although the dense layer keeps its
ReLU); or by nothing, with a different DC added to the inputs of each class. `figure4.png` shows the
training loss, the spread over the classes of the DC before the mean over time, and the distance of
each convolution's weights from their initial values. `figure4.csv` has the same for each epoch.

8 s do not contain whole periods of these cosines, and zeros precede them. A linear network
therefore receives a little DC, and learns from it, because Adam's steps do not depend on the size
of the gradient. A fourth network, also linear, is added: its cosines fade in and out and have
no DC except for rounding. Phases are 0, as in the paper. With random phases the ReLU network learns
as fast and the linear one more slowly: its loss after 60 epochs is 0.36 (mean of 4 repetitions)
instead of 0.005.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import figures
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn
from tqdm import tqdm

import spectroscope
from spectroscope.training.tracker import Tracker

FILTERS, KERNEL = 32, 3
RATE, SAMPLES = 32.0, 256  # Hz; 8 s
FREQUENCIES, SPREAD = (3.0, 5.0, 10.0), 0.1  # Hz
DC = tuple(a * math.sqrt(2) / 4 for a in (1, 5, 19))  # leading term of the DC of amplitudes a
REPETITIONS = 10


class Size(NamedTuple):
    """Number of inputs per class, batch size, and number of epochs."""

    inputs: int
    batch: int
    epochs: int


FULL = Size(inputs=1024, batch=64, epochs=60)
QUICK_REPETITIONS, QUICK = 2, Size(inputs=256, batch=16, epochs=2)


class Kind(NamedTuple):
    """Module after each convolution; add a DC to the inputs or not; fade them in and out or not."""

    activation: type[nn.Module]
    dc: bool = False
    tapered: bool = False


NETWORKS = {
    "ReLU": Kind(nn.ReLU),
    "linear": Kind(nn.Identity),
    "linear, DC added": Kind(nn.Identity, dc=True),
    "linear, no DC left": Kind(nn.Identity, tapered=True),  # not in the paper
}
QUANTITIES = {
    "loss": "training loss",
    "dc": "DC before the mean over time:\nstandard deviation over classes",
    "conv1": "first convolution's weights:\ndistance from the initial ones",
    "conv2": "second convolution's weights:\ndistance from the initial ones",
}


def main(argv: list[str] | None = None) -> int:
    """Write the figure and the table, print a summary, and return the exit status."""
    quick = f"{QUICK_REPETITIONS} repetitions, {QUICK.epochs} epochs, fewer inputs: only a check"
    parser = figures.parser("figure4", __doc__, quick)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N",
                        help=f"default: {REPETITIONS}")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="default: cpu")
    return figures.run(parser, make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """Train all networks."""
    repetitions, size = arguments.repetitions, FULL
    if arguments.quick:
        repetitions, size = QUICK_REPETITIONS, QUICK
    if repetitions < 1:
        raise spectroscope.RequestError(f"{repetitions=} must be 1 or more")
    try:
        device = torch.zeros(1, device=arguments.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise spectroscope.RequestError(f"no device {arguments.device!r}: {reason}") from error
    start = time.perf_counter()
    values = pd.concat(
        trained(name, repetitions, size, device).assign(network=name) for name in NETWORKS
    )
    seconds = time.perf_counter() - start
    groups = values.groupby(["network", "epoch", "quantity"], sort=False)["value"]
    table = groups.agg(["mean", "std", "min", "max", "count"]).reset_index()
    table = table.rename(columns={"count": "repetitions"})
    text = (
        f"{summary(table)}\n\n{repetitions} repetitions of {len(NETWORKS)} networks, "
        f"{size.epochs} epochs each, in {seconds:.0f} s on {device.type}"
    )
    return figures.Result(table, draw(table), text)


class Networks(nn.Module):
    """Networks of one kind in parallel. The first axis of every parameter is the repetition.

    They are independent of each other: groups of a convolution, and matrices of a batch.

    Args:
        repetitions: number of networks.
        activation: class of the module after each convolution.
        generator: generates the initial weights, Glorot uniform as in Keras; biases are 0.
    """

    def __init__(self, repetitions: int, activation: type[nn.Module], generator: Generator):
        super().__init__()

        def glorot(*shape: int) -> nn.Parameter:
            weights = torch.empty(repetitions, *shape, device=generator.device)
            for weight in weights:
                nn.init.xavier_uniform_(weight, generator=generator)
            return nn.Parameter(weights)

        def zeros(size: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(repetitions, 1, size, device=generator.device))

        self.conv1, self.activation1 = glorot(FILTERS, 1, KERNEL), activation()
        self.conv2, self.activation2 = glorot(FILTERS, FILTERS, KERNEL), activation()
        self.dense1, self.bias1, self.relu = glorot(FILTERS, FILTERS), zeros(FILTERS), nn.ReLU()
        self.dense2, self.bias2 = glorot(FILTERS, len(FREQUENCIES)), zeros(len(FREQUENCIES))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[R, N, classes]`` of inputs ``[N, R, T]``, independent in each repetition."""
        repetitions = x.shape[1]
        for weights, activation in (
            (self.conv1, self.activation1),
            (self.conv2, self.activation2),
        ):
            padded = F.pad(x, (KERNEL - 1, 0))
            x = activation(F.conv1d(padded, weights.flatten(0, 1), groups=repetitions))
        x = x.mean(-1).view(len(x), repetitions, FILTERS).transpose(0, 1)
        x = self.relu(torch.baddbmm(self.bias1, x, self.dense1))
        return torch.baddbmm(self.bias2, x, self.dense2)

    def convolutions(self) -> Iterator[tuple[str, Tensor]]:
        """Name, such as ``conv1/0``, and weights of the convolutions of each repetition."""
        for name in ("conv1", "conv2"):
            for repetition, weight in enumerate(getattr(self, name).detach()):
                yield f"{name}/{repetition}", weight


def trained(name: str, repetitions: int, size: Size, device: torch.device) -> pd.DataFrame:
    """Train one kind of network: columns quantity, repetition, epoch, value.

    All kinds start from the same weights and are trained on the same cosines in the same order.
    """
    kind, generator = NETWORKS[name], Generator(device).manual_seed(0)
    networks = Networks(repetitions, kind.activation, generator)
    labels = torch.arange(len(FREQUENCIES), device=device)
    probe = cosines(labels.expand(repetitions, -1), None, kind)  # exactly 3, 5 and 10 Hz
    labels = labels.repeat_interleave(size.inputs).expand(repetitions, -1)
    inputs = cosines(labels, generator, kind)
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3, eps=1e-7)  # Keras's
    # nn.Identity is not a rectifier, but recorded like one it gives the DC at that place.
    tracker = Tracker(
        networks, weights=networks.convolutions(), select="activation2", kinds=[nn.Identity]
    )
    for _ in tqdm(range(size.epochs), desc=name, unit="epoch"):
        losses = train(networks, optimizer, inputs, labels, generator, size.batch)
        with tracker.epoch() as numbers, torch.no_grad():
            networks(probe.transpose(0, 1))
            numbers.update({f"loss/{number}": loss for number, loss in enumerate(losses)})
    return values(tracker)


def cosines(labels: Tensor, generator: Generator | None, kind: Kind) -> Tensor:
    """Inputs ``[R, N, T]`` of the classes `labels` ``[R, N]``; ± 0.1 Hz if `generator` is given.

    The taper is a cubed Hann window of mean 1. The DC of a tapered cosine above 2.9 Hz is 2·10⁻⁹.
    """
    # float64, because cosines rounded to float32 have a DC of up to 10⁻⁶.
    frequency = labels.new_tensor(FREQUENCIES, dtype=torch.float64)[labels]
    if generator is not None:
        uniform = torch.rand(labels.shape, generator=generator, device=labels.device)
        frequency += SPREAD * (2 * uniform - 1)
    seconds = torch.arange(SAMPLES, device=labels.device) / RATE
    inputs = torch.cos(2 * torch.pi * frequency.unsqueeze(-1) * seconds)
    if kind.tapered:
        hann = torch.hann_window(SAMPLES, dtype=torch.float64, device=labels.device)
        inputs *= hann**3 * (16 / 5)
    if kind.dc:
        inputs += labels.new_tensor(DC, dtype=torch.float64)[labels].unsqueeze(-1)
    return inputs.float()


def train(
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    labels: Tensor,
    generator: Generator,
    batch_size: int = FULL.batch,
) -> Tensor:
    """Train one epoch, each repetition in its own order; return their mean losses, ``[R]``.

    The sum of the losses is differentiated. Each weight affects only one of them and Adam updates
    weights independently, so each repetition trains as if alone.
    """
    number = torch.arange(len(labels), device=labels.device).unsqueeze(1)
    order = torch.rand(labels.shape, generator=generator, device=labels.device).argsort(1)
    batches = torch.split(order, batch_size, 1)
    total = torch.zeros(len(labels), device=labels.device)
    for batch in batches:
        optimizer.zero_grad()
        scores = networks(inputs[number, batch].transpose(0, 1))
        targets = labels.gather(1, batch)
        losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
        losses = losses.view_as(batch).mean(1)
        torch.autograd.backward(losses.sum())
        optimizer.step()
        total += losses.detach()
    return total / len(batches)


def values(tracker: Tracker) -> pd.DataFrame:
    """Values from the tracker: columns quantity, repetition, epoch, value."""
    losses = tracker.numbers().melt("epoch", var_name="name")
    weights = tracker.weights().rename(columns={"parameter": "name", "distance": "value"})
    named = pd.concat([losses, weights[["epoch", "name", "value"]]])
    named[["quantity", "repetition"]] = named.pop("name").str.split("/", expand=True)
    dc = tracker.dc()
    dc["repetition"] = dc["channel"] // FILTERS
    spread = dc["dc_out_std"].pow(2).groupby([dc["epoch"], dc["repetition"]]).mean().pow(0.5)
    return pd.concat([named, spread.rename("value").reset_index().assign(quantity="dc")])


def summary(table: pd.DataFrame) -> str:
    """Statements of the paper, each followed by our result."""
    end = table["epoch"].max()
    rows = table.set_index(["quantity", "network", "epoch"])
    loss, dc, conv1, conv2 = (
        {network: rows.loc[(quantity, network, end)] for network in NETWORKS}
        for quantity in QUANTITIES
    )

    def learned(network: str) -> str:
        row = loss[network]
        return f"loss {row['mean']:.4g} ({row['min']:.4g} to {row['max']:.4g})"

    def moved(network: str) -> str:
        return f"{conv1[network]['mean']:.2g} and {conv2[network]['mean']:.2g}"

    first = rows.loc[("dc", "linear", 1), "mean"]
    return figures.compared(
        (
            "a network with ReLUs learns the classes.",
            f"{learned('ReLU')} after {end} epochs; chance is log 3 = {math.log(3):.4f}. "
            f"The weights of the two convolutions end {moved('ReLU')} from their initial values.",
        ),
        (
            "a linear network before a mean over time can't distinguish zero-mean inputs.",
            f"true if no DC is left: {learned('linear, no DC left')}, weights "
            f"{moved('linear, no DC left')} from their initial values. But plain cosines leave a "
            f"little DC before the mean over time ({first:.1g} after one epoch, "
            f"{dc['linear']['mean']:.1g} at the end): {learned('linear')}, weights "
            f"{moved('linear')} from their initial values.",
        ),
        (
            "with a DC added, a linear network learns, and its weights stay near the initial ones.",
            f"{learned('linear, DC added')}, weights {moved('linear, DC added')} from their "
            "initial values.",
        ),
    )


def draw(table: pd.DataFrame) -> Figure:
    """Mean and range over repetitions, by epoch."""
    colors = dict(zip(NETWORKS, [*sns.color_palette("colorblind")[:3], "0.15"], strict=True))
    dashes = dict(zip(NETWORKS, ("-", "--", "-.", ":"), strict=True))
    with sns.axes_style("ticks"), sns.plotting_context("notebook"):
        figure = Figure(figsize=(11, 7.4), layout="constrained")
        grid: Any = figure.subplots(2, 2, sharex=True)
        for axes, (quantity, label) in zip(grid.flat, QUANTITIES.items(), strict=True):
            for network, color in colors.items():
                selected = (table["quantity"] == quantity) & (table["network"] == network)
                rows = table[selected].sort_values("epoch")
                axes.fill_between(rows["epoch"], rows["min"], rows["max"], color=color,
                                  alpha=0.25, lw=0)  # fmt: skip
                axes.plot(rows["epoch"], rows["mean"], dashes[network], color=color, lw=2,
                          label=network)  # fmt: skip
            if quantity in ("loss", "dc"):
                axes.set_yscale("log")
            axes.set_title(label, fontsize="medium", loc="left")
            sns.despine(ax=axes)
        loss, dc, *weights = grid.flat
        loss.axhline(math.log(3), color="0.6", lw=1, label="chance: log 3")
        loss.set_ylabel("cross-entropy (nats)")
        dc.set_ylabel("DC (activation)")
        for axes in weights:
            axes.set(xlabel="epoch", ylabel="Euclidean distance", ylim=(0, None))
        handles = loss.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False)
    repetitions = table["repetitions"].max()
    figure.suptitle(f"Cosines of 3, 5 and 10 Hz: mean and range of {repetitions} repetitions")
    return figure


if __name__ == "__main__":
    sys.exit(main())
