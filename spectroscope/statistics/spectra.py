"""Power and cross-spectra of both sides of a rectifier, summed over inputs."""

from typing import NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.spectra import Transform, Window, shell_count
from spectroscope.statistics.blocks import scratch


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
        shells = shell_count(*lengths) if len(lengths) == 2 else 0
        self._inputs = x.new_zeros(channels, dtype=torch.float64)
        self._dc = x.new_zeros(3, channels, dtype=torch.float64)  # of x², y², xy
        self._sums = x.new_zeros(3, channels, bins, dtype=torch.float64)
        self._imaginary = x.new_zeros(channels, bins, dtype=torch.float64)
        self._shells = x.new_zeros(channels, shells, dtype=torch.float64)
        # Components not folded into bins yet, of the channels that pieces come of just now.
        self._channels = slice(0, 0)
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
            finite: ``[n, c]``, which rows are so on both sides; None: all.
        """
        if self._channels != c or self._open is None:
            self._fold()
            shape = (sides[0].shape[1], *self._transform.shape)
            self._channels = c
            self._open = sides[0].new_zeros(3, *shape, 2), sides[0].new_zeros(shape)
        x, x_mean = self._transformed("x", sides[0], means[0], finite)
        y, y_mean = self._transformed("y", sides[1], means[1], finite)
        self._inputs[c] += len(means[0]) if finite is None else finite.sum(0)
        (xx, yy, xy), imaginary = self._open
        share = 1 / x.shape[2]
        for number, (total, a, b) in enumerate(((xx, x, x), (yy, y, y), (xy, x, y))):
            _add_products(total, a, b, share)
            a_mean, b_mean = x_mean if a is x else y_mean, x_mean if b is x else y_mean
            self._dc[number, c] += (a_mean * b_mean).sum((0, 2)) * share
        if self._transform.rings is None:
            _add_products(imaginary, x[..., 0], y[..., 1], share)
            _add_products(imaginary, x[..., 1], y[..., 0], -share)

    def sums(self) -> SpectralSums:
        """The whole, once all pieces are in."""
        self._fold()
        xx, yy, xy = self._sums
        cross = torch.complex(xy, self._imaginary)
        lengths = self._transform.lengths
        shells = self._shells if len(lengths) == 2 else None
        return SpectralSums(lengths, self._inputs, xx, yy, cross, shells)

    def _transformed(
        self, name: str, x: Tensor, mean: Tensor, finite: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Components of one side, ``[n, c, frames, *shape, 2]``, and its DC, ``[n, c, frames]``.

        Frames of a video count as so many inputs, each with 1/frames of the power.
        """
        if finite is not None:
            x.masked_fill_(~finite.view(*finite.shape, *[1] * (x.dim() - 2)), 0)
            mean = mean.where(finite, 0)
        x = x.view(*mean.shape, -1, *self._transform.lengths)
        mean = mean.unsqueeze(2) if x.shape[2] == 1 else x.flatten(3).mean(-1)
        if self._transform.tapered:
            x.sub_(mean.view(*mean.shape, *[1] * len(self._transform.lengths)))
        shape = (*mean.shape, *self._transform.shape)
        out = scratch(f"components of {name}", shape, x, torch.complex128)
        return torch.view_as_real(self._transform(x, out=out)), mean

    def _fold(self) -> None:
        """Sum the open components up into their bins."""
        if self._open is None:
            return
        c, (components, imaginary) = self._channels, self._open
        powers = components[..., 0] + components[..., 1]
        self._sums[:, c] = self._transform.fold(powers)
        # DC is what the means say it is, whatever a window has leaked there.
        self._sums[:, c, 0] = self._dc[:, c]
        if self._transform.rings is None:
            self._imaginary[c] = self._transform.fold(imaginary)
            self._imaginary[c, 0] = 0
        if self._shells.shape[1]:
            self._shells[c] = self._transform.fold_shells(powers[1])
            self._shells[c, 0] = self._dc[1, c]
        self._open = None


def _add_products(total: Tensor, a: Tensor, b: Tensor, share: float) -> None:
    """Add share·Σab to `total` ``[c, ...]``, over the inputs and frames of ``[n, c, f, ...]``."""
    if a.shape[0] * a.shape[2] == 1:
        total.addcmul_(a[0, :, 0], b[0, :, 0], value=share)
    else:
        work = scratch("products", tuple(a.shape), a, torch.float64)
        total.add_(torch.mul(a, b, out=work).sum((0, 2)), alpha=share)
