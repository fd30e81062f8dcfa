"""Power and cross-spectra of both sides of a rectifier, summed over inputs."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import cpu_kernels, gpu_kernels
from spectroscope.dsp.kernels.parallel import GRAIN_SIZE, parallel_for
from spectroscope.dsp.spectra import Transform, Window, max_norm_bin_count
from spectroscope.statistics.blocks import scratch

# Components whose sums stay in the nearest cache while products are added to them.
_CHUNK = 1024


class SpectralSums(NamedTuple):
    """Sums over those inputs whose values are finite on both sides.

    B bins are those of :class:`spectroscope.dsp.spectra.Transform`: of a line, rings of a plane, or
    the whole plane.

    Attributes:
        lengths: ``(T,)`` or ``(H, W)``, what was transformed.
        inputs: ``[C]``, number of inputs in the sums, float64.
        input: ``[C, B]``, of the input's power spectra, float64.
        output: ``[C, B]``, of the output's, float64.
        cross: ``[C, B]``, of conj(X)·Y; complex128. Over rings it is real: what is imaginary
            cancels between a component and its conjugate.
        shells: ``[C, S]``, in a plane the output's power by the larger of its two frequencies,
            float64; on a line None, for `output` is that.
    """

    lengths: tuple[int, ...]
    inputs: Tensor
    input: Tensor
    output: Tensor
    cross: Tensor
    shells: Tensor | None

    def merge(self, other: "SpectralSums") -> "SpectralSums | None":
        """Sums of both; None if they don't have the same frequencies."""
        if self.lengths != other.lengths or self.input.shape != other.input.shape:
            return None
        shells = None
        if self.shells is not None and other.shells is not None:
            shells = self.shells + other.shells
        return SpectralSums(
            self.lengths,
            self.inputs + other.inputs,
            self.input + other.input,
            self.output + other.output,
            self.cross + other.cross,
            shells,
        )


def transformed_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Which axes of one input's activation ``(C, ...)`` are transformed; none: ``()``.

    Time of ``(C, T)``, both of ``(C, H, W)``, the last two of video ``(C, T, H, W)``. An axis of
    length 1 is none: ``(C, 1, T)`` is a line.
    """
    axes = tuple(axis for axis, length in enumerate(shape) if axis > 0 and length > 1)
    return axes[-2:] if len(axes) <= 3 else ()


class SpectraOfBatch:
    """The sums of one batch, put together from the pieces that it is reduced in.

    Args:
        x: ``[N, C, ...]``, the batch, of which only shape and device matter.
        window: as ``scipy.signal.get_window`` takes it.
        plane: keep planes whole.
    """

    def __init__(self, x: Tensor, window: Window, *, plane: bool):
        lengths = tuple(x.shape[1 + axis] for axis in transformed_axes(tuple(x.shape[1:])))
        self._transform = Transform.of(lengths, window, x.device, plane)
        channels, bins = x.shape[1], self._transform.bins
        shells = max_norm_bin_count(*lengths) if len(lengths) == 2 else 0
        self._inputs = x.new_zeros(channels, dtype=torch.float64)
        self._dc = x.new_zeros(3, channels, dtype=torch.float64)  # of x², y², xy
        self._sums = x.new_zeros(3, channels, bins, dtype=torch.float64)
        self._imaginary = x.new_zeros(channels, bins, dtype=torch.float64)
        self._shells = x.new_zeros(channels, shells, dtype=torch.float64)
        # Components not folded into bins yet, of the channels that pieces come of just now.
        self._channels = slice(0, 0)
        self._share = math.nan  # of what is open, what makes means over time of sums
        self._open: tuple[Tensor, Tensor] | None = None

    def add(
        self,
        c: slice,
        sides: tuple[Tensor, Tensor],
        means: tuple[Tensor, Tensor],
        finite: Tensor | None,
    ) -> None:
        """Take in a piece: channels `c` of some inputs. All pieces of one `c` come in a row.

        Args:
            c: the channels.
            sides: input and output, float64, ``[n, c, ...]``, overwritten.
            means: of their rows, ``[n, c]``.
            finite: ``[n, c]``, which rows are so on both sides, the others being 0; None: all.
        """
        if self._channels != c or self._open is None:
            self._fold()
            channels, components = sides[0].shape[1], math.prod(self._transform.shape)
            turned = channels if self._transform.radial_bin is None else 0
            self._channels = c
            self._open = (
                sides[0].new_zeros(3, channels, components),
                sides[0].new_zeros(turned, components),
            )
        x, x_mean = self._transformed(sides[0], means[0])
        y, y_mean = self._transformed(sides[1], means[1])
        self._inputs[c] += len(means[0]) if finite is None else finite.sum(0)
        _add_products(x, y, *self._open)
        pairs = torch.stack([x_mean, y_mean, x_mean]) * torch.stack([x_mean, y_mean, y_mean])
        self._dc[:, c].add_(pairs.sum((1, 3)), alpha=1 / x.shape[2])

    def sums(self) -> SpectralSums:
        """The whole, once all pieces are in."""
        self._fold()
        xx, yy, xy = self._sums
        cross = torch.complex(xy, self._imaginary)
        lengths = self._transform.lengths
        shells = self._shells if len(lengths) == 2 else None
        return SpectralSums(lengths, self._inputs, xx, yy, cross, shells)

    def _transformed(self, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Components of one side, ``[n, c, frames, F, 2]``, and its DC, ``[n, c, frames]``.

        Frames of a video count as so many inputs, each with 1/frames of the power.
        """
        x = x.view(*mean.shape, -1, *self._transform.lengths)
        mean = mean.unsqueeze(2) if x.shape[2] == 1 else x.flatten(3).mean(-1)
        if self._transform.tapered:
            x.sub_(mean.view(*mean.shape, *[1] * len(self._transform.lengths)))
        self._share = 1 / (x.shape[2] * self._transform.points**2)
        return torch.view_as_real(self._transform(x).flatten(3)), mean

    def _fold(self) -> None:
        """Sum the open components up into their bins."""
        if self._open is None:
            return
        c, shape = self._channels, self._transform.shape
        powers, imaginary = (
            sums.mul_(self._share).view(*sums.shape[:-1], *shape) for sums in self._open
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
        work = scratch("products", tuple(a.shape), a, torch.float64)
        total.add_(torch.mul(a, b, out=work).sum((0, 2)), alpha=sign)
