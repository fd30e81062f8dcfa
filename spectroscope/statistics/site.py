"""Both sides of one site, reduced together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.kernels.dispatch import (
    merge_moments,
    relu_moments,
    to_float64,
    zero_nonfinite_rows,
)
from spectroscope.dsp.moments import (
    ChannelMoments,
    CoMoments,
    Moments,
    RowMoments,
    relu_product,
    row_moments,
)
from spectroscope.dsp.spectra import Window
from spectroscope.statistics.blocks import pieces, scratch
from spectroscope.statistics.harmonics import HarmonicsOfBatch, HarmonicSums
from spectroscope.statistics.sides import SideOfBatch, SideStatistics
from spectroscope.statistics.spectra import SpectralSums, SpectraOfBatch, transformed_axes


class Analysis(NamedTuple):
    """What is to be computed of a batch beside DC and AC.

    Attributes:
        spectra: power and cross-spectra, where there is an axis to transform.
        plane: keep those of planes whole.
        window: as ``scipy.signal.get_window`` takes it.
        f0: ``[N]`` or ``[1]``, fundamentals in cycles per sample of the site, or None.
        orders: number of harmonics.
    """

    spectra: bool = True
    plane: bool = False
    window: Window = "boxcar"
    f0: Tensor | None = None
    orders: int = 8


class SiteStatistics(NamedTuple):
    """Everything kept of one site's values, a fixed size that doesn't grow with the batches.

    Attributes:
        inputs: number of inputs (batch items) seen.
        channels: DC and AC of the rectifier's input and of its output, and of the pairs of both.
        spectra: None if there is no axis to transform, they weren't asked for, or inputs had
            different lengths.
        harmonics: of those inputs whose fundamental is known; None if there are none, or for what
            isn't a line ``(C, T)``.
    """

    inputs: int
    channels: ChannelMoments
    spectra: SpectralSums | None
    harmonics: HarmonicSums | None

    @classmethod
    def of(cls, x: Tensor, y: Tensor | None, analysis: Analysis) -> "SiteStatistics":
        """Statistics of one batch.

        Args:
            x: ``[N, C, ...]``, the rectifier's input, real, N ≥ 1, at least one value per channel.
            y: its output, of the same shape; None: it is ReLU(x), computed here, piece by piece
                while x is in cache, so that x needn't be kept till the output is there.
            analysis: what is asked for.
        """
        axes = transformed_axes(tuple(x.shape[1:]))
        spectra = harmonics = None
        if analysis.spectra and axes:
            spectra = SpectraOfBatch(x, analysis.window, plane=analysis.plane)
        if analysis.f0 is not None and len(axes) == 1:
            harmonics = HarmonicsOfBatch(x, analysis.f0, analysis.orders)
        whole = relu_moments(x) if y is None else None
        rows = _Rows(x) if whole is None else None
        in_pieces = rows or spectra or harmonics
        every = whole.finite_rows() if whole is not None and in_pieces else None
        for n, c in pieces(x) if in_pieces else ():
            block = x[n, c]
            finite = None if every is None else every[n, c]
            x_rows, y_rows = _rows(block, None if y is None else y[n, c], finite)
            if whole is not None:
                found = whole.sides(n, c)
            else:
                found, product = _reduced(x_rows, y_rows, relu=y is None)
                finite = _finite(found, x_rows.shape[-1])
                if finite is not None:
                    zero_nonfinite_rows(x_rows, finite)
                    zero_nonfinite_rows(y_rows, finite)
            if rows is not None:
                rows.add(n, c, found, product, finite)
            pair = found[0].mean, found[1].mean
            if finite is not None:
                pair = pair[0].where(finite, 0), pair[1].where(finite, 0)
            if harmonics is not None:
                ac = found[0].m2, found[1].m2
                harmonics.add(n, c, (x_rows, y_rows), pair, ac, finite)
            if spectra is not None:
                shaped = x_rows.view(block.shape), y_rows.view(block.shape)
                spectra.add(c, shaped, pair, finite)
        if whole is not None:
            channels = whole.reduce_batch()
        elif rows is not None:
            channels = rows.channels()
        return cls(
            len(x),
            channels,
            None if spectra is None else spectra.sums(),
            None if harmonics is None else harmonics.sums(),
        )

    @property
    def input(self) -> SideStatistics:
        """DC and AC of the rectifier's input."""
        return self._side(0)

    @property
    def output(self) -> SideStatistics:
        """DC and AC of its output."""
        return self._side(1)

    @property
    def joint(self) -> CoMoments:
        """Of the pairs of input and output values, of inputs that are finite on both sides."""
        return self.channels.joint

    def _side(self, number: int) -> SideStatistics:
        dc = Moments(*(tensor[number] for tensor in self.channels.dc))
        return SideStatistics(self.inputs, dc, self.channels.sums[number])

    def to(self, device: torch.device) -> "SiteStatistics":
        """The same on `device`."""
        moved: SiteStatistics = _to(self, device)
        return moved

    def merge(self, other: "SiteStatistics") -> "SiteStatistics":
        """Statistics of both together; associative, and commutative to rounding."""
        spectra = None
        if self.spectra is not None and other.spectra is not None:
            spectra = self.spectra.merge(other.spectra)
        harmonics = self.harmonics or other.harmonics
        if self.harmonics is not None and other.harmonics is not None:
            harmonics = self.harmonics.merge(other.harmonics)
        return SiteStatistics(
            self.inputs + other.inputs,
            merge_moments(self.channels, other.channels),
            spectra,
            harmonics,
        )


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(_to(field, device) for field in value))
    return value


