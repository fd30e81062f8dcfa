"""`Tracker`: weight distances and ReLU statistics of each epoch of a training."""

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

# Columns of `Report.sites()` that are logged as curves.
_LOGGED = ["dc_out", "dc_out_std", "dc_fraction", "active_fraction", "dead_fraction"]


@runtime_checkable
class _Sharded(Protocol):
    """A `DTensor`; importing its module takes long."""

    def to_local(self) -> Tensor:
        """The part in this process."""

    def full_tensor(self) -> Tensor:
        """The whole, which every process must ask for."""


class Writer(Protocol):
    """Protocol of ``torch.utils.tensorboard.SummaryWriter``, as far as it is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int, /) -> object:
        """Log `scalar_value` under `tag` at `global_step`."""


def scalars(report: Report) -> dict[str, float]:
    """The DC, its spread over inputs, and the active and dead fractions of each site, by tag.

    A tag is ``column/site``, such as ``dead_fraction/layer1.0.relu#0``, so that TensorBoard groups
    the curves by column. NaNs are left out, such as the `dc_fraction` of an all-zero output.

    >>> relu = nn.ReLU()
    >>> with record(relu) as recorder:
    ...     y = relu(torch.tensor([[2.0, -1.0]]))
    >>> scalars(recorder.report())["dead_fraction/#0"]
    0.5
    """
    table = report.sites().set_index("site")[_LOGGED]
    return {
        f"{column}/{site}": float(value)
        for column, values in table.items()
        for site, value in values.items()
        if np.isfinite(value)
    }


class _Epoch(NamedTuple):
    """Results of one epoch; tensors stay on their devices, so that nothing waits for a GPU."""

    report: Report
    distances: Mapping[str, float | Tensor]
    numbers: Mapping[str, float | Tensor]


class _NothingToRecordError(Exception):
    """No activation ran in this epoch, which is allowed."""


class Tracker:
    """Records a model during any training loop, with one `with` block per epoch.

    Training stays bit-identical: nothing in it is changed and no random numbers are drawn. A
    compiled model runs uncompiled inside the block, as under :func:`spectroscope.record`; put only
    the validation inside it then.

    Memory, on the model's device: one copy of the weights, and for each epoch a number per weight
    tensor and about 200 bytes per channel (without spectra). The recorder synchronises a GPU once
    per site and epoch. Otherwise only the tables do, and a `writer` at the end of each epoch.

    Args:
        model: any `nn.Module`, on the device where it will be trained.
        weights: (name, tensor) pairs whose distance from their present values is measured; None:
            ``model.named_parameters()``. Views of parameters (``conv.weight[3]``) work, because
            optimisers write in place.
        writer: a ``torch.utils.tensorboard.SummaryWriter``, or any object with ``add_scalar(tag,
            value, step)``. It gets :func:`spectroscope.training.tracker.scalars` at the end of each
            epoch; the step is the number of the epoch, from 1. The caller closes it.
        options: of :func:`spectroscope.record`; `spectra` is False by default here.

    Raises:
        RequestError: two weights have the same name, or an option has a wrong value.
        TypeError: an option is unknown, or the writer has no ``add_scalar``.

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
        # Every epoch needs the options; an iterator could be read only once.
        self._options: dict[str, Any] = {"spectra": False} | {
            name: tuple(value) if isinstance(value, Iterator) else value
            for name, value in options.items()
        }
        self._empty = record(model, **self._options).report()
        self._model = model
        if writer is not None and not callable(getattr(writer, "add_scalar", None)):
            raise TypeError(f"writer has no add_scalar(tag, value, step): {writer!r}")
        self._writer = writer
        self._weights = None if weights is None else list(weights)
        pairs = list(model.named_parameters()) if self._weights is None else self._weights
        self._start = {name: tensor.detach().clone() for name, tensor in pairs}
        # Of sharded weights every process must compute it: at once, not when a table is asked for.
        self._start_norms = {name: _norm(start) for name, start in self._start.items()}
        if len(self._start) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise RequestError(f"two weights are called {twice!r}: names must be unique")
        owned = _storages(model)
        self._owned_names = {name for name, tensor in pairs if _storage(tensor) in owned}
        self._epochs: list[_Epoch] = []

    @property
    def epochs(self) -> int:
        """Number of epochs so far."""
        return len(self._epochs)

    @contextmanager
    def epoch(self) -> Iterator[dict[str, float | Tensor]]:
        """Context manager of one epoch: records the block, and measures the weights at its end.

        It yields a dictionary for further numbers, such as the loss: floats, or tensors of one
        element, read at the end of the block without waiting for a GPU. A block that raises doesn't
        count as an epoch. Without a forward pass an epoch has weights and numbers only.

        Raises:
            RequestError: at the end of the block, a value in the dictionary isn't a number.
        """
        numbers: dict[str, float | Tensor] = {}
        recorder = record(self._model, **self._options)
        with suppress(_NothingToRecordError), recorder:
            yield numbers
            if _is_empty(recorder):
                raise _NothingToRecordError  # the recorder warns only without an error
        kept = {name: _number(name, value) for name, value in numbers.items()}
        self._epochs.append(_Epoch(recorder.report(), self._distances(), kept))
        if self._writer is not None:
            for tag, value in scalars(recorder.report()).items():
                self._writer.add_scalar(tag, value, len(self._epochs))

    def weights(self) -> pd.DataFrame:
        """The distance of each weight from its initial value.

        Returns:
            One row per `epoch` and `parameter`. Epoch 0 is the creation of the tracker, 1 the end
            of the first epoch. `distance` is the Euclidean (L2) norm of w − w₀, in float32 or
            wider; NaN if the parameter was removed or has another shape, or if the memory of a view
            no longer belongs to the model (as after ``model.to(device)``). `relative_distance` is
            `distance` over the norm of w₀; NaN if that is 0, as for most biases.
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
        """The numbers of the epochs' dictionaries: a row per epoch, a column per name.

        NaN where an epoch lacks a number.
        """
        rows = [
            {"epoch": number, **{name: float(value) for name, value in epoch.numbers.items()}}
            for number, epoch in enumerate(self._epochs, 1)
        ]
        return pd.DataFrame(rows, columns=None if rows else ["epoch"])

    def sites(self) -> pd.DataFrame:
        """`Report.sites()` of every epoch, with its number, from 1, in the column `epoch`."""
        return self._by_epoch(Report.sites)

    def dc(self) -> pd.DataFrame:
        """`Report.dc()` of every epoch: one row per epoch, site and channel."""
        return self._by_epoch(Report.dc)

    def report(self, epoch: int) -> Report:
        """The report on one epoch, from 1.

        Raises:
            RequestError: there is no such epoch.
        """
        if not 1 <= epoch <= len(self._epochs):
            raise RequestError(f"{epoch=} must be from 1 to {len(self._epochs)}")
        return self._epochs[epoch - 1].report

    def _by_epoch(self, table: Callable[[Report], pd.DataFrame]) -> pd.DataFrame:
        frames = [table(epoch.report) for epoch in self._epochs]
        rows = [frame.assign(epoch=number) for number, frame in enumerate(frames, 1) if len(frame)]
        tables = pd.concat(rows, ignore_index=True) if rows else table(self._empty).assign(epoch=0)
        return tables[["epoch", *tables.columns.drop("epoch")]]

    def _distances(self) -> dict[str, float | Tensor]:
        pairs = self._model.named_parameters() if self._weights is None else self._weights
        owned = _storages(self._model)
        now = {
            n: w.detach() for n, w in pairs if n not in self._owned_names or _storage(w) in owned
        }
        return {name: _distance(now.get(name), start) for name, start in self._start.items()}


def _is_empty(recorder: Recorder) -> bool:
    """Whether no activation ran, and none exists that can't be recorded."""
    return not any(
        (row.asked and row.fired) or row.reason for row in recorder.recording().coverage.values()
    )


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
    # Half precision would round the difference; wider dtypes keep their precision.
    return _norm(weight - start.to(weight.device, torch.promote_types(start.dtype, torch.float32)))


def _norm(x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32 if x.is_mps else torch.float64)
    norm: Tensor = torch.linalg.vector_norm(x, dtype=wide)
    return norm.full_tensor() if isinstance(norm, _Sharded) else norm


def _number(name: str, value: float | Tensor) -> float | Tensor:
    if name == "epoch":
        raise RequestError(
            "a number can't be called 'epoch', which is the column of the epoch's number"
        )
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.detach().clone()  # a running sum may change in the next epoch
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        given = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise RequestError(f"{name} must be one number, not {given}") from error
