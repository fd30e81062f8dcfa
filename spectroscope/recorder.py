"""`record`: a context manager that keeps statistics of every rectifier of a running model."""

import math
import warnings
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from spectroscope.capture import Capture, Select, Side, Site
from spectroscope.errors import RequestError
from spectroscope.recording import Recording, SiteRecord
from spectroscope.statistics import SideStatistics, SiteStatistics, unrecordable

if TYPE_CHECKING:
    from spectroscope.report import Report


def record(
    model: nn.Module, *, fs: float | None = None, select: Select = None, spectra: bool = True
) -> "Recorder":
    """Keep statistics of both sides of every ReLU of `model` while the `with` block runs.

    The model is changed in nothing: its outputs and gradients are the same to the bit, and our
    hooks are gone when the block ends, however it ends. Activations are taken as ``[N, C, ...]``
    and reduced where they are seen; none is kept.

    Args:
        model: any `nn.Module`. Its `nn.ReLU` and `nn.ReLU6` modules are seen, in place or not.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample.
        select: which rectifiers: a glob or globs over module names (``"block1.*"``) or calls
            (``"*#0"``), or ``(name, module) -> bool``. None: all.
        spectra: keep power spectra too, of activations ``[N, C, T]``.

    Returns:
        A context manager that gives itself; its `report()` has the tables.

    Raises:
        TypeError: `model` isn't an `nn.Module`.
        RequestError: `fs` isn't positive, or `select` fits no rectifier.

    >>> with record(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())) as recorder:
    ...     pass
    >>> [found.module for found in recorder.recording().found.values()]
    ['1']
    """
    return Recorder(model, fs=fs, select=select, spectra=spectra)


class Recorder:
    """What :func:`record` returns. Its `report()` may be asked for at any time.

    It may be entered again, to add to what it has, but not while it records.
    """

    def __init__(self, model: nn.Module, *, fs: float | None, select: Select, spectra: bool):
        if fs is not None and not (math.isfinite(fs) and fs > 0):
            raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
        self._fs = None if fs is None else float(fs)
        self._spectra = spectra
        self._records: dict[str, SiteRecord] = {}
        # The input's side of a call that hasn't returned yet.
        self._inputs: dict[Site, tuple[torch.Size, SideStatistics]] = {}
        self._capture = Capture(model, self._observe, select)
        self._model_name = type(model).__name__

    def __enter__(self) -> Self:
        self._capture.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._capture.detach()
        self._inputs.clear()
        if error is None:
            self._warn()

    def report(self) -> "Report":
        """The report on everything recorded so far."""
        # Deferred: to record takes no pandas.
        from spectroscope.report import Report

        return Report(self.recording())

    def recording(self) -> Recording:
        """The plain data behind :meth:`report`."""
        found = {name: replace(row) for name, row in self._capture.found.items()}
        return Recording(self._fs, dict(self._records), found)

    def _observe(self, site: Site, side: Side, tensor: Tensor) -> None:
        """Reduce one side of one call; both sides are added to the record together."""
        before = self._inputs.pop(site, None)
        reason = unrecordable(tensor)
        if reason is not None:
            self._give_up(site, reason)
        elif tensor.numel() == 0:
            pass
        elif side == "in":
            self._inputs[site] = tensor.shape, self._reduce(tensor)
        elif before is not None:
            shape, statistics = before
            if tensor.shape == shape:
                self._add(site, shape, SiteStatistics(statistics, self._reduce(tensor)))
            else:
                self._give_up(site, f"{list(shape)} goes in and {list(tensor.shape)} comes out")

    def _reduce(self, tensor: Tensor) -> SideStatistics:
        with torch.no_grad():
            return SideStatistics.of(tensor.detach(), spectra=self._spectra)

    def _add(self, site: Site, shape: torch.Size, statistics: SiteStatistics) -> None:
        decimation = _decimation(self._capture.input_shape, shape)
        new = SiteRecord(site, tuple(shape[1:]), decimation, statistics)
        old = self._records.get(site.name)
        if old is not None and (reason := old.mergeable(new)):
            self._give_up(site, reason)
            return
        with torch.no_grad():
            self._records[site.name] = new if old is None else old.merge(new)

    def _give_up(self, site: Site, reason: str) -> None:
        self._capture.found[site.module].reason = f"call {site.call}: {reason}"

    def _warn(self) -> None:
        found = self._capture.found
        unseen = [f"{row.module or 'the model'} ({row.reason})" for row in found.values()
                  if row.reason]  # fmt: skip
        if unseen:
            warnings.warn(
                f"{len(unseen)} of {self._model_name}'s rectifiers can't be recorded, see "
                f"report.coverage(): {', '.join(unseen[:3])}{', …' * (len(unseen) > 3)}",
                stacklevel=3,
            )
        elif not found:
            warnings.warn(
                f"{self._model_name} has no nn.ReLU module; ReLUs that it calls as functions "
                "(F.relu, torch.relu, …) are not seen by this version",
                stacklevel=3,
            )


def _decimation(input_shape: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """Samples of the model's input to one of the site's, from their lengths.

    Which axis of the input is time depends on the model (``[N, C, T]``, ``[N, T, C]``): it is
    taken to be the one whose length is a whole multiple of the site's. NaN where there is no such
    axis, where two differ, and where the site has neither time nor space.
    """
    length = max(shape[2:], default=0)
    ratios = {size // length for size in input_shape[1:] if length and size and size % length == 0}
    return float(ratios.pop()) if len(ratios) == 1 else math.nan
