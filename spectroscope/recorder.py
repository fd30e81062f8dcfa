"""`record`: a context manager that keeps statistics of every rectifier of a running model."""

import math
import operator
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import Axes, common_decimation, transformed_axes
from spectroscope.capture.capture import Capture
from spectroscope.capture.downsampling import next_downsampling
from spectroscope.capture.sites import Downsampling, PerSite, Select, Site
from spectroscope.dsp.spectra import Window, checked_window
from spectroscope.errors import RequestError
from spectroscope.statistics import (
    Analysis,
    SiteStatistics,
    provenance,
    unrecordable,
)
from spectroscope.statistics.fundamentals import F0, Fundamental
from spectroscope.statistics.recording import Recording, SiteRecord

if TYPE_CHECKING:
    from spectroscope.report import Report

_CPU = torch.device("cpu")


def record(
    model: nn.Module,
    *,
    fs: float | None = None,
    select: Select = None,
    spectra: bool | Literal["plane"] = True,
    f0: F0 = None,
    harmonics: int = 8,
    window: Window = "boxcar",
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: int | Mapping[str, int] = 1,
    decimation: float | Mapping[str, float] | None = None,
    about: Mapping[str, str] | None = None,
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
        spectra: keep power spectra and the cross-spectrum of both sides: of ``[N, C, T]``, of
            images ``[N, C, H, W]`` by rings of equal frequency (``"plane"``: whole, which takes the
            memory of an activation), of the frames of video. False: the DC table alone.
        f0: fundamental of the inputs, in the unit of `fs`: the amplitudes of its harmonics are
            projected out, at their exact frequencies, of activations ``[N, C, T]``. A number, one
            for each input (set `recorder.f0` before each batch), or ``"auto"``: the strongest
            component of each input.
        harmonics: how many of them, the fundamental included.
        window: of the spectra, as ``scipy.signal.get_window`` takes it. With any but the boxcar the
            DC is taken out first and put back exactly.
        kinds: rectifiers to record beyond the ReLU family: ``"LeakyReLU"``, ``"PReLU"``, ``"ELU"``,
            ``"GELU"``, ``"SiLU"``, ``"Hardswish"``, or a module class of your own.
        channel_axis: where the channels of an activation are; -1 for ``[N, T, C]``, 0 for an input
            without a batch axis. A dictionary gives it by glob, as in `select`; 1 for the others.
        decimation: samples of the model's input to one of the site's, where that can't be told from
            what ran; a dictionary gives it by glob.
        about: what else is to be known of the recording, such as ``{"data": "PPG-DaLiA"}``: kept in
            the report and shown on its page beside the model's class, the date and the versions.

    Returns:
        A context manager that gives itself; its `report()` has the tables.

    Raises:
        TypeError: `model` isn't an `nn.Module`, or `select` or a `channel_axis` isn't of its kind.
        RequestError: `fs` or a `decimation` isn't positive, `f0` isn't between 0 and fs/2, the
            window or a kind isn't known, or `select` matches no activation.

    >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())
    >>> with record(model) as recorder:
    ...     y = model(torch.zeros(1, 1, 8))
    >>> list(recorder.recording().records)
    ['1#0']
    """
    return Recorder(
        model,
        fs=fs,
        select=select,
        spectra=spectra,
        f0=f0,
        harmonics=harmonics,
        window=window,
        kinds=kinds,
        channel_axis=channel_axis,
        decimation=decimation,
        about=about,
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
        spectra: bool | Literal["plane"],
        f0: F0,
        harmonics: int,
        window: Window,
        kinds: Iterable[str | type[nn.Module]],
        channel_axis: int | Mapping[str, int],
        decimation: float | Mapping[str, float] | None,
        about: Mapping[str, str] | None,
    ):
        if fs is not None and not (math.isfinite(fs) and fs > 0):
            raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
        if spectra not in (True, False, "plane"):
            raise RequestError(f"{spectra=} must be True, False or 'plane'")
        if operator.index(harmonics) < 1:
            raise RequestError(f"{harmonics=} must be 1 or more")
        window = checked_window(window) if spectra else "boxcar"
        self._decimation = PerSite(decimation, float, math.nan)
        if not all(0 < d < math.inf for d in self._decimation.globs.values()):
            raise RequestError(f"{decimation=} must be positive")
        self._fs = None if fs is None else float(fs)
        self._analysis = Analysis(bool(spectra), spectra == "plane", window, None, harmonics)
        self.f0 = f0
        self._channel_axis = PerSite(channel_axis, operator.index, 1)
        self._records: dict[str, SiteRecord] = {}
        self._lock = threading.Lock()
        self._capture = Capture(
            model, self._observe, select, kinds, lambda args: self._fundamental.start(args)
        )
        self._model_name = type(model).__name__
        self._about = provenance.of(model) | {str(k): str(v) for k, v in (about or {}).items()}

    @property
    def f0(self) -> F0:
        """Fundamental of the inputs to come, as in :func:`record`; may be set between batches.

        It is one for all threads in which the model runs.

        Raises:
            RequestError: set to what isn't between 0 and fs/2.
        """
        return self._fundamental.given

    @f0.setter
    def f0(self, value: F0) -> None:
        self._fundamental = Fundamental(value, self._fs or 1.0)

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
        """The plain data behind :meth:`report`, wherever the model runs, on the CPU."""
        with self._lock:
            records = {name: record.to(_CPU) for name, record in self._records.items()}
        return Recording(
            self._fs,
            self._analysis.window,
            records,
            self._capture.discovery.snapshot(),
            {name: found for name, r in records.items() if (found := self._next_after(r))},
            {key: (text,) for key, text in self._about.items()},
        )

    def seen(self) -> dict[str, Any]:
        """What :meth:`go_on` takes beside the recording, as plain data."""
        return self._capture.seen()

    def go_on(self, recording: Recording, seen: Mapping[str, Any]) -> None:
        """Go on from where another recorder of the same model and options was.

        What comes then is added to that state, batch by batch, as the other would have done, so
        that the result is the same to the bit. (To merge two recordings adds in another order.)

        Args:
            recording: the other's :meth:`recording`.
            seen: its :meth:`seen`, at the same time.

        Raises:
            RuntimeError: this one has recorded something, or is recording.
        """
        if self._records or self._capture.attached:
            raise RuntimeError("only a new recorder can go on from another")
        self._records = dict(recording.records)
        self._about = {key: "; ".join(texts) for key, texts in recording.about.items()}
        self._capture.go_on(recording.found, seen)

    def _observe(self, site: Site, tensor: Tensor, known: bool) -> Callable[[Tensor], None]:
        """Reduce a rectifier's input, and its output when it is there.

        Of a ReLU both at once, before it runs: what it is going to return is known, and the input,
        which an in-place call overwrites, needn't be kept for the cross-spectrum.
        """
        axes = self._capture.axes(tensor)
        before = self._readable(site, tensor)
        ready = None
        if before is not None and known and site.kind == "ReLU":
            ready = self._reduced(site, before, None, axes)
        elif before is not None:
            before = before.clone()

        def finish(output: Tensor) -> None:
            after = self._readable(site, output)
            if before is None or after is None:
                return
            if ready is not None and site.name not in self._records and not _agrees(ready, after):
                self._give_up(site, "what it returns is not the ReLU of its input")
            elif before.shape == after.shape:
                self._add(ready or self._reduced(site, before, after, axes))
            else:
                shapes = [tuple(side.shape[1:]) for side in (before, after)]
                self._give_up(site, f"{shapes[0]} goes in and {shapes[1]} comes out")

        return finish

    def _next_after(self, record: SiteRecord) -> Downsampling | None:
        steps = self._capture.downsamplings.get(record.site.name, {}).values()
        return next_downsampling(steps, self._channel_axis.of(record.site), record.shape)

    def _readable(self, site: Site, tensor: Tensor) -> Tensor | None:
        """One side as ``[N, C, ...]``, or None: there are no values, or not such as we can read.

        The latter is noted in the coverage.
        """
        reason = unrecordable(tensor)
        axis = self._channel_axis.of(site)
        if reason is None and not -tensor.dim() <= axis < tensor.dim():
            reason = f"{list(tensor.shape)} has no channel_axis={axis} (0: without a batch axis)"
        if reason is not None:
            self._give_up(site, reason)
        if reason is not None or tensor.numel() == 0:
            return None
        tensor = tensor.detach()
        if tensor.device.type == "mps":  # has no float64
            tensor = tensor.cpu()
        if axis % tensor.dim() == 0:
            tensor, axis = tensor.unsqueeze(0), 1
        return tensor.movedim(axis, 1)

    def _reduced(self, site: Site, x: Tensor, y: Tensor | None, axes: Axes | None) -> SiteRecord:
        """The record of one call, of input and output ``[N, C, ...]``."""
        shape = tuple(x.shape[1:])
        decimation = self._decimation.of(site)
        if math.isnan(decimation):
            decimation = common_decimation(axes, self._channel_axis.of(site), shape)
        f0 = None
        if len(transformed_axes(shape)) == 1:
            f0 = self._fundamental.at(decimation, len(x))
        if isinstance(f0, str):
            self._give_up(site, f0)
            f0 = None
        with torch.no_grad():
            statistics = SiteStatistics.of(x, y, self._analysis._replace(f0=f0))
        return SiteRecord(site, shape, decimation, statistics)

    def _add(self, new: SiteRecord) -> None:
        with self._lock, torch.no_grad():
            old = self._records.get(new.site.name)
            if old is not None:
                old = old.to(new.device)  # that of a checkpoint is on the CPU
            if old is not None and (reason := old.mergeable(new)):
                self._give_up(new.site, reason)
            else:
                merged = new if old is None else old.merge(new)
                if old is not None and (old.loses_spectra(merged) or new.loses_spectra(merged)):
                    lengths = f"{old.shape[1:]} and {new.shape[1:]}"
                    self._give_up(new.site, f"no spectra: inputs of lengths {lengths}")
                self._records[new.site.name] = merged

    def _give_up(self, site: Site, reason: str) -> None:
        self._capture.discovery.rows[site.place].reason = f"call {site.call}: {reason}"

    def _warn(self) -> None:
        """Say in one warning what was not recorded that one might think was."""
        discovery = self._capture.discovery
        if missed := discovery.describe_gaps():
            count = sum(bool(row.reason) for row in discovery.rows.values())
            what = "1 place is" if count == 1 else f"{count} places are"
            message = f"{what} not recorded in full, see report.coverage(): {missed}"
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


def _agrees(record: SiteRecord, output: Tensor) -> bool:
    """Whether a rectifier's output is what it was reckoned to be: its mean is, or isn't finite.

    A function mode of the user's that was there before ours can make of a ReLU what it likes.
    """
    with torch.no_grad():
        dc = record.statistics.output.dc
        expected = (dc.mean[1] * dc.weight[1]).sum()
        # One input at a time: in float64 all of it would be twice or four times as long.
        total = torch.stack([one.sum(dtype=torch.float64) for one in output]).sum()
        close = (total - expected).abs() <= 1e-9 * (total.abs() + expected.abs())
        return bool(close | ~total.isfinite())
