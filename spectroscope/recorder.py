"""`record`: a context manager that records statistics of every activation of a model."""

import math
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from spectroscope.capture import hooks
from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.inputs import Input, SamplingRate
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import Select
from spectroscope.dsp.spectra import Window, checked_window
from spectroscope.errors import RequestError
from spectroscope.statistics.base import Statistic, by_name
from spectroscope.statistics.built_in import BUILT_IN
from spectroscope.statistics.chunks import reduce
from spectroscope.statistics.every import EveryKth
from spectroscope.statistics.examples import Examples
from spectroscope.statistics.fundamentals import F0, Fundamental
from spectroscope.statistics.harmonics import HarmonicAmplitudes
from spectroscope.statistics.recording import Recording, SiteRecord, run_details
from spectroscope.statistics.spectra import Spectra
from spectroscope.statistics.weights import WeightsLog
from spectroscope.wrappers import unwrapped

if TYPE_CHECKING:
    from spectroscope.report import Report

_CPU = torch.device("cpu")


def record(
    model: nn.Module,
    *,
    fs: SamplingRate = None,
    select: Select = None,
    spectra: bool | Literal["plane"] = True,
    f0: F0 = None,
    harmonics: int = 8,
    window: Window = "boxcar",
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: ChannelAxis = "auto",
    time_axis: TimeAxis = "auto",
    decimation: float | Mapping[str, float] | None = None,
    statistics: Iterable[Statistic] = (),
    spectra_every: int = 1,
    examples: int = 0,
    about: Mapping[str, str] | None = None,
) -> "Recorder":
    """Record statistics of input and output of every ReLU of `model` while the `with` block runs.

    Every call of a ReLU (`nn.ReLU`, `F.relu`, `torch.relu`, `x.relu_()`, `x.clamp(min=0)`,
    `torch.maximum(x, 0)`, `F.threshold(x, 0, 0)`), ReLU6 or hardtanh from 0 is recorded, in place
    or not, as module or function, and also in words such as `x * (x > 0)`. Weights, whole numbers
    and losses are no activations. The model is not modified: its outputs and gradients are
    bit-identical, and all hooks are removed when the block ends, even by an exception. Activations
    are reduced as they occur; none is kept.

    Args:
        model: any `nn.Module`.
        fs: samples per second of a 1-D input; None: frequencies in cycles per sample. Of inputs
            with different rates a dictionary by the name of the argument, key or field, as
            ``{"ppg": 64, "eda": 4}``; the first one is `fs` in what follows.
        select: activations to record: a glob or globs over names of modules (``"block1.*"``) or of
            calls (``"*#0"``, ``"*/clamp#*"``), or ``(name, module) -> bool``. None: all.
        spectra: record power spectra and the cross-spectrum of both sides: of ``[N, C, T]``; of
            images ``[N, C, H, W]`` summed over radial bins (``"plane"``: every component, which
            needs the memory of an activation); of each frame of video. False: only the DC table.
        f0: fundamental of the inputs, in the unit of `fs`. The amplitudes of its harmonics in
            activations ``[N, C, T]`` are fitted at their exact frequencies. A number; one number
            per input (set `recorder.f0` before each batch); or ``"auto"``: the strongest tone of
            each input, unknown where none is certain; `report.about` says of which of several.
            ``("auto", 0.7, 3.5)``: the strongest from 0.7 to 3.5 Hz, without drift and hum.
        harmonics: number of harmonics, the fundamental included.
        window: of the spectra, as for ``scipy.signal.get_window``. With any but the boxcar the DC
            is subtracted first and added back exactly.
        kinds: activations to record beyond the ReLU family: ``"LeakyReLU"``, ``"PReLU"``,
            ``"ELU"``, ``"GELU"``, ``"SiLU"``, ``"Hardswish"``, ``"Mish"``, ``"Softplus"``,
            ``"SELU"``, ``"CELU"``, ``"Tanh"``, ``"Sigmoid"``, ``"RReLU"``, ``"Softshrink"``,
            ``"Hardshrink"``, ``"Clamp"`` (to 0 and another limit), a module class of your own, or
            ``"all"``.
        channel_axis: the axis of an activation's channels; -1 for ``[N, T, C]``, 0 for an input
            without a batch axis. ``"auto"``: where the layers before put them, otherwise 1. A
            dictionary gives it by glob, as in `select`; ``"auto"`` for other sites.
        time_axis: time axis of the model's inputs. ``"auto"``: the last, or of ``[N, T, C]`` the
            one along which the first one-dimensional convolution slides.
        decimation: samples of the model's input per sample of the site, where it can't be derived
            from the operations that ran. A dictionary gives it by glob.
        statistics: your own statistics (:class:`spectroscope.Statistic`), recorded at each site;
            their columns are in `report.dc()`.
        spectra_every: k: spectra and harmonics of every k-th input alone, by its position in the
            data (see :attr:`Recorder.position`); the DC table is of all inputs.
        examples: number of inputs, the first ones, of which both sides of each activation are kept
            for `report.examples()`, of three channels each: at most 512 points of a line, or a
            thumbnail of 64 × 64, and at most 128 KiB a site. At most 16.
        about: further details of the run, such as ``{"data": "PPG-DaLiA"}``, for the report and its
            page, beside the model's class, the date and the versions.

    Returns:
        A context manager that returns itself; its `report()` has the tables.

    Raises:
        TypeError: `model`, `select` or a `channel_axis` is of the wrong type.
        RequestError: `fs`, a `decimation` or `spectra_every` isn't positive, `f0` isn't between 0
            and fs/2 or its range is empty, the window or a kind is unknown, `examples` isn't from 0
            to 16, or `select` matches no activation.

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
        time_axis=time_axis,
        decimation=decimation,
        statistics=statistics,
        spectra_every=spectra_every,
        examples=examples,
        about=about,
    )


class Recorder(CaptureSession):
    """Returned by :func:`record`. :meth:`report` may be called at any time.

    It can be entered again to record more, but not while it records.
    """

    _hint = ", see report.coverage()"
    _next = "; report() has the tables"

    def __init__(
        self,
        model: nn.Module,
        *,
        fs: SamplingRate,
        select: Select,
        spectra: bool | Literal["plane"],
        f0: F0,
        harmonics: int,
        window: Window,
        kinds: Iterable[str | type[nn.Module]],
        channel_axis: ChannelAxis,
        time_axis: TimeAxis,
        decimation: float | Mapping[str, float] | None,
        statistics: Iterable[Statistic],
        spectra_every: int,
        examples: int,
        about: Mapping[str, str] | None,
    ):
        if spectra not in (True, False, "plane"):
            raise RequestError(f"{spectra=} must be True, False or 'plane'")
        if operator.index(harmonics) < 1:
            raise RequestError(f"{harmonics=} must be 1 or more")
        self._window = checked_window(window) if spectra else "boxcar"
        capture = Capture(
            model,
            self._observe,
            select=select,
            kinds=kinds,
            channel_axis=channel_axis,
            decimation=decimation,
            fs=fs,
            time_axis=time_axis,
            on_forward=self._on_forward,
        )
        self._fs = capture.inputs.fs
        self._harmonics = HarmonicAmplitudes(
            Fundamental(f0, self._fs), harmonics, timed=fs is not None
        )
        configured: list[Statistic] = [self._harmonics, Examples(operator.index(examples))]
        if spectra:
            configured.append(Spectra(self._window, plane=spectra == "plane"))
        self._statistics = {**BUILT_IN, **{statistic.name: statistic for statistic in configured}}
        if not spectra:
            del self._statistics[Spectra.name]
        self._statistics |= by_name(statistics, BUILT_IN)
        self._every = EveryKth(spectra_every)
        self._records: dict[str, SiteRecord] = {}
        self._lock = threading.Lock()
        super().__init__(capture, type(unwrapped(model)).__name__, "recorded")
        self._weights = WeightsLog(model)
        self._about = run_details(model) | {str(k): str(v) for k, v in (about or {}).items()}
        if self._every.step > 1:
            self._about["spectra and harmonics"] = f"of one input in {self._every.step}"

    @property
    def f0(self) -> F0:
        """Fundamental of the next inputs, as in :func:`record`; may be set between batches.

        All threads in which the model runs share it.

        Raises:
            RequestError: a new value isn't between 0 and fs/2, or its range is empty.
        """
        return self._harmonics.fundamental.f0

    @f0.setter
    def f0(self, value: F0) -> None:
        self._harmonics.fundamental = Fundamental(value, self._fs)

    @property
    def position(self) -> int:
        """Number of the next input in the data, from 0, which `spectra_every` counts.

        Set it before a batch that doesn't follow the one before, as in a shard of the data.
        """
        return self._every.position

    @position.setter
    def position(self, value: int) -> None:
        self._every.position = operator.index(value)

    def report(self) -> "Report":
        """The report on everything recorded so far."""
        # Deferred: recording needs no pandas.
        from spectroscope.report import Report

        return Report(self.recording())

    def recording(self) -> Recording:
        """The plain data behind :meth:`report`, on the CPU."""
        with self._lock, hooks.no_modes():
            records = {name: record.to(_CPU) for name, record in self._records.items()}
            weights = self._weights.about()
        origin = self._harmonics.fundamental.origin
        about = self._about | weights | ({"f0": origin} if origin else {})
        downsamplings = {
            name: self._capture.paths.next_downsampling(record.site, record.layout)
            for name, record in records.items()
        }
        sources = {
            name: self._capture.paths.sources_of(record.site, record.layout)
            for name, record in records.items()
        }
        return Recording(
            self._fs,
            self._window,
            self._statistics,
            records,
            self._capture.discovery.snapshot(),
            {name: row for name, row in downsamplings.items() if row is not None},
            {name: self._capture.paths.only_mean.get(name) for name in records},
            {name: ranges for name, ranges in sources.items() if ranges is not None},
            {key: (text,) for key, text in about.items()},
            network=dict(self._capture.paths.network),
        )

    def state_dict(self) -> dict[str, Any]:
        """State beside :meth:`recording`, as plain data for :meth:`load_state_dict`."""
        return self._capture.state_dict() | {"position": self._every.position}

    def load_state_dict(self, recording: Recording, state: Mapping[str, Any]) -> None:
        """Restore the state of another recorder of the same model and options.

        The result of recording more is then bit-identical to that of one recorder, because
        batches are added in the same order. (Merging two recordings adds in another order.)

        Args:
            recording: :meth:`recording` of the other recorder.
            state: :meth:`state_dict` of the other recorder, taken at the same time.

        Raises:
            RuntimeError: this recorder has recorded something, or is recording.
        """
        if self._records or self._capture.attached:
            raise RuntimeError("only a new recorder can load the state of another")
        self._records = {
            name: record.without_columns().to(_CPU) for name, record in recording.records.items()
        }
        self._about = {key: "; ".join(texts) for key, texts in recording.about.items()}
        self._every.position = state["position"]
        self._capture.load_state_dict(recording.coverage, state)

    def _on_forward(self, inputs: list[Input]) -> None:
        """Note which inputs of the data the model is about to run."""
        self._harmonics.fundamental.on_forward(inputs, self._capture.inputs)
        self._every.on_forward(next((len(x) for _, x in inputs if x.dim()), 0))

    def _observe(self, call: ActivationCall) -> Callable[[], None]:
        """Reduce a call: a ReLU before it runs, any other activation afterwards.

        The output of a ReLU is known in advance, so that the input, which an in-place call
        overwrites, need not be copied.
        """
        name, record = call.name, None
        if call.is_relu:
            record = self._reduce(call, name)
        else:
            call.keep_input()

        def finish() -> None:
            if record is None and call.input.shape != call.output.shape:
                shapes = [tuple(side.shape[1:]) for side in (call.input, call.output)]
                call.note(f"input {shapes[0]} and output {shapes[1]} differ in shape")
            elif (
                record is not None
                and name not in self._records
                and not _matches_output(record, call.output)
            ):
                call.note("its output is not the ReLU of its input")
            else:
                self._add(call, name, record or self._reduce(call, name))

        return finish

    def _reduce(self, call: ActivationCall, name: str) -> SiteRecord:
        """The record of one call at the site `name`."""
        old = self._records.get(name)
        before, recorded = ({}, 0) if old is None else (old.state, old.inputs)
        shape = tuple(call.input.shape)
        chosen = self._every.chosen(shape[0], recorded)
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            # Apple's GPUs have no float64.
            on_cpu = call.to(_CPU) if call.device.type == "mps" else call
            state = reduce(self._statistics, on_cpu, chosen, before)
        state = {name: arrays for name, arrays in state.items() if arrays is None or arrays}
        layout, decimation, tracked = call.reading[1:]
        return SiteRecord(call.site, shape[1:], layout, decimation, shape[0], state, tracked)

    def _add(self, call: ActivationCall, name: str, new: SiteRecord) -> None:
        with self._lock:
            old = self._records.get(name)
            if old is not None:
                if reason := old.mismatch(new):
                    call.note(reason)
                    return
                new, reasons = old.merge(new, self._statistics, in_place=True)
                for reason in reasons:
                    call.note(reason)
            self._records[name] = new

    def _on_enter(self) -> None:
        self._weights.start()

    def _is_empty(self) -> bool:
        return not self._records

    def _warning(self) -> str | None:
        texts = super()._warning(), self._ran_apart() or self._unknown_rates()
        return "; ".join(text for text in texts if text) or None

    def _ran_apart(self) -> str | None:
        """The warning about methods and submodules that ran outside ``model(x)``, or None."""
        methods = ", ".join(self._capture.methods)
        if not methods:
            return None
        ran = "only parts of it ran" if self._capture.ran == "parts" else "parts of it ran apart"
        text = (
            f"{ran} ({methods}), not model(x) through nn.Module.__call__: calls are numbered "
            "within each, and decimations are unknown"
        )
        if "another thread" in methods:
            text += "; functions called outside of modules in another thread can't be seen"
        return text

    def _unknown_rates(self) -> str | None:
        """The warning about sites whose sampling rate `fs` doesn't give, or None."""
        if self._fs is None:
            return None
        # Those with an axis beside the channels.
        records = [r for r in self._records.values() if any(n != 1 for n in r.shape[1:])]
        if records and not any(
            record.layout.is_time and not math.isnan(record.decimation) for record in records
        ):
            return (
                "the sampling rate of every site is unknown in spite of fs (decimation= gives it; "
                "time_axis= is the time axis of the input)"
            )
        return self._capture.inputs.problem or None


def _matches_output(record: SiteRecord, output: Tensor) -> bool:
    """Whether a ReLU's output has the computed mean, or one that isn't finite.

    Guards against a user's `TorchFunctionMode` that overrides relu.
    """
    with torch.no_grad():
        dc = record.output.dc
        expected = (dc.mean[1] * dc.weight[1]).sum()
        # One input at a time: a float64 copy of the batch would take two or four times its memory.
        total = torch.stack([sample.sum(dtype=torch.float64) for sample in output]).sum()
        close = (total - expected).abs() <= 1e-9 * (total.abs() + expected.abs())
        return bool(close | ~total.isfinite())
