"""`Dispatcher`: makes an `ActivationCall` of each named call, and hands it on."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from spectroscope.capture import hooks
from spectroscope.capture.axes import (
    Axes,
    ChannelAxis,
    axis_number,
    common_decimation,
    known_channel,
    layout_of,
    unknown_channels,
)
from spectroscope.capture.call import ActivationCall, unreadable
from spectroscope.capture.frames import will_be_recomputed
from spectroscope.capture.sites import CoverageRow, PerSite, Site
from spectroscope.errors import RequestError

# Called before the activation runs; what it returns is called once the call has its output. The
# tensors are the network's own: they must not be changed or kept, and an in-place activation
# overwrites its input.
CallObserver: TypeAlias = Callable[[ActivationCall], Callable[[], None] | None]

# Called once the activation has run; returns ``[N, C, ...]`` that replaces the output, or None.
Change: TypeAlias = Callable[[ActivationCall], Tensor | None]

# Called with the output, and with a copy of the input where that is overwritten; returns what
# replaces the output, or None.
Finish: TypeAlias = Callable[..., Tensor | None]


class Dispatcher:
    """Hands calls to an observer, or to what changes them.

    Args:
        observe: called with each call; or else
        change: called with each call; what it raises the model raises.
        channel_axis: of the activations, ``"auto"``: as tracked; a dictionary gives it by glob,
            ``"auto"`` for the others.
        timed: frequencies are along time alone, where it is known which axis that is.
        decimation: samples of the model's input to one of a site's, where that can't be known from
            what ran; a dictionary gives it by glob.

    Raises:
        TypeError: a channel axis isn't a whole number.
        RequestError: a decimation isn't positive.
    """

    def __init__(
        self,
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
        self._observe = observe
        self._change = change

    @property
    def changes_outputs(self) -> bool:
        """Whether calls are changed."""
        return self._change is not None

    def start(
        self,
        site: Site,
        tensor: Tensor,
        axes: Axes | None,
        row: CoverageRow,
        *,
        is_relu: bool,
        started: bool,
    ) -> Finish:
        """Hand on a call that is about to run.

        Args:
            site: its name.
            tensor: its input.
            axes: what is known of the input's axes.
            row: of the coverage, where what can't be recorded is noted.
            is_relu: it is torch's own ReLU.
            started: the inputs of the model are tracked.

        Raises:
            RuntimeError: it is to be changed, and will be run again in the backward pass.
        """
        if self._change is not None and will_be_recomputed():
            raise RuntimeError(
                f"an intervention at {site.name} can't follow into activation checkpointing, which "
                "runs parts of the model again in the backward pass: switch that off"
            )

        def note(reason: str) -> None:
            row.reason = f"call {site.call}: {reason}"

        axis = self._channel_axis.of(site)
        if reason := unreadable(tensor, known_channel(axes) if axis is None else axis):
            if self._change is not None:
                return partial(_refuse, site, reason)
            note(reason)
            return partial(_finish, None, None, row)
        changes = self._change is not None
        if (
            axis is None
            and started
            and not changes
            and (reason := unknown_channels(tensor.shape, axes))
        ):
            note(reason)
        layout = layout_of(tensor.shape, axes, axis, timed=self._timed)
        decimation = self._decimation.of(site)
        if math.isnan(decimation):
            decimation = common_decimation(axes, layout)
        elif self._timed and len(layout.transformed) == 1:
            layout = layout._replace(is_time=True)
        if self._change is not None:
            call = ActivationCall(site, tensor, layout, decimation=decimation)
            return partial(self._changed, call, tensor, row)
        call = ActivationCall(
            site, tensor.detach(), layout, decimation=decimation, is_relu=is_relu, note=note
        )
        finish = self._observe(call) if self._observe is not None and tensor.numel() else None
        return partial(_finish, call, finish, row)

    def _changed(
        self,
        call: ActivationCall,
        tensor: Tensor,
        row: CoverageRow,
        output: Any,
        given: Tensor | None = None,
    ) -> Tensor | None:
        if not isinstance(output, Tensor):
            return _finish(None, None, row, output)
        reason = unreadable(output, call.channel_axis)
        if reason is None and tensor.shape != output.shape:
            reason = f"{tuple(tensor.shape)} goes in and {tuple(output.shape)} comes out"
        if reason is not None or self._change is None:
            return _refuse(call.site, reason or "", output)
        call.finish(output, given)
        with hooks.paused():
            new = self._change(call)
        if new is None:
            return None
        # A copy of its own, ordered in memory as the output: what the operation returned may be
        # the user's, or the input, and the model may overwrite what it gets.
        return torch.empty_like(output).copy_(call.channels_restored(new))


def _refuse(site: Site, reason: str, output: Any, given: Tensor | None = None) -> Tensor | None:
    if isinstance(output, Tensor):
        raise RequestError(f"can't intervene at {site.name}: {reason}")
    return None


def _finish(
    call: ActivationCall | None,
    finish: Callable[[], None] | None,
    row: CoverageRow,
    output: Any,
) -> Tensor | None:
    if not isinstance(output, Tensor):
        if output is not None:  # None: it raised
            row.reason = f"it returns a {type(output).__name__}, not a tensor"
    elif call is not None and finish is not None:
        if reason := unreadable(output, call.channel_axis):
            call.note(reason)
        elif output.numel():
            call.finish(output.detach())
            finish()
    return None
