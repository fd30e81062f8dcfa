"""Power spectra of real signals in one and two dimensions, as scipy.signal defines them."""

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectroscope.errors import RequestError

# As scipy.signal.get_window takes it: "hann", or ("tukey", 0.3).
Window: TypeAlias = str | tuple[str | float, ...]

# A frequency half-way between two bins belongs to the upper one, however it was rounded.
_HALF = 0.5 + 1e-10


class Transform:
    """The Fourier transform of real signals of given lengths, and the sums over its bins.

    In one dimension, ``(T,)``, the power in the bins is that of
    ``scipy.signal.periodogram(x, scaling="spectrum", detrend=False)``: a tone A·cos that falls on a
    bin reads A²/2 there, the DC bin is the squared mean, and the bins sum to the mean square
    (Parseval), for even and for odd T. Bin k lies at k/T cycles per sample.

    In two, ``(H, W)``, components are summed over radial bins, L = max(H, W): bin r has all
    components whose frequency √(fy² + fx²) is nearest to r/L cycles per sample. A sum, not a mean:
    these bins too add up to the mean square, and bin 0 is the DC alone. With ``plane=True`` every
    component of ``torch.fft.rfft2`` is a bin, in its order. Components that it omits, the
    conjugates of others, are counted in those.

    Two real signals are transformed at once, as the real and the imaginary part of one (H. V.
    Sorensen et al., "Real-valued fast Fourier transform algorithms", *IEEE Trans. Acoustics, Speech
    and Signal Processing* 35, 1987). They need not be separated: at the frequencies k and −k
    together, such a transform has the power of both, twice, and likewise the real part of their
    cross-spectra; the imaginary part with opposite signs.

    Attributes:
        lengths: ``(T,)`` or ``(H, W)``.
        lengths_tensor: the same, int64, on the CPU.
        points: number of values that are transformed together.
        bins: number of bins.
        bin: bin of each component, at k and at −k, flat.
        sign: of the imaginary part of each component in a cross-spectrum; 0 if it has none.
        radial: bins are radial, so that several components are summed in one.
        max_norm_bin: in two dimensions, bin of each component by max(fy, fx): decimation along both
            axes folds what lies outside a square. Empty in one dimension.
        tapered: the window isn't the boxcar.
    """

    def __init__(self, lengths: tuple[int, ...], window: Window, plane: bool, device: torch.device):
        self.lengths, self.lengths_tensor = lengths, torch.tensor(lengths)
        self.points = math.prod(lengths)
        self.tapered = window not in ("boxcar", "rectangular")
        taper = torch.ones((), dtype=torch.float64)
        for length in lengths if self.tapered else ():
            along_axis = torch.from_numpy(get_window(window, length))
            taper = taper.unsqueeze(-1) * (along_axis / along_axis.mean())
        self._taper = taper.to(device)
        self.radial = len(lengths) == 2 and not plane
        *_, width = self._shape = (*lengths[:-1], lengths[-1] // 2 + 1)
        # The component that `rfft` has of each pair k and −k, and whether it is that at −k.
        at = torch.arange(self.points).view(lengths)
        mirrored = torch.arange(lengths[-1]) >= width
        conjugate = at
        for axis, length in enumerate(lengths):
            conjugate = conjugate.index_select(axis, -torch.arange(length) % length)
        kept = torch.where(mirrored, conjugate, at)
        kept = kept // lengths[-1] * width + kept % lengths[-1]
        sign = torch.where(mirrored, -1.0, 1.0).expand(lengths)
        self.sign = sign.where(at != conjugate, 0).double().flatten().to(device)
        self.max_norm_bin = at.new_empty(0).to(device)
        self._bin_of_kept = torch.arange(math.prod(self._shape))
        if len(lengths) == 2:
            height = lengths[0]
            fy = torch.fft.fftfreq(height, dtype=torch.float64).abs().unsqueeze(-1)
            fx = torch.fft.rfftfreq(lengths[1], dtype=torch.float64).expand(height, -1)
            max_norm_bin = _nearest(torch.maximum(fy, fx), max(lengths))
            self.max_norm_bin = max_norm_bin[kept].flatten().to(device)
            if self.radial:
                self._bin_of_kept = _nearest(torch.hypot(fy, fx), max(lengths))
        self.bin = self._bin_of_kept[kept].flatten().to(device)
        self.bins = int(self.bin.max()) + 1

    @classmethod
    @lru_cache(maxsize=16)
    def of(
        cls, lengths: tuple[int, ...], window: Window, device: torch.device, plane: bool = False
    ) -> "Transform":
        """The transform of these properties, cached."""
        return cls(lengths, window, plane, device)

    def __call__(self, x: Tensor) -> Tensor:
        """Transform x over its last axes, unscaled: a constant reads `points` times itself.

        A complex transform is faster than one of real numbers, and takes the same time whenever its
        plan is made (docs/performance.md). With ``norm`` or ``out`` torch takes up to four times as
        long.

        Args:
            x: complex, ``[..., *lengths]``, of two real signals; overwritten if there is a window.

        Returns:
            ``[..., *lengths]``, in the precision of x.
        """
        if self.tapered:
            x.mul_(self._taper)
        if len(self.lengths) == 1:
            line: Tensor = torch.fft.fft(x)
            return line
        plane: Tensor = torch.fft.fft2(x)
        return plane

    def complete(self, plane: Tensor) -> None:
        """Make sums over the components ``[..., bins]`` of a plane those of each alone, in place.

        ``rfft2`` has both k and −k of the first column, and of the last if W is even. What two
        signals have there together is shared between them.
        """
        height, width = self._shape
        view = plane.view(*plane.shape[:-1], height, width)
        opposite = -torch.arange(height, device=plane.device) % height
        for column in {0, self.lengths[1] // 2} if self.lengths[1] % 2 == 0 else {0}:
            both = view[..., column]
            view[..., column] = (both + both[..., opposite].conj()) / 2

    def sum_bins(self, components: Tensor) -> Tensor:
        """Sum ``[..., *lengths]`` over each bin: ``[..., bins]``."""
        components = components.flatten(components.dim() - len(self.lengths))
        total = components.new_zeros(*components.shape[:-1], self.bins)
        return total.index_add_(-1, self.bin, components)

    def sum_kept(self, plane: Tensor) -> Tensor:
        """Sum ``[..., K]``, components of ``rfft2`` with their conjugates, over each bin."""
        total = plane.new_zeros(*plane.shape[:-1], self.bins)
        return total.index_add_(-1, self._bin_of_kept.to(plane.device), plane)

    def components_per_bin(self) -> Tensor:
        """``[bins]``, number of components, conjugates included, in each bin."""
        return torch.bincount(self.bin, minlength=self.bins)


def get_window(window: Window, length: int) -> NDArray[np.float64]:
    """``scipy.signal.get_window(window, length)``."""
    if window in ("boxcar", "rectangular"):
        return np.ones(length)
    import scipy.signal  # takes a second, which the default window need not wait for

    taper: NDArray[np.float64] = scipy.signal.get_window(window, length)
    return taper


def checked_window(window: Window) -> Window:
    """A window as ``scipy.signal.get_window`` takes it, in one spelling for each.

    Raises:
        RequestError: SciPy doesn't know this name, or tuple of a name and numbers.
    """
    name, *numbers = window if isinstance(window, tuple) else (window,)
    try:
        if not isinstance(name, str):
            raise TypeError("a name, or a tuple of a name and numbers, is taken")
        checked: Window = (name, *map(float, numbers)) if numbers else name
        get_window(checked, 8)
    except (TypeError, ValueError) as error:
        raise RequestError(f"{window=}: {error}") from error
    return "boxcar" if checked == "rectangular" else checked


def radial_bin_count(height: int, width: int) -> int:
    """Number of radial bins of an image: the last has the highest frequency, in a corner."""
    corner = math.hypot((height // 2) / height, (width // 2) / width)
    return math.floor(corner * max(height, width) + _HALF) + 1


def max_norm_bin_count(height: int, width: int) -> int:
    """Number of bins by the larger of an image's two frequencies."""
    highest = max((height // 2) / height, (width // 2) / width)
    return math.floor(highest * max(height, width) + _HALF) + 1


def noise_bandwidth(window: Window, lengths: tuple[int, ...]) -> float:
    """Equivalent noise bandwidth of a window, in bins: 1 for the boxcar, 1.5 for a long Hann.

    A power spectrum divided by this and by the width of a bin is a density (F. J. Harris, "On the
    use of windows for harmonic analysis with the DFT", *Proc. IEEE* 66, 1978). Over several axes it
    is the product of theirs.
    """
    tapers = (get_window(window, length) for length in lengths)
    return math.prod(float(len(w) * (w**2).sum() / w.sum() ** 2) for w in tapers)


def _nearest(frequency: Tensor, length: int) -> Tensor:
    """Index, flat, of the multiple of 1/length nearest to each frequency."""
    return (frequency * length + _HALF).floor().long().flatten()
