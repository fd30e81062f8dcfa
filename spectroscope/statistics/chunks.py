"""A batch in chunks that stay in cache, with the intermediate results that statistics share."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import computed_in, cpu_kernels, read_lines
from spectroscope.dsp.kernels.parallel import parallel_for, workspace
from spectroscope.dsp.moments import LINE_FIELDS, MEAN_ROWS, TABLE_ROWS, LineMoments
from spectroscope.errors import first_line
from spectroscope.statistics.base import Arrays, Statistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

# Values of one side in a chunk. On the CPU both sides and their transforms stay in cache between
# passes, and the overhead of the calls is small (docs/performance.md). Compiled loops that
# transform nothing read all at once. On a GPU fewer kernel launches pay.
_BUDGET_CPU, _BUDGET_GPU = 1 << 18, 1 << 24
# Values next to each other in memory that are read together.
_RUN = 1 << 12
# Channels that lie side by side in memory are read together: as many as a cache line has.
_CACHE_LINE = 16
# Values of a block of channels, below which another thread doesn't pay: where all are transformed,
# and where few or none are. A thread takes several blocks to transform, fewer if it is disturbed.
_SMALLEST_BLOCKS, _BLOCKS_OF_THREAD = (1 << 17, 1 << 18), 2
_NONE = range(0)


class BatchMoments(NamedTuple):
    """Moments of a batch, in the layouts of :mod:`spectroscope.dsp.moments`.

    Attributes:
        table: float64, ``[TABLE_ROWS, C]``, of all inputs.
        means: float64, ``[MEAN_ROWS, C]``, of the inputs whose lines are read; None: of none.
    """

    table: Tensor
    means: Tensor | None


class Chunk(NamedTuple):
    """Some channels of some inputs of a batch.

    Attributes:
        channels: slice of the channels.
        inputs: slice of the inputs whose lines are read.
        moments: of their lines; None if no statistic reads them.
        lines: of both sides, ``[2, n, c, lines, T]``, without the means of the lines, of the type
            in which they are transformed; 0 in inputs that aren't finite on both sides. Read-only,
            in a workspace of this thread that the next chunk overwrites.
    """

    channels: slice
    inputs: slice
    moments: LineMoments | None
    lines: Tensor


class Accumulator(Protocol):
    """The state of one batch, built up chunk by chunk. Blocks of channels come in any order."""

    def add(self, chunk: Chunk) -> None:
        """Add one chunk. Those of a block of channels come one after another, in one thread."""

    def arrays(self, moments: BatchMoments) -> Arrays:
        """The state, after the last chunk."""


class ChunkedStatistic(Statistic):
    """A statistic that reads a batch in chunks, which it shares with other such statistics.

    Attributes:
        reads_lines: it reads :attr:`Chunk.lines`, not only :class:`BatchMoments`.
        reads_line_moments: it reads :attr:`Chunk.moments`.
    """

    reads_lines: ClassVar[bool] = True
    reads_line_moments: ClassVar[bool] = False

    def start(self, call: "ActivationCall", chosen: range) -> Accumulator | Arrays:
        """An accumulator for the chunks of a batch, or the state if it needs no chunks.

        Args:
            call: the activation call.
            chosen: numbers of the inputs whose lines will be read, at least one.
        """
        raise NotImplementedError

    def reduce(self, call: "ActivationCall") -> Arrays:
        """See :meth:`Statistic.reduce`."""
        return reduce({self.name: self}, call, range(len(call.input)), {})[self.name] or {}

    def added(self, first: Arrays, second: Arrays) -> Arrays:
        """See :meth:`Statistic.added`."""
        state = dict(second)
        with torch.inference_mode():  # outside of which tensors made in it can't be written to
            for name, array in first.items():
                if name in self.merge:
                    state[name] = self.merge[name](array, second[name])
                else:
                    state[name].add_(array)
        return state


def reduce(
    statistics: Mapping[str, Statistic],
    call: "ActivationCall",
    chosen: range,
    before: Mapping[str, Arrays | None],
) -> dict[str, Arrays | None]:
    """The state of one batch for each statistic, by name; None if a user's statistic raised.

    Chunked statistics share the chunks: each is read once. Those that read lines contribute nothing
    if no input is chosen.

    Args:
        statistics: by name.
        call: the batch.
        chosen: numbers of the inputs whose lines are read.
        before: state of the batches before, by name of the statistic.
    """
    states: dict[str, Arrays | None] = {}
    accumulators: dict[str, Accumulator] = {}
    reads_lines = reads_line_moments = False
    for name, statistic in statistics.items():
        if not isinstance(statistic, ChunkedStatistic):
            try:
                states[name] = statistic.reduced(call, before.get(name))
            except Exception as error:  # a user's code may raise anything
                states[name] = None
                call.note(f"no {name}: {type(error).__name__}: {first_line(error)}")
        elif statistic.reads_lines and not chosen:
            states[name] = {}
        else:
            start = statistic.start(call, chosen)
            if isinstance(start, Mapping):
                states[name] = start
                continue
            accumulators[name] = start
            reads_lines |= statistic.reads_lines
            reads_line_moments |= statistic.reads_line_moments
    if accumulators:
        adding = list(accumulators.values())
        moments = _read(call, adding, chosen, lines=reads_lines, line_moments=reads_line_moments)
        states |= {name: added.arrays(moments) for name, added in accumulators.items()}
    return {name: states[name] for name in statistics}


def _read(
    call: "ActivationCall",
    accumulators: list[Accumulator],
    chosen: range,
    *,
    lines: bool,
    line_moments: bool,
) -> BatchMoments:
    """Read a batch: all inputs of the first channels, then of the next channels.

    Args:
        call: the activation call.
        accumulators: read the chunks, if `lines`.
        chosen: numbers of the inputs whose lines are read.
        lines: the accumulators read lines.
        line_moments: they also read the moments of lines.
    """
    x = call.transformed_last(call.input)
    y = None if call.is_relu else call.transformed_last(call.output)
    samples, channels, *shape_of_input = x.shape
    values, axes = math.prod(shape_of_input), len(call.transformed)
    length = math.prod(shape_of_input[-axes:]) if axes else values
    table = x.new_zeros(TABLE_ROWS, channels, dtype=torch.float64)
    means = x.new_zeros(MEAN_ROWS, channels, dtype=torch.float64) if lines else None
    lines_of_input = values // length
    side_by_side = x.is_cpu and values > 1 and x.stride(1) == 1
    compiled = x.is_cpu and cpu_kernels() is not None
    threads = torch.get_num_threads() if compiled else 1
    every = chosen.step if lines else 0
    c_step, n_step = _steps(
        samples, channels, values, every, threads, compiled, x.is_cpu, side_by_side
    )
    dtype = computed_in(x.dtype)

    def read_block(number: int) -> None:
        c = slice(number * c_step, min((number + 1) * c_step, channels))
        for n in range(0, samples, n_step):
            stop = min(n + n_step, samples)
            inputs, of_chunk = slice(n, stop), _NONE
            fields = out = None
            if lines:
                before = len(range(chosen.start, n, chosen.step))
                first = chosen.start + before * chosen.step - n
                of_chunk = range(first, stop - n, chosen.step)
                count, of_block = len(of_chunk), c.stop - c.start
                if of_chunk:
                    of_lines = 2, count, of_block, lines_of_input, length
                    out = workspace("lines", of_lines, dtype, x.device)
                    if line_moments:
                        of_fields = LINE_FIELDS, of_block, count, lines_of_input
                        fields = workspace("moments", of_fields, torch.float64, x.device)
            sides = (x, y)
            if (n_step, c_step) != (samples, channels):
                sides = (x[inputs, c], None if y is None else y[inputs, c])
            read_lines(*sides, lines_of_input, of_chunk, c.start, table, means, fields, out)
            if out is not None:
                moments = None if fields is None else LineMoments(fields, length)
                chunk = Chunk(c, slice(before, before + count), moments, out)
                for accumulator in accumulators:
                    accumulator.add(chunk)

    if compiled:
        x, y = x.detach(), None if y is None else y.detach()  # other threads record gradients
    parallel_for(read_block, -(-channels // c_step), threads)
    return BatchMoments(table, means)


@lru_cache(maxsize=1024)
def _steps(
    samples: int,
    channels: int,
    values: int,
    every: int,
    threads: int,
    compiled: bool,
    on_cpu: bool,
    side_by_side: bool,
) -> tuple[int, int]:
    """Channels and inputs of a chunk.

    Args:
        samples: N, of the batch.
        channels: C.
        values: of one input and channel.
        every: lines are read of every so many inputs; 0: of none.
        threads: that read.
        compiled: by compiled loops.
        on_cpu: not on a GPU.
        side_by_side: channels lie side by side in memory.
    """
    budget = _BUDGET_CPU if on_cpu else _BUDGET_GPU
    if compiled:
        budget = budget * every if every else samples * channels * values
    c_step = max(budget // (samples * values), _RUN // values if on_cpu else 0)
    if threads > 1:
        most = samples * channels * values // _SMALLEST_BLOCKS[every != 1]
        blocks = min(threads * _BLOCKS_OF_THREAD if every else threads, max(most, 1))
        c_step = min(c_step, -(-channels // blocks))
    if side_by_side:
        c_step = max(c_step, _CACHE_LINE)
    c_step = max(1, min(c_step, channels))
    return c_step, max(1, min(samples, budget // (values * c_step)))
