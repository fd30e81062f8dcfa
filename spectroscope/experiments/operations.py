"""Operations on the output of an activation: remove the DC, keep only the DC, filter, and others.

An operation is a function of the output ``[N, C, ...]`` and the :class:`Firing` that produced it.
It returns the tensor, of the same shape, that the model receives instead. Time or space are the
axes after the channels, and DC is the mean over them. An output ``[N, C]`` has no such axes: it is
all DC. Frequency is counted along the axes that `Report.spectra` transforms.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from spectroscope.capture.sites import Site
from spectroscope.dsp.decomposition import RELU_GAIN
from spectroscope.dsp.harmonics import Harmonics, Tone
from spectroscope.errors import RequestError
from spectroscope.statistics.fundamentals import F0, Fundamental, is_estimated

if TYPE_CHECKING:
    from spectroscope.report import Report


@dataclass(frozen=True)
class Firing:
    """One call of an activation, while it runs.

    Attributes:
        site: the site: `module`, `function`, `call`, `kind`.
        input: the activation's input, ``[N, C, ...]`` like the output.
        channels: ``[C]``, indices of the channels that the operation changes; None: all, in order.
        fs: sampling rate of the model's input in Hz; None if it was not given.
        decimation: samples of the model's input per sample of the site; NaN if unknown.
        transformed: axes of the output along which frequency is counted.
        is_time: the one such axis is the time of the model's input.
    """

    site: Site
    input: Tensor
    channels: Tensor | None
    fs: float | None
    decimation: float
    transformed: tuple[int, ...] = (2,)
    is_time: bool = True

    @property
    def name(self) -> str:
        """Name of the site, as in the reports."""
        return self.site.name


Operation: TypeAlias = Callable[[Tensor, Firing], Tensor]


def remove_dc(output: Tensor, firing: Firing) -> Tensor:
    """Remove the DC: subtract from each channel of each input its mean over time or space."""
    output = _at_least_single(output)
    return output - _dc(output)


def only_dc(output: Tensor, firing: Firing) -> Tensor:
    """Keep only the DC: replace each channel of each input by its mean over time or space."""
    output = _at_least_single(output)
    return _dc(output).expand_as(output)


def preserved_only(output: Tensor, firing: Firing) -> Tensor:
    """Keep only ½x: the half of ReLU(x) = ½x + ½|x| that has the input's spectrum.

    Raises:
        RequestError: the activation is not a ReLU.
    """
    return RELU_GAIN * _input_of_relu(firing, "preserved_only")


def introduced_only(output: Tensor, firing: Firing) -> Tensor:
    """Keep only ½|x|: the half of ReLU(x) = ½x + ½|x| that the ReLU adds.

    Raises:
        RequestError: the activation is not a ReLU.
    """
    return RELU_GAIN * _input_of_relu(firing, "introduced_only").abs()


def shuffle_dc(output: Tensor, firing: Firing, *, seed: int = 0) -> Tensor:
    """Exchange the DC among the inputs of a batch: this destroys its information, not its spread.

    The permutation is the same at all sites and for all batches of one size. It has no fixed point:
    no input keeps its own DC. `functools.partial(shuffle_dc, seed=1)` gives another permutation.

    Raises:
        RequestError: the batch has only one input.
    """
    count = len(output)
    if count < 2:
        raise RequestError(f"shuffle_dc needs batches of 2 inputs or more, not {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    permutation = torch.empty_like(order)
    permutation[order] = order.roll(1)  # a single cycle, hence without a fixed point
    output = _at_least_single(output)
    dc = _dc(output)
    return output - dc + dc[permutation.to(output.device)]


def mean_dc(report: "Report") -> Operation:
    """Replace each input's DC by the mean DC over a data set, channel by channel.

    This destroys the information in the DC but, unlike :func:`remove_dc`, keeps the operating point
    of the layers that follow.

    Args:
        report: report of this model on that data set.

    Returns:
        The operation. It raises RequestError at a site that is not in the report.
    """
    table = report.dc()
    return replaced_dc({site: rows["dc_out"].to_numpy(copy=True)
                        for site, rows in table.groupby("site")})  # fmt: skip


def replaced_dc(means: Mapping[str, ArrayLike]) -> Operation:
    """:func:`mean_dc` of the mean DC ``[C]`` of each site."""

    def operation(output: Tensor, firing: Firing) -> Tensor:
        if firing.name not in means:
            raise RequestError(f"mean_dc: the report has no site {firing.name}")
        output = _at_least_single(output)
        mean = torch.as_tensor(means[firing.name], dtype=output.dtype, device=output.device)
        mean = mean if firing.channels is None else mean[firing.channels]
        if len(mean) != output.shape[1]:
            raise RequestError(f"mean_dc: {firing.name} has {output.shape[1]} channels, but "
                               f"{len(mean)} in the report")  # fmt: skip
        return output - _dc(output) + mean.view(-1, *[1] * (output.dim() - 2))

    operation.__name__ = "mean_dc"
    return operation


def low_pass(cutoff: float) -> Operation:
    """Keep the frequencies up to a cutoff, the DC included.

    The filter sets bins of the discrete Fourier transform to 0: it has no transition band and takes
    the activation as periodic. For images it is isotropic: the frequency is √(fy² + fx²).

    Args:
        cutoff: highest frequency that is kept, ≥ 0, as in the reports: Hz if `fs` is given, else
            cycles per sample or pixel of the model's input. 0 keeps only the DC.

    Returns:
        The operation. It raises RequestError at a site whose sampling rate isn't known, and if the
        cutoff is above the highest frequency of the input.

    Raises:
        RequestError: `cutoff` is not a number, or is negative.
    """
    return _pass("low_pass", cutoff, above=False)


def high_pass(cutoff: float) -> Operation:
    """Keep the frequencies above a cutoff: the complement of :func:`low_pass`.

    Argument, return value and errors as there; `cutoff` 0 removes only the DC.
    """
    return _pass("high_pass", cutoff, above=True)


class RemoveHarmonics:
    """The operation of :func:`remove_harmonics`; set the attribute `f0` between batches."""

    __name__ = "remove_harmonics"

    def __init__(self, f0: F0, harmonics: int):
        if f0 is None or is_estimated(f0):
            raise RequestError(f"remove_harmonics: {f0=} must be a frequency, or one per input")
        if harmonics < 1:
            raise RequestError(f"{harmonics=} must be 1 or more")
        self.f0 = f0
        self._harmonics = harmonics

    def __call__(self, output: Tensor, firing: Firing) -> Tensor:
        """Apply the operation."""
        if len(firing.transformed) != 1:
            raise RequestError(f"remove_harmonics needs [N, C, T]; {firing.name} has "
                               f"{list(output.shape)}")  # fmt: skip
        _check_rate("remove_harmonics", firing)
        (axis,) = firing.transformed
        lines = output.movedim(axis, -1)
        samples, length = len(lines), lines.shape[-1]
        tone = Fundamental(self.f0, firing.fs).at_site(firing.decimation, samples)
        if not isinstance(tone, Tone):
            raise RequestError(f"remove_harmonics at {firing.name}: {tone}")
        harmonics = Harmonics.of(tone.freq.to(output.device), self._harmonics, length)
        time = torch.arange(length, dtype=torch.float64, device=output.device)
        freq = torch.where(harmonics.fitted, harmonics.freq, 0.0)  # NaN where f0 is unknown
        phase = 2 * math.pi * freq.unsqueeze(-1) * time  # [N or 1, K, T]
        fitted = harmonics.fitted.repeat(1, 2).unsqueeze(-1)
        tones = torch.cat([phase.cos(), phase.sin()], 1) * fitted
        basis = torch.cat([torch.ones_like(tones[:, :1]), tones], 1)
        # The pseudoinverse, because harmonics that aren't fitted are rows of zeros.
        weights = torch.linalg.pinv(basis)[..., 1:]
        x = lines.flatten(1, -2).double()
        periodic = x @ weights @ tones
        aperiodic: Tensor = x - (periodic - periodic.mean(-1, keepdim=True))
        return aperiodic.view(lines.shape).movedim(-1, axis)


def remove_harmonics(f0: F0, harmonics: int = 8) -> RemoveHarmonics:
    """Remove the multiples of a fundamental at their exact frequencies; the DC stays.

    The harmonics are fitted by least squares, as `record(..., f0=...)` measures them. A harmonic
    above the site's Nyquist frequency is removed at the frequency to which it folds. One that
    cannot be distinguished from the DC stays.

    Args:
        f0: fundamental in the unit of `fs`: a number, or one per input of a batch. In the latter
            case set the attribute `f0` of the operation before each batch. An input whose `f0` is
            NaN is not changed.
        harmonics: number of harmonics, the fundamental included.

    Returns:
        The operation. It raises RequestError if the activation is not ``[N, C, T]``, if its
        sampling rate isn't known, or if f0 is not between 0 and fs/2.

    Raises:
        RequestError: `f0` is None or a string, or `harmonics` is less than 1.
    """
    return RemoveHarmonics(f0, harmonics)


def _pass(name: str, cutoff: float, *, above: bool) -> Operation:
    if not isinstance(cutoff, Real) or not cutoff >= 0:
        given = cutoff if isinstance(cutoff, Real) else type(cutoff).__name__
        raise RequestError(f"{name}(cutoff) needs a frequency of 0 or more, not {given}")

    def operation(output: Tensor, firing: Firing) -> Tensor:
        axes = firing.transformed
        lengths = tuple(output.shape[axis] for axis in axes)
        if not axes:
            raise RequestError(f"{name} needs [N, C, T] or [N, C, H, W]; {firing.name} has "
                               f"{list(output.shape)}")  # fmt: skip
        _check_rate(name, firing)
        fs = firing.fs or 1.0
        highest = fs / 2 * math.sqrt(len(axes))  # of an image, in a corner
        if cutoff > highest:
            unit = "Hz" if firing.fs else "cycles per sample or pixel; with fs= it is in Hz"
            raise RequestError(f"{name}({cutoff:g}) is above the highest frequency of the input, "
                               f"{highest:g} {unit}")  # fmt: skip
        limit = cutoff * (firing.decimation / fs)  # cycles per sample of the site
        x = _at_least_single(output)
        device, double = x.device, torch.float64
        squared = torch.fft.rfftfreq(lengths[-1], device=device, dtype=double).square()
        if len(lengths) == 2:
            fy = torch.fft.fftfreq(lengths[0], device=device, dtype=double)
            squared = fy.square().unsqueeze(-1) + squared
        # A bin that equals the cutoff up to rounding is not above it.
        kept = (squared.sqrt() > limit * (1 + 1e-12)) == above
        last = tuple(range(-len(axes), 0))
        x = x.movedim(axes, last)
        spectrum = torch.fft.rfftn(x, dim=last) * kept
        passed: Tensor = torch.fft.irfftn(spectrum, s=lengths, dim=last)
        return passed.movedim(last, axes)

    operation.__name__ = name
    return operation


def _check_rate(name: str, firing: Firing) -> None:
    if math.isnan(firing.decimation):
        raise RequestError(f"{name} at {firing.name}: its sampling rate isn't known; pass it "
                           "as decimation=")  # fmt: skip
    if firing.fs and not firing.is_time:
        raise RequestError(f"{name} at {firing.name}: which of its axes is the time of the input "
                           "isn't known (time_axis=), so that fs means nothing")  # fmt: skip


def _at_least_single(x: Tensor) -> Tensor:
    """`x` in float32 or better: half precision is too coarse for long means and transforms."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _dc(x: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim()))
    return x.mean(axes, keepdim=True) if axes else x


def _input_of_relu(firing: Firing, name: str) -> Tensor:
    if firing.site.kind != "ReLU":
        raise RequestError(f"{name} needs a ReLU; {firing.name} is a {firing.site.kind}")
    return firing.input
