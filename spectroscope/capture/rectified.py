"""ReLUs that neither names nor arguments of functions reveal: found by values, in tracked forwards.

There are more ways to write a ReLU than :mod:`spectroscope.capture.idioms` knows, for example
``-(-x).clamp(max=0)``. What they have in common is the result: zero where an earlier tensor is
negative, and proportional to it where that is positive. So some values of every tensor are kept
until the forward ends, and each new tensor is compared with those before it. Enough values are
equal that a match by chance is impossible; still it is only said in the coverage.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectroscope.capture import activations
from spectroscope.capture.activations import Args, Kwargs
from spectroscope.capture.tensors import TensorMap, is_plain, is_transformed, tensors

_IN_OTHER_WORDS = "its result is a ReLU, in words that can't be recorded; F.relu(x) is"
_UNSEEN = "its argument is a ReLU, made where functions can't be seen, as in TorchScript or NumPy"
_ELEMENTS = 256  # of each tensor
# Of either sign, without which a match isn't certain. Different ones: a padding with -1 is one.
_ENOUGH = 8
_MAX_KEPT = 512  # tensors of different signs, the last ones; a loop over time may make thousands
_SAME_SIGNS = 8  # tensors of the same signs, such as views and multiples


class RectifiedTensors:
    """The tensors of one forward that are ReLUs of others."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, bytes], list[np.ndarray[Any, Any]]] = {}  # by size and sign
        self._is_rectified: TensorMap[bool] = TensorMap()  # of all tensors that were seen
        self._unreadable = False  # of a ReLU the result can't be read, and may come as another
        self._found: set[tuple[int, bytes]] = set()  # keys of `_values` with a ReLU

    def add(self, given: Iterable[Tensor]) -> None:
        """Add tensors that are no results, such as the model's inputs."""
        for tensor in given:
            self._add(tensor)

    def follow(
        self, name: str, args: Args, kwargs: Kwargs, report: Callable[[str, Tensor, str], None]
    ) -> Callable[[Any], None]:
        """What to call with the output of a function that is about to run.

        Args:
            name: of the function, from `activations.function_name`.
            args: its positional arguments.
            kwargs: its keyword arguments.
            report: called with the name, with an output or an argument that is a ReLU, though of
                no function that is an activation, and with the reason why it can't be recorded.
        """
        given = list(tensors((*args, *kwargs.values())))
        unseen = (tensor for tensor in given if self._is_rectified.get(tensor) is None)
        for tensor in unseen:
            if not isinstance(tensor, nn.Parameter) and self._add(tensor) and not self._unreadable:
                report(name, tensor, _UNSEEN)
        is_activation = activations.read(name, args, kwargs) is not None
        explained = is_activation or any(map(self._is_rectified.get, given))

        def compare(output: Any) -> None:
            for tensor in tensors(args[:1] if name == "__setitem" else (output,)):
                is_new = self._add(tensor) and not (explained or self._unreadable)
                if is_new:
                    report(name, tensor, _IN_OTHER_WORDS)
                elif is_activation and not _is_readable(tensor):
                    self._unreadable = True

        return compare

    def _add(self, tensor: Tensor) -> bool:
        """Add a tensor, and return whether it is the first ReLU of an earlier one."""
        self._is_rectified.set(tensor, False)
        if tensor.dim() < 2 or not _is_readable(tensor):
            return False
        values = _some_values(tensor)
        positive = values > 0
        count = np.count_nonzero(positive)
        if not _ENOUGH <= count <= len(values) - _ENOUGH or not np.isfinite(values).all():
            return False
        key = tensor.numel(), positive.tobytes()
        if values.min() < 0:
            known = self._values.setdefault(key, [])
            known.append(values)
            del known[:-_SAME_SIGNS]
            if len(self._values) > _MAX_KEPT:
                del self._values[next(iter(self._values))]
            return False
        if not _are_different(values[positive]):  # a mask
            return False
        self._is_rectified.set(tensor, True)
        tolerance = 8 * torch.finfo(tensor.dtype).eps
        for before in self._values.get(key, ()) if key not in self._found else ():
            ratios = values[positive] / before[positive]
            if np.ptp(ratios) <= tolerance * ratios.max() and _are_different(before[before < 0]):
                self._found.add(key)
                return True
        return False


def _are_different(values: np.ndarray[Any, Any]) -> bool:
    """Whether there are enough different values."""
    return np.unique(values).size >= _ENOUGH


def _is_readable(tensor: Tensor) -> bool:
    """Whether the tensor has real values in its own memory."""
    return (
        type(tensor).__torch_dispatch__ == Tensor.__torch_dispatch__
        and is_plain(tensor)
        and not is_transformed(tensor)
        and tensor.is_floating_point()
        and not tensor.is_meta
        and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _some_values(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Values of elements at the same places in any two tensors of one size."""
    count = tensor.numel()
    # Of an odd step, as rows often have a length of a power of two.
    step = max(1, count // _ELEMENTS) | 1
    tensor = tensor.detach()
    if tensor.is_contiguous():
        some = tensor.view(-1)[::step]
    else:
        index = np.unravel_index(np.arange(0, count, step), tensor.shape)
        some = tensor[tuple(map(torch.from_numpy, index))]
    values: np.ndarray[Any, Any] = some.resolve_neg().cpu().double().numpy()
    # A view of the model's memory, which may be overwritten.
    return values.copy() if tensor.dtype == torch.float64 else values
