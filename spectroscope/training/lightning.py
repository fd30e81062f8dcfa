"""`RectifierMonitor`: a PyTorch Lightning callback that records the ReLUs during training.

It is for the package `lightning`. The older `pytorch_lightning` has other classes, and its
`Trainer` rejects this callback.
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
        "spectroscope.lightning needs lightning: pip install lightning (the extra [lightning])"
    ) from error

# A `validation_step` usually runs only a part of the module, such as `self.network(x)`.
_PARTIAL_RUN = ("ignore", re.compile(r"\w+: (only )?parts of it ran"), UserWarning, None, 0)


class RectifierMonitor(pl.Callback):
    """Records every ReLU during validation, and logs the DC and dead channels of each.

    It logs :func:`spectroscope.training.tracker.scalars` to all loggers of the trainer, at
    ``trainer.global_step``. Training stays bit-identical, and nothing is added to checkpoints. The
    sanity check and epochs that raise are not recorded.

    Several dataloaders are recorded together. With several processes, each records its own share of
    the data, and rank 0 logs its own values.

    Args:
        module: name of the submodule that the steps call, ``"network"`` for ``self.network(x)``;
            `fs` is the sampling rate of x. Empty: the whole `LightningModule`, where each call of a
            submodule by a step counts as a forward.
        during: ``"validation"``: record the validation data, in eval mode; or ``"training"``:
            record the training batches of each epoch, or of each part of it between validations.
        options: of :class:`spectroscope.Tracker`: `weights`, and those of `record`, such as
            `select`, `fs` and `kinds`.

    Attributes:
        tracker: a :class:`spectroscope.Tracker` with one epoch for each time something was logged,
            and the `global_step` of each in its `numbers()`; None until the trainer starts. It is
            kept when the same module is trained or validated again.

    Raises:
        RequestError: `during` is neither; when training starts: there is no such `module`, or as in
            `Tracker`.

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
        """Create the tracker: weight distances are measured from now on."""
        self._tracker_of(pl_module)
        if self._during == "validation" and not trainer.enable_validation:
            warnings.warn(
                "RectifierMonitor records nothing: this training has no validation data; give the "
                'trainer some, or use RectifierMonitor(during="training")',
                stacklevel=2,
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start recording a validation, or log the training batches before it."""
        if self._during == "training":
            self._close(trainer)
        elif not trainer.sanity_checking:
            self._open(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation."""
        self._close(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start recording at the first batch of an epoch, or after a validation."""
        if self._during == "training" and self._epoch is None:
            self._open(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the training batches since the last validation."""
        self._close(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop recording, and log nothing of this epoch."""
        self._drop(exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop recording: the trainer may stop in the middle of an epoch, as under a `Tuner`."""
        self._drop(RuntimeError("stopped"))

    def _tracker_of(self, pl_module: pl.LightningModule) -> Tracker:
        try:
            module = pl_module.get_submodule(self._name)
        except AttributeError as error:
            raise RequestError(f"the model has no module={self._name!r}: {error}") from error
        if self.tracker is None or self._module is not module:
            self.tracker = Tracker(module, **self._options)
            self._module = module
        return self.tracker

    def _open(self, pl_module: pl.LightningModule) -> None:
        # Assigned before it is entered: an interrupt in between would leave it open.
        self._epoch = self._tracker_of(pl_module).epoch()
        self._numbers = self._epoch.__enter__()

    def _close(self, trainer: pl.Trainer) -> None:
        if self._epoch is None or self.tracker is None:
            return
        self._numbers["global_step"] = trainer.global_step
        with _partial_run_ignored():
            self._epoch.__exit__(None, None, None)
        self._epoch = None  # last: after an interrupt before this, `on_exception` closes it
        metrics = scalars(self.tracker.report(self.tracker.epochs))
        if trainer.is_global_zero and metrics:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

    def _drop(self, error: BaseException) -> None:
        if self._epoch is not None:
            self._epoch.__exit__(type(error), error, error.__traceback__)
        self._epoch = None


@contextmanager
def _partial_run_ignored() -> Iterator[None]:
    # `warnings.catch_warnings` would restore the filter that removing the hooks takes out.
    filters: list[Any] = warnings.filters  # type: ignore[assignment]
    filters.insert(0, _PARTIAL_RUN)
    try:
        yield
    finally:
        filters.remove(_PARTIAL_RUN)
