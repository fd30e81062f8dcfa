"""Power and cross-spectra of both sides of an activation, summed over inputs."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import cpu_kernels, gpu_kernels
from spectroscope.dsp.kernels.parallel import GRAIN_SIZE, parallel_for
from spectroscope.dsp.spectra import Transform, Window, max_norm_bin_count, radial_bin_count
from spectroscope.statistics.base import Arrays, IncompatibleError
from spectroscope.statistics.chunks import Chunk, ChunkedStatistic, workspace

if TYPE_CHECKING:
    from spectroscope.capture.call import ActivationCall

# Components whose sums stay in the nearest cache while products are added to them.
_CHUNK = 1024


class SpectralSums(NamedTuple):
    """Sums over those inputs whose values are finite on both sides.

    B bins are those of :class:`spectroscope.dsp.spectra.Transform`: of a line, rings of a plane, or
    the whole plane. No bins: there is no axis to transform.

    Attributes:
        lengths: ``[D]``, int64: T, or H and W, what was transformed.
        inputs: ``[C]``, number of inputs in the sums, float64.
        power: ``[2, C, B]``, of the power spectra of the input and of the output, float64.
        cross: ``[C, B]``, of conj(X)·Y; complex128. Over rings it is real: what is imaginary
            cancels between a component and its conjugate.
        shells: ``[C, S]``, in a plane the output's power by the larger of its two frequencies,
            float64; on a line S is 0, for `power` is that.
    """

    lengths: Tensor
    inputs: Tensor
    power: Tensor
    cross: Tensor
    shells: Tensor

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes that were transformed, ``(T,)`` or ``(H, W)``."""
        return tuple(self.lengths.tolist())


def _same_lengths(one: Tensor, other: Tensor) -> Tensor:
    if not torch.equal(one.cpu(), other.cpu()):
        lengths = f"{tuple(one.tolist())} and {tuple(other.tolist())}"
        raise IncompatibleError(f"no spectra: inputs of lengths {lengths}")
    return one


