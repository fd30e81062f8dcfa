"""`Dispatcher`: names each call, and passes it to a callback as an `ActivationCall`."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spectroscope.capture import hooks
from spectroscope.capture.axes import (
    Axes,
    ChannelAxis,
    Layout,
    Reading,
    axis_number,
    common_decimation,
    known_channel,
    layout_of,
    unknown_axes,
    unknown_time,
)
from spectroscope.capture.call import ActivationCall, unreadable
from spectroscope.capture.discovery import Discovery
from spectroscope.capture.frames import will_be_recomputed
from spectroscope.capture.memory import NamedCall
from spectroscope.capture.passes import Pass
from spectroscope.capture.sites import CoverageRow, PerSite, Site
from spectroscope.errors import RequestError

# Called before the activation runs; the function it returns is called afterwards. The tensors are
# the model's: they must not be changed or kept, and an in-place activation overwrites its input.
CallObserver: TypeAlias = Callable[[ActivationCall], Callable[[], None] | None]

# Called after the activation has run; returns the replacement of the output, ``[N, C, ...]``, or
# None to keep it.
Change: TypeAlias = Callable[[ActivationCall], Tensor | None]

# Called with the output, and with a copy of the input if that was overwritten; returns the
# replacement of the output, or None to keep it.
Finish: TypeAlias = Callable[..., Tensor | None]

# Calls at one place in one pass outside `model(x)`, above which the method is taken for a loop.
_MAX_CALLS = 256


class Dispatcher:
    """Names calls, and passes them to `observe` or to `change`.

    Args:
        discovery: counts the calls.
        methods: is updated: methods whose activations ran outside ``model(x)``.
        observe: called with each call; None if `change` is given.
        change: called with each call to change its output; an exception in it reaches the model.
        channel_axis: of the activations; ``"auto"``: as tracked. A dictionary gives it by glob,
            ``"auto"`` for other sites.
        timed: frequencies are along time only, where the time axis is known.
        decimation: samples of the model's input per sample of the site, where it can't be derived
            from the operations that ran; a dictionary gives it by glob.

    Raises:
        TypeError: a channel axis isn't a whole number.
        RequestError: a decimation isn't positive.
    """

    def __init__(
        self,
        discovery: Discovery,
        methods: dict[str, None],
        observe: CallObserver | None,
        change: Change | None,
        channel_axis: ChannelAxis,
        decimation: float | Mapping[str, float] | None,
        *,
        timed: bool,
    ):
        self._channel_axis: PerSite[int | None] = PerSite(channel_axis, axis_number, None)
        self._timed = timed
        self._decimation = PerSite(decimation, float, math.nan)
        if not all(0 < factor < math.inf for factor in self._decimation.globs.values()):
            raise RequestError(f"{decimation=} must be positive")
        self._discovery = discovery
        self._methods = methods
        self._observe = observe
        self._change = change
        self.without_values: set[str] = set()

    @property
    def changes_outputs(self) -> bool:
        """Whether outputs are changed."""
        return self._change is not None

    def _layout(self, site: Site, tensor: Tensor, axes: Axes | None) -> Layout:
        """How the axes of an activation at a site are read."""
        return layout_of(tensor.shape, axes, self._channel_axis.of(site), timed=self._timed)

    def name(
        self,
        module: nn.Module,
        name: str,
        function: str,
        kind: str,
        tensor: Tensor,
        current: Pass,
    ) -> NamedCall | None:
        """Name a call that is about to run; None if its tensor is without values.

        Args:
            module: the activation, or the module that calls the function.
            name: of the module.
            function: name of the function; empty if the module is the activation.
            kind: of activation.
            tensor: input of the call.
            current: the pass that the call belongs to.
        """
        if tensor.is_meta and not self.changes_outputs:  # Keras builds and compiles models so
            self.without_values.add(self._discovery.row(module, name, function, kind).place)
            return None
        if current.name:
            self._methods[current.name] = None
        row = self._discovery.row(module, name, function, kind)
        site = Site(name, function, current.calls[row.place], kind)
        return NamedCall(site, row.place, row, self._discovery.selects(site))

    def start(
        self, call: NamedCall, tensor: Tensor, current: Pass, *, is_relu: bool = False
    ) -> Finish | None:
        """Count a call that is about to run, and pass it on, if it is selected.

        Args:
            call: the call.
            tensor: input of the call.
            current: the pass that the call belongs to.
            is_relu: torch's own ReLU is called.

        Returns:
            What is called with the output; None: nothing.

        Raises:
            RuntimeError: the output is to be changed, but the call will run again in the backward
                pass.
        """
        site, place, row, selected = call
        self._discovery.count(row)
        current.calls[place] = site.call + 1
        if not selected:
            return ignore if self._change is None else None
        if current.name and site.call >= _MAX_CALLS:
            row.reason = f"called more than {_MAX_CALLS} times in one {current.name}: call model(x)"
            return None
        finish = self._pass_on(site, tensor, current, row, is_relu=is_relu)
        if not current.memory.tracking or self._change is not None:
            return finish
        current.sources.add_site(site.name, tensor)

        def finish_call(output: Any) -> Tensor | None:
            if isinstance(output, Tensor) and not output.is_nested:  # that has no shape
                layout = self._layout(site, output, current.axes.of(output))
                current.add_site(site.name, output, layout.transformed, in_place=output is tensor)
            return finish(output)

        return finish_call

    def _pass_on(
        self, site: Site, tensor: Tensor, current: Pass, row: CoverageRow, *, is_relu: bool
    ) -> Finish:
        if self._change is not None and will_be_recomputed():
            raise RuntimeError(
                f"an intervention at {site.name} can't follow into activation checkpointing, which "
                "runs parts of the model again in the backward pass: switch checkpointing off"
            )

        def note(reason: str) -> None:
            # The first: what happened at one call may be why others can't be read.
            row.reason = row.reason or f"call {site.call}: {reason}"

        memory = current.memory
        reading = None if tensor.is_nested else memory.recall(site, tensor.shape)
        if reading is None:
            axis, axes = self._channel_axis.of(site), current.axes.of(tensor)
            channel_axis = known_channel(axes) if axis is None else axis
        else:
            channel_axis = reading.layout.channel
        if reason := unreadable(tensor, channel_axis):
            if self._change is not None:
                return partial(_refuse, site, reason)
            note(reason)
            return partial(_finish, None, None, row, tensor)
        if reading is None:
            layout = self._layout(site, tensor, axes)
            unknown = [unknown_axes(tensor.shape, axes) if axis is None else None,
                       unknown_time(tensor.shape, layout) if self._timed else None]  # fmt: skip
            if any(unknown) and current.axes.started and self._change is None:
                row.remark = f"call {site.call}: {'; '.join(filter(None, unknown))}"
            decimation = self._decimation.of(site)
            if math.isnan(decimation):
                decimation = common_decimation(axes, layout)
            elif self._timed and len(layout.transformed) == 1:
                layout = layout._replace(is_time=True)
            reading = Reading(tuple(tensor.shape), layout, decimation, memory.tracking)
            memory.add_reading(site, reading)
        if self._change is not None:
            return partial(self._finish_change, ActivationCall(site, tensor, reading), tensor, row)
        call = ActivationCall(site, _detached(tensor), reading, is_relu=is_relu, note=note)
        finish = self._observe(call) if self._observe is not None and tensor.numel() else None
        return partial(_finish, call, finish, row, tensor)

    def _finish_change(
        self,
        call: ActivationCall,
        tensor: Tensor,
        row: CoverageRow,
        output: Any,
        original_input: Tensor | None = None,
    ) -> Tensor | None:
        if not isinstance(output, Tensor):
            return _finish(None, None, row, tensor, output)
        reason = unreadable(output, call.channel_axis)
        if reason is None and tensor.shape != output.shape:
            reason = f"input {tuple(tensor.shape)} and output {tuple(output.shape)} differ in shape"
        if reason is not None or self._change is None:
            return _refuse(call.site, reason or "", output)
        call.finish(output, original_input)
        with hooks.paused():
            new = self._change(call)
        if new is None:
            return None
        # A copy, with the memory format of the output: the model may overwrite what it gets, and
        # the operation may have returned its input or a tensor of the user.
        return torch.empty_like(output).copy_(call.channels_restored(new))


def _refuse(
    site: Site, reason: str, output: Any, original_input: Tensor | None = None
) -> Tensor | None:
    if isinstance(output, Tensor):
        raise RequestError(f"can't intervene at {site.name}: {reason}")
    return None


def _finish(
    call: ActivationCall | None,
    finish: Callable[[], None] | None,
    row: CoverageRow,
    tensor: Tensor,
    output: Any,
) -> Tensor | None:
    if not isinstance(output, Tensor):
        if output is not None:  # None: the activation raised
            row.reason = f"it returns a {type(output).__name__}, not a tensor"
    elif call is not None and finish is not None:
        # What was overwritten in place could be read before.
        if output is not tensor and (reason := unreadable(output, call.channel_axis)):
            call.note(reason)
        elif output.numel():
            call.finish(_detached(output))
            finish()
    return None


def _detached(tensor: Tensor) -> Tensor:
    if tensor.requires_grad or type(tensor) is not Tensor:
        return tensor.detach()
    return tensor


def ignore(output: Any) -> None:
    """Called with the output of a call that is only counted."""
