"""NumPy in, NumPy out; tensors in, tensors out. The mathematics is written once, on tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Values = ArrayLike | Tensor


def tensors(*values: Values) -> tuple[Sequence[Tensor], Callable[[Tensor], Any]]:
    """Convert the arguments of a function to float64 tensors, complex ones to complex128.

    Returns:
        The tensors, on the device of the first argument that is one; and a function that converts
        a result to the caller's kind: NumPy unless an argument was a tensor.
    """
    given = [value for value in values if isinstance(value, Tensor)]
    device = given[0].device if given else torch.device("cpu")
    raw = [
        value.to(device) if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        for value in values
    ]
    dtypes = (torch.complex128 if value.is_complex() else torch.float64 for value in raw)
    converted = [value.to(device, dtype) for value, dtype in zip(raw, dtypes, strict=True)]
    return converted, (lambda result: result) if given else _numpy


def _numpy(result: Tensor) -> Any:
    return result.numpy()[()]  # a scalar if there is no axis
