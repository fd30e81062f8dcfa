"""The fundamental frequency of the inputs: fixed, set for each batch, or estimated."""

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.capture.inputs import Input, InputAxes
from spectroscope.dsp.harmonics import Tone, strongest_tone
from spectroscope.errors import RequestError

F0: TypeAlias = ArrayLike | Tensor | Literal["auto"] | tuple[Literal["auto"], float, float] | None


class Fundamental:
    """The fundamental frequency of the inputs of the current batch.

    Args:
        f0: a frequency in the unit of `fs`, or one for each input of the batches to come, NaN
            where unknown; ``"auto"``: the strongest tone of each input of each batch, NaN where
            there is none; ``("auto", low, high)``: the strongest in that range; None: unknown.
        fs: samples per second of the model's input; None: f0 is in cycles per sample.

    Attributes:
        f0: the argument.
        input: name of the input of which the last estimates are; empty if there are none.

    Raises:
        RequestError: `f0` isn't one of these, or not between 0 and fs/2, or a range is empty.
    """

    def __init__(self, f0: F0, fs: float | None):
        self.f0 = f0
        self._auto = is_estimated(f0)
        fs_is_missing = fs is None
        unit, fs = ("cycles/sample", 1.0) if fs is None else ("Hz", fs)
        # In cycles per sample of the model's input.
        self._band: tuple[float, float] | None = None
        self._range = ""
        self.input = ""
        self._axes: InputAxes | None = None
        # By thread, as a batch runs in one: along the time axis, and along axis 1 of [N, T, C].
        self._estimates: dict[int, tuple[Tone, ...]] = {}
        # In cycles per sample of the model's input, [N] or [1].
        self._fixed: Tensor | None = None
        if self._auto:
            if f0 != "auto":
                low, high = _ends(f0, math.inf if fs_is_missing else fs)
                if fs_is_missing and high > 0.5:
                    raise _needs_fs(repr(f0))
                self._band = low / fs, high / fs
                self._range = f" from {low:g} to {high:g} {unit}"
        elif f0 is not None:
            values = f0.detach().cpu().numpy() if isinstance(f0, Tensor) else f0
            try:
                array = np.atleast_1d(np.asarray(values, dtype=np.float64))
            except (TypeError, ValueError) as error:
                raise RequestError(f"f0 must be a frequency or one per input: {error}") from error
            invalid = array[~(np.isnan(array) | ((array > 0) & (array < fs / 2)))]
            if array.ndim != 1 or invalid.size or not array.size:
                if fs_is_missing and any(0.5 < value < math.inf for value in invalid):
                    raise _needs_fs(str(invalid[0]))
                what = f"not {invalid[0]}" if invalid.size else f"not of shape {array.shape}"
                raise RequestError(f"f0 must lie between 0 and fs/2 = {fs / 2:g}, one per input, "
                                   f"{what}")  # fmt: skip
            self._fixed = torch.from_numpy(array / fs)

    def on_forward(self, inputs: Sequence[Input], axes: InputAxes) -> None:
        """Estimate the fundamentals of a batch, if they are to be estimated.

        Args:
            inputs: of the model. The one that has them is ``[N, C, T]``; if `axes` has an `fs`,
                there may be several axes beside time.
            axes: of the inputs.
        """
        if not self._auto:
            return
        self._axes, thread = axes, threading.get_ident()
        self._estimates[thread] = ()
        signal = axes.signal(inputs)
        if (
            signal is None
            or signal.tensor.dim() < 3
            or (axes.fs is None and signal.tensor.dim() > 3)
        ):
            return
        x, time = signal.tensor.detach(), axes.time_axis_of(signal.tensor)
        assert time is not None  # signal() has one
        self.input = signal.name
        # Which axis is time may only be known when a convolution has run.
        either = (time, 1) if axes.may_be_channels_last(inputs) else (time,)
        self._estimates[thread] = tuple(
            strongest_tone(x.movedim(axis, -1).flatten(1, -2), self._band) for axis in either
        )

    @property
    def origin(self) -> str:
        """Where estimates come from, for the reader; empty if there are none."""
        if not self.input or self._axes is None:
            return ""
        axis = self._axes.time_axis
        return f"strongest tone{self._range} of input {self.input}, along axis {axis}"

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
            estimates = self._estimates.get(threading.get_ident())
            if not estimates:
                return "no harmonics: f0='auto' found no input [N, C, T]"
            last = len(estimates) == 1 or self._axes is None or not self._axes.channels_last
            tone = estimates[0 if last else 1]
        elif self._fixed is not None:
            tone = Tone(self._fixed, torch.full_like(self._fixed, math.nan))
        else:
            return None
        if math.isnan(decimation):
            return "no harmonics: its sampling rate isn't known; pass it as decimation="
        if len(tone.freq) not in (1, inputs):
            remedy = "give one for all, or one per input of each batch (recorder.f0)"
            if len(tone.freq) == 2:
                remedy = "a range to search is ('auto', low, high)"
            return f"no harmonics: {len(tone.freq)} values of f0 for {inputs} inputs; {remedy}"
        return tone._replace(freq=tone.freq * decimation)


def is_estimated(f0: F0) -> bool:
    """Whether `f0` is ``"auto"`` or ``("auto", low, high)``, if it is valid."""
    return isinstance(f0[0] if isinstance(f0, tuple | list) and f0 else f0, str)


def _ends(f0: F0, fs: float) -> tuple[float, float]:
    """Lowest and highest frequency of ``("auto", low, high)``."""
    if isinstance(f0, tuple | list) and len(f0) == 3 and f0[0] == "auto":
        with suppress(TypeError, ValueError):
            low, high = map(float, f0[1:])
            if 0 <= low < high <= fs / 2:
                return low, high
    below = f"fs/2 = {fs / 2:g}" if fs < math.inf else "0.5 cycles/sample"
    raise RequestError(
        f"{f0=} must be a frequency, one per input, 'auto', ('auto', low, high) with "
        f"0 ≤ low < high ≤ {below}, or None"
    )


def _needs_fs(f0: str) -> RequestError:
    """That an `f0` above 0.5 was given without `fs`, most likely in Hz."""
    return RequestError(f"f0={f0} in Hz needs the sampling rate of the input: pass fs= (--fs HZ); "
                        "without it f0 is in cycles per sample, below 0.5")  # fmt: skip
