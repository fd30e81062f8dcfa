"""The fundamental frequency of the inputs: fixed, set for each batch, or estimated."""

import math
import threading
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.dsp.harmonics import Tone, strongest_tone
from spectroscope.errors import RequestError

F0: TypeAlias = ArrayLike | Tensor | Literal["auto"] | None


class Fundamental:
    """The fundamental frequency of the inputs of the current batch.

    Args:
        f0: a frequency in the unit of `fs`, or one for each input of the batches to come, NaN
            where unknown; ``"auto"``: the strongest tone of each input of each batch, NaN where
            there is none; None: unknown.
        fs: samples per second of the model's input.

    Attributes:
        f0: the argument.

    Raises:
        RequestError: `f0` isn't one of these, or not between 0 and fs/2.
    """

    def __init__(self, f0: F0, fs: float):
        self.f0 = f0
        self._auto = isinstance(f0, str)
        self._estimates: dict[int, Tone | None] = {}  # by thread: a batch runs in one
        # In cycles per sample of the model's input, [N] or [1].
        self._fixed: Tensor | None = None
        if self._auto:
            if f0 != "auto":
                raise RequestError(f"{f0=} must be a frequency, one per input, 'auto', or None")
        elif f0 is not None:
            values = f0.detach().cpu().numpy() if isinstance(f0, Tensor) else f0
            try:
                array = np.atleast_1d(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError) as error:
                raise RequestError(f"f0 must be a frequency or one per input: {error}") from error
            invalid = array[~(np.isnan(array) | ((array > 0) & (array < fs / 2)))]
            if array.ndim != 1 or invalid.size or not array.size:
                what = f"not {invalid[0]}" if invalid.size else f"not of shape {array.shape}"
                raise RequestError(f"f0 must lie between 0 and fs/2 = {fs / 2:g}, one per input, "
                                   f"{what}")  # fmt: skip
            self._fixed = torch.from_numpy(array / fs)

    def on_forward(self, args: tuple[Any, ...]) -> None:
        """Estimate the fundamentals of a batch from the model's positional arguments `args`."""
        if self._auto:
            thread = threading.get_ident()
            self._estimates[thread] = None
            x = next((arg for arg in args if isinstance(arg, Tensor) and arg.dim() == 3), None)
            if x is not None and x.is_floating_point():
                self._estimates[thread] = strongest_tone(x.detach())

    def at_site(self, decimation: float, inputs: int) -> Tone | str | None:
        """The fundamentals of the batch that runs in this thread.

        Args:
            decimation: of the site.
            inputs: number of inputs of the activation.

        Returns:
            Each ``[N]`` or ``[1]``, in cycles per sample of the site, with NaN as the confidence of
            an `f0` that was given; or the reason why they are unknown at this site; None: no `f0`
            was given.
        """
        if self._auto:
            tone = self._estimates.get(threading.get_ident())
        else:
            given = self._fixed
            tone = None if given is None else Tone(given, torch.full_like(given, math.nan))
        if tone is None:
            return "no harmonics: f0='auto' found no input [N, C, T]" if self._auto else None
        if math.isnan(decimation):
            return "no harmonics: its sampling rate isn't known; pass it as decimation="
        if len(tone.freq) not in (1, inputs):
            return f"no harmonics: {len(tone.freq)} values of f0 for {inputs} inputs"
        return tone._replace(freq=tone.freq * decimation)
