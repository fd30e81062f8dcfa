"""Power and cross-spectra of both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import add_products, scale_products
from spectroscope.dsp.kernels.parallel import workspace
from spectroscope.dsp.moments import INPUTS
from spectroscope.dsp.spectra import Transform, Window, max_norm_bin_count, radial_bin_count
from spectroscope.statistics.base import Arrays, IncompatibleError
from spectroscope.statistics.chunks import BatchMoments, Chunk, ChunkedStatistic

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall


class SpectralSums(NamedTuple):
    """Sums over the inputs whose values are finite on both sides.

    The B bins are those of :class:`spectroscope.dsp.spectra.Transform`: of one dimension, radial
    bins of two, or all components of two. B is 0 where no axis is transformed.

    Attributes:
        lengths: ``[D]``, int64, of the transformed axes: T, or H and W.
        inputs: ``[C]``, float64, number of inputs in the sums.
        power: ``[2, C, B]``, float64, power spectra of the input and of the output.
        cross: ``[C, B]``, complex128, conj(X)·Y. In radial bins it is real: the imaginary parts of
            a component and its conjugate cancel.
        max_norm_power: ``[C, S]``, float64, power of the output in max-norm bins, by max(fy, fx).
            S is 0 in one dimension, where `power` has it.
    """

    lengths: Tensor
    inputs: Tensor
    power: Tensor
    cross: Tensor
    max_norm_power: Tensor

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes that were transformed, ``(T,)`` or ``(H, W)``."""
        return tuple(self.lengths.tolist())


def _same_lengths(first: Tensor, second: Tensor) -> Tensor:
    if first is not second and not torch.equal(first.cpu(), second.cpu()):
        lengths = f"{tuple(first.tolist())} and {tuple(second.tolist())}"
        raise IncompatibleError(f"no spectra: inputs of lengths {lengths}")
    return first


class Spectra(ChunkedStatistic):
    """Power spectra of both sides and their cross-spectrum, as :class:`SpectralSums`.

    Args:
        window: as for ``scipy.signal.get_window``.
        plane: keep every component of an image's spectrum, not only sums over radial bins.
    """

    name = "spectra"
    layout = {
        "lengths": ("D",),
        "inputs": ("C",),
        "power": (2, "C", "B"),
        "cross": ("C", "B"),
        "max_norm_power": ("C", "S"),
    }
    merge = {"lengths": _same_lengths}

    def __init__(self, window: Window = "boxcar", *, plane: bool = False):
        self.window = window
        self.plane = plane

    def start(self, call: "ActivationCall", chosen: range) -> "Arrays | SpectraAccumulator":
        """See :class:`ChunkedStatistic`."""
        x = call.input
        lengths = tuple(x.shape[axis] for axis in call.transformed)
        if lengths:
            return SpectraAccumulator(x, lengths, self.window, plane=self.plane)
        no_bins = x.new_zeros(x.shape[1], 0, dtype=torch.float64)
        return {
            "lengths": torch.empty(0, dtype=torch.int64),
            "inputs": x.new_zeros(x.shape[1], dtype=torch.float64),
            "power": torch.stack([no_bins, no_bins]),
            "cross": no_bins.to(torch.complex128),
            "max_norm_power": no_bins,
        }

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """See :meth:`Statistic.checked`; the numbers of bins must fit the lengths."""
        lengths = tuple(map(int, super().checked(arrays, channels)["lengths"]))
        bins = arrays["power"].shape[-1], arrays["max_norm_power"].shape[-1]
        if bins not in _valid_bins(lengths):
            raise ValueError(f"{bins} bins for lengths {lengths}")
        return arrays


def _valid_bins(lengths: tuple[int, ...]) -> set[tuple[int, int]]:
    """Valid pairs (B, S) of :class:`SpectralSums` for `lengths`."""
    if not lengths:
        return {(0, 0)}
    if len(lengths) > 2 or min(lengths) < 2:
        raise ValueError(f"lengths {lengths}")
    if len(lengths) == 1:
        return {(lengths[0] // 2 + 1, 0)}
    height, width = lengths
    max_norm = max_norm_bin_count(height, width)
    return {(radial_bin_count(height, width), max_norm), (height * (width // 2 + 1), max_norm)}


class SpectraAccumulator:
    """The sums of one batch.

    Args:
        x: ``[N, C, ...]``, for shape and device.
        lengths: of the transformed axes.
        window: as for ``scipy.signal.get_window``.
        plane: as in :class:`Spectra`.
    """

    def __init__(self, x: Tensor, lengths: tuple[int, ...], window: Window, *, plane: bool):
        self._transform = Transform.of(lengths, window, x.device, plane)
        self._plane = plane and len(lengths) == 2
        channels, bins = x.shape[1], self._transform.bins
        max_norm_bins = max_norm_bin_count(*lengths) if len(lengths) == 2 else 0
        self._power = x.new_zeros(2, channels, bins, dtype=torch.float64)
        self._cross = x.new_zeros(channels, bins, dtype=torch.complex128)
        self._max_norm_power = x.new_zeros(channels, max_norm_bins, dtype=torch.float64)
        self._lines = math.prod(x.shape[2:]) // self._transform.points

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        lines = chunk.lines.view(*chunk.lines.shape[:4], *self._transform.lengths)
        if self._transform.tapered:  # in a workspace: other statistics read the lines
            lines = workspace("tapered", tuple(lines.shape), lines.dtype, lines.device).copy_(lines)
        add_products(
            self._transform(lines).flatten(4), self._transform, chunk.channels.start,
            self._power, self._cross, self._max_norm_power,
        )  # fmt: skip

    def arrays(self, moments: BatchMoments) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        assert moments.means is not None  # as lines are read
        sums = self._power, self._cross, self._max_norm_power
        if self._plane:
            self._transform.complete(self._power)
            self._transform.complete(self._cross)
        scale_products(*sums, moments.means, self._lines, self._transform.points)
        return {
            "lengths": self._transform.lengths_tensor,
            "inputs": moments.means[INPUTS],
            "power": self._power,
            "cross": self._cross,
            "max_norm_power": self._max_norm_power,
        }
