"""NumPy in, NumPy out; tensors in, tensors out: the mathematics is written once, on tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Values = ArrayLike | Tensor


def tensors(*values: Values) -> tuple[Sequence[Tensor], Callable[[Tensor], Any]]:
    """The values as float64 tensors, and what makes of a result what the caller has.

    Of tensors the first says on which device. NumPy arrays, lists and numbers alone come back as
    NumPy. Complex values stay complex.
    """
    given = [value for value in values if isinstance(value, Tensor)]
    device = given[0].device if given else torch.device("cpu")
    found = [
        value.to(device) if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        for value in values
    ]
    kinds = (torch.complex128 if value.is_complex() else torch.float64 for value in found)
    converted = [value.to(device, kind) for value, kind in zip(found, kinds, strict=True)]
    return converted, (lambda result: result) if given else _numpy


def _numpy(result: Tensor) -> Any:
    return result.numpy()[()]  # a number where there is no axis
