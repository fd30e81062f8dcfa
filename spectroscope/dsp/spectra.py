"""Power spectra of real signals on a line and in a plane, as scipy.signal defines them."""

import math
from functools import lru_cache
from typing import TypeAlias

import scipy.signal
import torch
from torch import Tensor

from spectroscope.errors import RequestError

# As scipy.signal.get_window takes it: "hann", or ("tukey", 0.3).
Window: TypeAlias = str | tuple[str | float, ...]

# What is half-way between two rings belongs to the upper one, and all of it, whatever way rounding
# has gone.
_HALF = 0.5 + 1e-10


class Transform:
    """The Fourier transform of real signals of given lengths, and how its bins are summed up.

    On a line ``(T,)`` the power in them is that of
    ``scipy.signal.periodogram(x, scaling="spectrum", detrend=False)``: a tone A·cos that falls on a
    bin reads A²/2 there, the DC bin is the squared mean, and the bins sum to the mean square
    (Parseval), for even and for odd T. Bin k lies at k/T cycles per sample.

    In a plane ``(H, W)`` they are summed over rings of equal frequency, L = max(H, W): ring r has
    all components whose frequency √(fy² + fx²) is nearest to r/L cycles per sample. A sum, not a
    mean: the rings too add up to the mean square, and ring 0 is the DC alone. With ``plane=True``
    the plane stays as it is, as ``torch.fft.rfft2`` orders it; components that it leaves out, for
    they are the conjugates of others, are counted in those.

    Attributes:
        lengths: ``(T,)`` or ``(H, W)``.
        shape: of the transform, ``(T // 2 + 1,)`` or ``(H, W // 2 + 1)``.
        points: number of values that are transformed together.
        bins: number of bins, or rings, or components of the plane.
        rings: in a plane, the ring of each component, flat; else None.
        shells: likewise, but by the larger of its two frequencies: what a decimation along both
            axes folds lies outside of a square.
        tapered: there is a window other than the boxcar.
    """

    def __init__(self, lengths: tuple[int, ...], window: Window, plane: bool, device: torch.device):
        self.lengths = lengths
        self.shape = (*lengths[:-1], lengths[-1] // 2 + 1)
        self.points = math.prod(lengths)
        self.tapered = window not in ("boxcar", "rectangular")
        taper = torch.ones((), dtype=torch.float64)
        for length in lengths if self.tapered else ():
            one = torch.from_numpy(scipy.signal.get_window(window, length))
            taper = taper.unsqueeze(-1) * (one / one.mean())
        self._taper = taper.to(device)
        # Each component stands for its conjugate too, but where that is itself or there as well.
        weights = torch.ones(self.shape[-1], dtype=torch.float64)
        weights[1 : (lengths[-1] + 1) // 2] = 2
        self._weights = weights.to(device)
        self.rings = self.shells = None
        self.bins = math.prod(self.shape)
        if len(lengths) == 2:
            height, width = lengths
            fy = torch.fft.fftfreq(height, dtype=torch.float64).abs().unsqueeze(-1)
            fx = torch.fft.rfftfreq(width, dtype=torch.float64).expand(height, -1)
            self.shells = _nearest(torch.maximum(fy, fx), max(lengths)).to(device)
            if not plane:
                self.rings = _nearest(torch.hypot(fy, fx), max(lengths)).to(device)
                self.bins = ring_count(height, width)

    @classmethod
    @lru_cache(maxsize=16)
    def of(
        cls, lengths: tuple[int, ...], window: Window, device: torch.device, plane: bool = False
    ) -> "Transform":
        """The one transform of these properties."""
        return cls(lengths, window, plane, device)

    def __call__(self, x: Tensor) -> Tensor:
        """Transform x over its last axes: sums, so that a constant reads `points` times itself.

        Not scaled, and not into memory that is there: either way torch takes up to four times as
        long (benchmarks/record.py).

        Args:
            x: real, ``[..., *lengths]``; overwritten if there is a window.

        Returns:
            Complex, ``[..., *shape]``.
        """
        if self.tapered:
            x.mul_(self._taper)
        if len(self.lengths) == 1:
            line: Tensor = torch.fft.rfft(x)
            return line
        plane: Tensor = torch.fft.rfft2(x)
        return plane

    def fold(self, components: Tensor) -> Tensor:
        """Sum ``[..., *shape]`` up into ``[..., bins]``: one-sided, and by rings in a plane."""
        weighted = components * self._weights
        weighted = weighted.flatten(weighted.dim() - len(self.shape))
        return weighted if self.rings is None else _summed(weighted, self.rings, self.bins)

    def fold_shells(self, components: Tensor) -> Tensor:
        """Sum ``[..., H, W // 2 + 1]`` up by `shells`; bin s is at s/L cycles per sample."""
        assert self.shells is not None
        weighted = (components * self._weights).flatten(-2)
        return _summed(weighted, self.shells, shell_count(*self.lengths))

    def modes(self) -> Tensor:
        """``[bins]``, how many components, conjugates included, each bin sums up."""
        return self.fold(torch.ones(self.shape, dtype=torch.float64, device=self._weights.device))


def checked_window(window: Window) -> Window:
    """`window`, if it is a name or a tuple of a name and numbers that SciPy knows.

    Raises:
        RequestError: it isn't.
    """
    name, *numbers = window if isinstance(window, tuple) else (window,)
    try:
        if not isinstance(name, str):
            raise TypeError("a name, or a tuple of a name and numbers, is taken")
        checked: Window = (name, *map(float, numbers)) if numbers else name
        scipy.signal.get_window(checked, 8)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{window=}: {error}") from error
    return "boxcar" if checked == "rectangular" else checked


def ring_count(height: int, width: int) -> int:
    """Number of rings in the plane of an image: the last has the highest frequency, in a corner."""
    corner = math.hypot((height // 2) / height, (width // 2) / width)
    return math.floor(corner * max(height, width) + _HALF) + 1


def shell_count(height: int, width: int) -> int:
    """Number of shells, likewise."""
    highest = max((height // 2) / height, (width // 2) / width)
    return math.floor(highest * max(height, width) + _HALF) + 1


def noise_bandwidth(window: Window, lengths: tuple[int, ...]) -> float:
    """Equivalent noise bandwidth of a window, in bins: 1 for the boxcar, 1.5 for a long Hann.

    What a power spectrum is divided by, beside the width of a bin, to be a density (F. J. Harris,
    "On the use of windows for harmonic analysis with the DFT", *Proc. IEEE* 66, 1978). Over several
    axes the product of each.
    """
    tapers = (scipy.signal.get_window(window, length) for length in lengths)
    return math.prod(float(len(w) * (w**2).sum() / w.sum() ** 2) for w in tapers)


def _nearest(frequency: Tensor, length: int) -> Tensor:
    """Index, flat, of the multiple of 1/length that is nearest to each frequency."""
    return (frequency * length + _HALF).floor().long().flatten()


def _summed(values: Tensor, index: Tensor, bins: int) -> Tensor:
    """Sum of the values along the last axis that have the same index."""
    total = values.new_zeros(*values.shape[:-1], bins)
    return total.scatter_add_(-1, index.expand(values.shape), values)
