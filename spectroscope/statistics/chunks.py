"""A batch in chunks that stay in cache, with the intermediate results that statistics share."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import center_lines, computed_in
from spectroscope.dsp.kernels.parallel import parallel_for, workspace
from spectroscope.dsp.moments import LINE_FIELDS, LineMoments
from spectroscope.errors import first_line
from spectroscope.statistics.base import Arrays, Statistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

# Values of one side that are reduced at a time. On the CPU both sides and their transforms stay in
# cache between passes, and the overhead of the calls is small (docs/performance.md). Moments alone
# are one pass. On a GPU fewer kernel launches pay.
_BUDGET_CPU, _BUDGET_MOMENTS, _BUDGET_GPU = 1 << 17, 1 << 20, 1 << 24
# Values next to each other in memory that are read together.
_RUN = 1 << 12
# Channels that lie side by side in memory are read together: as many as a cache line has.
_CACHE_LINE = 16
# So many blocks of channels, for as many threads, if none is then smaller than this.
_BLOCKS, _SMALLEST_BLOCK = 8, 1 << 16


class Accumulator(Protocol):
    """The state of one batch, built up chunk by chunk. Blocks of channels come in any order."""

    def add(self, chunk: "Chunk") -> None:
        """Add one chunk. Those of a block of channels come one after another, in one thread."""

    def finish(self, block: "Block") -> None:
        """Finish some channels, all of whose chunks have been added."""

    def arrays(self) -> Arrays:
        """The state, after the last block."""


class ChunkedStatistic(Statistic):
    """A statistic that reads a batch in chunks, which it shares with other such statistics.

    Attributes:
        reads_lines: it reads :attr:`Chunk.lines`, not only moments.
    """

    reads_lines: ClassVar[bool] = True

    def start(self, call: "ActivationCall") -> Accumulator | Arrays:
        """An accumulator for the chunks of a batch, or the state if it needs no chunks."""
        raise NotImplementedError

    def reduce(self, call: "ActivationCall") -> Arrays:
        """See :meth:`Statistic.reduce`."""
        return reduce({self.name: self}, call, {})[self.name] or {}


def reduce(
    statistics: Mapping[str, Statistic],
    call: "ActivationCall",
    before: Mapping[str, Arrays | None],
) -> dict[str, Arrays | None]:
    """The state of one batch for each statistic, by name; None if a user's statistic raised.

    Chunked statistics share the chunks: each is read once.

    Args:
        statistics: by name.
        call: the batch.
        before: state of the batches before, by name of the statistic.
    """
    states: dict[str, Arrays | None] = {}
    accumulators: dict[str, Accumulator] = {}
    reads_lines = False
    for name, statistic in statistics.items():
        if not isinstance(statistic, ChunkedStatistic):
            try:
                states[name] = statistic.reduced(call, before.get(name))
            except Exception as error:  # a user's code may raise anything
                states[name] = None
                call.note(f"no {name}: {type(error).__name__}: {first_line(error)}")
            continue
        start = statistic.start(call)
        if isinstance(start, Mapping):
            states[name] = start
        else:
            accumulators[name] = start
            reads_lines |= statistic.reads_lines
    if accumulators:
        _read(call, list(accumulators.values()), reads_lines=reads_lines)
    states |= {name: accumulator.arrays() for name, accumulator in accumulators.items()}
    return {name: states[name] for name in statistics}


class Block(NamedTuple):
    """Some channels of all inputs of a batch.

    Attributes:
        channels: slice of the channels.
        moments: of all lines.
    """

    channels: slice
    moments: LineMoments


class Chunk(NamedTuple):
    """Some channels of some inputs of a batch.

    Attributes:
        channels: slice of the channels.
        inputs: slice of the inputs.
        moments: of their lines.
        lines: both sides, ``[n, c, lines, T]``, without the means of the lines, of the type in
            which they are transformed; 0 in inputs that aren't finite on both sides. Read-only, in
            a workspace of this thread that the next chunk overwrites.
    """

    channels: slice
    inputs: slice
    moments: LineMoments
    lines: tuple[Tensor, Tensor]


def _read(call: "ActivationCall", accumulators: list[Accumulator], *, reads_lines: bool) -> None:
    """Read a batch: all inputs of the first channels, then of the next channels."""
    x = call.transformed_last(call.input)
    y = None if call.is_relu else call.transformed_last(call.output)
    samples, channels = x.shape[:2]
    values = x[0, 0].numel()
    axes = len(call.transformed)
    length = math.prod(x.shape[-axes:]) if axes else values
    lines = values // length
    budget = _BUDGET_GPU
    if x.is_cpu:
        budget = _BUDGET_CPU if reads_lines else _BUDGET_MOMENTS
    c_step = budget // (samples * values)
    if x.is_cpu:
        c_step = max(c_step, _RUN // values)
        least = -(-_SMALLEST_BLOCK // (samples * values))
        c_step = min(c_step, max(-(-channels // _BLOCKS), least))
        if x.stride(1) == 1 and values > 1:
            c_step = max(c_step, _CACHE_LINE)
    c_step = max(1, min(c_step, channels))
    n_step = max(1, min(samples, budget // (values * c_step)))
    dtype = computed_in(x.dtype)

    def read_block(number: int) -> None:
        c = slice(number * c_step, min((number + 1) * c_step, channels))
        count = c.stop - c.start
        complete = True
        fields = x.new_empty(LINE_FIELDS, count, samples, lines, dtype=torch.float64)
        for n in range(0, samples, n_step):
            inputs = slice(n, min(n + n_step, samples))
            shape = inputs.stop - n, count, lines, length
            out = None
            if reads_lines:
                out = (
                    workspace("x", shape, dtype, x.device),
                    workspace("y", shape, dtype, x.device),
                )
            given = None if y is None else y[inputs, c]
            complete &= center_lines(x[inputs, c], given, fields, n, out)
            if out is not None:
                chunk = Chunk(c, inputs, LineMoments(fields[:, :, inputs], length), out)
                for accumulator in accumulators:
                    accumulator.add(chunk)
        for accumulator in accumulators:
            accumulator.finish(Block(c, LineMoments(fields, length, complete)))

    blocks = -(-channels // c_step)
    if x.is_cpu:
        parallel_for(read_block, blocks)
    else:
        for number in range(blocks):
            read_block(number)