class _Rows:
    """DC and AC of both sides of one batch, put together from the pieces that it is reduced in.

    Args:
        x: ``[N, C, ...]``, the batch, of which only shape and device matter.
    """

    def __init__(self, x: Tensor):
        self._sides = SideOfBatch(x), SideOfBatch(x)
        self._length = x[0, 0].numel()
        self._means = x.new_empty(2, *x.shape[:2], dtype=torch.float64)
        self._weights = torch.full_like(self._means[0], self._length)
        self._m2 = x.new_zeros(3, x.shape[1], dtype=torch.float64)

    def add(
        self,
        n: slice,
        c: slice,
        found: tuple[RowMoments, RowMoments],
        product: Tensor,
        finite: Tensor | None,
    ) -> None:
        """Take in the moments of some rows, and the sum of the products of both sides in each."""
        for number, row in enumerate((found[0].m2, found[1].m2, product)):
            self._m2[number, c] += (row if finite is None else row.where(finite, 0)).sum(0)
        for number, (side, of_side) in enumerate(zip(self._sides, found, strict=True)):
            side.add(n, c, of_side)
            self._means[number, n, c] = of_side.mean
        if finite is not None:
            self._weights[n, c] *= finite

    def channels(self) -> ChannelMoments:
        """The whole, once all pieces are in."""
        (x_dc, x_sums), (y_dc, y_sums) = (side.moments() for side in self._sides)
        dc = Moments(*map(torch.stack, zip(x_dc, y_dc, strict=True)))
        joint = CoMoments.of(self._means, self._m2, self._weights)
        return ChannelMoments.of(dc, torch.stack([x_sums, y_sums]), joint)


def _rows(x: Tensor, y: Tensor | None, finite: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both sides of a piece as float64 rows ``[n, c, T]``, in memory of our own.

    Of a ReLU's those that are known not to be `finite` are 0.
    """
    of_x, of_y = (scratch(f"rows of {name}", tuple(x.shape), x, torch.float64) for name in "xy")
    if y is None:
        to_float64(x, of_x, of_y, finite)
    else:
        of_x.copy_(x)
        of_y.copy_(y)
    shape = (*x.shape[:2], -1)
    return of_x.view(shape), of_y.view(shape)


def _reduced(x: Tensor, y: Tensor, *, relu: bool) -> tuple[tuple[RowMoments, RowMoments], Tensor]:
    """Moments of the rows of both sides, and ``[n, c]``, Σ(x - its mean)·(y - its mean)."""
    work = scratch("work", tuple(x.shape), x, torch.float64)
    native = relu_moments(x) if relu else None
    if native is not None:
        found = native.sides(slice(None), slice(None))
    else:
        found = row_moments(x, work, positive=False), row_moments(y, work)
    if relu:
        return found, relu_product(*found, x.shape[-1])
    torch.sub(x, found[0].mean.unsqueeze(-1), out=work)
    return found, work.mul_(y).sum(-1)


def _finite(found: tuple[RowMoments, RowMoments], length: int) -> Tensor | None:
    """``[n, c]``, which rows are finite on both sides; None: all are."""
    counts = [side.finite for side in found if side.finite is not None]
    if not counts:
        return None
    return torch.stack([count == length for count in counts]).all(0)
