"""Naming every activation call of a running model, and handing it on as an `ActivationCall`."""

import math
import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from spectroscope.capture import activations, hooks
from spectroscope.capture.axes import Rates
from spectroscope.capture.call import ActivationCall, channels_first, run_on_copy, unreadable
from spectroscope.capture.discovery import Inventory
from spectroscope.capture.downsampling import Lowering, Origins
from spectroscope.capture.frames import calls_itself, will_be_recomputed
from spectroscope.capture.sites import ByGlob, Downsampling, Found, Select, Site
from spectroscope.errors import RequestError
from spectroscope.statistics.recording import Shape
from spectroscope.statistics.site_axes import common_decimation, next_downsampling

# Called before the activation runs; what it returns is called once the call has its output. The
# tensors are the network's own: they must not be changed or kept, and an in-place activation
# overwrites its input.
CallObserver: TypeAlias = Callable[[ActivationCall], Callable[[], None] | None]

# Called once the activation has run; returns ``[N, C, ...]`` that replaces the output, or None.
Change: TypeAlias = Callable[[ActivationCall], Tensor | None]


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
        self.rates = Rates()
        self.origins = Origins(self.rates)


class Capture:
    """Every rectifier call of `model`, from :meth:`attach` to :meth:`detach`.

    Args:
        model: nothing in it is changed.
        observe: called with each selected call; or else
        change: called with each selected call; what it raises the model raises.
        select: as of :class:`spectroscope.capture.discovery.Inventory`, which says what is raised.
        kinds: likewise.
        channel_axis: of the activations; a dictionary gives it by glob, 1 for the others.
        decimation: samples of the model's input to one of a site's, where that can't be known from
            what ran; a dictionary gives it by glob.
        started: called with the positional arguments of each forward of the model as it begins.

    Attributes:
        inventory: every rectifier of the model, and what can't be looked into.
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
        self.inventory = Inventory(model, select, kinds)
        self.ran: Literal["model", "parts"] | None = None
        self._lowerings: dict[str, dict[str, Lowering]] = {}
        self._channel_axis = ByGlob(channel_axis, operator.index, 1)
        self._decimation = ByGlob(decimation, float, math.nan)
        if not all(0 < factor < math.inf for factor in self._decimation.globs.values()):
            raise RequestError(f"{decimation=} must be positive")
        self._model = model
        self._observe = observe
        self._change = change
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
        self.inventory.survey()  # again: modules may have been exchanged since
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
            found = self.inventory.found[place]
            if not found.fired and not found.reason:
                found.reason = (
                    f"ran {times} times without a rectifier call that can be seen; if its forward "
                    "is its own, kinds=[its class] records it whole"
                )

    def state_dict(self) -> dict[str, Any]:
        """What is known of the model beside the coverage, as plain data."""
        return {
            "ran": self.ran,
            "entered": dict(self._entered),
            "lowerings": {
                site: [list(lowering) for lowering in places.values()]
                for site, places in self._lowerings.items()
            },
        }

    def load_state_dict(self, coverage: Mapping[str, Found], state: Mapping[str, Any]) -> None:
        """Restore the state saved by :meth:`state_dict`, and the coverage beside it."""
        self.inventory.found = {place: replace(row) for place, row in coverage.items()}
        self.ran = state["ran"]
        self._entered = Counter(state["entered"])
        self._lowerings = {
            site: {
                place: Lowering(place, tuple(factors), between, whole)
                for place, factors, between, whole in rows
            }
            for site, rows in state["lowerings"].items()
        }

    def next_downsampling(self, site: Site, shape: Shape) -> Downsampling | None:
        """What lowers the sampling rate next behind a site, of activations ``(C, ...)``."""
        lowerings = self._lowerings.get(site.name, {}).values()
        return next_downsampling(lowerings, self._channel_axis.of(site), shape)

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
        return self.inventory.compiled

    def owns(self, module: nn.Module) -> bool:
        """Whether `module` is one of the model's."""
        return module in self.inventory.names

    def on_module_enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """See :class:`spectroscope.capture.hooks.Observer`."""
        names = self.inventory.names.get(module)
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
                here.rates.start(args)
                self._started(args)
        name = names[0] if len(names) == 1 else self._reached(names)
        inside = False
        if here.running:
            inside = here.running[-1].inside
            here.running[-1].opened = True
        kind = None if inside else self.inventory.kind_of[module]
        finish = None
        if kind is not None:
            self._entered[name] += 1
            self.inventory.row(module, name, "", kind)
            if isinstance(module, self.inventory.kinds.classes):
                inside = True
                tensor = next((arg for arg in args if isinstance(arg, Tensor)), None)
                if tensor is not None:
                    finish = self._begin(module, name, "", kind, tensor)
                    if finish is not None and self.changes_outputs:
                        # It may work in place.
                        finish = partial(finish, given=tensor.clone())
                else:
                    self.inventory.note(name, module, "it was called without a tensor by position")
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
                self.inventory.unseen(frame.name, frame.module, reason, function=name)
        rates, origins = here.rates, here.origins
        if finish is around is None and not rates.concern(args, kwargs):
            return None
        place = f"{here.running[-1].name}/{name.strip('_')}".lstrip("/")

        def after(output: Any) -> None:
            sources = rates.passed(name, args, kwargs, output)
            lowered = origins.passed(place, sources, args, kwargs, output) if sources else {}
            for site, lowering in lowered.items():
                self._lowerings.setdefault(site, {}).setdefault(lowering.place, lowering)
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
        self.inventory.note(name, module, reason)

    def _activate(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: bool
    ) -> hooks.Interception:
        found = activations.read(function, args, kwargs)
        if found is None or found[0].kind not in self.inventory.kinds.names:
            return hooks.Interception()
        activation, tensor = found
        frame = self._thread.running[-1]
        is_relu = activation is activations.RELU and not wrapped
        function = "" if frame.kind else function
        finish = self._begin(frame.module, frame.name, function, activation.kind, tensor, is_relu)
        if finish is None or not self.changes_outputs:
            return hooks.Interception(on_output=finish)
        return hooks.Interception(wrap=partial(run_on_copy, tensor, finish))

    def _begin(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        tensor: Tensor,
        is_relu: bool = False,
    ) -> Callable[..., Any] | None:
        """Name a call and hand it on; what is returned is called with its output."""
        calls = self._thread.calls
        row = self.inventory.row(module, name, function, kind, calls=1)
        site = Site(name, function, calls[row.place], kind)
        calls[row.place] += 1
        if not self.inventory.selects(site):
            return None
        if self.changes_outputs and will_be_recomputed():
            raise RuntimeError(
                f"an intervention at {site.name} can't follow into activation checkpointing, which "
                "runs parts of the model again in the backward pass: switch that off"
            )
        call = self._call(site, tensor, is_relu, row)
        if self._change is not None:
            return partial(self._changed, site, call, tensor)
        finish = None
        if call is not None and self._observe is not None and tensor.numel():
            finish = self._observe(call)

        def observe_output(output: Any) -> None:
            if isinstance(output, Tensor):
                if call is not None and finish is not None and self._readable(call, output):
                    call.finish(output.detach())
                    finish()
                self._thread.origins.rectified(site.name, output)
            elif output is not None:  # None: it raised
                row.reason = f"it returns a {type(output).__name__}, not a tensor"

        return observe_output

    def _call(self, site: Site, tensor: Tensor, is_relu: bool, row: Found) -> ActivationCall | None:
        """The call that is handed on, or None, with a note, if the input can't be read."""

        def note(reason: str) -> None:
            row.reason = f"call {site.call}: {reason}"

        axis = self._channel_axis.of(site)
        if reason := unreadable(tensor, axis):
            note(reason)
            return None
        decimation = self._decimation.of(site)
        if math.isnan(decimation):
            shape = channels_first(tensor, axis).shape[1:]
            decimation = common_decimation(self._thread.rates.of(tensor), axis, tuple(shape))
        if self._change is None:
            tensor = tensor.detach()
        return ActivationCall(site, tensor, axis, decimation=decimation, is_relu=is_relu, note=note)

    def _readable(self, call: ActivationCall, output: Tensor) -> bool:
        reason = unreadable(output, self._channel_axis.of(call.site))
        if reason is not None:
            call.note(reason)
        return reason is None and output.numel() > 0

    def _changed(
        self,
        site: Site,
        call: ActivationCall | None,
        tensor: Tensor,
        output: Any,
        given: Tensor | None = None,
    ) -> Tensor | None:
        """What the model is to have instead of `output`; None: nothing else.

        Args:
            site: of the call.
            call: None: its input can't be read.
            tensor: its input.
            output: what it returned.
            given: a copy of its input, if that is overwritten.
        """
        if not isinstance(output, Tensor):
            if output is not None:
                row = self.inventory.found[site.place]
                row.reason = f"it returns a {type(output).__name__}, not a tensor"
            return None
        axis = self._channel_axis.of(site)
        reason = unreadable(tensor, axis) or unreadable(output, axis)
        if reason is None and tensor.shape != output.shape:
            reason = f"{tuple(tensor.shape)} goes in and {tuple(output.shape)} comes out"
        if reason is not None or call is None or self._change is None:
            raise RequestError(f"can't intervene at {site.name}: {reason}")
        call.finish(output, given)
        with hooks.paused():
            new = self._change(call)
        if new is None:
            return None
        # A copy of its own, ordered in memory as the output: what the operation returned may be
        # the user's, or the input, and the model may overwrite what it gets.
        return torch.empty_like(output).copy_(call.channels_restored(new))

    def _reached(self, names: list[str]) -> str:
        """Of the names of a shared module, the one under the modules that now run."""
        for frame in reversed(self._thread.running):
            inside = [name for name in names if not frame.name or name.startswith(f"{frame.name}.")]
            if inside:
                return inside[0]
        return names[0]

    def _fused_layer(self, layer: nn.TransformerEncoderLayer, name: str, *, ran: bool) -> None:
        """Report the rectifier of a layer that took its fused path: it ran no module of its own."""
        for activation in activations.ACTIVATIONS if ran else ():
            code = activation.encoder_code
            if (
                code == layer.activation_relu_or_gelu
                and activation.kind in self.inventory.kinds.names
            ):
                reason = "one fused kernel; torch.backends.mha.set_fastpath_enabled(False) shows it"
                self.inventory.unseen(name, layer, reason, function=activation.kind.lower())

    def _replica(self, module: nn.Module) -> None:
        """Report a copy of a part of the model that `nn.DataParallel` runs in another thread."""
        if getattr(module, "_is_replica", False) and self.inventory.kinds.of_module(module):
            reason = "nn.DataParallel runs copies of the model"
            self.inventory.unseen("(replicas)", module, reason)
