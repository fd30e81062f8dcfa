"""`Capture`: finds and names every activation call of a running model."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from spectroscope.capture import activations, hooks
from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.capture.call import reader_of, run_on_copy
from spectroscope.capture.callers import Callers
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.dispatch import CallObserver, Change, Dispatcher, Finish
from spectroscope.capture.frames import (
    calls_itself,
    keyword_arguments,
)
from spectroscope.capture.inputs import Input, InputAxes, SamplingRate, inputs_of
from spectroscope.capture.memory import ForwardMemory
from spectroscope.capture.passes import Frame, Pass, ThreadState
from spectroscope.capture.paths import Paths
from spectroscope.capture.sites import CoverageRow, Select, Site, place_of
from spectroscope.capture.tensors import nested_tensors
from spectroscope.errors import first_line

# Calls at one place in one pass outside `model(x)`, above which the method is taken for a loop.
_MAX_CALLS = 256


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
        on_forward: called with the inputs before each forward of the model, and with none before
            a method or a part of it that runs apart.

    Attributes:
        discovery: the activations of the model, and the parts that can't be observed.
        inputs: time axis and sampling rate of the model's inputs.
        paths: sources and downsamplings of the sites.
        ran: ``"model"`` after the model's own forward ran, ``"parts"`` if only that of submodules
            did, or None.
        methods: methods, such as `encode()`, and submodules whose activations ran outside
            ``model(x)``.
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
        self.methods: dict[str, None] = {}
        self.paths = Paths()
        self.inputs = InputAxes(fs, time_axis)
        self._dispatcher = Dispatcher(
            observe, change, channel_axis, decimation, timed=self.inputs.fs is not None
        )
        self._model = model
        self._on_forward = on_forward
        self._entered: Counter[str] = Counter()  # calls of activation modules, by place
        self._without_values: set[str] = set()  # places called with a tensor on the meta device
        self._start_threads()
        self._attached_in: int | None = None  # id of the thread

    def attach(self) -> None:
        """Start to observe the model.

        Raises:
            RuntimeError: it is already attached.
        """
        if self._attached_in is not None:
            raise RuntimeError("this recorder is already recording")
        self.discovery.scan()  # modules may have been replaced since the last scan
        self.paths.set_layers(self.discovery.names)
        self._start_threads()
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
        for place, times in (+self._entered).items():
            row = self.discovery.rows.get(place)
            if row is not None and not row.fired and not row.reason:
                row.reason = (
                    f"ran {times} times without an activation call that can be seen; if it has a "
                    "forward of its own, kinds=[its class] records it as one activation"
                )
        for place in self._without_values:
            if not self.discovery.rows[place].fired:
                self.discovery.rows[place].reason = "it was only called with tensors without values"

    def state_dict(self) -> dict[str, Any]:
        """State beside the coverage, as plain data for :meth:`load_state_dict`."""
        return {
            "ran": self.ran,
            "methods": list(self.methods),
            "entered": dict(self._entered),
            "paths": self.paths.state_dict(),
        }

    def load_state_dict(
        self, coverage: Mapping[str, CoverageRow], state: Mapping[str, Any]
    ) -> None:
        """Restore the state saved by :meth:`state_dict`, and the coverage."""
        self.discovery.rows = {place: replace(row) for place, row in coverage.items()}
        self.ran = state["ran"]
        self.methods = dict.fromkeys(state["methods"])
        self._entered = Counter(state["entered"])
        self.paths.load_state_dict(state["paths"])

    def _start_threads(self) -> None:
        """Forget what ran."""
        self._thread = ThreadState(remembers=not self.changes_outputs)
        self._callers = Callers(self._model, self.discovery, self._thread, self._new_method_pass)

    def _new_pass(self, memory: ForwardMemory, name: str = "") -> Pass:
        follows = not self.changes_outputs  # an intervention has no report
        return Pass(self.inputs, self.discovery.buffers, self.paths, memory, name, follows=follows)

    def _new_method_pass(self, name: str) -> Pass:
        self.ran = self.ran or "parts"
        self._on_forward([])
        return self._new_pass(ForwardMemory(enabled=False), name)

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
        thread = self._thread
        running = thread.running
        if module not in self.discovery.names:
            if not (running and self.discovery.finds(module, running[-1].module)):
                self.discovery.report_replica(module)
                return
            self.paths.set_layers(self.discovery.names)
        names = self.discovery.names[module]
        if running and module is self._model and not calls_itself(module):
            # A KeyboardInterrupt, unlike an Exception, ends a forward without calling the hooks.
            running.clear()
        outermost = None
        if not running and module is self._model:
            self.ran, outermost = "model", self._new_pass(thread.memory)
            thread.enter(outermost)
            inputs = inputs_of(module, args, keyword_arguments(module))
            thread.memory.start(tuple((name, x.shape, x.dtype, x.is_meta) for name, x in inputs))
            if thread.memory.tracking:
                outermost.start(inputs)
            self._on_forward(inputs)
        elif not running:
            self._callers.enter_method()
        if (current := thread.current) is not None and current.memory.expects(module) is None:
            current.memory.add(module, matters=True)
        name = names[0] if len(names) == 1 else thread.called_name(names)
        in_custom = False
        if running:
            in_custom = running[-1].in_custom
            running[-1].ran_submodules = True
        in_custom |= isinstance(module, ParametrizationList)
        kind = None if in_custom else self.discovery.kind_of[module]
        finish = None
        # Of a module that is given nothing but weights, the number is 0.
        if kind is not None and (thread.memory.tracking or self._entered[name]):
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
        frame = Frame(module, name, kind, in_custom, finish, outermost)
        if current is not None and outermost is None and current.follows:
            current.enter_module(frame, (args, keyword_arguments(module)))
        running.append(frame)

    def on_module_exit(self, module: nn.Module, output: Any) -> Any:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        running, new = self._thread.running, None
        if running and (
            running[-1].module is module or any(frame.module is module for frame in running)
        ):
            while (frame := running.pop()).module is not module:
                pass
            if frame.sources and (current := self._thread.current) is not None:
                current.exit_module(frame, output)
            if frame.outermost is not None and output is not None:
                frame.outermost.finish([tensor for _, tensor in nested_tensors(output)])
            if frame.finish is not None:
                new = frame.finish(output)
            if isinstance(module, nn.TransformerEncoderLayer) and not frame.ran_submodules:
                ran = output is not None
                self.discovery.report_fused(module, frame.name, ran=ran)
        return new

    def ignores(self, function: Callable[..., Any]) -> bool:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        current = self._thread.current if self._thread.running else None
        return current is not None and current.memory.expects(function) is False

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> hooks.Interception | None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        thread, name = self._thread, activations.function_name(function)
        if thread.current is None and name not in activations.FUNCTIONS:
            return None
        wrap = finish = None
        if not (thread.running and thread.running[-1].in_custom):
            idioms = None if thread.current is None else thread.current.idioms
            if name in activations.FUNCTIONS or (idioms and idioms.may_read(name)):
                wrap, finish = self._activate(name, args, kwargs, wrapped)
            elif "relu" in name and "relu" in name.split("_") and (frame := self._callers.caller()):
                reason = "its ReLU is part of a fused kernel"
                self.discovery.add_unobservable(frame.name, frame.module, reason, function=name)
            if idioms and (hidden := idioms.unobservable(name, args)):
                self._report_hidden(name, *hidden)
        current = thread.current
        if current is None:
            return None
        note = current.idioms.follow(function, name, args, kwargs)
        current.memory.add(function, matters=not (wrap is finish is note is None))
        track = compare = None
        if current.memory.tracking:
            frame = self._callers.innermost()
            place = f"{frame.name if frame else ''}/{name.strip('_')}".lstrip("/")
            track = current.track(place, name, args, kwargs)
            if not self.changes_outputs:
                compare = current.rectified.follow(name, args, kwargs, self._report_hidden)
        callbacks = [x for x in (track, note, compare, finish) if x is not None]
        if len(callbacks) < 2:
            return hooks.Interception(wrap, *callbacks) if wrap or callbacks else None

        def on_output(output: Any) -> None:
            for callback in callbacks:
                callback(output)

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
        exact = match is not None and function in activations.EXACT
        if match is None:
            current = self._thread.current
            tensor = None if current is None else current.idioms.read(function, args, kwargs)
            match = None if tensor is None else (activations.RELU, tensor)
        if match is None:
            return hooks.Interception()
        activation, tensor = match
        frame = self._callers.caller()
        current = self._thread.current
        if frame is None or current is None:
            return hooks.Interception()
        is_module = bool(frame.kind) or activations.of_module(frame.module) is activation
        # A module is an activation whatever its input is, but for weights.
        is_weight = (
            tensor.is_floating_point()
            and not current.memory.repeating
            and current.axes.is_constant(tensor)
        )
        if is_weight and frame.kind:
            self._entered[frame.name] -= 1
            self.discovery.discard_row(frame.name)
        if is_weight or not (is_module or current.axes.may_be_signal(tensor)):
            return hooks.Interception()
        place, kind = "" if is_module else function.strip("_"), activation.kind
        if kind not in self.discovery.kinds.names:
            self.discovery.row(frame.module, frame.name, place, kind, calls=1, asked=False)
            return hooks.Interception(on_output=_nothing)
        is_relu = activation is activations.RELU and exact and not wrapped
        finish = self._start_call(frame.module, frame.name, place, kind, tensor, is_relu)
        if not self.changes_outputs:
            # One that isn't selected is counted in each forward too.
            return hooks.Interception(on_output=finish or _nothing)
        if finish is None:
            return hooks.Interception()
        return hooks.Interception(
            wrap=partial(run_on_copy, reader_of(tensor, args, kwargs), finish)
        )

    def _report_hidden(self, function: str, tensor: Tensor, reason: str) -> None:
        """Report a ReLU whose output the function doesn't return."""
        current, frame = self._thread.current, self._callers.caller()
        # What is missed in an activation module, its own row says.
        if current is None or frame is None or frame.in_custom or frame.kind:
            return
        if not current.axes.is_constant(tensor) and current.axes.may_be_signal(tensor):
            place = function.strip("_")
            if place_of(frame.name, place) not in self.discovery.rows:
                self.discovery.add_unobservable(frame.name, frame.module, reason, function=place)

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
        if tensor.is_meta and not self.changes_outputs:  # Keras builds and compiles models so
            self._without_values.add(self.discovery.row(module, name, function, kind).place)
            return None
        current = self._thread.current
        assert current is not None  # entered with the outermost module or method
        if current.name:
            self.methods[current.name] = None
        row = self.discovery.row(module, name, function, kind, calls=1)
        site = Site(name, function, current.calls[row.place], kind)
        current.calls[row.place] += 1
        if not self.discovery.selects(site):
            return None
        if current.name and site.call >= _MAX_CALLS:
            row.reason = f"called more than {_MAX_CALLS} times in one {current.name}: call model(x)"
            return None
        finish = self._dispatcher.start(
            site, tensor, current.axes, current.memory, row, is_relu=is_relu
        )
        if self.changes_outputs or not current.memory.tracking:
            return finish
        current.sources.add_site(site.name, tensor)

        def finish_call(output: Any) -> Tensor | None:
            if isinstance(output, Tensor) and not output.is_nested:  # that has no shape
                layout = self._dispatcher.layout(site, output, current.axes.of(output))
                current.add_site(site.name, output, layout.transformed, in_place=output is tensor)
            return finish(output)

        return finish_call


def _nothing(output: Any) -> None:
    """Called with the output of a function that is only counted."""
