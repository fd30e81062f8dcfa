"""`RunShard`: which shards of which run a recording has, and the run's scores."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spectroscope.errors import RequestError

# Entries of a fingerprint that identify the model.
MODEL = ("model", "layers", "parameters and buffers")


@dataclass(frozen=True)
class RunShard:
    """What is needed to merge a recording with others of the same run.

    Attributes:
        fingerprint: identifies the run, by name: hashes of the model and of the first batch,
            options, versions. Recordings that differ in any of them are of different runs.
        shards: numbers of the shards included, ascending, from 1.
        of: number of shards of the run.
        inputs: number of inputs that were run.
        scores: by name of the metric: sum over inputs, and number of inputs in it.
        labels: text lines on the first few inputs, by number of the input, from 0.
    """

    fingerprint: Mapping[str, str]
    shards: tuple[int, ...]
    of: int
    inputs: int
    scores: Mapping[str, tuple[float, int]]
    labels: Mapping[int, str]

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the shards of the run that aren't included."""
        return tuple(n for n in range(1, self.of + 1) if n not in self.shards)

    def merge(self, other: "RunShard") -> "RunShard":
        """The shards of both.

        Raises:
            RequestError: they are of different runs, or have a shard in common.
        """
        if difference := differences(self.fingerprint, other.fingerprint):
            raise RequestError(f"shards of different runs can't be merged: {difference}")
        if self.of != other.of:
            raise RequestError(
                f"shard {_listed(self.shards)} of {self.of} and shard {_listed(other.shards)} of "
                f"{other.of} can't be merged: the run was divided differently"
            )
        if common := {*self.shards} & {*other.shards}:
            raise RequestError(
                f"shard {_listed(sorted(common))} of {self.of} is there twice: it would count twice"
            )
        scores = dict(self.scores)
        for name, (other_total, other_inputs) in other.scores.items():
            total, inputs = scores.get(name, (0.0, 0))
            scores[name] = (total + other_total, inputs + other_inputs)
        return RunShard(
            self.fingerprint,
            tuple(sorted((*self.shards, *other.shards))),
            self.of,
            self.inputs + other.inputs,
            scores,
            dict(sorted({**self.labels, **other.labels}.items())),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for :meth:`from_json`; floats keep every bit."""
        return asdict(self) | {"labels": list(self.labels.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "RunShard":
        """Restore what :meth:`to_json` returned. Raises any exception for other data."""
        return cls(
            {str(key): str(value) for key, value in data["fingerprint"].items()},
            tuple(map(int, data["shards"])),
            int(data["of"]),
            int(data["inputs"]),
            {str(k): (float(total), int(n)) for k, (total, n) in data["scores"].items()},
            {int(number): str(line) for number, line in data["labels"]},
        )


def merge_run_shards(first: RunShard | None, second: RunShard | None) -> RunShard | None:
    """The shards of two recordings that are merged.

    None if either isn't from a sharded run, or if they are two complete runs of one model, on
    different data for example.

    Raises:
        RequestError: the runs are of different models or weights, or as in :meth:`RunShard.merge`.
    """
    if first is None or second is None:
        return None
    models = [{name: run.fingerprint.get(name, "") for name in MODEL} for run in (first, second)]
    if difference := differences(*models):
        raise RequestError(
            f"runs of different models can't be merged: {difference}; `compare` shows the changes"
        )
    different = first.fingerprint != second.fingerprint
    if different and not first.missing and not second.missing:
        return None
    return first.merge(second)


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> str:
    """The first three differences between two fingerprints; empty if there are none."""
    texts = []
    for name in {**first, **second}:
        values = [fingerprint.get(name, "missing") for fingerprint in (first, second)]
        if values[0] != values[1]:
            texts.append(f"{name} is {values[0]} in one and {values[1]} in the other")
    return ", ".join(texts[:3]) + (", …" if len(texts) > 3 else "")


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
