"""`record`: a context manager that keeps statistics of every activation of a running model."""

import math
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import Select
from spectroscope.dsp.spectra import Window, checked_window
from spectroscope.errors import RequestError
from spectroscope.statistics import provenance
from spectroscope.statistics.base import Statistic, checked
from spectroscope.statistics.chunks import reduce
from spectroscope.statistics.fundamentals import F0, Fundamental
from spectroscope.statistics.harmonics import HarmonicAmplitudes
from spectroscope.statistics.moments import DCMoments
from spectroscope.statistics.recording import Recording, SiteRecord
from spectroscope.statistics.spectra import Spectra

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
    statistics: Iterable[Statistic] = (),
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
        select: which activations: a glob or globs over names of modules (``"block1.*"``) or of
            calls (``"*#0"``, ``"*/clamp#*"``), or ``(name, module) -> bool``. None: all.
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
        kinds: activations to record beyond the ReLU family: ``"LeakyReLU"``, ``"PReLU"``,
            ``"ELU"``, ``"GELU"``, ``"SiLU"``, ``"Hardswish"``, or a module class of your own.
        channel_axis: where the channels of an activation are; -1 for ``[N, T, C]``, 0 for an input
            without a batch axis. A dictionary gives it by glob, as in `select`; 1 for the others.
        decimation: samples of the model's input to one of the site's, where that can't be told from
            what ran; a dictionary gives it by glob.
        statistics: further statistics to keep of each site, your own
            (:class:`spectroscope.Statistic`): their columns are in `report.dc()`.
        about: what else is to be known of the recording, such as ``{"data": "PPG-DaLiA"}``: kept in
            the report and shown on its page beside the model's class, the date and the versions.

    Returns:
        A context manager that gives itself; its `report()` has the tables.

    Raises:
        TypeError: `model` isn't an `nn.Module`, or `select` or a `channel_axis` isn't of its kind.
        RequestError: `fs` or a `decimation` isn't positive, `f0` isn't between 0 and fs/2, the
            window or a kind isn't known, or `select` fits no activation.

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
        statistics=statistics,
        about=about,
    )


