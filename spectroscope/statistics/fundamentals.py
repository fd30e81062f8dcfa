"""The fundamental frequency of the inputs: given, given batch by batch, or found in them."""

import math
import threading
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.dsp.harmonics import dominant_frequency
from spectroscope.errors import RequestError

F0: TypeAlias = ArrayLike | Tensor | Literal["auto"] | None


class Fundamental:
    """What `f0` is at any moment, in cycles per sample of the model's input.

    Args:
        f0: a number or one for each input of the batches to come, in the unit of `fs`, NaN where
            it isn't known; ``"auto"``: the strongest component of each input of each batch; or
            None.
        fs: samples per second of the model's input.

    Raises:
        RequestError: it isn't one of these, or not between 0 and fs/2.
    """

    def __init__(self, f0: F0, fs: float):
        self.given = f0
        self._auto = isinstance(f0, str)
        self._by_thread: dict[int, Tensor | None] = {}  # a batch is in one thread
        self._cycles: Tensor | None = None
        if self._auto:
            if f0 != "auto":
                raise RequestError(f"{f0=} must be a frequency, one per input, 'auto', or None")
        elif f0 is not None:
            values = f0.detach().cpu().numpy() if isinstance(f0, Tensor) else f0
            try:
                array = np.atleast_1d(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError) as error:
                raise RequestError(f"f0 must be a frequency or one per input: {error}") from error
            wrong = array[~(np.isnan(array) | ((array > 0) & (array < fs / 2)))]
            if array.ndim != 1 or wrong.size or not array.size:
                what = f"found {wrong[0]}" if wrong.size else f"of shape {array.shape}"
                raise RequestError(f"f0 must lie between 0 and fs/2 = {fs / 2:g}, one per input; "
                                   f"{what}")  # fmt: skip
            self._cycles = torch.from_numpy(array / fs)

    def start(self, args: tuple[Any, ...]) -> None:
        """A forward begins with the positional arguments `args`."""
        if self._auto:
            thread = threading.get_ident()
            self._by_thread[thread] = None
            x = next((arg for arg in args if isinstance(arg, Tensor) and arg.dim() == 3), None)
            if x is not None and x.is_floating_point():
                self._by_thread[thread] = dominant_frequency(x.detach())

    def cycles(self) -> Tensor | None:
        """``[N]`` or ``[1]``, float64, of the batch that now runs in this thread, if known."""
        return self._by_thread.get(threading.get_ident()) if self._auto else self._cycles

    def at(self, decimation: float, samples: int) -> Tensor | str | None:
        """In cycles per sample of a site; or why that can't be said; or None: there is none.

        Args:
            decimation: of the site.
            samples: number of inputs of the activation there.
        """
        cycles = self.cycles()
        if cycles is None:
            return "no harmonics: f0='auto' found no input [N, C, T]" if self._auto else None
        if math.isnan(decimation):
            return "no harmonics: its sampling rate isn't known (decimation= gives it)"
        if len(cycles) not in (1, samples):
            return f"no harmonics: {len(cycles)} values of f0 for {samples} inputs"
        return cycles * decimation
