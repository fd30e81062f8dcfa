"""Running sums of the scores of a specimen's outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from spectroscope.errors import RequestError
from spectroscope.run.shards import Batch
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics.run_shard import RunShard

MAX_LABELS = 10


class Scores:
    """Running sums of a specimen's scores, and labels of the first few inputs: a fixed size.

    Args:
        specimen: its `metric` and `labels` are evaluated.
        previous: the part of the run that a resumed run continues.

    Attributes:
        inputs: number of inputs so far.
        labels: lines for those of the first few inputs that are in the shard, by input number.
    """

    def __init__(self, specimen: Specimen, previous: RunShard | None = None):
        self._specimen = specimen
        self._sums: dict[str, Tensor] = {}
        self.inputs = 0
        self.labels: dict[int, str] = {}
        if previous is not None:
            self.inputs = previous.inputs
            self.labels.update(previous.labels)
            self._sums = {
                name: torch.tensor(pair, dtype=torch.float64)
                for name, pair in previous.scores.items()
            }

    def add(self, batch: Batch, output: object) -> None:
        """Add the scores and labels of the model's `output` for `batch`.

        Raises:
            RequestError: the specimen's metric doesn't give one score for each input.
        """
        self.inputs += batch.size
        specimen = self._specimen
        if specimen.metric is None and specimen.labels is None:
            return
        if not isinstance(output, Tensor):
            raise RequestError(
                f"the metric and labels of {specimen.name} take a tensor, but its model returns a "
                f"{type(output).__name__}"
            )
        if specimen.metric is not None:
            targets = batch.targets_of(specimen)
            if targets is not None:
                targets = targets.to(output.device)
            for name, scores in specimen.metric(output, targets).items():
                self._add(name, scores, batch.size)
        if specimen.labels is not None and batch.first < MAX_LABELS:
            lines = specimen.labels(output[: MAX_LABELS - batch.first], batch.first)
            self.labels.update(enumerate(lines, start=batch.first))

    def sums(self) -> dict[str, tuple[float, int]]:
        """By name, the sum over inputs and the number of inputs in it."""
        pairs = {name: pair.tolist() for name, pair in self._sums.items()}
        return {name: (total, int(count)) for name, (total, count) in pairs.items()}

    def _add(self, name: str, scores: Tensor, inputs: int) -> None:
        if not isinstance(scores, Tensor) or scores.shape != (inputs,):
            got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise RequestError(
                f"the metric of {self._specimen.name} must give one score for each of {inputs} "
                f"inputs, but {name!r} is {got}"
            )
        counted = ~scores.isnan()
        # Sum and count stay on the GPU, so that nothing waits for it.
        new = torch.stack([scores.double().where(counted, 0).sum(), counted.sum().double()])
        old = self._sums.get(name)
        self._sums[name] = new if old is None else old.to(new.device) + new


def means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """The mean of each score; ``{n}`` in a name becomes its number of inputs."""
    return {
        name.replace("{n}", str(count)): total / count if count else float("nan")
        for name, (total, count) in sums.items()
    }
