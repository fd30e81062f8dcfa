"""PyTorch Lightning: a callback that follows what the ReLUs do while a `Trainer` trains.

For `lightning`; the older package `pytorch_lightning` has classes of its own, and its `Trainer`
doesn't take this callback.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from torch import nn

from spectroscope.errors import RequestError
from spectroscope.training.tracker import Tracker, scalars

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise RequestError(
        "spectroscope.lightning takes lightning: pip install lightning (the extra [lightning])"
    ) from error

# In `validation_step` a part of the module is what usually runs, `self.network(x)`: no news.
_PARTS = ("ignore", re.compile(r"\w+: only parts of it ran"), UserWarning, None, 0)


class RectifierMonitor(pl.Callback):
    """Records every ReLU during validation, and logs the DC and the dead channels of each.

    Logged are :func:`spectroscope.training.tracker.scalars`, by all of the trainer's loggers, at
    ``trainer.global_step``. Training is the same to the bit; the check of sanity before it doesn't
    count, nor does an epoch that raises. Nothing of it is in checkpoints.

    Of several dataloaders it sees all together. With several processes each sees its own share of
    the data, and what is logged is that of rank 0.

    Args:
        module: name of the part of the `LightningModule` that is the network, where a step calls
            ``self.network(x)``: then `fs` is the sampling rate of that x. Empty: all of it, and of
            each part that a step calls every call counts as a forward of its own.
        during: ``"validation"``: the same data each time, in eval mode; or ``"training"``: the
            batches that are trained on, of an epoch, or of what of it lies between two validations.
        options: of :class:`spectroscope.Tracker`: `weights`, and those of `record`, such as
            `select`, `fs` and `kinds`.

    Attributes:
        tracker: a :class:`spectroscope.Tracker` with an epoch for each time that was logged, and
            in its `numbers()` the `global_step` of each; None until the trainer starts. It goes on
            when the same module is trained or validated again.

    Raises:
        RequestError: `during` is neither; when training starts: there is no such `module`, or as
            for `Tracker`.

    >>> monitor = RectifierMonitor("network", fs=32.0)
    >>> trainer = pl.Trainer(callbacks=[monitor])  # doctest: +SKIP
    >>> trainer.fit(module, data)  # doctest: +SKIP
    >>> monitor.tracker.sites()  # doctest: +SKIP
    """

    def __init__(
        self,
        module: str = "",
        *,
        during: Literal["validation", "training"] = "validation",
        **options: Any,
    ):
        if during not in ("validation", "training"):
            raise RequestError(f"{during=} must be 'validation' or 'training'")
        self.tracker: Tracker | None = None
        self._name = module
        self._during = during
        self._options = options
        self._module: nn.Module | None = None
        self._epoch: AbstractContextManager[dict[str, Any]] | None = None
        self._numbers: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on the distance of the weights is measured."""
        self._tracker_of(pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation starts; what was trained until here is logged."""
        if self._during == "training":
            self._close(trainer)
        elif not trainer.sanity_checking:
            self._open(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation ends."""
        self._close(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The first batch of an epoch, or the first after a validation."""
        if self._during == "training" and self._epoch is None:
            self._open(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was trained since the last validation is logged."""
        self._close(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Something has gone wrong: nothing is logged of this epoch, and nothing listens on."""
        self._drop(exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The trainer stops, perhaps in the middle of an epoch, as its tuner lets it."""
        self._drop(RuntimeError("stopped"))

    def _tracker_of(self, pl_module: pl.LightningModule) -> Tracker:
        try:
            module = pl_module.get_submodule(self._name)
        except AttributeError as error:
            raise RequestError(f"module={self._name!r} is none of the model's: {error}") from error
        if self.tracker is None or self._module is not module:
            self.tracker = Tracker(module, **self._options)
            self._module = module
        return self.tracker

    def _open(self, pl_module: pl.LightningModule) -> None:
        # Known before it is entered: an interrupt between the two would leave it open.
        self._epoch = self._tracker_of(pl_module).epoch()
        self._numbers = self._epoch.__enter__()

    def _close(self, trainer: pl.Trainer) -> None:
        if self._epoch is None or self.tracker is None:
            return
        self._numbers["global_step"] = trainer.global_step
        with _parts_are_no_news():
            self._epoch.__exit__(None, None, None)
        self._epoch = None  # only now: an interrupt before is left to `on_exception`
        if trainer.is_global_zero and (found := scalars(self.tracker.report(self.tracker.epochs))):
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.global_step)

    def _drop(self, error: BaseException) -> None:
        if self._epoch is not None:
            self._epoch.__exit__(type(error), error, error.__traceback__)
        self._epoch = None


@contextmanager
def _parts_are_no_news() -> Iterator[None]:
    # Not by `warnings.catch_warnings`: it would bring back the entry that the door takes out.
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters.insert(0, _PARTS)
    try:
        yield
    finally:
        filters.remove(_PARTS)
