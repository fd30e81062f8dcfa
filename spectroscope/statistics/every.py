"""`EveryKth`: which inputs spectra are recorded of, by their position in the data."""

import operator
import threading

from spectroscope.errors import RequestError


class _Forward(threading.local):
    """The forward that runs in this thread."""

    first = size = 0


class EveryKth:
    """Every k-th input of the data, however they are divided into batches and shards.

    Args:
        step: k; 1: all inputs.

    Attributes:
        position: number of the next input in the data, from 0.

    Raises:
        RequestError: `step` is less than 1.
    """

    def __init__(self, step: int):
        self.step = operator.index(step)
        if self.step < 1:
            raise RequestError(f"spectra_every={step} must be 1 or more")
        self.position = 0
        self._forward = _Forward()
        self._lock = threading.Lock()

    def on_forward(self, size: int) -> None:
        """The model is about to run so many inputs in this thread; 0: unknown."""
        with self._lock:
            self._forward.first, self._forward.size = self.position, size
            self.position += size

    def chosen(self, inputs: int, recorded: int) -> range:
        """Numbers of the chosen inputs of an activation.

        Where each input of the model has become several, such as the frames of a video, every k-th
        of those is chosen. Where what runs isn't the model but a method of it, or has no axis of
        the batch, inputs are counted at the activation.

        Args:
            inputs: number of inputs of this call.
            recorded: number of inputs recorded at this activation before.
        """
        if self.step == 1:
            return range(inputs)
        first, size = self._forward.first, self._forward.size
        first = first * (inputs // size) if size and inputs % size == 0 else recorded
        return range(-first % self.step, inputs, self.step)
