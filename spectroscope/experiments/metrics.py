"""How good an output is, or how near to that of the untouched model: one score for each input."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.errors import RequestError

# Outputs, those of the untouched model, and targets (None: there are none) to a score per input.
Score = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Metric(NamedTuple):
    """A score for each input, and how those of many become one number.

    Attributes:
        score: ``[N]``.
        root: the root of their mean, not their mean.
        unit: of the number.
        definition: what it is.
    """

    score: Score
    root: bool
    unit: str
    definition: str

    def of(self, scores: Tensor) -> float:
        """The number for all inputs."""
        mean = scores.mean()
        return float(mean.sqrt() if self.root else mean)


def _difference(outputs: Tensor, targets: Tensor | None) -> Tensor:
    """``[N, …]``, float64."""
    if targets is None:
        raise RequestError("this metric takes targets: batches of (inputs, targets), or targets=")
    if targets.numel() != outputs.numel():
        raise RequestError(f"outputs are {list(outputs.shape)}, targets {list(targets.shape)}")
    return (outputs.double() - targets.to(outputs.device).view(outputs.shape)).flatten(1)


def _mae(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    return _difference(outputs.view(len(outputs), -1), targets).abs().mean(1)


def _squares(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    return _difference(outputs.view(len(outputs), -1), targets).square().mean(1)


def _classes(outputs: Tensor) -> Tensor:
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise RequestError(f"outputs must be [N, classes], found {list(outputs.shape)}")
    largest: Tensor = outputs.argmax(1)
    return largest


def _accuracy(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    classes = _classes(outputs)
    if targets is None or targets.shape != classes.shape or targets.is_floating_point():
        raise RequestError("accuracy takes the class of each input as target, whole numbers [N]")
    return (classes == targets.to(classes.device)).double()


def _agreement(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    return torch.eq(_classes(outputs), _classes(reference)).double()


def _kl(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    _classes(outputs)
    p, q = (x.double().log_softmax(1) for x in (reference, outputs))
    divergence: Tensor = (p.exp() * (p - q)).sum(1)
    return divergence


def _relative_l2(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    x, y = (side.double().flatten(1) for side in (outputs, reference))
    distance: Tensor = (x - y).norm(dim=1) / y.norm(dim=1)
    return distance


METRICS = {
    "mae": Metric(_mae, False, "the targets' unit", "mean absolute error"),
    "rmse": Metric(_squares, True, "the targets' unit", "root of the mean squared error"),
    "accuracy": Metric(
        _accuracy, False, "1", "part of the inputs whose largest output is the target's"
    ),
    "agreement": Metric(
        _agreement, False, "1", "part of the inputs whose largest output is the untouched model's"
    ),
    "kl": Metric(
        _kl, False, "nats", "Kullback-Leibler divergence of the softmax of the outputs from that "
        "of the untouched model's",
    ),
    "relative_l2": Metric(
        _relative_l2, False, "1", "‖output − untouched output‖ / ‖untouched output‖, of each input"
    ),
}  # fmt: skip
