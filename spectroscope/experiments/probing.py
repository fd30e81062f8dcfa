"""`probe`: how well the DC alone of each site tells what is sought, beside all of it."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from spectroscope.capture.axes import ChannelAxis
from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import Select
from spectroscope.errors import RequestError
from spectroscope.experiments.per_sample import dc_of
from spectroscope.progress import progress_bar
from spectroscope.specimens.batches import tensor, with_targets

Floats = NDArray[np.float32]

# An activation of more values than this is hashed to so many: a count sketch, which keeps inner
# products on average (Weinberger et al., "Feature hashing for large scale multitask learning",
# 2009).
_SKETCH = 4096


def probe(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    targets: ArrayLike | Tensor | None = None,
    select: Select = None,
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: ChannelAxis = "auto",
    folds: Any = 5,
    progress: bool = False,
) -> pd.DataFrame:
    """How well a linear read-out of each site's DC predicts the target, beside one of all of it.

    Standardised (over all inputs) and cross-validated, by scikit-learn (extra ``[probe]``): ridge
    regression, its strength by three such folds within each training part; of whole-number
    targets logistic regression.

    Args:
        model: in eval mode.
        batches: as of :func:`spectroscope.importance`.
        targets: of all inputs, if the batches have none; with neither the model's own output is
            what is predicted.
        select: which sites, as in :func:`spectroscope.record`.
        kinds: likewise.
        channel_axis: likewise.
        folds: how many; or a splitter of `sklearn.model_selection`. Folds of a regression are runs
            of consecutive inputs, for neighbours may overlap; those of classes are stratified.
        progress: show a bar on standard error.

    Returns:
        One row per site, with `channels`, `values` (of one input's activation), `n_samples`,
        `score` (``"R2"``, of several outputs that of all their variance, or ``"accuracy"``), `dc`
        and `all` (the scores of the two read-outs), `chance` (the score in the same folds of
        predicting the mean of the training part, or its largest class).

    Raises:
        TypeError: as in `record`.
        RequestError: scikit-learn is missing; too few inputs; as in :func:`dc_by_sample`.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise RequestError(
            "probe takes scikit-learn: pip install scikit-learn (the extra [probe])"
        ) from error
    found = _Features(model, select, kinds, channel_axis)
    outputs, given = found.run(with_targets(batches, targets), progress)
    sought = outputs.flatten(1).double() if given is None else given
    classes = given is not None and not given.is_floating_point()
    y = sought.numpy()
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if len(y) < 2 * (folds if isinstance(folds, int) else 1):
        raise RequestError(f"{len(y)} inputs are too few for {folds=}")
    judge = _accuracy if classes else _r2
    chance = judge(np.zeros((len(y), 1), np.float32), y, folds)  # a read-out of nothing
    rows = []
    whole = found.whole()
    for name, dc in progress_bar(found.dc().items(), shown=progress, desc="read-outs"):
        rows.append(
            {
                "site": name,
                "channels": dc.shape[1],
                "values": found.values[name],
                "n_samples": len(y),
                "score": "accuracy" if classes else "R2",
                "dc": judge(dc, y, folds),
                "all": judge(whole[name], y, folds),
                "chance": chance,
            }
        )
    return pd.DataFrame(rows)


class _Features(CaptureSession):
    """DC, and all of it or its sketch, of each input at each site."""

    def __init__(self, model: nn.Module, select: Select, kinds: Any, channel_axis: Any):
        self.values: dict[str, int] = {}
        self._model = model
        self._dc: dict[str, list[Tensor]] = {}
        self._whole: dict[str, list[Tensor]] = {}
        capture = Capture(
            model, self._observe, select=select, kinds=kinds, channel_axis=channel_axis
        )
        super().__init__(capture, type(model).__name__, "read")

    def run(self, batches: Iterable[Any], progress: bool) -> tuple[Tensor, Tensor | None]:
        """All outputs, on the CPU, and targets."""
        outputs, targets = [], []
        with self, torch.inference_mode():
            for inputs, target in progress_bar(batches, shown=progress, unit=" batches"):
                outputs.append(tensor(self._model(*inputs)).cpu())
                if target is not None:
                    targets.append(target.cpu())
        if not self._dc:
            raise RequestError("no batch was given, or no activation asked for ran")
        return torch.cat(outputs), torch.cat(targets) if targets else None

    def dc(self) -> dict[str, Floats]:
        """``[N, C]`` of each site that ran for every input."""
        return self._together(self._dc)

    def whole(self) -> dict[str, Floats]:
        """``[N, values]`` likewise, or ``[N, 4096]``."""
        return self._together(self._whole)

    def _together(self, parts: dict[str, list[Tensor]]) -> dict[str, Floats]:
        most = max(sum(map(len, found)) for found in self._dc.values())
        found = {name: torch.cat(pieces).numpy() for name, pieces in parts.items()}
        return {name: array for name, array in found.items() if len(array) == most}

    def _observe(self, call: ActivationCall) -> Callable[[], None]:
        def finish() -> None:
            self._dc.setdefault(call.name, []).append(dc_of(call.output).cpu())
            y = call.output.float().flatten(1)
            self.values[call.name] = y.shape[1]
            self._whole.setdefault(call.name, []).append(_sketch(y).cpu())

        return finish


def _sketch(y: Tensor) -> Tensor:
    """``[N, values]``, or hashed to ``[N, 4096]`` if there are more values."""
    count = y.shape[1]
    if count <= _SKETCH:
        return y
    chance = torch.Generator().manual_seed(count)
    place = torch.randint(_SKETCH, (count,), generator=chance).to(y.device)
    sign = torch.randint(2, (count,), generator=chance).to(y) * 2 - 1
    return y.new_zeros(len(y), _SKETCH).index_add_(1, place, y * sign)


def _coordinates(x: Floats) -> NDArray[np.float64]:
    """Standardised, and turned so that there are no more columns than rows.

    Which changes nothing for what shrinks weights alike in all directions, and costs less.
    """
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(x.astype(np.float64))
    if scaled.shape[1] <= len(scaled):
        return np.asarray(scaled)
    u, s, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.asarray(u * s)


def _r2(x: Floats, y: NDArray[Any], folds: Any) -> float:
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict

    split = KFold(folds) if isinstance(folds, int) else folds
    # Not by leave-one-out: with a neighbour that overlaps it, what is left out is not left out.
    model = RidgeCV(np.logspace(0, 6, 7), cv=KFold(3) if isinstance(folds, int) else folds)
    predicted = cross_val_predict(model, _coordinates(x), y, cv=split)
    return float(r2_score(y, predicted, multioutput="variance_weighted"))


def _accuracy(x: Floats, y: NDArray[Any], folds: Any) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    split = StratifiedKFold(folds) if isinstance(folds, int) else folds
    model = LogisticRegression(max_iter=2000)
    return float(cross_val_score(model, _coordinates(x), y, cv=split).mean())
