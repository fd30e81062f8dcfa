"""Naming every activation call of a running model, and handing it on as an `ActivationCall`."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from spectroscope.capture import activations, hooks
from spectroscope.capture.axes import AxisTracker
from spectroscope.capture.call import run_on_copy
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.dispatch import CallObserver, Change, Dispatcher, Finish
from spectroscope.capture.downsampling import DownsamplingLog, Provenance
from spectroscope.capture.frames import calls_itself
from spectroscope.capture.sites import CoverageRow, Downsampling, Select, Shape, Site


@dataclass(slots=True)
class Frame:
    """A module that runs.

    Attributes:
        module: the module.
        name: its qualified name; of several, the one under which it was reached.
        kind: of activation, if it is one that is looked for.
        inside: it is, or runs inside, an activation of the user's own class: what that calls is
            part of it.
        finish: to be called with its output; may answer what is to replace it.
        opened: it has run a module of its own.
    """

    module: nn.Module
    name: str
    kind: str | None
    inside: bool
    finish: Callable[[Any], Any] | None
    opened: bool = False


class _Thread(threading.local):
    """Where one thread is in the model."""

    def __init__(self) -> None:
        self.running: list[Frame] = []
        self.calls: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Forget the tensors of the last forward."""
        self.axes = AxisTracker()
        self.provenance = Provenance(self.axes)


