"""How a tensor on a GPU is read, some rows and some times at once."""

import triton
import triton.language as tl

# Values that a program takes at a time, and the most rows of them.
TILE = 1024
MOST_ROWS = 32


@triton.jit
def rows_of(x, channels, of_sample, of_channel, ROWS: tl.constexpr):  # noqa: N803
    """The sample and channels of one program, which of these there are, and where each begins."""
    shares = tl.cdiv(channels, ROWS)
    sample = (tl.program_id(0) // shares).to(tl.int64)
    channel = (tl.program_id(0) % shares) * ROWS + tl.arange(0, ROWS)
    begin = x + sample * of_sample + channel[:, None].to(tl.int64) * of_channel
    return sample, channel, channel < channels, begin


@triton.jit
def values(begin, first, length, of_time, here, TIMES: tl.constexpr):  # noqa: N803
    """Values of some rows from time `first` on; which are finite, and which their ReLUs'."""
    time = (first + tl.arange(0, TIMES))[None, :]
    inside = here[:, None] & (time < length)
    value = tl.load(begin + time.to(tl.int64) * of_time, inside, 0.0).to(tl.float64)
    # Comparisons with NaN are false. Of -Inf the output, 0, is finite.
    return value, inside & (tl.abs(value) < float("inf")), inside & (value < float("inf"))


def tile(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """How many rows, of the same sample, and times to take at once: what lies side by side."""
    _, channels, length = shape
    across: int = triton.next_power_of_2(channels)
    if strides[2] == 1:
        times = min(TILE, max(32, triton.next_power_of_2(length)))
        return min(MOST_ROWS, TILE // times, across), times
    return min(MOST_ROWS, across), TILE // MOST_ROWS
