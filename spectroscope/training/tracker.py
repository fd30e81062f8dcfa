"""Training, epoch by epoch: how far the weights have gone, and what the ReLUs did meanwhile."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from spectroscope.errors import RequestError
from spectroscope.recorder import Recorder, record
from spectroscope.report import Report

# Columns of `Report.sites()` that are worth a curve each.
_FOLLOWED = ["dc_out", "dc_out_std", "dc_fraction", "active_fraction", "dead_fraction"]


@runtime_checkable
class _Sharded(Protocol):
    """A `DTensor`; importing its module takes long."""

    def to_local(self) -> Tensor:
        """The part in this process."""

    def full_tensor(self) -> Tensor:
        """The whole, which every process must ask for."""


class Writer(Protocol):
    """What takes numbers for curves, as ``torch.utils.tensorboard.SummaryWriter`` does."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Keep `scalar_value` as that of `tag` at `global_step`."""


def scalars(report: Report) -> dict[str, float]:
    """Of each site its DC, that of single inputs, and how many of its values and channels are on.

    By tag, ``column/site``: ``dead_fraction/layer1.0.relu#0``, so that TensorBoard has a group of
    curves for each column. What isn't known is left out, such as `dc_fraction` of what is all zero.

    >>> relu = nn.ReLU()
    >>> with record(relu) as recorder:
    ...     y = relu(torch.tensor([[2.0, -1.0]]))
    >>> scalars(recorder.report())["dead_fraction/#0"]
    0.5
    """
    table = report.sites().set_index("site")[_FOLLOWED]
    return {
        f"{column}/{site}": float(value)
        for column, values in table.items()
        for site, value in values.items()
        if np.isfinite(value)
    }


class _Epoch(NamedTuple):
    """What is kept of one block; tensors stay on their devices, so that nothing waits for them."""

    report: Report
    distances: Mapping[str, float | Tensor]
    numbers: Mapping[str, float | Tensor]


class _NothingToRecordError(Exception):
    """No activation ran in this block, which is all right."""


