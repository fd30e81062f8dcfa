"""A batch in chunks that stay in cache: what several statistics need of it, computed once."""

import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import (
    ReluMoments,
    relu_moments,
    to_float64,
    zero_nonfinite_rows,
)
from spectroscope.dsp.moments import RowMoments, relu_product, row_moments
from spectroscope.errors import first_line
from spectroscope.statistics.base import Arrays, Statistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

# Values reduced at a time: in float64 2 MiB on the CPU, which stays in cache between passes, and
# is enough to make the calls themselves cheap (docs/performance.md). A GPU wants fewer kernels.
_BUDGET_CPU = 1 << 18
_BUDGET_GPU = 1 << 24


class Accumulator(Protocol):
    """The state of one batch, built up chunk by chunk."""

    def add(self, chunk: "Chunk") -> None:
        """Add one chunk. The chunks of the same channels come in a row."""

    def arrays(self) -> Arrays:
        """The state, after the last chunk."""


class ChunkedStatistic(Statistic):
    """A statistic that reads a batch chunk by chunk, and shares the chunks with others."""

    def start(self, call: "ActivationCall") -> Accumulator | Arrays:
        """What takes the chunks of a batch; or the state itself, where it takes none."""
        raise NotImplementedError

    def reduce(self, call: "ActivationCall") -> Arrays:
        """See :meth:`Statistic.reduce`."""
        return reduce({self.name: self}, call)[self.name] or {}


def reduce(statistics: Mapping[str, Statistic], call: "ActivationCall") -> dict[str, Arrays | None]:
    """The state of one batch of each of the statistics, by name; None if a user's one raised.

    Those that read in chunks do so together: each chunk is made, and passed through, once.
    """
    states: dict[str, Arrays | None] = {}
    accumulators: dict[str, Accumulator] = {}
    for name, statistic in statistics.items():
        if not isinstance(statistic, ChunkedStatistic):
            try:
                states[name] = dict(statistic.reduce(call))
            except Exception as error:  # a user's code may raise anything; the others go on
                states[name] = None
                call.note(f"no {name}: {type(error).__name__}: {first_line(error)}")
            continue
        start = statistic.start(call)
        if isinstance(start, Mapping):
            states[name] = start
        else:
            accumulators[name] = start
    for chunk in chunks(call) if accumulators else ():
        for accumulator in accumulators.values():
            accumulator.add(chunk)
    states |= {name: accumulator.arrays() for name, accumulator in accumulators.items()}
    return {name: states[name] for name in statistics}


def compiled_moments(call: "ActivationCall") -> ReluMoments | None:
    """Moments of the rows of both sides of a ReLU, in one reading; None where that can't be.

    To be asked for by ``call.shared(compiled_moments)``.
    """
    return relu_moments(call.input) if call.is_relu else None


class Chunk:
    """Some channels of some inputs of a batch.

    Attributes:
        inputs: which of the batch.
        channels: likewise.
        length: values in a row.
    """

    def __init__(self, call: "ActivationCall", inputs: slice, channels: slice):
        self.inputs = inputs
        self.channels = channels
        self._relu = call.is_relu
        self._moments = call.shared(compiled_moments)
        self._input = call.transformed_last(call.input)[inputs, channels]
        self._output = None if self._relu else call.transformed_last(call.output)[inputs, channels]
        self.shape = self._input.shape
        self.length = self._input[0, 0].numel()

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Both sides as float64 ``[n, c, T]``; rows that aren't finite on both sides are 0.

        They lie in a workspace of this thread, until the next chunk, and must not be changed.
        """
        x, y = self._raw_rows
        if self._moments is None and self.finite is not None:
            zero_nonfinite_rows(x, self.finite)
            zero_nonfinite_rows(y, self.finite)
        return x, y

    @cached_property
    def moments(self) -> tuple[RowMoments, RowMoments]:
        """Moments of the rows of either side."""
        if self._moments is not None:
            return self._moments.sides(self.inputs, self.channels)
        return self._generic_moments[0]

    @cached_property
    def product(self) -> Tensor:
        """``[n, c]``, Σ(x − its row's mean)·(y − its row's mean) over each row."""
        if self._relu:
            return relu_product(*self.moments, self.length)
        return self._generic_moments[1]

    @cached_property
    def finite(self) -> Tensor | None:
        """``[n, c]``, which rows are finite throughout on both sides; None: all are."""
        if self._moments is not None:
            finite = self._moments.finite_rows()
            return None if finite is None else finite[self.inputs, self.channels]
        counts = [side.finite for side in self.moments if side.finite is not None]
        if not counts:
            return None
        return torch.stack([count == self.length for count in counts]).all(0)

    @cached_property
    def means(self) -> tuple[Tensor, Tensor]:
        """``[n, c]``, means of the rows of either side; 0 where not finite."""
        x, y = (side.mean for side in self.moments)
        if self.finite is None:
            return x, y
        return x.where(self.finite, 0), y.where(self.finite, 0)

    @cached_property
    def _raw_rows(self) -> tuple[Tensor, Tensor]:
        x, y = (
            workspace(f"rows of {side}", tuple(self.shape), self._input, torch.float64)
            for side in ("input", "output")
        )
        if self._output is None:
            to_float64(self._input, x, y, self.finite if self._moments is not None else None)
        else:
            x.copy_(self._input)
            y.copy_(self._output)
        shape = (*self.shape[:2], -1)
        return x.view(shape), y.view(shape)

    @cached_property
    def _generic_moments(self) -> tuple[tuple[RowMoments, RowMoments], Tensor]:
        x, y = self._raw_rows
        work = workspace("work", tuple(x.shape), x, torch.float64)
        native = relu_moments(x) if self._relu else None
        if native is not None:
            sides = native.sides(slice(None), slice(None))
        else:
            sides = row_moments(x, work, positive=False), row_moments(y, work)
        if self._relu:
            return sides, torch.empty(0)  # `product` has a closed form
        torch.sub(x, sides[0].mean.unsqueeze(-1), out=work)
        return sides, work.mul_(y).sum(-1)


def chunks(call: "ActivationCall") -> Iterator[Chunk]:
    """The chunks of a batch, all inputs of some channels first.

    Over the channels only where one input alone is too much.
    """
    x = call.input
    samples, channels = x.shape[:2]
    length = x[0, 0].numel()
    budget = _BUDGET_CPU if x.is_cpu else _BUDGET_GPU
    c_step = max(1, min(channels, budget // length))
    n_step = max(1, budget // (length * c_step))
    for c in range(0, channels, c_step):
        for n in range(0, samples, n_step):
            yield Chunk(call, slice(n, n + n_step), slice(c, c + c_step))


_workspaces = threading.local()


def workspace(purpose: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Uninitialised memory of the shape and type, on the device of `like`; one per thread.

    On the CPU each thread keeps it, one for each `purpose`: to fault in fresh pages for every
    chunk would cost more than what is done with them.
    """
    size = torch.Size(shape).numel()
    if not like.is_cpu or size > 2 * _BUDGET_CPU:
        return like.new_empty(shape, dtype=dtype)
    kept: Tensor | None = getattr(_workspaces, purpose, None)
    if kept is None or kept.numel() < size:
        # Not made under inference_mode, or it couldn't be written to outside of that.
        with torch.inference_mode(False):
            kept = torch.empty(size, dtype=dtype)
        setattr(_workspaces, purpose, kept)
    return kept[:size].view(shape)
