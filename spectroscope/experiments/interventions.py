"""`intervene`: a context manager that changes what rectifiers give to the rest of the model."""

import fnmatch
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from spectroscope.capture.axes import Axes, common_decimation
from spectroscope.capture.capture import Capture
from spectroscope.capture.sites import CoverageRow, PerSite, Select, Site
from spectroscope.errors import RequestError
from spectroscope.experiments.operations import Firing, Operation
from spectroscope.statistics import unrecordable


def intervene(
    model: nn.Module,
    select: Select,
    operation: Operation,
    *,
    channels: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    fs: float | None = None,
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: int | Mapping[str, int] = 1,
    decimation: float | Mapping[str, float] | None = None,
) -> "Intervention":
    """Change what the selected rectifiers of `model` return while the `with` block runs.

    The causal test: take the DC away, or all but the DC, and see what becomes of the output. All
    rectifiers that :func:`spectroscope.record` sees can be changed, in place or not, functions and
    reused modules too, at one call of several. The model itself isn't touched. Gradients are those
    of the changed model. Inside, `record` sees what the model sees, and another `intervene` goes on
    from what this one made.

    Args:
        model: any `nn.Module`.
        select: which rectifiers, as in :func:`spectroscope.record`: ``"block3.*"``, ``"*#1"``, a
            function, None: all.
        operation: `remove_dc`, `only_dc`, `preserved_only`, `introduced_only`, `shuffle_dc`,
            `low_pass(cutoff)`, `high_pass(cutoff)`, `mean_dc(report)`, `remove_harmonics(f0)` of
            this package; or a function of the output ``[N, C, ...]`` and its :class:`Firing`
            (`.name`, `.site`, `.input`, …), which returns another of the same shape, and changes
            neither.
        channels: which channels; a dictionary gives them by glob, all of what it doesn't match.
            None: all.
        fs: sampling rate of the model's input, as in `record`; operations take it for Hz.
        kinds: rectifiers beyond the ReLU family, as in `record`.
        channel_axis: as in `record`.
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
        decimation=decimation,
    )


class Intervention:
    """What :func:`intervene` returns. It may be entered again, but not while it is in force."""

    def __init__(
        self,
        model: nn.Module,
        select: Select,
        operation: Operation,
        *,
        channels: Sequence[int] | Mapping[str, Sequence[int]] | None,
        fs: float | None,
        kinds: Iterable[str | type[nn.Module]],
        channel_axis: int | Mapping[str, int],
        decimation: float | Mapping[str, float] | None,
    ):
        if not callable(operation):
            raise TypeError(f"operation must be a function of (output, firing), not {operation!r}")
        self._model = model
        globs = [select] if isinstance(select, str) else select
        self._select = globs if callable(globs) or globs is None else list(globs)
        self._operation = operation
        self._fs = fs
        self._channels: PerSite[tuple[int, ...] | None] = PerSite(channels, _indices, None)
        self._channel_axis = PerSite(channel_axis, operator.index, 1)
        self._decimation = PerSite(decimation, float, float("nan"))
        self._capture = Capture(model, select=self._select, kinds=kinds, change=self._change)
        self._changed: set[Site] = set()

    def __enter__(self) -> Self:
        try:
            self._capture.attach()
            self._changed.clear()
            return self
        except KeyboardInterrupt:  # attached, and yet no __exit__ would follow
            self._capture.detach()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._capture.detach()
        except KeyboardInterrupt:  # in the middle of it; once more finishes it
            self._capture.detach()
            raise
        if error is None:
            self._warn()

    def _change(self, site: Site, x: Tensor, axes: Axes | None, y: Tensor) -> Tensor:
        reason = unrecordable(y)
        axis = self._channel_axis.of(site)
        if reason is None and not -y.dim() <= axis < y.dim():
            reason = f"{list(y.shape)} has no channel_axis={axis} (0: without a batch axis)"
        if reason is None and x.shape != y.shape:
            reason = f"{tuple(x.shape)} goes in and {tuple(y.shape)} comes out"
        if reason is not None:
            raise RequestError(f"can't intervene at {site.name}: {reason}")
        single = axis % y.dim() == 0  # no batch axis
        output, before = ((side.unsqueeze(0) if single else side) for side in (y, x))
        axis = 1 if single else axis
        output, before = output.movedim(axis, 1), before.movedim(axis, 1)
        chosen = self._channels.of(site)
        index = None
        if chosen is not None:
            if not all(-output.shape[1] <= i < output.shape[1] for i in chosen):
                raise RequestError(f"channels={list(chosen)}: {site.name} has {output.shape[1]}")
            once = dict.fromkeys(i % output.shape[1] for i in chosen)
            index = torch.tensor(list(once), dtype=torch.int64, device=y.device)
        decimation = self._decimation.of(site)
        if decimation != decimation:
            decimation = common_decimation(axes, self._channel_axis.of(site), output.shape[1:])
        taken = output if index is None else output.index_select(1, index)
        given = before if index is None else before.index_select(1, index)
        self._changed.add(site)
        new = self._operation(taken, Firing(site, given, index, self._fs, decimation))
        if not isinstance(new, Tensor) or new.shape != taken.shape or new.is_complex():
            what = f"{new.dtype} {list(new.shape)}" if isinstance(new, Tensor) else repr(type(new))
            raise RequestError(f"the operation at {site.name} must return a real tensor "
                               f"{list(taken.shape)}, not {what}")  # fmt: skip
        if new is output:
            return y
        if index is not None:
            new = output.index_copy(1, index, new.to(output.dtype))
        new = new.movedim(1, axis)
        # A copy of its own, ordered in memory as y: what the operation returned may be the user's,
        # or the input, and the model may overwrite what it gets.
        return torch.empty_like(y).copy_(new.squeeze(0) if single else new)

    def _warn(self) -> None:
        """Say in one warning what was to be changed and wasn't."""
        missed = [f"{row.place or 'itself'} ({row.reason or 'never ran'})"
                  for row in self._capture.discovery.rows.values()
                  if (row.reason or not row.fired) and self._asked(row)]  # fmt: skip
        if not missed and isinstance(self._select, list):
            missed = [f"select={glob!r} (fits no call)" for glob in self._select
                      if not any(site.matches(glob) for site in self._changed)]  # fmt: skip
        listed = ", ".join(missed[:3]) + ", …" * (len(missed) > 3)
        if self._capture.ran is None:
            message = "nothing was changed: it did not run"
        elif not self._changed:
            reason = listed or "no rectifier that was asked for was called"
            message = f"nothing was changed: {reason}"
        elif missed:
            message = f"not changed, or not always: {listed}"
        else:
            return
        warnings.warn(f"{type(self._model).__name__}: {message}", stacklevel=3)

    def _asked(self, row: CoverageRow) -> bool:
        """Whether what is at a place, or within it where that can't be seen, was asked for."""
        if row.selected or not row.reason or self._select is None:
            return row.selected or bool(row.reason)
        within = f"{row.module}." if row.module else ""
        modules = {name: module for module, names in self._capture.discovery.names.items()
                   for name in names if name == row.module or name.startswith(within)}  # fmt: skip
        if callable(self._select):
            return bool(self._select(row.place, modules.get(row.module, self._model)))
        heads = {glob.partition("#")[0] for glob in self._select}
        return any(fnmatch.fnmatchcase(name, head) for name in [row.place, *modules]
                   for head in heads)  # fmt: skip


def _indices(channels: int | Iterable[int]) -> tuple[int, ...]:
    return tuple(map(operator.index, [channels] if isinstance(channels, int) else channels))
