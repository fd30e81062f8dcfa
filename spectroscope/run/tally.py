"""Scores of a specimen's outputs as they come: running sums, and lines on the first few inputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from spectroscope.errors import RequestError
from spectroscope.run.shards import Batch
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics.run_shard import RunShard

MOST_LABELS = 10


class Tally:
    """What is kept of the outputs: a fixed size, however many come.

    Args:
        specimen: whose outputs.
        before: what was kept of those that came before, if any did.

    Attributes:
        inputs: number of inputs so far.
        labels: lines on those of the first few inputs that came, by number.
    """

    def __init__(self, specimen: Specimen, before: RunShard | None = None):
        self._specimen = specimen
        self._sums: dict[str, Tensor] = {}
        self.inputs = 0
        self.labels: dict[int, str] = {}
        if before is not None:
            self.inputs = before.inputs
            self.labels.update(before.labels)
            self._sums = {
                name: torch.tensor(pair, dtype=torch.float64)
                for name, pair in before.scores.items()
            }

    def add(self, batch: Batch, output: object) -> None:
        """Take in what the model made of `batch`.

        Raises:
            RequestError: the specimen's metric doesn't give one score for each input.
        """
        self.inputs += batch.size
        specimen = self._specimen
        if specimen.metric is None and specimen.labels is None:
            return
        if not isinstance(output, Tensor):
            raise RequestError(
                f"{specimen.name} has a metric or labels, which take a tensor, and its model "
                f"returns a {type(output).__name__}"
            )
        if specimen.metric is not None:
            targets = batch.targets
            if targets is None and specimen.targets is not None:
                targets = batch.its(specimen.targets, "targets")
            if targets is not None:
                targets = targets.to(output.device)
            for name, scores in specimen.metric(output, targets).items():
                self._score(name, scores, batch.size)
        if specimen.labels is not None and batch.first < MOST_LABELS:
            lines = specimen.labels(output[: MOST_LABELS - batch.first], batch.first)
            self.labels.update(enumerate(lines, start=batch.first))

    def scores(self) -> dict[str, tuple[float, int]]:
        """By name, the sum and the number of inputs in it."""
        found = {name: pair.tolist() for name, pair in self._sums.items()}
        return {name: (total, int(count)) for name, (total, count) in found.items()}

    def _score(self, name: str, scores: Tensor, inputs: int) -> None:
        if not isinstance(scores, Tensor) or scores.shape != (inputs,):
            what = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise RequestError(
                f"the metric of {self._specimen.name} must give one score for each of {inputs} "
                f"inputs, and {name!r} is {what}"
            )
        counted = ~scores.isnan()
        # On a GPU it isn't waited for.
        new = torch.stack([scores.double().where(counted, 0).sum(), counted.sum().double()])
        old = self._sums.get(name)
        self._sums[name] = new if old is None else old.to(new.device) + new


def means(scores: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """The mean of each score, with the number of inputs for ``{n}`` in its name."""
    return {
        name.replace("{n}", str(count)): total / count if count else float("nan")
        for name, (total, count) in scores.items()
    }
