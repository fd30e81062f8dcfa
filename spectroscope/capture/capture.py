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
from spectroscope.capture.callers import Callers
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.dispatch import CallObserver, Change, Dispatcher
from spectroscope.capture.frames import calls_itself, keyword_arguments
from spectroscope.capture.functions import ActivationFunctions
from spectroscope.capture.inputs import Input, InputAxes, SamplingRate, inputs_of
from spectroscope.capture.memory import ForwardMemory, Frame, Step
from spectroscope.capture.observer import Interception
from spectroscope.capture.passes import Pass, ThreadState
from spectroscope.capture.paths import Paths
from spectroscope.capture.sites import CoverageRow, Select
from spectroscope.capture.tensors import nested_tensors
from spectroscope.errors import first_line


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
            self.discovery,
            self.methods,
            observe,
            change,
            channel_axis,
            decimation,
            timed=self.inputs.fs is not None,
        )
        self._model = model
        self._on_forward = on_forward
        self._entered: Counter[str] = Counter()  # calls of activation modules, by place
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
        for place in self._dispatcher.without_values:
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
        self.methods.update(dict.fromkeys(state["methods"]))
        self._entered.clear()
        self._entered.update(state["entered"])
        self.paths.load_state_dict(state["paths"])

    def _start_threads(self) -> None:
        """Forget what ran."""
        self._thread = ThreadState(remembers=not self.changes_outputs)
        self._callers = Callers(self._model, self.discovery, self._thread, self._new_method_pass)
        self._functions = ActivationFunctions(
            self.discovery, self._thread, self._callers, self._dispatcher, self._entered
        )

    def _new_pass(self, memory: ForwardMemory, name: str = "") -> Pass:
        follows = not self.changes_outputs  # an intervention has no report
        return Pass(self.inputs, self.discovery.buffers, self.paths, memory, name, follows=follows)

    def _new_method_pass(self, name: str) -> Pass:
        self.ran = self.ran or "parts"
        self._on_forward([])
        return self._new_pass(ForwardMemory([], enabled=False), name)

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

    def memory(self) -> ForwardMemory:
        """See :class:`spectroscope.capture.observer.Observer`."""
        return self._thread.memory

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.observer.Observer`."""
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
        current = thread.current
        if current is not None and (step := current.memory.expects(module)) and step.skipped:
            return
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
                if tensor is not None and current is not None:
                    call = self._dispatcher.name(module, name, "", kind, tensor, current)
                    finish = call and self._dispatcher.start(call, tensor, current)
                    if finish is not None and self.changes_outputs:
                        # It may work in place.
                        finish = partial(finish, original_input=tensor.clone())
                elif tensor is None:
                    reason = "it was called without a positional tensor"
                    self.discovery.set_reason(name, module, reason)
        matters = kind is not None or module is self._model
        frame = Frame(module, name, kind, in_custom, finish, outermost, matters=matters)
        if current is not None:
            current.memory.add(Step(module, frame=_reusable(frame)))
            if outermost is None and current.follows:
                current.enter_module(frame, (args, keyword_arguments(module)))
        running.append(frame)

    def on_module_exit(self, module: nn.Module, output: Any) -> Any:
        """See :class:`spectroscope.capture.observer.Observer`."""
        running, current, new = self._thread.running, self._thread.current, None
        if running and (
            running[-1].module is module or any(frame.module is module for frame in running)
        ):
            step = None if current is None else current.memory.expects(module, leaves=True)
            if step is not None and step.skipped:
                return None
            while (frame := running.pop()).module is not module:
                pass
            if current is not None:
                current.memory.add(Step(module, leaves=True, frame=_reusable(frame)))
                if frame.sources and current.follows:
                    current.exit_module(frame, output)
            if frame.outermost is not None:
                frame.outermost.memory.stop()
                if output is not None:
                    frame.outermost.finish([tensor for _, tensor in nested_tensors(output)])
            if frame.finish is not None:
                new = frame.finish(output)
            if isinstance(module, nn.TransformerEncoderLayer) and not frame.ran_submodules:
                ran = output is not None
                self.discovery.report_fused(module, frame.name, ran=ran)
        return new

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> Interception | None:
        """See :class:`spectroscope.capture.observer.Observer`."""
        current = self._thread.current
        step = None if current is None else current.memory.expects(function)
        if step is not None and step.skipped:
            return None
        name = (step and step.name) or activations.function_name(function)
        if (
            step is not None
            and step.call is not None
            and current is not None
            and (finish := self._functions.repeat(step.call, name, current, args, kwargs, wrapped))
        ):
            return Interception(on_output=finish)
        running = self._thread.running
        if current is None and name not in activations.FUNCTIONS:
            return None
        wrap = finish = known = None
        if not (running and running[-1].in_custom):
            idioms = None if current is None else current.idioms
            if name in activations.FUNCTIONS or (idioms and idioms.may_read(name)):
                wrap, finish, known = self._functions.start(name, args, kwargs, wrapped)
            elif "relu" in name and "relu" in name.split("_") and (frame := self._callers.caller()):
                reason = "its ReLU is part of a fused kernel"
                self.discovery.add_unobservable(frame.name, frame.module, reason, function=name)
            if idioms and (hidden := idioms.unobservable(name, args)):
                self._functions.report_hidden(name, *hidden)
        current = self._thread.current  # a method may have been entered
        if current is None:
            return None
        note = current.idioms.follow(function, name, args, kwargs)
        track = compare = None
        if current.memory.tracking:
            matters = not (wrap is finish is note is None)
            known = known if note is None else None
            current.memory.add(Step(function, name=name, matters=matters, call=known))
            frame = self._callers.innermost()
            place = f"{frame.name if frame else ''}/{name.strip('_')}".lstrip("/")
            track = current.track(place, name, args, kwargs)
            if not self.changes_outputs:
                compare = current.rectified.follow(
                    name, args, kwargs, self._functions.report_hidden
                )
        callbacks = [x for x in (track, note, compare, finish) if x is not None]
        if len(callbacks) < 2:
            return Interception(wrap, *callbacks) if wrap or callbacks else None

        def on_output(output: Any) -> None:
            for callback in callbacks:
                callback(output)

        return Interception(wrap, on_output)

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.observer.Observer`.

        Raises:
            Exception: `error`, if outputs are changed: an unchanged output must not go unnoticed.
        """
        if self.changes_outputs:
            raise error
        running = self._thread.running
        name, module = (running[-1].name, running[-1].module) if running else ("", self._model)
        reason = f"{type(error).__name__} while observing: {first_line(error)}"
        self.discovery.set_reason(name, module, reason)


def _reusable(frame: Frame) -> Frame | None:
    """The frame, if a forward that repeats this one can use it again."""
    if frame.outermost or frame.finish or isinstance(frame.module, hooks.FUSED_MODULES):
        return None
    return frame