class Spectra(ChunkedStatistic):
    """Power spectra of both sides, and their cross-spectrum; arrays of :class:`SpectralSums`.

    Args:
        window: as ``scipy.signal.get_window`` takes it.
        plane: keep the spectra of images whole.
    """

    name = "spectra"
    layout = {
        "lengths": ("D",),
        "inputs": ("C",),
        "power": (2, "C", "B"),
        "cross": ("C", "B"),
        "shells": ("C", "S"),
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
        none = x.new_zeros(x.shape[1], 0, dtype=torch.float64)
        return {
            "lengths": torch.empty(0, dtype=torch.int64),
            "inputs": x.new_zeros(x.shape[1], dtype=torch.float64),
            "power": torch.stack([none, none]),
            "cross": none.to(torch.complex128),
            "shells": none,
        }

    def checked(self, arrays: Arrays, channels: int) -> Arrays:
        """See :meth:`Statistic.checked`; the number of bins is that of the lengths."""
        lengths = tuple(map(int, super().checked(arrays, channels)["lengths"]))
        bins, shells = arrays["power"].shape[-1], arrays["shells"].shape[-1]
        if (bins, shells) not in _sizes(lengths):
            raise ValueError(f"{bins} and {shells} bins of {lengths}")
        return arrays


def _sizes(lengths: tuple[int, ...]) -> set[tuple[int, int]]:
    """Numbers of bins and of shells that a spectrum over `lengths` may have."""
    if not lengths:
        return {(0, 0)}
    if len(lengths) > 2 or min(lengths) < 2:
        raise ValueError(f"lengths {lengths}")
    if len(lengths) == 1:
        return {(lengths[0] // 2 + 1, 0)}
    height, width = lengths
    shells = max_norm_bin_count(height, width)
    return {(radial_bin_count(height, width), shells), (height * (width // 2 + 1), shells)}


class SpectraAccumulator:
    """The sums of one batch.

    Args:
        x: ``[N, C, ...]``, the batch, of which only shape and device matter.
        lengths: of the axes that are transformed.
        window: as ``scipy.signal.get_window`` takes it.
        plane: keep planes whole.
    """

    def __init__(self, x: Tensor, lengths: tuple[int, ...], window: Window, *, plane: bool):
        self._transform = Transform.of(lengths, window, x.device, plane)
        channels, bins = x.shape[1], self._transform.bins
        shells = max_norm_bin_count(*lengths) if len(lengths) == 2 else 0
        self._inputs = x.new_zeros(channels, dtype=torch.float64)
        self._dc = x.new_zeros(3, channels, dtype=torch.float64)  # of x², y², xy
        self._sums = x.new_zeros(3, channels, bins, dtype=torch.float64)
        self._imaginary = x.new_zeros(channels, bins, dtype=torch.float64)
        self._shells = x.new_zeros(channels, shells, dtype=torch.float64)
        # Components of the channels of the last chunk, not folded into bins yet.
        self._channels = slice(0, 0)
        self._scale = math.nan  # makes means over time of sums
        self._open: tuple[Tensor, Tensor] | None = None

    def add(self, chunk: Chunk) -> None:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        c, (x_rows, y_rows) = chunk.channels, chunk.rows
        if self._channels != c or self._open is None:
            self._fold()
            channels, components = chunk.shape[1], math.prod(self._transform.shape)
            imaginary = channels if self._transform.radial_bin is None else 0
            self._channels = c
            self._open = (
                x_rows.new_zeros(3, channels, components),
                x_rows.new_zeros(imaginary, components),
            )
        x, x_mean = self._transformed(x_rows, chunk.means[0], "input")
        y, y_mean = self._transformed(y_rows, chunk.means[1], "output")
        self._inputs[c] += chunk.shape[0] if chunk.finite is None else chunk.finite.sum(0)
        _add_products(x, y, *self._open)
        pairs = torch.stack([x_mean, y_mean, x_mean]) * torch.stack([x_mean, y_mean, y_mean])
        self._dc[:, c].add_(pairs.sum((1, 3)), alpha=1 / x.shape[2])

    def arrays(self) -> Arrays:
        """See :class:`spectroscope.statistics.chunks.Accumulator`."""
        self._fold()
        return {
            "lengths": torch.tensor(self._transform.lengths),
            "inputs": self._inputs,
            "power": self._sums[:2],
            "cross": torch.complex(self._sums[2], self._imaginary),
            "shells": self._shells,
        }

    def _transformed(self, rows: Tensor, mean: Tensor, side: str) -> tuple[Tensor, Tensor]:
        """Components of one side, ``[n, c, frames, F, 2]``, and its DC, ``[n, c, frames]``.

        Each frame of a video counts as an input of 1/frames of the power; so does each line of
        what is transformed along time alone.
        """
        x = rows.view(*mean.shape, -1, *self._transform.lengths)
        mean = mean.unsqueeze(2) if x.shape[2] == 1 else x.flatten(3).mean(-1)
        if self._transform.tapered:  # in a workspace, since other statistics read the rows
            tapered = workspace(f"tapered {side}", tuple(x.shape), x, torch.float64)
            x = torch.sub(x, mean.view(*mean.shape, *[1] * len(self._transform.lengths)),
                          out=tapered)  # fmt: skip
        self._scale = 1 / (x.shape[2] * self._transform.points**2)
        return torch.view_as_real(self._transform(x).flatten(3)), mean

    def _fold(self) -> None:
        """Sum the open components up into their bins."""
        if self._open is None:
            return
        c, shape = self._channels, self._transform.shape
        powers, imaginary = (
            sums.mul_(self._scale).view(*sums.shape[:-1], *shape) for sums in self._open
        )
        self._sums[:, c] = self._transform.sum_bins(powers)
        # DC is what the means say it is, whatever a window has leaked there.
        self._sums[:, c, 0] = self._dc[:, c]
        if self._transform.radial_bin is None:
            self._imaginary[c] = self._transform.sum_bins(imaginary)
            self._imaginary[c, 0] = 0
        if self._shells.shape[1]:
            self._shells[c] = self._transform.sum_max_norm_bins(powers[1])
            self._shells[c, 0] = self._dc[1, c]
        self._open = None


def _add_products(x: Tensor, y: Tensor, sums: Tensor, imaginary: Tensor) -> None:
    """Add |X|², |Y|² and conj(X)·Y of ``[n, c, f, F, 2]``, summed over the inputs and frames.

    Args:
        x: real and imaginary parts of X, float64.
        y: of Y.
        sums: ``[3, c, F]``, added to; of the product the real part.
        imaginary: ``[c, F]``, its imaginary part; or of no channels.
    """
    if x.is_cuda and (kernels := gpu_kernels(x.device)) is not None:
        kernels.add_products(x, y, sums, imaginary)
        return
    native = cpu_kernels() if x.is_cpu else None
    if native is None:
        for total, a, b in zip(sums, (x, y, x), (x, y, y), strict=True):
            _add_product(total, a[..., 0], b[..., 0], 1)
            _add_product(total, a[..., 1], b[..., 1], 1)
        if len(imaginary):
            _add_product(imaginary, x[..., 0], y[..., 1], 1)
            _add_product(imaginary, x[..., 1], y[..., 0], -1)
        return
    whole = x.shape[3]
    count = x.shape[1] * -(-whole // _CHUNK)
    given = [side.flatten(3).numpy() for side in (x, y)]
    results = sums.numpy(), imaginary.numpy()
    parallel_for(
        lambda a, b: native.add_products(*given, whole, _CHUNK, a, b, *results),
        count,
        max(1, GRAIN_SIZE * count // x.numel()),
    )


def _add_product(total: Tensor, a: Tensor, b: Tensor, sign: int) -> None:
    if a.shape[0] * a.shape[2] == 1:
        total.addcmul_(a[0, :, 0], b[0, :, 0], value=sign)
    else:
        work = workspace("products", tuple(a.shape), a, torch.float64)
        total.add_(torch.mul(a, b, out=work).sum((0, 2)), alpha=sign)
