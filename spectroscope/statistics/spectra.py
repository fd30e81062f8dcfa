"""Power and cross-spectra of both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import add_products
from spectroscope.dsp.spectra import Transform, Window, max_norm_bin_count, radial_bin_count
from spectroscope.statistics.base import Arrays, IncompatibleError
from spectroscope.statistics.chunks import Chunk, ChunkedStatistic, workspace

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
    if not torch.equal(first.cpu(), second.cpu()):
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

    def start(self, call: "ActivationCall") -> "Arrays | SpectraAccumulator":
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
        channels, bins = x.shape[1], self._transform.bins
        max_norm_bins = max_norm_bin_count(*lengths) if len(lengths) == 2 else 0
        self._inputs = x.new_zeros(channels, dtype=torch.float64)
        self._dc = x.new_zeros(3, channels, dtype=torch.float64)  # squared DCs: x², y², x·y
        self._sums = x.new_zeros(3, channels, bins, dtype=torch.float64)
        self._imaginary = x.new_zeros(channels, bins, dtype=torch.float64)
        self._max_norm_power = x.new_zeros(channels, max_norm_bins, dtype=torch.float64)
        # Channels of the last chunk, and sums of their components, not summed into bins yet.
        self._channels = slice(0, 0)
        self._pending: tuple[Tensor, Tensor] | None = None
        self._scale = math.nan  # from squared components to power

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        c, (x_rows, y_rows) = chunk.channels, chunk.rows
        if self._channels != c or self._pending is None:
            self._sum_pending()
            channels, components = chunk.shape[1], math.prod(self._transform.shape)
            imaginary = channels if self._transform.radial_bin is None else 0
            self._channels = c
            self._pending = (
                x_rows.new_zeros(3, channels, components),
                x_rows.new_zeros(imaginary, components),
            )
        x, x_mean = self._transformed(x_rows, chunk.means[0], "input")
        y, y_mean = self._transformed(y_rows, chunk.means[1], "output")
        self._inputs[c] += chunk.shape[0] if chunk.finite is None else chunk.finite.sum(0)
        add_products(x, y, *self._pending)
        pairs = torch.stack([x_mean, y_mean, x_mean]) * torch.stack([x_mean, y_mean, y_mean])
        self._dc[:, c].add_(pairs.sum((1, 3)), alpha=1 / x.shape[2])

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        self._sum_pending()
        return {
            "lengths": torch.tensor(self._transform.lengths),
            "inputs": self._inputs,
            "power": self._sums[:2],
            "cross": torch.complex(self._sums[2], self._imaginary),
            "max_norm_power": self._max_norm_power,
        }

    def _transformed(self, rows: Tensor, mean: Tensor, side: str) -> tuple[Tensor, Tensor]:
        """Components of one side, ``[n, c, frames, F, 2]``, and its DC, ``[n, c, frames]``.

        Each frame of a video contributes 1/frames of its power to that of the input, and so does
        each line of an activation that is transformed along time only.
        """
        x = rows.view(*mean.shape, -1, *self._transform.lengths)
        mean = mean.unsqueeze(2) if x.shape[2] == 1 else x.flatten(3).mean(-1)
        if self._transform.tapered:  # in a workspace: other statistics read the rows
            tapered = workspace(f"tapered {side}", tuple(x.shape), x, torch.float64)
            x = torch.sub(x, mean.view(*mean.shape, *[1] * len(self._transform.lengths)),
                          out=tapered)  # fmt: skip
        self._scale = 1 / (x.shape[2] * self._transform.points**2)
        return torch.view_as_real(self._transform(x).flatten(3)), mean

    def _sum_pending(self) -> None:
        """Sum the pending components into bins."""
        if self._pending is None:
            return
        c, shape = self._channels, self._transform.shape
        powers, imaginary = (
            sums.mul_(self._scale).view(*sums.shape[:-1], *shape) for sums in self._pending
        )
        self._sums[:, c] = self._transform.sum_bins(powers)
        # The DC bin comes from the means: a window leaks AC power into it.
        self._sums[:, c, 0] = self._dc[:, c]
        if self._transform.radial_bin is None:
            self._imaginary[c] = self._transform.sum_bins(imaginary)
            self._imaginary[c, 0] = 0
        if self._max_norm_power.shape[1]:
            self._max_norm_power[c] = self._transform.sum_max_norm_bins(powers[1])
            self._max_norm_power[c, 0] = self._dc[1, c]
        self._pending = None
