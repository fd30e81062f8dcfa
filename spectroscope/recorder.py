"""`record`: a context manager that keeps statistics of every rectifier of a running model."""

import math
import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn

from spectroscope.capture import Capture
from spectroscope.errors import RequestError
from spectroscope.rates import Axes
from spectroscope.recording import Recording, SiteRecord
from spectroscope.sites import Select, Site
from spectroscope.statistics import SideStatistics, SiteStatistics, unrecordable

if TYPE_CHECKING:
    from spectroscope.report import Report


def record(
    model: nn.Module,
    *,
    fs: float | None = None,
    select: Select = None,
    spectra: bool = True,
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: int | Mapping[str, int] = 1,
) -> "Recorder":
    """Keep statistics of both sides of every ReLU of `model` while the `with` block runs.

    Every call of a ReLU (`nn.ReLU`, `F.relu`, `torch.relu`, `x.relu_()`, `x.clamp(min=0)`,
    `torch.maximum(x, 0)`, `F.threshold(x, 0, 0)`), ReLU6 or hardtanh from 0 is seen, in place or
    not, as module or function. The model is changed in nothing: its outputs and gradients are the
    same to the bit, and what we hooked is unhooked when the block ends, however it ends.
    Activations are reduced where they are seen; none is kept.

    Args:
        model: any `nn.Module`.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample.
        select: which rectifiers: a glob or globs over names of modules (``"block1.*"``) or of calls
            (``"*#0"``, ``"*/clamp#*"``), or ``(name, module) -> bool``. None: all.
        spectra: keep power spectra too, of activations ``[N, C, T]``.
        kinds: rectifiers to record beyond the ReLU family: ``"LeakyReLU"``, ``"PReLU"``, ``"ELU"``,
            ``"GELU"``, ``"SiLU"``, ``"Hardswish"``, or a module class of your own.
        channel_axis: where the channels of an activation are; -1 for ``[N, T, C]``, 0 for an input
            without a batch axis. A dictionary gives it by glob, as in `select`; 1 for the others.

    Returns:
        A context manager that gives itself; its `report()` has the tables.

    Raises:
        TypeError: `model` isn't an `nn.Module`, or `select` or a `channel_axis` isn't of its kind.
        RequestError: `fs` isn't positive, `select` fits no rectifier, or a kind isn't known.

    >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
    >>> with record(model) as recorder:
    ...     y = model(torch.zeros(1, 1, 8))
    >>> list(recorder.recording().records)
    ['1#0']
    """
    return Recorder(
        model, fs=fs, select=select, spectra=spectra, kinds=kinds, channel_axis=channel_axis
    )


