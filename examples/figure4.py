"""Fig. 4 of Kechris et al. (arXiv 2407.16556): what a network learns that is given DC, or isn't.

    python examples/figure4.py [--repetitions 10] [--device cuda] [--out figure4/] [--quick]

Three classes of cosines, 3, 5 and 10 Hz ± 0.1, and three networks: two causal convolutions of 32
filters without bias, the mean over time, a dense layer of 32 with ReLU, a dense layer of 3. After
each convolution comes a ReLU; or nothing ("linear", though the dense layer keeps its ReLU); or
nothing, and to the inputs a DC is added, another for each class. `figure4.png`: training loss, how
far the DCs before the mean over time are apart, and the distance of each convolution's weights from
where they began. `figure4.csv`: the same, epoch by epoch.

8 s don't hold whole periods of such cosines, and before them are zeros: a linear network finds a
little DC there, and Adam, to whom small gradients are as good as large ones, makes much of it. So
we add a fourth, linear too, whose cosines fade in and out and have no DC but for rounding. Phases
are 0, as in the paper. With random ones ReLU learns as fast, and linear more slowly: its loss is
0.36 after 60 epochs (mean of 4 repetitions) in place of 0.005.
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
DC = tuple(a * math.sqrt(2) / 4 for a in (1, 5, 19))  # the leading term for such amplitudes
INPUTS, BATCH, EPOCHS = 1024, 64, 60  # inputs: of each class
QUICK_REPETITIONS, QUICK_EPOCHS = 2, 2


class Kind(NamedTuple):
    """What follows the convolutions; whether a DC is added to the inputs, and if they fade."""

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
    """Write the figure and the table, and print what they say; the exit status."""
    quick = f"{QUICK_REPETITIONS} repetitions, {QUICK_EPOCHS} epochs: no more than a beginning"
    parser = figures.parser("figure4", __doc__, quick)
    parser.add_argument("--repetitions", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--device", default="cpu", help="default: cpu")
    return figures.run(parser, make, argv)


def make(arguments: argparse.Namespace) -> figures.Result:
    """All networks, trained."""
    repetitions, epochs = arguments.repetitions, EPOCHS
    if arguments.quick:
        repetitions, epochs = QUICK_REPETITIONS, QUICK_EPOCHS
    if repetitions < 1:
        raise spectroscope.RequestError(f"{repetitions=} must be 1 or more")
    try:
        device = torch.zeros(1, device=arguments.device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise spectroscope.RequestError(f"no device {arguments.device!r}: {reason}") from error
    start = time.perf_counter()
    values = pd.concat(
        trained(name, repetitions, epochs, device).assign(network=name) for name in NETWORKS
    )
    seconds = time.perf_counter() - start
    groups = values.groupby(["network", "epoch", "quantity"], sort=False)["value"]
    table = groups.agg(["mean", "std", "min", "max", "count"]).reset_index()
    table = table.rename(columns={"count": "repetitions"})
    text = (
        f"{summary(table)}\n\n{repetitions} repetitions of {len(NETWORKS)} networks, "
        f"{epochs} epochs each, in {seconds:.0f} s on {device.type}"
    )
    return figures.Result(table, draw(table), text)


class Networks(nn.Module):
    """Networks of one kind side by side, one a repetition, which is every parameter's first axis.

    None sees anything of another: they are groups of a convolution, and matrices of a batch.

    Args:
        repetitions: how many.
        activation: what follows the convolutions.
        generator: of the initial weights, Glorot's uniform ones as Keras has them; biases are 0.
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
        """From inputs ``[N, R, T]``, to each repetition its own, to scores ``[R, N, classes]``."""
        repetitions = x.shape[1]
        for weights, activation in (
            (self.conv1, self.activation1),
            (self.conv2, self.activation2),
        ):
            before = F.pad(x, (KERNEL - 1, 0))
            x = activation(F.conv1d(before, weights.flatten(0, 1), groups=repetitions))
        x = x.mean(-1).view(len(x), repetitions, FILTERS).transpose(0, 1)
        x = self.relu(torch.baddbmm(self.bias1, x, self.dense1))
        return torch.baddbmm(self.bias2, x, self.dense2)

    def convolutions(self) -> Iterator[tuple[str, Tensor]]:
        """The convolutions' weights of each repetition, as ``conv1/0``."""
        for name in ("conv1", "conv2"):
            for repetition, weight in enumerate(getattr(self, name).detach()):
                yield f"{name}/{repetition}", weight


def trained(name: str, repetitions: int, epochs: int, device: torch.device) -> pd.DataFrame:
    """One kind of network, trained: columns quantity, repetition, epoch, value.

    All kinds begin at the same weights, and see the same cosines in the same order.
    """
    kind, generator = NETWORKS[name], Generator(device).manual_seed(0)
    networks = Networks(repetitions, kind.activation, generator)
    labels = torch.arange(len(FREQUENCIES), device=device)
    probe = cosines(labels.expand(repetitions, -1), None, kind)  # each class's own
    labels = labels.repeat_interleave(INPUTS).expand(repetitions, -1)
    inputs = cosines(labels, generator, kind)
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3, eps=1e-7)  # Keras's
    # nn.Identity rectifies nothing; recorded like a ReLU, it tells the DC there all the same.
    tracker = Tracker(
        networks, weights=networks.convolutions(), select="activation2", kinds=[nn.Identity]
    )
    for _ in tqdm(range(epochs), desc=name, unit="epoch"):
        losses = train(networks, optimizer, inputs, labels, generator)
        with tracker.epoch() as numbers, torch.no_grad():
            networks(probe.transpose(0, 1))
            numbers.update({f"loss/{number}": loss for number, loss in enumerate(losses)})
    return values(tracker)


