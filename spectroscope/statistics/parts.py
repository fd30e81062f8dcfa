"""`Part`: which shards of which run a recording is of, and what the run found beside it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spectroscope.errors import RequestError


@dataclass(frozen=True)
class Part:
    """What one has to know of a recording to put it together with others of the same run.

    Attributes:
        identity: what makes a run this run, by name: hashes of the model and of the first batch,
            options, versions. Recordings that differ in any of it are of different runs.
        shards: numbers of those that are in it, ascending, from 1.
        of: so many shards make the whole.
        inputs: number of inputs that were run.
        scores: by name: the sum over inputs, and the number of inputs in it.
        labels: lines on the first few inputs, by the number of the input, from 0.
    """

    identity: Mapping[str, str]
    shards: tuple[int, ...]
    of: int
    inputs: int
    scores: Mapping[str, tuple[float, int]]
    labels: Mapping[int, str]

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the shards that aren't in it."""
        return tuple(n for n in range(1, self.of + 1) if n not in self.shards)

    def merge(self, other: "Part") -> "Part":
        """Both together.

        Raises:
            RequestError: they are of different runs, or share a shard.
        """
        if apart := differences(self.identity, other.identity):
            raise RequestError(f"shards of different runs can't be merged: {apart}")
        if self.of != other.of:
            raise RequestError(
                f"shard {_listed(self.shards)} of {self.of} and shard {_listed(other.shards)} of "
                f"{other.of} can't be merged: they are of different divisions"
            )
        if twice := sorted({*self.shards} & {*other.shards}):
            raise RequestError(
                f"shard {_listed(twice)} of {self.of} is there twice: it would count twice"
            )
        scores = dict(self.scores)
        for name, (total, count) in other.scores.items():
            before, inputs = scores.get(name, (0.0, 0))
            scores[name] = (before + total, inputs + count)
        return Part(
            self.identity,
            tuple(sorted((*self.shards, *other.shards))),
            self.of,
            self.inputs + other.inputs,
            scores,
            dict(sorted({**self.labels, **other.labels}.items())),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data for :meth:`from_json`; floats keep every bit."""
        return asdict(self) | {"labels": list(self.labels.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Part":
        """What :meth:`to_json` gave. Raises whatever it may where that is something else."""
        return cls(
            {str(key): str(value) for key, value in data["identity"].items()},
            tuple(map(int, data["shards"])),
            int(data["of"]),
            int(data["inputs"]),
            {str(k): (float(total), int(n)) for k, (total, n) in data["scores"].items()},
            {int(number): str(line) for number, line in data["labels"]},
        )


def merged(mine: Part | None, other: Part | None) -> Part | None:
    """The part that both recordings together are.

    None where one of them isn't of a run, or they are of two whole runs, on different data, say.

    Raises:
        RequestError: as of :meth:`Part.merge`.
    """
    if mine is None or other is None:
        return None
    if mine.identity != other.identity and not mine.missing and not other.missing:
        return None
    return mine.merge(other)


def differences(mine: Mapping[str, str], other: Mapping[str, str]) -> str:
    """In what two identities differ, the first three; empty if they don't."""
    found = []
    for name in {**mine, **other}:
        one, two = (identity.get(name, "missing") for identity in (mine, other))
        if one != two:
            found.append(f"{name} is {one} in one and {two} in the other")
    return ", ".join(found[:3]) + (", …" if len(found) > 3 else "")


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers))