class Recorder(CaptureSession):
    """What :func:`record` returns. Its `report()` may be asked for at any time.

    It may be entered again, to add to what it has, but not while it records.
    """

    _hint = ", see report.coverage()"

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
        statistics: Iterable[Statistic],
        about: Mapping[str, str] | None,
    ):
        if fs is not None and not (math.isfinite(fs) and fs > 0):
            raise RequestError(f"{fs=} must be a positive number of samples per second, or None")
        if spectra not in (True, False, "plane"):
            raise RequestError(f"{spectra=} must be True, False or 'plane'")
        if operator.index(harmonics) < 1:
            raise RequestError(f"{harmonics=} must be 1 or more")
        self._window = checked_window(window) if spectra else "boxcar"
        self._fs = None if fs is None else float(fs)
        self._harmonics = HarmonicAmplitudes(Fundamental(f0, self._fs or 1.0), harmonics)
        built_in: list[Statistic] = [DCMoments(), self._harmonics]
        if spectra:
            built_in.append(Spectra(self._window, plane=spectra == "plane"))
        self._statistics = {s.name: s for s in built_in} | checked(statistics)
        self._records: dict[str, SiteRecord] = {}
        self._lock = threading.Lock()
        capture = Capture(
            model,
            self._observe,
            select=select,
            kinds=kinds,
            channel_axis=channel_axis,
            decimation=decimation,
            started=lambda args: self._harmonics.fundamental.start(args),
        )
        super().__init__(capture, type(model).__name__, "recorded")
        self._about = provenance.of(model) | {str(k): str(v) for k, v in (about or {}).items()}

    @property
    def f0(self) -> F0:
        """Fundamental of the inputs to come, as in :func:`record`; may be set between batches.

        It is one for all threads in which the model runs.

        Raises:
            RequestError: set to what isn't between 0 and fs/2.
        """
        return self._harmonics.fundamental.given

    @f0.setter
    def f0(self, value: F0) -> None:
        self._harmonics.fundamental = Fundamental(value, self._fs or 1.0)

    def report(self) -> "Report":
        """The report on everything recorded so far."""
        # Deferred: to record takes no pandas.
        from spectroscope.report import Report

        return Report(self.recording())

    def recording(self) -> Recording:
        """The plain data behind :meth:`report`, wherever the model runs, on the CPU."""
        with self._lock:
            records = {name: record.to(_CPU) for name, record in self._records.items()}
        downsamplings = {
            name: self._capture.next_downsampling(record.site, record.shape)
            for name, record in records.items()
        }
        return Recording(
            self._fs,
            self._window,
            self._statistics,
            records,
            self._capture.discovery.snapshot(),
            {name: found for name, found in downsamplings.items() if found is not None},
            {key: (text,) for key, text in self._about.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes beside the recording, as plain data."""
        return self._capture.state_dict()

    def load_state_dict(self, recording: Recording, state: Mapping[str, Any]) -> None:
        """Restore the state of another recorder of the same model and options.

        What is recorded then is added to that state, batch by batch, as the other would have done:
        the result is the same to the bit. (To merge two recordings adds in another order.)

        Args:
            recording: :meth:`recording` of the other.
            state: its :meth:`state_dict`, at the same time.

        Raises:
            RuntimeError: this one has recorded something, or is recording.
        """
        if self._records or self._capture.attached:
            raise RuntimeError("only a new recorder can take the state of another")
        self._records = {
            name: record.without_columns() for name, record in recording.records.items()
        }
        self._about = {key: "; ".join(texts) for key, texts in recording.about.items()}
        self._capture.load_state_dict(recording.coverage, state)

    def _observe(self, call: ActivationCall) -> Callable[[], None]:
        """Reduce a call.

        Of a ReLU before it runs: its output is known, and the input, which an in-place call
        overwrites, needn't be copied.
        """
        record = None
        if call.is_relu:
            record = self._reduced(call)
        else:
            call.keep_input()

        def finish() -> None:
            if record is None and call.input.shape != call.output.shape:
                shapes = [tuple(side.shape[1:]) for side in (call.input, call.output)]
                call.note(f"{shapes[0]} goes in and {shapes[1]} comes out")
            elif (
                record is not None
                and call.name not in self._records
                and not _agrees(record, call.output)
            ):
                call.note("what it returns is not the ReLU of its input")
            else:
                self._add(call, record or self._reduced(call))

        return finish

    def _reduced(self, call: ActivationCall) -> SiteRecord:
        """The record of one call."""
        with torch.no_grad():
            # Apple's GPUs have no float64.
            state = reduce(self._statistics, call.to(_CPU) if call.device.type == "mps" else call)
        shape = tuple(call.input.shape)
        state = {name: arrays for name, arrays in state.items() if arrays is None or arrays}
        return SiteRecord(call.site, shape[1:], call.decimation, shape[0], state)

    def _add(self, call: ActivationCall, new: SiteRecord) -> None:
        with self._lock, torch.no_grad():
            old = self._records.get(call.name)
            if old is not None:
                if reason := old.unmergeable(new):
                    call.note(reason)
                    return
                new, reasons = old.merge(new, self._statistics)
                for reason in reasons:
                    call.note(reason)
            self._records[call.name] = new

    def _is_empty(self) -> bool:
        return not self._records

    def _message(self) -> str | None:
        message = super()._message()
        if message is None and self._capture.ran == "parts":
            return (
                "only parts of it ran (as by model.forward(x) instead of model(x)): calls are "
                "counted in each part by itself"
            )
        return message


def _agrees(record: SiteRecord, output: Tensor) -> bool:
    """Whether the output of a ReLU is the computed one: its mean is, or isn't finite.

    Guards against a user's `TorchFunctionMode` that overrides relu.
    """
    with torch.no_grad():
        dc = record.output.dc
        expected = (dc.mean[1] * dc.weight[1]).sum()
        # One input at a time: in float64 all of it would be twice or four times as long.
        total = torch.stack([one.sum(dtype=torch.float64) for one in output]).sum()
        close = (total - expected).abs() <= 1e-9 * (total.abs() + expected.abs())
        return bool(close | ~total.isfinite())