class Recorder:
    """What :func:`record` returns. Its `report()` may be asked for at any time.

    It may be entered again, to add to what it has, but not while it records.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fs: float | None,
        select: Select,
        spectra: bool,
        kinds: Iterable[str | type[nn.Module]],
        channel_axis: int | Mapping[str, int],
    ):
        if fs is not None and not (math.isfinite(fs) and fs > 0):
            raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
        self._fs = None if fs is None else float(fs)
        self._spectra = spectra
        by_glob = channel_axis if isinstance(channel_axis, Mapping) else {"*": channel_axis}
        self._channel_axis = {glob: operator.index(axis) for glob, axis in by_glob.items()}
        self._records: dict[str, SiteRecord] = {}
        self._lock = threading.Lock()
        self._capture = Capture(model, self._observe, select, kinds)
        self._model_name = type(model).__name__

    def __enter__(self) -> Self:
        try:
            self._capture.attach()
            return self
        except KeyboardInterrupt:  # attached, and yet no __exit__ would follow
            self._capture.detach()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._capture.detach()
        except KeyboardInterrupt:  # in the middle of it; once more finishes it
            self._capture.detach()
            raise
        if error is None:
            self._warn()

    def report(self) -> "Report":
        """The report on everything recorded so far."""
        # Deferred: to record takes no pandas.
        from spectroscope.report import Report

        return Report(self.recording())

    def recording(self) -> Recording:
        """The plain data behind :meth:`report`."""
        with self._lock:
            records = dict(self._records)
        return Recording(self._fs, records, self._capture.inventory.snapshot())

    def _observe(self, site: Site, tensor: Tensor) -> Callable[[Tensor], None]:
        """Reduce a rectifier's input now, its output when it is there, and add both together."""
        decimation = _decimation(self._capture.axes(tensor), self._axis(site))
        before = self._reduce(site, tensor, active=False)

        def finish(output: Tensor) -> None:
            after = None if before is None else self._reduce(site, output, active=True)
            if before is None or after is None:
                return
            if before.shape == after.shape:
                self._add(
                    site,
                    before.shape,
                    SiteStatistics(before.statistics, after.statistics),
                    decimation,
                )
            else:
                self._give_up(site, f"{before.shape} goes in and {after.shape} comes out")

        return finish

    def _reduce(self, site: Site, tensor: Tensor, *, active: bool) -> "_Reduced | None":
        """Reduce one side, or None: there are no values, or not such as we can read.

        The latter is noted in the coverage.
        """
        reason = unrecordable(tensor)
        axis = self._axis(site)
        if reason is None and not -tensor.dim() <= axis < tensor.dim():
            reason = f"{list(tensor.shape)} has no channel_axis={axis} (0: without a batch axis)"
        if reason is not None:
            self._give_up(site, reason)
        if reason is not None or tensor.numel() == 0:
            return None
        with torch.no_grad():
            tensor = tensor.detach()
            if tensor.device.type == "mps":  # has no float64
                tensor = tensor.cpu()
            if axis % tensor.dim() == 0:
                tensor, axis = tensor.unsqueeze(0), 1
            tensor = tensor.movedim(axis, 1)
            statistics = SideStatistics.of(tensor, spectra=self._spectra, active=active)
            return _Reduced(tuple(tensor.shape[1:]), statistics)

    def _axis(self, site: Site) -> int:
        """Axis of the channels at `site`."""
        return next((axis for glob, axis in self._channel_axis.items() if site.matches(glob)), 1)

    def _add(
        self,
        site: Site,
        shape: tuple[int, ...],
        statistics: SiteStatistics,
        decimation: float,
    ) -> None:
        new = SiteRecord(site, shape, decimation, statistics)
        with self._lock, torch.no_grad():
            old = self._records.get(site.name)
            if old is not None and (reason := old.mergeable(new)):
                self._give_up(site, reason)
            else:
                self._records[site.name] = new if old is None else old.merge(new)

    def _give_up(self, site: Site, reason: str) -> None:
        self._capture.inventory.found[site.place].reason = f"call {site.call}: {reason}"

    def _warn(self) -> None:
        """Say in one warning what was not recorded that one might think was."""
        found = self._capture.inventory.found
        unseen = [f"{row.place or 'itself'} ({row.reason})" for row in found.values() if row.reason]
        if unseen:
            more = ", …" if len(unseen) > 3 else ""
            message = (
                f"{len(unseen)} places are not recorded in full, see report.coverage(): "
                f"{', '.join(unseen[:3])}{more}"
            )
        elif self._capture.ran is None:
            message = "nothing was recorded: it did not run"
        elif not self._records:
            message = "nothing was recorded: no rectifier that was asked for was called"
        elif self._capture.ran == "parts":
            message = (
                "only parts of it ran (as by model.forward(x) instead of model(x)): calls are "
                "counted in each part by itself"
            )
        else:
            return
        warnings.warn(f"{self._model_name}: {message}", stacklevel=3)


class _Reduced(NamedTuple):
    """One side of one call: the shape of an input, ``(C, ...)``, and the batch's statistics."""

    shape: tuple[int, ...]
    statistics: SideStatistics


def _decimation(axes: Axes | None, channel_axis: int) -> float:
    """Samples of the model's input to one of the site's, along its axes of time or space.

    NaN where that isn't known or isn't the same for all of them, or where there are none.
    """
    if not axes:
        return math.nan
    channel = channel_axis % len(axes)
    spatial = {axis for i, axis in enumerate(axes) if i not in (0, channel)}
    (decimation,) = spatial if len(spatial) == 1 else (None,)
    return math.nan if decimation is None else float(decimation)