def cosines(labels: Tensor, generator: Generator | None, kind: Kind) -> Tensor:
    """Inputs ``[R, N, T]`` of the classes `labels` ``[R, N]``; no generator: none of the ± 0.1 Hz.

    The taper is Hann's window, cubed, of mean 1: of a cosine above 2.9 Hz it leaves 2·10⁻⁹ of DC.
    """
    # In float32 the cosines themselves would round to as much as 10⁻⁶ of DC.
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
) -> Tensor:
    """One epoch, in an order for each repetition; the mean of each one's loss, ``[R]``.

    The sum of the losses is differentiated: no weight is in two of them, and Adam goes weight by
    weight, so that each repetition trains as if alone.
    """
    number = torch.arange(len(labels), device=labels.device).unsqueeze(1)
    order = torch.rand(labels.shape, generator=generator, device=labels.device).argsort(1)
    batches = torch.split(order, BATCH, 1)
    total = torch.zeros(len(labels), device=labels.device)
    for batch in batches:
        optimizer.zero_grad()
        scores = networks(inputs[number, batch].transpose(0, 1))
        wanted = labels.gather(1, batch)
        losses = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none")
        losses = losses.view_as(batch).mean(1)
        torch.autograd.backward(losses.sum())
        optimizer.step()
        total += losses.detach()
    return total / len(batches)


def values(tracker: Tracker) -> pd.DataFrame:
    """What the tracker kept, of each repetition: columns quantity, repetition, epoch, value."""
    losses = tracker.numbers().melt("epoch", var_name="name")
    weights = tracker.weights().rename(columns={"parameter": "name", "distance": "value"})
    named = pd.concat([losses, weights[["epoch", "name", "value"]]])
    named[["quantity", "repetition"]] = named.pop("name").str.split("/", expand=True)
    dc = tracker.dc()
    dc["repetition"] = dc["channel"] // FILTERS
    spread = dc["dc_out_std"].pow(2).groupby([dc["epoch"], dc["repetition"]]).mean().pow(0.5)
    return pd.concat([named, spread.rename("value").reset_index().assign(quantity="dc")])


def summary(table: pd.DataFrame) -> str:
    """What the paper says, and what came out."""
    end = table["epoch"].max()
    rows = table.set_index(["quantity", "network", "epoch"])
    loss, dc, conv1, conv2 = (
        {network: rows.loc[(quantity, network, end)] for network in NETWORKS}
        for quantity in QUANTITIES
    )

    def learned(network: str) -> str:
        row = loss[network]
        return f"loss {row['mean']:.4g} ({row['min']:.4g} to {row['max']:.4g})"

    def went(network: str) -> str:
        return f"{conv1[network]['mean']:.2g} and {conv2[network]['mean']:.2g}"

    first = rows.loc[("dc", "linear", 1), "mean"]
    return figures.beside(
        (
            "with ReLU a network learns the classes.",
            f"{learned('ReLU')} after {end} epochs; chance is log 3 = {math.log(3):.4f}. "
            f"The convolutions' weights end {went('ReLU')} away from where they began.",
        ),
        (
            "a linear network before a mean over time can't tell zero-mean inputs apart.",
            f"where no DC is left, {learned('linear, no DC left')}, weights "
            f"{went('linear, no DC left')} away. But plain cosines leave a little (before the mean "
            f"over time {first:.1g} after one epoch, {dc['linear']['mean']:.1g} at the end): "
            f"{learned('linear')}, weights {went('linear')} away.",
        ),
        (
            "given a DC a linear network learns, and its weights stay near where they began.",
            f"{learned('linear, DC added')}, weights {went('linear, DC added')} away.",
        ),
    )


def draw(table: pd.DataFrame) -> Figure:
    """Mean over repetitions, epoch by epoch, in the band of their range."""
    colors = dict(zip(NETWORKS, [*sns.color_palette("colorblind")[:3], "0.15"], strict=True))
    dashes = dict(zip(NETWORKS, ("-", "--", "-.", ":"), strict=True))
    with sns.axes_style("ticks"), sns.plotting_context("notebook"):
        figure = Figure(figsize=(11, 7.4), layout="constrained")
        grid: Any = figure.subplots(2, 2, sharex=True)
        for axes, (quantity, label) in zip(grid.flat, QUANTITIES.items(), strict=True):
            for network, color in colors.items():
                is_shown = (table["quantity"] == quantity) & (table["network"] == network)
                rows = table[is_shown].sort_values("epoch")
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
