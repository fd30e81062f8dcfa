"""Naming every rectifier call of a running model, and handing it to an observer."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self, TypeAlias

from torch import Tensor, nn

from spectroscope.capture import activations, hooks
from spectroscope.capture.axes import Axes, AxisTracker
from spectroscope.capture.calls import calls_itself, on_a_copy, runs_again
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.downsampling import DownsamplingStep, Provenance
from spectroscope.capture.sites import CoverageRow, Select, Site

# observe(site, input, known) is called before the rectifier runs, and its answer with the output;
# `known`: it is torch's own function of that kind, not a module that may do anything. Both
# tensors are the network's own. They must not be changed, and not be kept: an in-place rectifier
# overwrites its input as soon as `observe` returns.
CallObserver: TypeAlias = Callable[[Site, Tensor, bool], Callable[[Tensor], None]]

# change(site, input, axes, output) is called once the rectifier has run, and returns what the model
# is to have instead of the output; `axes`: what is known of the sampling rate along the input's.
Change: TypeAlias = Callable[[Site, Tensor, Axes | None, Tensor], Tensor]


@dataclass(slots=True)
class Frame:
    """A module that runs.

    Attributes:
        module: the module.
        name: its qualified name; of several, the one under which it was reached.
        kind: of rectifier, if it is one that is looked for.
        inside: it is, or runs inside, a rectifier of the user's own class: what that calls is
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
    """Every rectifier call of `model`, from :meth:`attach` to :meth:`detach`.

    Args:
        model: nothing in it is changed.
        observe: called on both sides of each selected rectifier call; or else
        change: called with both sides; what it raises the model raises.
        select: as of :class:`spectroscope.capture.discovery.Discovery`, which says what is raised.
        kinds: likewise.
        started: called with the positional arguments of each forward of the model as it begins.

    Attributes:
        discovery: every rectifier of the model, and what can't be looked into.
        downsamplings: what lowers the sampling rate after each site, by site name and by place, in
            the order in which it first ran.
        ran: ``"model"`` once its own forward has run, ``"parts"`` while only others have, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        observe: CallObserver | None = None,
        select: Select = None,
        kinds: Iterable[str | type[nn.Module]] = (),
        started: Callable[[tuple[Any, ...]], None] = lambda args: None,
        change: Change | None = None,
    ):
        self.discovery = Discovery(model, select, kinds)
        self.downsamplings: dict[str, dict[str, DownsamplingStep]] = {}
        self.ran: Literal["model", "parts"] | None = None
        self._model = model
        self._observe = observe
        self._change = change
        self._started = started
        self._entered: Counter[str] = Counter()
        self._thread = _Thread()
        self._opened_by: int | None = None

    def __enter__(self) -> Self:
        try:
            self.attach()
            return self
        except KeyboardInterrupt:  # attached, and yet no __exit__ would follow
            self.detach()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self.detach()
        except KeyboardInterrupt:  # in the middle of it; once more finishes it
            self.detach()
            raise

    def attach(self) -> None:
        """Begin to listen.

        Raises:
            RuntimeError: it listens already.
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
        """End listening.

        Raises:
            RuntimeError: this isn't the thread that began, where something of us must stay then.
        """
        opened_by, self._opened_by = self._opened_by, None
        hooks.remove(self)
        if opened_by not in (None, threading.get_ident()):
            raise RuntimeError("a recording must end in the thread in which it began")
        for place, times in self._entered.items():
            found = self.discovery.rows[place]
            if not found.fired and not found.reason:
                found.reason = (
                    f"ran {times} times without a rectifier call that can be seen; if its forward "
                    "is its own, kinds=[its class] records it whole"
                )

    def seen(self) -> dict[str, Any]:
        """What has been seen of the model beside `discovery.rows`, as plain data."""
        return {
            "ran": self.ran,
            "entered": dict(self._entered),
            "lowerings": {
                site: [list(step) for step in places.values()]
                for site, places in self.downsamplings.items()
            },
        }

    def go_on(self, found: Mapping[str, CoverageRow], seen: Mapping[str, Any]) -> None:
        """Go on from what another capture of the same model had found, and had :meth:`seen`."""
        self.discovery.rows = {place: replace(row) for place, row in found.items()}
        self.ran = seen["ran"]
        self._entered = Counter(seen["entered"])
        self.downsamplings = {
            site: {
                place: DownsamplingStep(place, tuple(factors), between, whole)
                for place, factors, between, whole in rows
            }
            for site, rows in seen["lowerings"].items()
        }

    @property
    def attached(self) -> bool:
        """Whether it listens."""
        return self._opened_by is not None

    @property
    def changes_outputs(self) -> bool:
        """Whether it changes what rectifiers return."""
        return self._change is not None

    @property
    def compiled(self) -> bool:
        """Whether the model has compiled parts."""
        return self.discovery.compiled

    def axes(self, tensor: Tensor) -> Axes | None:
        """What is known of the sampling rate along the axes of `tensor`, in this thread's forward.

        Nothing is where only a part of the model was called.
        """
        return self._thread.axes.of(tensor)

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
                    finish = self._begin(module, name, "", kind, tensor, known=False)
                    if finish is not None and self.changes_outputs:
                        # What it does with its input nobody knows.
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
                around, finish = self._rectify(name, args, kwargs, known=not wrapped)
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
            for site, step in steps.items():
                self.downsamplings.setdefault(site, {}).setdefault(step.place, step)
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

    def _rectify(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, known: bool
    ) -> hooks.Interception:
        call = activations.FUNCTIONS[function](args, kwargs)
        if call is None or not isinstance(call.input, Tensor):
            return hooks.Interception()
        if call.kind not in self.discovery.kinds.names:
            return hooks.Interception()
        frame = self._thread.running[-1]
        place = "" if frame.kind else function
        finish = self._begin(frame.module, frame.name, place, call.kind, call.input, known=known)
        if finish is None or not self.changes_outputs:
            return hooks.Interception(on_output=finish)
        return hooks.Interception(wrap=partial(on_a_copy, activations.FUNCTIONS[function], finish))

    def _begin(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        tensor: Tensor,
        *,
        known: bool,
    ) -> Callable[..., Any] | None:
        calls = self._thread.calls
        found = self.discovery.row(module, name, function, kind, calls=1)
        site = Site(name, function, calls[found.place], kind)
        calls[found.place] += 1
        if not self.discovery.selects(site):
            return None
        if self.changes_outputs and runs_again():
            raise RuntimeError(
                f"an intervention at {site.name} can't follow into activation checkpointing, which "
                "runs parts of the model again in the backward pass: switch that off"
            )
        finish = self._observe(site, tensor, known) if self._observe else None
        axes = self.axes(tensor)

        def finish_with(output: Any, given: Tensor = tensor) -> Any:
            if isinstance(output, Tensor):
                if self._change is not None:
                    with hooks.paused():
                        return self._change(site, given, axes, output)
                if finish is not None:
                    finish(output)
                self._thread.provenance.add_site(site.name, output)
            elif output is not None:  # None: it raised
                found.reason = f"it returns a {type(output).__name__}, not a tensor"
            return None

        return finish_with

    def _reached(self, names: list[str]) -> str:
        """Of the names of a shared module, the one under the modules that now run."""
        for frame in reversed(self._thread.running):
            inside = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if inside:
                return inside[0]
        return names[0]

    def _fused_layer(self, layer: nn.TransformerEncoderLayer, name: str, *, ran: bool) -> None:
        """Report the rectifier of a layer that took its fused path: it ran no module of its own."""
        kind = {1: "ReLU", 2: "GELU"}.get(layer.activation_relu_or_gelu)
        if ran and kind in self.discovery.kinds.names:
            reason = "one fused kernel; torch.backends.mha.set_fastpath_enabled(False) shows it"
            self.discovery.add_unobservable(name, layer, reason, function=kind.lower())

    def _replica(self, module: nn.Module) -> None:
        """Report a copy of a part of the model that `nn.DataParallel` runs in another thread."""
        if getattr(module, "_is_replica", False) and self.discovery.kinds.of_module(module):
            reason = "nn.DataParallel runs copies of the model"
            self.discovery.add_unobservable("(replicas)", module, reason)
