"""A batch in chunks that stay in cache, with the intermediate results that statistics share."""

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

# Values reduced at a time. On the CPU 2 MiB in float64: they stay in cache between passes, and the
# overhead of the calls is small (docs/performance.md). On a GPU fewer kernel launches pay.
_BUDGET_CPU = 1 << 18
_BUDGET_GPU = 1 << 24


class Accumulator(Protocol):
    """The state of one batch, built up chunk by chunk."""

    def add(self, chunk: "Chunk") -> None:
        """Add one chunk. Chunks of the same channels come one after another."""

    def arrays(self) -> Arrays:
        """The state, after the last chunk."""


class ChunkedStatistic(Statistic):
    """A statistic that reads a batch in chunks, which it shares with other such statistics."""

    def start(self, call: "ActivationCall") -> Accumulator | Arrays:
        """An accumulator for the chunks of a batch, or the state if it needs no chunks."""
        raise NotImplementedError

    def reduce(self, call: "ActivationCall") -> Arrays:
        """See :meth:`Statistic.reduce`."""
        return reduce({self.name: self}, call)[self.name] or {}


def reduce(statistics: Mapping[str, Statistic], call: "ActivationCall") -> dict[str, Arrays | None]:
    """The state of one batch for each statistic, by name; None if a user's statistic raised.

    Chunked statistics share the chunks: each chunk is prepared once.
    """
    states: dict[str, Arrays | None] = {}
    accumulators: dict[str, Accumulator] = {}
    for name, statistic in statistics.items():
        if not isinstance(statistic, ChunkedStatistic):
            try:
                states[name] = statistic.reduced(call)
            except Exception as error:  # a user's code may raise anything
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
    """Moments of the rows of both sides of a ReLU, in one pass; None if no compiled loop fits.

    Use it as ``call.shared(compiled_moments)``, which computes it once.
    """
    return relu_moments(call.input) if call.is_relu else None


class Chunk:
    """Some channels of some inputs of a batch.

    Attributes:
        inputs: slice of the batch's inputs.
        channels: slice of the channels.
        shape: ``[n, c, ...]``, of the chunk.
        length: T, number of values of one input and channel, a row.
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

        Read-only, in a workspace of this thread that the next chunk overwrites.
        """
        x, y = self._raw_rows
        if self._moments is None and self.finite is not None:
            zero_nonfinite_rows(x, self.finite)
            zero_nonfinite_rows(y, self.finite)
        return x, y

    @cached_property
    def moments(self) -> tuple[RowMoments, RowMoments]:
        """Moments of the rows of both sides."""
        if self._moments is not None:
            return self._moments.sides(self.inputs, self.channels)
        return self._generic_moments[0]

    @cached_property
    def product(self) -> Tensor:
        """``[n, c]``, sum of (x − mean of x)·(y − mean of y) over each row."""
        if self._relu:
            return relu_product(*self.moments, self.length)
        return self._generic_moments[1]

    @cached_property
    def finite(self) -> Tensor | None:
        """``[n, c]``, whether all values of a row are finite on both sides; None: in all rows."""
        if self._moments is not None:
            finite = self._moments.finite_rows()
            return None if finite is None else finite[self.inputs, self.channels]
        counts = [side.finite for side in self.moments if side.finite is not None]
        if not counts:
            return None
        return torch.stack([count == self.length for count in counts]).all(0)

    @cached_property
    def means(self) -> tuple[Tensor, Tensor]:
        """``[n, c]`` for both sides, means of the rows; 0 where `finite` is False."""
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
        compiled = relu_moments(x) if self._relu else None
        if compiled is not None:
            sides = compiled.sides(slice(None), slice(None))
        else:
            sides = row_moments(x, work, positive=False), row_moments(y, work)
        if self._relu:
            return sides, torch.empty(0)  # `product` has a closed form
        torch.sub(x, sides[0].mean.unsqueeze(-1), out=work)
        return sides, work.mul_(y).sum(-1)


def chunks(call: "ActivationCall") -> Iterator[Chunk]:
    """The chunks of a batch: all inputs of the first channels, then of the next channels.

    Channels are divided only if one input alone exceeds the budget.
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
    """Uninitialised workspace on the device of `like`.

    On the CPU each thread keeps one per `purpose`: faulting in fresh pages for every chunk would
    cost more than the work done in them.
    """
    size = torch.Size(shape).numel()
    if not like.is_cpu or size > 2 * _BUDGET_CPU:
        return like.new_empty(shape, dtype=dtype)
    memory: Tensor | None = getattr(_workspaces, purpose, None)
    if memory is None or memory.numel() < size:
        # A tensor made under inference_mode cannot be written to outside of it.
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=dtype)
        setattr(_workspaces, purpose, memory)
    return memory[:size].view(shape)
