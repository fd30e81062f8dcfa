"""A batch in chunks that stay in cache, with the intermediate results that statistics share."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import computed_in, cpu_kernels, is_readable, read_lines
from spectroscope.dsp.kernels.parallel import workspace
from spectroscope.dsp.moments import LINE_FIELDS, MEAN_ROWS, TABLE_ROWS, LineMoments
from spectroscope.errors import first_line
from spectroscope.statistics.base import Arrays, Statistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

# Values of one side in a chunk. On the CPU, for each thread: both sides and their transforms stay
# in cache from one pass to the next, and the overhead of the calls is small (docs/performance.md).
# On a GPU fewer kernel launches pay.
_BUDGET_CPU, _BUDGET_GPU = 1 << 17, 1 << 24
# Values next to each other in memory that are read together.
_RUN = 1 << 12
# Channels that lie side by side in memory are read together: as many as a cache line has.
_CACHE_LINE = 16
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
        lines: of both sides, ``[c, 2, pairs, lines, T]``, complex, without the means of the lines,
            in the precision in which they are transformed. The real and the imaginary part of a
            pair are two inputs: 0 in inputs that aren't finite on both sides, and after an odd last
            one. Read-only, in a workspace of this thread that the next chunk overwrites.
    """

    channels: slice
    inputs: slice
    moments: LineMoments | None
    lines: Tensor

    def real_lines(self) -> Tensor:
        """The lines of each input, ``[n, 2, c, lines, T]``."""
        parts = torch.view_as_real(self.lines).permute(2, 5, 1, 0, 3, 4)
        return parts.flatten(0, 1)[: self.inputs.stop - self.inputs.start]


class Accumulator(Protocol):
    """The state of one batch, built up chunk by chunk."""

    def add(self, chunk: Chunk) -> None:
        """Add one chunk."""

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
    dtype = computed_in(x, y)
    every = chosen.step if lines else 0
    in_place = all(side is None or is_readable(side, dtype) for side in (x, y))
    if x.is_cpu and in_place and not every and cpu_kernels() is not None:
        read_lines(x, y, lines_of_input, _NONE, 0, table, None, None, None)
        return BatchMoments(table, means)
    threads = torch.get_num_threads() if x.is_cpu else 0
    n_step, c_step = _steps(samples, channels, values, every, threads, in_place)
    for first in range(0, channels, c_step):
        c = slice(first, min(first + c_step, channels))
        for n in range(0, samples, n_step):
            stop = min(n + n_step, samples)
            of_chunk = _NONE
            fields = out = None
            if lines:
                before = n // chosen.step  # chunks are multiples of the step
                of_chunk = range(chosen.start, stop - n, chosen.step)
            if of_chunk:
                count, of_block = len(of_chunk), c.stop - c.start
                shape = of_block, 2, (count + 1) // 2, lines_of_input, length
                out = workspace("lines", shape, dtype.to_complex(), x.device)
                if line_moments:
                    of_fields = LINE_FIELDS, of_block, count, lines_of_input
                    fields = workspace("moments", of_fields, torch.float64, x.device)
            sides = (x, y)
            if (n_step, c_step) != (samples, channels):
                sides = (x[n:stop, c], None if y is None else y[n:stop, c])
            read_lines(*sides, lines_of_input, of_chunk, first, table, means, fields, out)
            if out is not None:
                moments = None if fields is None else LineMoments(fields, length)
                chunk = Chunk(c, slice(before, before + count), moments, out)
                for accumulator in accumulators:
                    accumulator.add(chunk)
    return BatchMoments(table, means)


@lru_cache(maxsize=1024)
def _steps(
    samples: int, channels: int, values: int, every: int, threads: int, in_place: bool
) -> tuple[int, int]:
    """Inputs and channels of a chunk.

    Args:
        samples: N, of the batch.
        channels: C.
        values: of one input and channel.
        every: lines are read of every so many inputs; 0: of none.
        threads: that read; 0: a GPU.
        in_place: the activation need not be copied.
    """
    budget = _BUDGET_CPU * threads if threads else _BUDGET_GPU
    pair = 2 * max(every, 1)
    if in_place:  # what isn't chosen is read where it is
        budget *= max(every, 1)
    c_step = max(budget // (max(samples, pair) * values), _RUN // values, threads, 1)
    if not in_place:
        c_step = max(c_step, _CACHE_LINE)
    c_step = min(c_step, channels)
    n_step = max(budget // (values * c_step) // pair, 1) * pair
    return min(n_step, samples), c_step