class Tracker:
    """Follows a model through anybody's training loop, a `with` block an epoch.

    It changes nothing and draws no random numbers: training is the same to the bit. A compiled
    model runs uncompiled inside the block, as under :func:`spectroscope.record`; then put the
    validation alone in it.

    What it keeps is on the model's device: one copy of the weights, and for each epoch a number per
    weight tensor and about 200 bytes per channel (without spectra). A GPU is waited for when a
    table is asked for; in a block only by the recorder, once per site. With a `writer` it is waited
    for at the end of each block.

    Args:
        model: any `nn.Module`, on the device where it is going to be trained.
        weights: (name, tensor) pairs, whose distance from where they are now is followed; None: all
            of ``model.named_parameters()``. Views of parameters will do (``conv.weight[3]``), for
            optimisers write in place.
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or whatever else has ``add_scalar(tag,
            value, step)``: at each block's end it is given :func:`scalars` of the epoch, the step
            being the epoch's number, from 1. To close it is the caller's.
        options: of :func:`spectroscope.record`; here `spectra` is False unless it is given.

    Raises:
        RequestError: two weights have the same name, or an option isn't one that `record` takes.
        TypeError: likewise, or the writer has no ``add_scalar``.

    >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    >>> tracker = Tracker(model)
    >>> with tracker.epoch() as numbers:
    ...     loss = model(torch.ones(8, 4)).sum()
    ...     numbers["loss"] = loss
    >>> tracker.sites()[["epoch", "site", "n_samples"]].values.tolist()
    [[1, '1#0', 8]]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Iterable[tuple[str, Tensor]] | None = None,
        writer: Writer | None = None,
        **options: Any,
    ):
        # An option that can be gone through but once is needed again in every epoch.
        self._options: dict[str, Any] = {"spectra": False} | {
            name: tuple(value) if isinstance(value, Iterator) else value
            for name, value in options.items()
        }
        self._before = record(model, **self._options).report()
        self._model = model
        if writer is not None and not callable(getattr(writer, "add_scalar", None)):
            raise TypeError(f"writer has no add_scalar(tag, value, step): {writer!r}")
        self._writer = writer
        self._given = None if weights is None else list(weights)
        pairs = list(model.named_parameters()) if self._given is None else self._given
        self._start = {name: tensor.detach().clone() for name, tensor in pairs}
        # Of sharded weights every process must compute it: at once, not when a table is asked for.
        self._start_norms = {name: _norm(start) for name, start in self._start.items()}
        if len(self._start) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(f"two weights are called {twice!r}: each needs a name of its own")
        owned = _storages(model)
        self._of_model = {name for name, tensor in pairs if _storage(tensor) in owned}
        self._epochs: list[_Epoch] = []

    @property
    def epochs(self) -> int:
        """Number of epochs so far, which is that of the last one."""
        return len(self._epochs)

    @contextmanager
    def epoch(self) -> Iterator[dict[str, float | Tensor]]:
        """A block that is the next epoch: what runs in it is recorded, weights compared at its end.

        It gives a dictionary for numbers to keep, such as the loss. They are taken at the block's
        end: floats, or tensors of one element, which aren't waited for. A block that raises is no
        epoch, and one in which the model doesn't run has weights and numbers only.

        Raises:
            RequestError: at its end, what is in the dictionary isn't a number.
        """
        numbers: dict[str, float | Tensor] = {}
        recorder = record(self._model, **self._options)
        with suppress(_NothingToRecordError), recorder:
            yield numbers
            if _is_empty(recorder):
                raise _NothingToRecordError  # left by an error, it doesn't warn that it is empty
        kept = {name: _number(name, value) for name, value in numbers.items()}
        self._epochs.append(_Epoch(recorder.report(), self._distances(), kept))
        if self._writer is not None:
            for tag, value in scalars(recorder.report()).items():
                self._writer.add_scalar(tag, value, len(self._epochs))

    def weights(self) -> pd.DataFrame:
        """How far each of the weights is from where it began, one row per epoch and parameter.

        Columns:
            epoch: 1 is the first block, at its end; 0 is when the tracker was made.
            parameter: the name.
            distance: Euclidean (L2) norm of w − w₀, in float32 or wider; NaN where there is nothing
                to compare: the parameter is gone or has another shape, or the memory that a view
                looks at isn't the model's any more (as after ``model.to(device)``).
            relative_distance: that over the norm of w₀; NaN if that is 0, as of most biases.
        """
        norms = {name: float(norm) for name, norm in self._start_norms.items()}
        start: dict[str, float | Tensor] = dict.fromkeys(norms, 0.0)
        rows = [
            (number, name, float(distance), float(distance) / (norms[name] or np.nan))
            for number, distances in enumerate([start, *(e.distances for e in self._epochs)])
            for name, distance in distances.items()
        ]
        return pd.DataFrame(rows, columns=["epoch", "parameter", "distance", "relative_distance"])

    def numbers(self) -> pd.DataFrame:
        """What was put into the blocks' dictionaries: a row per epoch, a column per name.

        NaN where an epoch has no such number.
        """
        rows = [
            {"epoch": number, **{name: float(value) for name, value in epoch.numbers.items()}}
            for number, epoch in enumerate(self._epochs, 1)
        ]
        return pd.DataFrame(rows, columns=None if rows else ["epoch"])

    def sites(self) -> pd.DataFrame:
        """`Report.sites()` of every epoch, its number in the column `epoch`, from 1."""
        return self._by_epoch(Report.sites)

    def dc(self) -> pd.DataFrame:
        """`Report.dc()` of every epoch, likewise: one row per epoch, site and channel."""
        return self._by_epoch(Report.dc)

    def report(self, epoch: int) -> Report:
        """The whole report on one epoch, from 1: spectra and all that was asked for.

        Raises:
            RequestError: there was no such epoch.
        """
        if not 1 <= epoch <= len(self._epochs):
            raise RequestError(f"{epoch=} must be from 1 to {len(self._epochs)}, the last one")
        return self._epochs[epoch - 1].report

    def _by_epoch(self, table: Callable[[Report], pd.DataFrame]) -> pd.DataFrame:
        frames = [table(epoch.report) for epoch in self._epochs]
        rows = [frame.assign(epoch=number) for number, frame in enumerate(frames, 1) if len(frame)]
        found = pd.concat(rows, ignore_index=True) if rows else table(self._before).assign(epoch=0)
        return found[["epoch", *found.columns.drop("epoch")]]

    def _distances(self) -> dict[str, float | Tensor]:
        pairs = self._model.named_parameters() if self._given is None else self._given
        owned = _storages(self._model)
        now = {n: w.detach() for n, w in pairs if n not in self._of_model or _storage(w) in owned}
        return {name: _distance(now.get(name), start) for name, start in self._start.items()}


def _is_empty(recorder: Recorder) -> bool:
    """Whether no activation ran, and nothing is there that can't be seen."""
    return not any(row.fired or row.reason for row in recorder.recording().coverage.values())


def _storage(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, _Sharded) else tensor
    return local.untyped_storage().data_ptr()


def _storages(model: nn.Module) -> set[int]:
    return {_storage(parameter) for parameter in model.parameters()}


def _distance(weight: Tensor | None, start: Tensor) -> float | Tensor:
    if weight is None or weight.shape != start.shape:
        return np.nan
    if isinstance(weight, _Sharded) != isinstance(start, _Sharded):  # FSDP2 gathers weights to run
        weight, start = (x.full_tensor() if isinstance(x, _Sharded) else x for x in (weight, start))
    # Half precision would round the difference; what is wider stays as wide as it is.
    return _norm(weight - start.to(weight.device, torch.promote_types(start.dtype, torch.float32)))


def _norm(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32 if x.is_mps else torch.float64)
    norm: Tensor = torch.linalg.vector_norm(x, dtype=wide)
    return norm.full_tensor() if isinstance(norm, _Sharded) else norm


def _number(name: str, value: float | Tensor) -> float | Tensor:
    if name == "epoch":
        raise RequestError("a number can't be called 'epoch': that is a column of its own")
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().clone()  # it may be a sum that goes on in the next epoch
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        given = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise RequestError(f"{name} must be one number, not {given}") from error