class Capture:
    """Every activation call of `model`, from :meth:`attach` to :meth:`detach`.

    Args:
        model: nothing in it is changed.
        observe: called with each selected call; or else
        change: called with each selected call; what it raises the model raises.
        select: as of :class:`spectroscope.capture.discovery.Discovery`, which says what is raised.
        kinds: likewise.
        channel_axis: as of :class:`spectroscope.capture.dispatch.Dispatcher`.
        decimation: likewise.
        started: called with the positional arguments of each forward of the model as it begins.

    Attributes:
        inventory: every activation of the model, and what can't be looked into.
        ran: ``"model"`` once its own forward has run, ``"parts"`` while only others have, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        observe: CallObserver | None = None,
        *,
        change: Change | None = None,
        select: Select = None,
        kinds: Iterable[str | type[nn.Module]] = (),
        channel_axis: int | Mapping[str, int] = 1,
        decimation: float | Mapping[str, float] | None = None,
        started: Callable[[tuple[Any, ...]], None] = lambda args: None,
    ):
        self.discovery = Discovery(model, select, kinds)
        self.ran: Literal["model", "parts"] | None = None
        self._downsamplings = DownsamplingLog()
        self._dispatcher = Dispatcher(observe, change, channel_axis, decimation)
        self._model = model
        self._started = started
        self._entered: Counter[str] = Counter()
        self._thread = _Thread()
        self._opened_by: int | None = None

    def attach(self) -> None:
        """Begin to observe the model.

        Raises:
            RuntimeError: it is observed already.
        """
        if self._opened_by is not None:
            raise RuntimeError("this recorder is already recording")
        self.discovery.scan()  # again: modules may have been exchanged since
        self._thread = _Thread()
        self._opened_by = threading.get_ident()
        try:
            hooks.register(self)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """End observing the model.

        Raises:
            RuntimeError: another thread has begun it, whose function mode can't be removed here.
        """
        opened_by, self._opened_by = self._opened_by, None
        hooks.remove(self)
        if opened_by not in (None, threading.get_ident()):
            raise RuntimeError("a recording must end in the thread in which it began")
        for place, times in self._entered.items():
            row = self.discovery.rows[place]
            if not row.fired and not row.reason:
                row.reason = (
                    f"ran {times} times without an activation call that can be seen; if its "
                    "forward is its own, kinds=[its class] records it whole"
                )

    def state_dict(self) -> dict[str, Any]:
        """What is known of the model beside the coverage, as plain data."""
        return {
            "ran": self.ran,
            "entered": dict(self._entered),
            "downsamplings": self._downsamplings.state_dict(),
        }

    def load_state_dict(
        self, coverage: Mapping[str, CoverageRow], state: Mapping[str, Any]
    ) -> None:
        """Restore the state saved by :meth:`state_dict`, and the coverage beside it."""
        self.discovery.rows = {place: replace(row) for place, row in coverage.items()}
        self.ran = state["ran"]
        self._entered = Counter(state["entered"])
        self._downsamplings.load_state_dict(state["downsamplings"])

    def next_downsampling(self, site: Site, shape: Shape) -> Downsampling | None:
        """What lowers the sampling rate next behind a site, of activations ``(C, ...)``."""
        return self._downsamplings.next(site.name, self._dispatcher.channel_axis.of(site), shape)

    @property
    def attached(self) -> bool:
        """Whether it listens."""
        return self._opened_by is not None

    @property
    def changes_outputs(self) -> bool:
        """Whether it changes what activations return."""
        return self._dispatcher.changes_outputs

    @property
    def compiled(self) -> bool:
        """Whether the model has compiled parts."""
        return self.discovery.compiled

    def owns(self, module: nn.Module) -> bool:
        """Whether `module` is one of the model's."""
        return module in self.discovery.names

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        names = self.discovery.names.get(module)
        if names is None:
            self._replica(module)
            return
        here = self._thread
        if here.running and module is self._model and not calls_itself(module):
            # A KeyboardInterrupt, unlike an Exception, ends a forward without a word to the hooks.
            here.running.clear()
        if not here.running:
            self.ran = "model" if module is self._model else self.ran or "parts"
            here.calls.clear()
            here.restart()
            if module is self._model:
                here.axes.start(args)
                self._started(args)
        name = names[0] if len(names) == 1 else self._reached(names)
        inside = False
        if here.running:
            inside = here.running[-1].inside
            here.running[-1].opened = True
        kind = None if inside else self.discovery.kind_of[module]
        finish = None
        if kind is not None:
            self._entered[name] += 1
            self.discovery.row(module, name, "", kind)
            if isinstance(module, self.discovery.kinds.classes):
                inside = True
                tensor = next((arg for arg in args if isinstance(arg, Tensor)), None)
                if tensor is not None:
                    finish = self._begin(module, name, "", kind, tensor)
                    if finish is not None and self.changes_outputs:
                        # It may work in place.
                        finish = partial(finish, given=tensor.clone())
                else:
                    self.discovery.set_reason(
                        name, module, "it was called without a tensor by position"
                    )
        here.running.append(Frame(module, name, kind, inside, finish))

    def on_module_exit(self, module: nn.Module, output: Any) -> Any:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        running, new = self._thread.running, None
        if running and any(frame.module is module for frame in reversed(running)):
            while (frame := running.pop()).module is not module:
                pass
            if not running:
                self._thread.restart()
            if frame.finish is not None:
                new = frame.finish(output)
            if isinstance(module, nn.TransformerEncoderLayer) and not frame.opened:
                self._fused_layer(module, frame.name, ran=output is not None)
        return new

    def on_function_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wrapped: bool,
    ) -> hooks.Interception | None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        here = self._thread
        if not here.running:
            return None
        name = activations.function_name(function)
        finish = around = None
        if not here.running[-1].inside:
            if name in activations.FUNCTIONS:
                around, finish = self._activate(name, args, kwargs, wrapped)
            elif "relu" in name and "relu" in name.split("_"):
                reason = "its ReLU is part of one kernel with other work"
                frame = here.running[-1]
                self.discovery.add_unobservable(frame.name, frame.module, reason, function=name)
        axes, provenance = here.axes, here.provenance
        if finish is around is None and not axes.any_tracked(args, kwargs):
            return None
        place = f"{here.running[-1].name}/{name.strip('_')}".lstrip("/")

        def after(output: Any) -> None:
            tracked = axes.update(name, args, kwargs, output)
            steps = provenance.update(place, tracked, args, kwargs, output) if tracked else {}
            self._downsamplings.add(steps)
            if finish is not None:
                finish(output)

        return hooks.Interception(around, after)

    def on_error(self, error: Exception) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`.

        Raises:
            Exception: `error`, where outputs are changed: a model that isn't must not pass for one
                that is.
        """
        if self.changes_outputs:
            raise error
        running = self._thread.running
        name, module = (running[-1].name, running[-1].module) if running else ("", self._model)
        reason = f"{type(error).__name__} while looking: {str(error).partition(chr(10))[0]}"
        self.discovery.set_reason(name, module, reason)

    def _activate(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: bool
    ) -> hooks.Interception:
        found = activations.read(function, args, kwargs)
        if found is None or found[0].kind not in self.discovery.kinds.names:
            return hooks.Interception()
        activation, tensor = found
        frame = self._thread.running[-1]
        is_relu = activation is activations.RELU and not wrapped
        place = "" if frame.kind else function
        finish = self._begin(frame.module, frame.name, place, activation.kind, tensor, is_relu)
        if finish is None or not self.changes_outputs:
            return hooks.Interception(on_output=finish)
        return hooks.Interception(wrap=partial(run_on_copy, activation.functions[function], finish))

    def _begin(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        tensor: Tensor,
        is_relu: bool = False,
    ) -> Finish | None:
        """Name a call and hand it on."""
        calls = self._thread.calls
        row = self.discovery.row(module, name, function, kind, calls=1)
        site = Site(name, function, calls[row.place], kind)
        calls[row.place] += 1
        if not self.discovery.selects(site):
            return None
        axes = self._thread.axes.of(tensor)
        finish = self._dispatcher.start(site, tensor, axes, row, is_relu=is_relu)

        def finish_call(output: Any, given: Tensor | None = None) -> Tensor | None:
            new = finish(output) if given is None else finish(output, given)
            if isinstance(output, Tensor) and not self.changes_outputs:
                self._thread.provenance.add_site(site.name, output)
            return new

        return finish_call

    def _reached(self, names: list[str]) -> str:
        """Of the names of a shared module, the one under the modules that now run."""
        for frame in reversed(self._thread.running):
            inside = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if inside:
                return inside[0]
        return names[0]

    def _fused_layer(self, layer: nn.TransformerEncoderLayer, name: str, *, ran: bool) -> None:
        """Report the activation of a layer on its fused path, which runs no module of its own."""
        for activation in activations.ACTIVATIONS if ran else ():
            kind, code = activation.kind, activation.encoder_code
            if code == layer.activation_relu_or_gelu and kind in self.discovery.kinds.names:
                reason = "one fused kernel; torch.backends.mha.set_fastpath_enabled(False) shows it"
                self.discovery.add_unobservable(name, layer, reason, function=kind.lower())

    def _replica(self, module: nn.Module) -> None:
        """Report a copy of a part of the model that `nn.DataParallel` runs in another thread."""
        if getattr(module, "_is_replica", False) and self.discovery.kinds.of_module(module):
            reason = "nn.DataParallel runs copies of the model"
            self.discovery.add_unobservable("(replicas)", module, reason)
