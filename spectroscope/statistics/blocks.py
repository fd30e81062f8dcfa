"""A batch in pieces that stay in cache, and the memory to work on them."""

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

# Values reduced at a time: in float64 2 MiB on the CPU, which stays in cache between passes, and
# is enough to make the calls themselves cheap (benchmarks/record.py). A GPU wants fewer kernels.
_BUDGET_CPU = 1 << 18
_BUDGET_GPU = 1 << 24


def unrecordable(x: Tensor) -> str | None:
    """Why `x` can't be reduced, or None if it can."""
    if not x.is_floating_point():
        return f"{x.dtype} is not a real floating-point type"
    if x.layout != torch.strided or x.is_quantized or x.is_nested:
        return "not a dense tensor"
    if x.is_meta:
        return "a tensor without values"
    if type(x).__torch_dispatch__ != Tensor.__torch_dispatch__:
        return f"{type(x).__name__} is a tensor of its own kind"
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return "inside a torch.func transform"
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return "captured into a CUDA graph, whose replays can't be seen"
    return None


def pieces(x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices over the samples and channels of ``[N, C, ...]``, all samples of some channels first.

    Over the channels only where one sample alone is too much.
    """
    samples, channels = x.shape[:2]
    length = x[0, 0].numel()
    budget = _BUDGET_CPU if x.is_cpu else _BUDGET_GPU
    c_step = max(1, min(channels, budget // length))
    n_step = max(1, budget // (length * c_step))
    for c in range(0, channels, c_step):
        for n in range(0, samples, n_step):
            yield slice(n, n + n_step), slice(c, c + c_step)


_kept = threading.local()


def scratch(purpose: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory to work in, of the shape and type, on the device of `like`; what is in it is garbage.

    On the CPU each thread keeps it, one piece to a `purpose`: to fault in fresh pages for every
    block would cost more than what is done with them.
    """
    size = torch.Size(shape).numel()
    if not like.is_cpu or size > 2 * _BUDGET_CPU:
        return like.new_empty(shape, dtype=dtype)
    kept: Tensor | None = getattr(_kept, purpose, None)
    if kept is None or kept.numel() < size:
        # Not made under inference_mode, or it couldn't be written to outside of that.
        with torch.inference_mode(False):
            kept = torch.empty(size, dtype=dtype)
        setattr(_kept, purpose, kept)
    return kept[:size].view(shape)
