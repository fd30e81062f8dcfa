"""`Capture`: finds and names every activation call of a running model."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from spectroscope.capture import activations, hooks
from spectroscope.capture.axes import ChannelAxis, Layout, TimeAxis
from spectroscope.capture.axis_tracker import AxisTracker
from spectroscope.capture.call import run_on_copy
from spectroscope.capture.channel_sources import ChannelSources, Sources, SourceTracker
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.dispatch import CallObserver, Change, Dispatcher, Finish
from spectroscope.capture.downsampling import DownsamplingLog, Provenance
from spectroscope.capture.frames import calls_itself, keyword_arguments
from spectroscope.capture.inputs import Input, InputAxes, SamplingRate, inputs_of
from spectroscope.capture.memory import ForwardMemory
from spectroscope.capture.sites import CoverageRow, Downsampling, Select, Site
from spectroscope.errors import first_line


@dataclass(slots=True)
class Frame:
    """A module that is running.

    Attributes:
        module: the module.
        name: qualified name; of a module with several names, the one it was called under.
        kind: of activation, or None if it isn't an activation to be recorded.
        in_custom: it is, or runs inside, an activation of the user's own class, whose calls of
            other activations are part of it.
        finish: called with the output; may return the replacement of the output.
        ran_submodules: it has called a module.
    """

    module: nn.Module
    name: str
    kind: str | None
    in_custom: bool
    finish: Callable[[Any], Any] | None
    ran_submodules: bool = False


class _ThreadState(threading.local):
    """The forward pass that runs in this thread."""

    def __init__(self, inputs: InputAxes, sources: ChannelSources, *, remembers: bool) -> None:
        self._inputs, self._sources = inputs, sources
        self.running: list[Frame] = []
        self.calls: Counter[str] = Counter()
        self.memory = ForwardMemory(enabled=remembers)
        self.restart()

    def restart(self) -> None:
        """Forget the tensors of the previous forward."""
        self.axes = AxisTracker(self._inputs)
        self.provenance = Provenance(self.axes)
        self.sources = SourceTracker(self._sources)


class Capture:
    """Observes every activation call of a model from :meth:`attach` to :meth:`detach`.

    Args:
        model: is not modified.
        observe: called with each selected call; None if `change` is given.
        change: called with each selected call to change its output; an exception in it reaches the
            model.
        select: as in :class:`spectroscope.capture.discovery.Discovery`, which raises its errors.
        kinds: as in :class:`spectroscope.capture.discovery.Discovery`.
        channel_axis: as in :class:`spectroscope.capture.dispatch.Dispatcher`.
        decimation: as in :class:`spectroscope.capture.dispatch.Dispatcher`.
        fs: as in :class:`spectroscope.capture.inputs.InputAxes`.
        time_axis: as in :class:`spectroscope.capture.inputs.InputAxes`.
        on_forward: called with the inputs before each forward of the model.

    Attributes:
        discovery: the activations of the model, and the parts that can't be observed.
        inputs: time axis and sampling rate of the model's inputs.
        ran: ``"model"`` after the model's own forward ran, ``"parts"`` if only that of submodules
            did, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        observe: CallObserver | None = None,
        *,
        change: Change | None = None,
        select: Select = None,
        kinds: Iterable[str | type[nn.Module]] = (),
        channel_axis: ChannelAxis = "auto",
        decimation: float | Mapping[str, float] | None = None,
        fs: SamplingRate = None,
        time_axis: TimeAxis = "auto",
        on_forward: Callable[[list[Input]], None] = lambda inputs: None,
    ):
        self.discovery = Discovery(model, select, kinds)
        self.ran: Literal["model", "parts"] | None = None
        self._downsamplings = DownsamplingLog()
        self._sources = ChannelSources(self._layer_of)
        self._weights: dict[int, str] = {}  # layers by the identity of their weight
        self.inputs = InputAxes(fs, time_axis)
        self._dispatcher = Dispatcher(
            observe, change, channel_axis, decimation, timed=self.inputs.fs is not None
        )
        self._model = model
        self._on_forward = on_forward
        self._entered: Counter[str] = Counter()  # calls of activation modules, by place
        self._thread = _ThreadState(self.inputs, self._sources, remembers=change is None)
        self._attached_in: int | None = None  # id of the thread

    def attach(self) -> None:
        """Start to observe the model.

        Raises:
            RuntimeError: it is already attached.
        """
        if self._attached_in is not None:
            raise RuntimeError("this recorder is already recording")
        self.discovery.scan()  # modules may have been replaced since the last scan
        self._weights = {
            id(parameter): names[0] if key == "weight" else f"{names[0]}.{key}".lstrip(".")
            for module, names in self.discovery.names.items()
            for key, parameter in module._parameters.items()
        }
        self._thread = _ThreadState(self.inputs, self._sources, remembers=not self.changes_outputs)
        self._attached_in = threading.get_ident()
        try:
            hooks.register(self)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Stop observing the model.

        Raises:
            RuntimeError: another thread attached it; this thread can't remove its function mode.
        """
        attached_in, self._attached_in = self._attached_in, None
        hooks.remove(self)
        if attached_in not in (None, threading.get_ident()):
            raise RuntimeError("a recording must end in the thread in which it began")
        for place, times in self._entered.items():
            row = self.discovery.rows[place]
            if not row.fired and not row.reason:
                row.reason = (
                    f"ran {times} times without an activation call that can be seen; if it has a "
                    "forward of its own, kinds=[its class] records it as one activation"
                )

    def state_dict(self) -> dict[str, Any]:
        """State beside the coverage, as plain data for :meth:`load_state_dict`."""
        return {
            "ran": self.ran,
            "entered": dict(self._entered),
            "downsamplings": self._downsamplings.state_dict(),
            "sources": self._sources.state_dict(),
        }

    def load_state_dict(
        self, coverage: Mapping[str, CoverageRow], state: Mapping[str, Any]
    ) -> None:
        """Restore the state saved by :meth:`state_dict`, and the coverage."""
        self.discovery.rows = {place: replace(row) for place, row in coverage.items()}
        self.ran = state["ran"]
        self._entered = Counter(state["entered"])
        self._downsamplings.load_state_dict(state["downsamplings"])
        self._sources.load_state_dict(state["sources"])

    def next_downsampling(self, site: Site, layout: Layout) -> Downsampling | None:
        """The next downsampling after a site whose activations have this layout."""
        return self._downsamplings.next(site.name, layout)

    def sources(self, site: Site, layout: Layout) -> Sources | None:
        """The layers whose filters the channels of a site are; None if unknown."""
        return self._sources.of(site.name, layout.channel)

    def _layer_of(self, weight: Tensor) -> str | None:
        """The name of the layer with this weight, which may be a view; None if there is none."""
        return self._weights.get(id(weight if weight._base is None else weight._base))

    @property
    def attached(self) -> bool:
        """Whether the model is being observed."""
        return self._attached_in is not None

    @property
    def changes_outputs(self) -> bool:
        """Whether the outputs of activations are changed."""
        return self._dispatcher.changes_outputs

    @property
    def compiled(self) -> bool:
        """Whether the model has compiled parts."""
        return self.discovery.compiled

    def owns(self, module: nn.Module) -> bool:
        """Whether `module` is part of the model."""
        return module in self.discovery.names

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        names = self.discovery.names.get(module)
        if names is None:
            self._report_replica(module)
            return
        thread = self._thread
        if thread.running and module is self._model and not calls_itself(module):
            # A KeyboardInterrupt, unlike an Exception, ends a forward without calling the hooks.
            thread.running.clear()
        if not thread.running:
            self.ran = "model" if module is self._model else self.ran or "parts"
            thread.calls.clear()
            thread.restart()
            inputs = inputs_of(module, args, keyword_arguments(module))
            thread.memory.start((module, *((name, x.shape, x.dtype) for name, x in inputs)))
            if module is self._model:
                if thread.memory.tracking:
                    thread.axes.start(inputs)
                self._on_forward(inputs)
        if thread.memory.expects(module) is None:
            thread.memory.add(module, matters=True)
        name = names[0] if len(names) == 1 else self._called_name(names)
        in_custom = False
        if thread.running:
            in_custom = thread.running[-1].in_custom
            thread.running[-1].ran_submodules = True
        kind = None if in_custom else self.discovery.kind_of[module]
        finish = None
        if kind is not None:
            self._entered[name] += 1
            self.discovery.row(module, name, "", kind)
            if isinstance(module, self.discovery.kinds.classes):
                in_custom = True
                tensor = next((arg for arg in args if isinstance(arg, Tensor)), None)
                if tensor is not None:
                    finish = self._start_call(module, name, "", kind, tensor)
                    if finish is not None and self.changes_outputs:
                        # It may work in place.
                        finish = partial(finish, original_input=tensor.clone())
                else:
                    reason = "it was called without a positional tensor"
                    self.discovery.set_reason(name, module, reason)
        thread.running.append(Frame(module, name, kind, in_custom, finish))

    def on_module_exit(self, module: nn.Module, output: Any) -> Any:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        running, new = self._thread.running, None
        if running and (
            running[-1].module is module or any(frame.module is module for frame in running)
        ):
            while (frame := running.pop()).module is not module:
                pass
            if not running:
                self._thread.restart()
                if output is not None:
                    self._thread.memory.finish()
            if frame.finish is not None:
                new = frame.finish(output)
            if isinstance(module, nn.TransformerEncoderLayer) and not frame.ran_submodules:
                self._report_fused(module, frame.name, ran=output is not None)
        return new

    def ignores(self, function: Callable[..., Any]) -> bool:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        thread = self._thread
        return bool(thread.running) and thread.memory.expects(function) is False

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> hooks.Interception | None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        thread = self._thread
        if not thread.running:
            return None
        name = activations.function_name(function)
        frame = thread.running[-1]
        wrap = finish = None
        if not frame.in_custom:
            if name in activations.FUNCTIONS:
                wrap, finish = self._activate(name, args, kwargs, wrapped)
            elif "relu" in name and "relu" in name.split("_"):
                reason = "its ReLU is part of a fused kernel"
                self.discovery.add_unobservable(frame.name, frame.module, reason, function=name)
        memory, axes, provenance, sources = (
            thread.memory, thread.axes, thread.provenance, thread.sources
        )  # fmt: skip
        memory.add(function, matters=not (wrap is finish is None))
        if not memory.tracking:
            return hooks.Interception(wrap, finish)
        if wrap is finish is None and not axes.concerns(name, args, kwargs):
            return None
        place = f"{frame.name}/{name.strip('_')}".lstrip("/")

        def on_output(output: Any) -> None:
            tracked = axes.update(name, args, kwargs, output)
            steps = provenance.update(place, tracked, args, kwargs, output) if tracked else {}
            self._downsamplings.add(steps)
            sources.update(place, tracked, args, kwargs, output, axes.of)
            if finish is not None:
                finish(output)

        return hooks.Interception(wrap, on_output)

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`.

        Raises:
            Exception: `error`, if outputs are changed: an unchanged output must not go unnoticed.
        """
        if self.changes_outputs:
            raise error
        running = self._thread.running
        name, module = (running[-1].name, running[-1].module) if running else ("", self._model)
        reason = f"{type(error).__name__} while observing: {first_line(error)}"
        self.discovery.set_reason(name, module, reason)

    def _activate(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: bool
    ) -> hooks.Interception:
        """Start a call of `function`, if it is an activation to be recorded."""
        match = activations.read(function, args, kwargs)
        if match is None or match[0].kind not in self.discovery.kinds.names:
            return hooks.Interception()
        activation, tensor = match
        frame = self._thread.running[-1]
        is_relu = activation is activations.RELU and not wrapped
        place = "" if frame.kind else function
        finish = self._start_call(frame.module, frame.name, place, activation.kind, tensor, is_relu)
        if finish is None or not self.changes_outputs:
            return hooks.Interception(on_output=finish)
        return hooks.Interception(wrap=partial(run_on_copy, activation.functions[function], finish))

    def _start_call(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        tensor: Tensor,
        is_relu: bool = False,
    ) -> Finish | None:
        """Name a call and pass it on; None if it isn't selected."""
        calls = self._thread.calls
        row = self.discovery.row(module, name, function, kind, calls=1)
        site = Site(name, function, calls[row.place], kind)
        calls[row.place] += 1
        if not self.discovery.selects(site):
            return None
        finish = self._dispatcher.start(
            site, tensor, self._thread.axes, self._thread.memory, row, is_relu=is_relu
        )
        if self.changes_outputs or not self._thread.memory.tracking:
            return finish
        self._thread.sources.add_site(site.name, tensor)

        def finish_call(output: Any) -> Tensor | None:
            if isinstance(output, Tensor):
                self._thread.provenance.add_site(site.name, output)
            return finish(output)

        return finish_call

    def _called_name(self, names: list[str]) -> str:
        """The name of a shared module below the innermost running module that contains it."""
        for frame in reversed(self._thread.running):
            below = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if below:
                return below[0]
        return names[0]

    def _report_fused(self, layer: nn.TransformerEncoderLayer, name: str, *, ran: bool) -> None:
        """Report the activation of a layer on its fused path, which calls no modules."""
        for activation in activations.ACTIVATIONS if ran else ():
            kind, code = activation.kind, activation.encoder_code
            if code == layer.activation_relu_or_gelu and kind in self.discovery.kinds.names:
                reason = "one fused kernel; torch.backends.mha.set_fastpath_enabled(False) shows it"
                self.discovery.add_unobservable(name, layer, reason, function=kind.lower())

    def _report_replica(self, module: nn.Module) -> None:
        """Report a copy of a module, which `nn.DataParallel` runs in another thread."""
        if getattr(module, "_is_replica", False) and self.discovery.kinds.of_module(module):
            reason = "nn.DataParallel runs copies of the model"
            self.discovery.add_unobservable("(replicas)", module, reason)
