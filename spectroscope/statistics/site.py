"""Both sides of one site, reduced together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectroscope.dsp.moments import CoMoments, RowMoments, row_moments
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
        input: DC and AC of the rectifier's input.
        output: of its output.
        joint: of the pairs of input and output values, of those inputs that are finite throughout
            on both sides.
        spectra: None if there is no axis to transform, they weren't asked for, or inputs had
            different lengths.
        harmonics: of those inputs whose fundamental is known; None if there are none, or for what
            isn't a line ``(C, T)``.
    """

    input: SideStatistics
    output: SideStatistics
    joint: CoMoments
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
        before, after = SideOfBatch(x), SideOfBatch(x)
        spectra = harmonics = None
        if analysis.spectra and axes:
            spectra = SpectraOfBatch(x, analysis.window, plane=analysis.plane)
        if analysis.f0 is not None and len(axes) == 1:
            harmonics = HarmonicsOfBatch(x, analysis.f0, analysis.orders)
        means = x.new_empty(2, *x.shape[:2], dtype=torch.float64)
        weights = torch.full_like(means[0], x[0, 0].numel())
        m2 = x.new_zeros(3, x.shape[1], dtype=torch.float64)
        for n, c in pieces(x):
            block = x[n, c]
            x_rows = _rows("x", block)
            y_rows = _rows("y", block if y is None else y[n, c])
            if y is None:
                torch.clamp_min(x_rows, 0, out=y_rows)
            work = scratch("work", tuple(x_rows.shape), x_rows, torch.float64)
            found = row_moments(x_rows, work, positive=False), row_moments(y_rows, work)
            before.add(n, c, found[0])
            after.add(n, c, found[1])
            finite = _finite(found, x_rows.shape[-1])
            product = _product(found, x_rows, y_rows, work, relu=y is None)
            for number, row in enumerate((found[0].m2, found[1].m2, product)):
                m2[number, c] += (row if finite is None else row.where(finite, 0)).sum(0)
            for number, side in enumerate(found):
                means[number, n, c] = side.mean
            if finite is not None:
                weights[n, c] *= finite
            pair = found[0].mean, found[1].mean
            if harmonics is not None:
                ac = found[0].m2, found[1].m2
                harmonics.add(n, c, (x_rows, y_rows), pair, ac, finite)
            if spectra is not None:
                shaped = x_rows.view(block.shape), y_rows.view(block.shape)
                spectra.add(c, shaped, pair, finite)
        return cls(
            before.statistics(),
            after.statistics(),
            CoMoments.of(means, m2, weights),
            None if spectra is None else spectra.sums(),
            None if harmonics is None else harmonics.sums(),
        )

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
            self.input.merge(other.input),
            self.output.merge(other.output),
            self.joint.merge(other.joint),
            spectra,
            harmonics,
        )


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if hasattr(value, "_fields"):
        return type(value)(*(_to(field, device) for field in value))
    return value


def _rows(name: str, block: Tensor) -> Tensor:
    """`block` as float64 rows ``[n, c, T]``, in memory of our own."""
    rows = scratch(f"rows of {name}", tuple(block.shape), block, torch.float64)
    rows.copy_(block)
    return rows.flatten(2) if rows.dim() > 2 else rows.unsqueeze(2)


def _product(
    found: tuple[RowMoments, RowMoments], x: Tensor, y: Tensor, work: Tensor, *, relu: bool
) -> Tensor:
    """``[n, c]``, sum over each row of (x - its mean)·(y - its mean)."""
    before, after = found
    if relu:  # x·y is y²: either both are the same, or y is 0
        return torch.addcmul(after.m2, after.mean, after.mean - before.mean, value=x.shape[-1])
    torch.sub(x, before.mean.unsqueeze(-1), out=work)
    return work.mul_(y).sum(-1)


def _finite(found: tuple[RowMoments, RowMoments], length: int) -> Tensor | None:
    """``[n, c]``, which rows are finite on both sides; None: all are."""
    counts = [side.finite for side in found if side.finite is not None]
    if not counts:
        return None
    return torch.stack([count == length for count in counts]).all(0)
