"""Metrics of `importance`: one score per input, from the outputs and what they are compared with.

Their units and definitions are in :data:`spectroscope.schema.METRICS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.errors import RequestError

# (outputs, outputs of the unchanged model, targets or None) -> one score per input, [N].
Score = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Metric(NamedTuple):
    """A score per input, and how the scores become one number.

    Attributes:
        score: computes the scores, ``[N]``.
        root: the number is the square root of the mean score, not the mean score.
    """

    score: Score
    root: bool = False

    def of(self, scores: Tensor) -> float:
        """The metric over all inputs, from their scores ``[N]``."""
        mean = scores.mean()
        return float(mean.sqrt() if self.root else mean)


def _difference(outputs: Tensor, targets: Tensor | None) -> Tensor:
    """Outputs minus targets, ``[N, ...]``, float64."""
    if targets is None:
        raise RequestError("this metric needs targets: batches of (inputs, targets), or targets=")
    if targets.numel() != outputs.numel():
        raise RequestError(f"outputs are {list(outputs.shape)}, targets {list(targets.shape)}")
    return (
        outputs.double() - targets.to(outputs.device, torch.float64).view(outputs.shape)
    ).flatten(1)


def _mae(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    return _difference(outputs.view(len(outputs), -1), targets).abs().mean(1)


def _squares(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    return _difference(outputs.view(len(outputs), -1), targets).square().mean(1)


def _classes(outputs: Tensor) -> Tensor:
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise RequestError(f"outputs must be [N, classes], not {list(outputs.shape)}")
    largest: Tensor = outputs.argmax(1)
    return largest


def _accuracy(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    classes = _classes(outputs)
    if targets is None or targets.shape != classes.shape or targets.is_floating_point():
        raise RequestError("accuracy needs the class of each input as target, integers [N]")
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
    "mae": Metric(_mae),
    "rmse": Metric(_squares, root=True),
    "accuracy": Metric(_accuracy),
    "agreement": Metric(_agreement),
    "kl": Metric(_kl),
    "relative_l2": Metric(_relative_l2),
}
