"""How programs read a tensor ``[N, C, T]`` as it lies in a GPU's memory, a tile at a time."""

import triton
import triton.language as tl

# Values that a program reads at a time, and the most rows of them.
TILE = 1024
MOST_ROWS = 32


@triton.jit
def tile_rows(x, channels, sample_stride, channel_stride, ROWS: tl.constexpr):  # noqa: N803
    """Sample and channels of one program, which channels exist, and pointers to their rows."""
    blocks = tl.cdiv(channels, ROWS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    row = x + sample * sample_stride + channel[:, None].to(tl.int64) * channel_stride
    return sample, channel, channel < channels, row


@triton.jit
def load_tile(row, first, length, time_stride, valid, TIMES: tl.constexpr):  # noqa: N803
    """Values of some rows from time `first` on, and where they and their ReLUs are finite."""
    time = (first + tl.arange(0, TIMES))[None, :]
    inside = valid[:, None] & (time < length)
    value = tl.load(row + time.to(tl.int64) * time_stride, inside, 0.0).to(tl.float64)
    # Comparisons with NaN are false. ReLU(-Inf) = 0 is finite.
    return value, inside & (tl.abs(value) < float("inf")), inside & (value < float("inf"))


def tile_shape(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Rows, of one sample, and times of a tile, so that adjacent values are read together."""
    _, channels, length = shape
    across: int = triton.next_power_of_2(channels)
    if strides[2] == 1:
        times = min(TILE, max(32, triton.next_power_of_2(length)))
        return min(MOST_ROWS, TILE // times, across), times
    return min(MOST_ROWS, across), TILE // MOST_ROWS
