"""What can be done to the output of a rectifier: the DC taken away, or nothing else left, and such.

An operation is a function of the output ``[N, C, ...]`` and the :class:`Firing` that says where it
comes from; it returns what the model is to have instead, of the same shape. Time or space are the
axes behind the channels, and DC is the mean over them: of ``[N, C]``, where there are none, all is
DC.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from spectroscope.capture.sites import Site
from spectroscope.dsp.decomposition import RELU_GAIN
from spectroscope.dsp.harmonics import Harmonics
from spectroscope.errors import RequestError
from spectroscope.statistics.fundamentals import F0, Fundamental

if TYPE_CHECKING:
    from spectroscope.report import Report


@dataclass(frozen=True)
class Firing:
    """One call of a rectifier, while it happens.

    Attributes:
        site: the call's name in its parts: `module`, `function`, `call`, `kind`.
        input: what the rectifier was given, ``[N, C, ...]`` like its output.
        channels: ``[C]``, which of the activation's channels these are; None: all, in order.
        fs: sampling rate of the model's input, where it was given.
        decimation: samples of the model's input to one of the site's; NaN where not known.
    """

    site: Site
    input: Tensor
    channels: Tensor | None
    fs: float | None
    decimation: float

    @property
    def name(self) -> str:
        """Of the site, as in the reports."""
        return self.site.name


Operation: TypeAlias = Callable[[Tensor, Firing], Tensor]
Unit: TypeAlias = Literal["input", "site", "nyquist"]


def remove_dc(output: Tensor, firing: Firing) -> Tensor:
    """Take the DC away: each channel of each input minus its mean over time or space."""
    output = _at_least_single(output)
    return output - _dc(output)


def only_dc(output: Tensor, firing: Firing) -> Tensor:
    """Leave the DC alone: each channel of each input is its mean over time or space."""
    output = _at_least_single(output)
    return _dc(output).expand_as(output)


def preserved_only(output: Tensor, firing: Firing) -> Tensor:
    """Leave ½x: the half of ReLU(x) = ½x + ½|x| that keeps the input's spectrum.

    Raises:
        RequestError: the rectifier is no ReLU.
    """
    return RELU_GAIN * _input_of_relu(firing, "preserved_only")


def introduced_only(output: Tensor, firing: Firing) -> Tensor:
    """Leave ½|x|: the half of ReLU(x) = ½x + ½|x| that is new.

    Raises:
        RequestError: the rectifier is no ReLU.
    """
    return RELU_GAIN * _input_of_relu(firing, "introduced_only").abs()


def shuffle_dc(output: Tensor, firing: Firing, *, seed: int = 0) -> Tensor:
    """Give each input the DC of another of its batch: what it tells is lost, its spread kept.

    The permutation is the same at all sites and for all batches of one size, and leaves no input
    its own; `functools.partial(shuffle_dc, seed=1)` takes another.

    Raises:
        RequestError: a batch of one input.
    """
    count = len(output)
    if count < 2:
        raise RequestError(f"shuffle_dc takes batches of 2 inputs or more, found {count}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)  # one cycle through all of them
    output = _at_least_single(output)
    dc = _dc(output)
    return output - dc + dc[other.to(output.device)]


def mean_dc(report: "Report") -> Operation:
    """Replace each input's DC by the mean DC of a data set, channel by channel.

    What the DC tells of one input is lost, and the operating point of what follows is kept, unlike
    with :func:`remove_dc`.

    Args:
        report: of this model, on that data.

    Returns:
        The operation. It raises RequestError at a site that the report hasn't.
    """
    means = {site: rows["dc_out"].to_numpy(copy=True) for site, rows in report.dc().groupby("site")}

    def operation(output: Tensor, firing: Firing) -> Tensor:
        if firing.name not in means:
            raise RequestError(f"mean_dc: the report has no site {firing.name}")
        output = _at_least_single(output)
        mean = torch.as_tensor(means[firing.name], dtype=output.dtype, device=output.device)
        mean = mean if firing.channels is None else mean[firing.channels]
        if len(mean) != output.shape[1]:
            raise RequestError(f"mean_dc: {firing.name} has {output.shape[1]} channels, and "
                               f"{len(mean)} in the report")  # fmt: skip
        return output - _dc(output) + mean.view(-1, *[1] * (output.dim() - 2))

    operation.__name__ = "mean_dc"
    return operation


def low_pass(cutoff: float, unit: Unit = "input") -> Operation:
    """Leave what lies at or below a frequency, the DC included. The filter has no transition band.

    Over time, or over height and width by √(fy² + fx²), the activation taken as periodic (bins of
    its discrete Fourier transform).

    Args:
        cutoff: ≥ 0; 0 leaves the DC alone.
        unit: ``"input"``: as in the reports, Hz where `fs` is given, else cycles per sample or
            pixel of the model's input. ``"site"``: cycles per sample of the activation.
            ``"nyquist"``: multiples of the Nyquist frequency there.

    Returns:
        The operation. It raises RequestError where the unit takes a sampling rate that isn't known.

    Raises:
        RequestError: `cutoff` is no number, or negative; no such unit.
    """
    return _pass("low_pass", cutoff, unit, above=False)


def high_pass(cutoff: float, unit: Unit = "input") -> Operation:
    """Leave what lies above a frequency; with :func:`low_pass` it makes the whole.

    Arguments, returns and errors as there; `cutoff` 0 takes away the DC alone.
    """
    return _pass("high_pass", cutoff, unit, above=True)


class RemoveHarmonics:
    """What :func:`remove_harmonics` returns; its `f0` may be set between batches."""

    __name__ = "remove_harmonics"

    def __init__(self, f0: F0, harmonics: int):
        if f0 is None or isinstance(f0, str):
            raise RequestError(f"remove_harmonics: {f0=} must be a frequency, or one per input")
        if harmonics < 1:
            raise RequestError(f"{harmonics=} must be 1 or more")
        self.f0 = f0
        self._harmonics = harmonics

    def __call__(self, output: Tensor, firing: Firing) -> Tensor:
        """The operation."""
        if output.dim() != 3:
            raise RequestError(f"remove_harmonics takes [N, C, T]; {firing.name} has "
                               f"{list(output.shape)}")  # fmt: skip
        samples, _, length = output.shape
        f0 = Fundamental(self.f0, firing.fs or 1.0).at(firing.decimation, samples)
        if not isinstance(f0, Tensor):
            raise RequestError(f"remove_harmonics at {firing.name}: {f0}")
        found = Harmonics.of(f0.to(output.device), self._harmonics, length)
        time = torch.arange(length, dtype=torch.float64, device=output.device)
        freq = torch.where(found.usable, found.freq, 0.0)  # NaN where f0 isn't known
        phase = 2 * math.pi * freq.unsqueeze(-1) * time  # [N or 1, K, T]
        tones = torch.cat([phase.cos(), phase.sin()], 1) * found.usable.repeat(1, 2).unsqueeze(-1)
        table = torch.cat([torch.ones_like(tones[:, :1]), tones], 1)
        # By the pseudoinverse, for which a row of zeros is no obstacle.
        weights = torch.linalg.pinv(table)[..., 1:]
        x = output.double()
        periodic = x @ weights @ tones
        rest: Tensor = x - (periodic - periodic.mean(-1, keepdim=True))
        return rest


def remove_harmonics(f0: F0, harmonics: int = 8) -> RemoveHarmonics:
    """Take away the multiples of a fundamental at their exact frequencies, and leave the DC.

    By least squares, as `record(..., f0=...)` measures them; a harmonic above the site's Nyquist
    frequency is taken away where it folds to. One that can't be told from the DC or from another
    stays.

    Args:
        f0: in the unit of `fs`; a number, or one for each input of a batch, then to be set as
            attribute `f0` of what is returned before each batch; NaN: that input stays as it is.
        harmonics: how many, the fundamental included.

    Returns:
        The operation. It raises RequestError where the activation isn't ``[N, C, T]``, or its
        sampling rate isn't known, or f0 isn't between 0 and fs/2.

    Raises:
        RequestError: `f0` is None or a word.
    """
    return RemoveHarmonics(f0, harmonics)


def _pass(name: str, cutoff: float, unit: Unit, *, above: bool) -> Operation:
    if not isinstance(cutoff, Real) or not cutoff >= 0:
        found = cutoff if isinstance(cutoff, Real) else type(cutoff).__name__
        raise RequestError(f"{name}(cutoff) takes a frequency of 0 or more, found {found}")
    if unit not in ("input", "site", "nyquist"):
        raise RequestError(f"{unit=} must be 'input', 'site' or 'nyquist'")

    def operation(output: Tensor, firing: Firing) -> Tensor:
        lengths = output.shape[2:]
        if len(lengths) not in (1, 2):
            raise RequestError(f"{name} takes [N, C, T] or [N, C, H, W]; {firing.name} has "
                               f"{list(output.shape)}")  # fmt: skip
        limit = cutoff / 2 if unit == "nyquist" else float(cutoff)
        if unit == "input":
            if math.isnan(firing.decimation):
                raise RequestError(f"{name} at {firing.name}: its sampling rate isn't known; "
                                   "decimation= gives it, or unit='site'")  # fmt: skip
            time = output.dim() == 3
            limit *= firing.decimation / (firing.fs if firing.fs and time else 1.0)
        wide = _at_least_single(output)
        device, double = wide.device, torch.float64
        square = torch.fft.rfftfreq(lengths[-1], device=device, dtype=double).square()
        if len(lengths) == 2:
            across = torch.fft.fftfreq(lengths[0], device=device, dtype=double)
            square = across.square().unsqueeze(-1) + square
        # A bin at the cutoff, to rounding, is at it.
        kept = (square.sqrt() > limit * (1 + 1e-12)) == above
        axes = tuple(range(2, output.dim()))
        spectrum = torch.fft.rfftn(wide, dim=axes) * kept
        passed: Tensor = torch.fft.irfftn(spectrum, s=tuple(lengths), dim=axes)
        return passed

    operation.__name__ = name
    return operation


def _at_least_single(x: Tensor) -> Tensor:
    """In half precision a mean over many values, or their Fourier transform, goes wrong."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _dc(x: Tensor) -> Tensor:
    axes = tuple(range(2, x.dim()))
    return x.mean(axes, keepdim=True) if axes else x


def _input_of_relu(firing: Firing, name: str) -> Tensor:
    if firing.site.kind != "ReLU":
        raise RequestError(f"{name} takes a ReLU; {firing.name} is a {firing.site.kind}")
    return firing.input
