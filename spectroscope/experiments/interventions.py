"""`intervene`: a context manager that changes what activations give to the rest of the model."""

import operator
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import ChannelAxis, TimeAxis
from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.inputs import SamplingRate
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import PerSite, Select, Site
from spectroscope.errors import RequestError
from spectroscope.experiments.operations import Firing, Operation


def intervene(
    model: nn.Module,
    select: Select,
    operation: Operation,
    *,
    channels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    fs: SamplingRate = None,
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: ChannelAxis = "auto",
    time_axis: TimeAxis = "auto",
    decimation: float | Mapping[str, float] | None = None,
) -> "Intervention":
    """Change what the selected activations of `model` return while the `with` block runs.

    The causal test: take the DC away, or all but the DC, and see what becomes of the output. All
    activations that :func:`spectroscope.record` sees can be changed, in place or not, functions and
    reused modules too, at one call of several. The model itself isn't touched. Gradients are those
    of the changed model. Inside, `record` sees what the model sees, and another `intervene` goes on
    from what this one made.

    Args:
        model: any `nn.Module`.
        select: which activations, as in :func:`spectroscope.record`: ``"block3.*"``, ``"*#1"``, a
            function, None: all.
        operation: `remove_dc`, `only_dc`, `preserved_only`, `introduced_only`, `shuffle_dc`,
            `low_pass(cutoff)`, `high_pass(cutoff)`, `mean_dc(report)`, `remove_harmonics(f0)` of
            this package; or a function of the output ``[N, C, ...]`` and its :class:`Firing`
            (its `name`, `site`, `input`, …), which returns another of the same shape, and changes
            neither.
        channels: which channels; a dictionary gives them by glob, all of what it doesn't match.
            None: all.
        fs: sampling rate of the model's input, as in `record`; operations take it for Hz.
        kinds: activations beyond the ReLU family, as in `record`.
        channel_axis: as in `record`.
        time_axis: as in `record`.
        decimation: as in `record`.

    Returns:
        A context manager that gives itself. It warns at the end of what was asked for and could not
        be changed, or never ran.

    Raises:
        TypeError: as in `record`; or `operation` can't be called.
        RequestError: as in `record`; within the block, from the model: the operation doesn't fit
            the activation, or what it returns does not.

    >>> from spectroscope.experiments.operations import only_dc
    >>> model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
    >>> x = torch.linspace(0, 1, 8).view(1, 1, 8)
    >>> with intervene(model, "1", only_dc):
    ...     changed = model(x)
    >>> torch.allclose(changed, model(x))
    True
    """
    return Intervention(
        model,
        select,
        operation,
        channels=channels,
        fs=fs,
        kinds=kinds,
        channel_axis=channel_axis,
        time_axis=time_axis,
        decimation=decimation,
    )


class Intervention(CaptureSession):
    """What :func:`intervene` returns. It may be entered again, but not while it is in force."""

    def __init__(
        self,
        model: nn.Module,
        select: Select,
        operation: Operation,
        *,
        channels: Sequence[int] | Mapping[str, Sequence[int]] | None,
        fs: SamplingRate,
        kinds: Iterable[str | type[nn.Module]],
        channel_axis: ChannelAxis,
        time_axis: TimeAxis,
        decimation: float | Mapping[str, float] | None,
    ):
        if not callable(operation):
            raise TypeError(f"operation must be a function of (output, firing), not {operation!r}")
        self._operation = operation
        self._channels: PerSite[tuple[int, ...] | None] = PerSite(channels, _indices, None)
        capture = Capture(
            model,
            change=self._change,
            select=select,
            kinds=kinds,
            channel_axis=channel_axis,
            decimation=decimation,
            fs=fs,
            time_axis=time_axis,
        )
        self._fs = capture.inputs.fs
        self._changed: set[Site] = set()
        super().__init__(capture, type(model).__name__, "changed")

    def _on_enter(self) -> None:
        self._changed.clear()

    def _change(self, call: ActivationCall) -> Tensor | None:
        output, before = call.output, call.input
        chosen = self._channels.of(call.site)
        index = None
        if chosen is not None:
            if not all(-output.shape[1] <= i < output.shape[1] for i in chosen):
                raise RequestError(f"channels={list(chosen)}: {call.name} has {output.shape[1]}")
            once = dict.fromkeys(i % output.shape[1] for i in chosen)
            index = torch.tensor(list(once), dtype=torch.int64, device=call.device)
            before = before.index_select(1, index)
        taken = output if index is None else output.index_select(1, index)
        self._changed.add(call.site)
        firing = Firing(call.site, before, index, self._fs, call.decimation, call.transformed,
                        call.layout.is_time)  # fmt: skip
        new = self._operation(taken, firing)
        if not isinstance(new, Tensor) or new.shape != taken.shape or new.is_complex():
            what = f"{new.dtype} {list(new.shape)}" if isinstance(new, Tensor) else repr(type(new))
            raise RequestError(f"the operation at {call.name} must return a real tensor "
                               f"{list(taken.shape)}, not {what}")  # fmt: skip
        if new is output:
            return None
        return new if index is None else output.index_copy(1, index, new.to(output.dtype))

    def _is_empty(self) -> bool:
        return not self._changed

    def _problems(self) -> list[str]:
        discovery = self._capture.discovery
        missed = self.problems_of(
            row
            for row in discovery.rows.values()
            if row.asked and (row.reason or not row.fired) and discovery.asks_for(row)
        )
        if not missed and isinstance(discovery.select, list):
            missed = [f"select={glob!r} (fits no call)" for glob in discovery.select
                      if not any(site.matches(glob) for site in self._changed)]  # fmt: skip
        return missed


def _indices(channels: int | Iterable[int]) -> tuple[int, ...]:
    return tuple(map(operator.index, [channels] if isinstance(channels, int) else channels))
