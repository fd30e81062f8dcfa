"""`importance`: what becomes of a model's outputs when the DC is taken away, site by site."""

import glob
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from spectroscope import schema
from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.replay import Replay
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import Select, Site
from spectroscope.errors import RequestError
from spectroscope.experiments.intervals import change_interval
from spectroscope.experiments.interventions import Intervention, intervene
from spectroscope.experiments.metrics import METRICS, Metric
from spectroscope.experiments.operations import (
    Firing,
    mean_dc,
    only_dc,
    remove_dc,
    replaced_dc,
)
from spectroscope.progress import progress_bar
from spectroscope.specimens.batches import tensor, with_targets

Custom: TypeAlias = Callable[[Tensor, Tensor], Tensor]

COLUMNS = ["site", "module", "function", "call", "kind", "operation", "metric", "unit", "n_samples",
           "baseline", "value", "change", "change_low", "change_high", "interval",
           "by_construction"]  # fmt: skip
# Options of `intervene` that the untouched forward has too.
_CAPTURE_OPTIONS = ("fs", "kinds", "channel_axis", "time_axis", "decimation")


def importance(
    model: nn.Module,
    batches: Iterable[Any],
    metric: str | Custom,
    *,
    targets: ArrayLike | Tensor | None = None,
    operations: Mapping[str, Any] | Sequence[Any] = (remove_dc, mean_dc, only_dc),
    select: Select = None,
    unit: str | None = None,
    block: int = 1,
    n_inputs: int | None = None,
    progress: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Change one activation at a time, and measure what the outputs lose.

    The work before a site is done once for each batch: its results are kept (which takes the memory
    of a training step) and the forward with the site changed begins, in effect, there. Results are
    reused only where the same function gets the same values. The first batch runs twice
    more, unchanged and with an operation that changes nothing at the last site: unless both
    reproduce the outputs bit by bit, a warning says so, and nothing is reused. A batch's
    inputs mustn't influence each other; then the result is the same for any size of batches, but of
    operations that mix inputs (`shuffle_dc`).

    Args:
        model: in eval mode.
        batches: each the inputs ``[N, ...]``, or ``(inputs, targets)``, as a `DataLoader` gives
            them; `inputs` a tuple where the model takes several. They are read twice for `mean_dc`;
            of a generator, which can't be, a warning says that `mean_dc` is left out.
        metric: ``"mae"``, ``"rmse"``, ``"accuracy"`` against the targets; ``"agreement"`` (of the
            largest output), ``"kl"``, ``"relative_l2"`` against the untouched model; or a function
            of (outputs, targets) on the outputs' device, or of (outputs, untouched outputs) where
            there are no targets, to one score for each input, ``[N]``, which are averaged.
        targets: of all inputs, in order, if the batches have none.
        operations: by name, or functions that have one. By default the DC is removed; replaced by
            its mean over the inputs of all batches (``mean_dc``; or ``mean_dc(report)``, over those
            of a report); or kept alone.
        select: which sites, as in :func:`spectroscope.record`.
        unit: of the metric, such as ``"BPM"``, for plot and conclusion; None: that of a metric
            given by name, otherwise unknown.
        block: number of consecutive inputs whose scores are resampled together for the interval.
            1: the inputs are independent. Of inputs that depend on their neighbours, such as
            overlapping windows, some four times as many as depend on each other.
        n_inputs: number of inputs in `batches`, for the time left; None: by their length, if they
            have one.
        progress: show a bar on standard error.
        options: `fs`, `kinds`, `channels`, `channel_axis`, `time_axis`, `decimation` of
            :func:`spectroscope.intervene`.

    Returns:
        One row per site × operation. `baseline` is of the untouched model, `value` of the changed
        one; `change` is their difference, `change_low` to `change_high` its 95 % confidence
        interval over the inputs, by a studentized bootstrap of the paired scores. It is NaN where
        no method can know it; `interval` has the method, or why there is none. `by_construction`
        says where nothing but the DC is read, whatever the model has learned.
        :func:`spectroscope.conclusion` puts the table into one sentence. Interrupted by Ctrl-C, it
        warns and returns the rows as far as they have come, each with its `n_samples`.

    Raises:
        TypeError: as in `record`.
        RequestError: the model is in training mode, `block` is less than 1, a metric isn't known or
            doesn't fit the outputs, targets are missing or too few, or as in `intervene`.
    """
    if model.training:
        raise RequestError("importance takes a model in eval mode: call model.eval() first")
    if operator.index(block) < 1:
        raise RequestError(f"{block=} must be a number of inputs, 1 or more")
    named = _named(operations)
    chosen = _metric(metric)
    given = {name: options[name] for name in _CAPTURE_OPTIONS if name in options}
    means = _MeanDC(model, select, given)
    if needs_means := mean_dc in named.values():
        if iter(batches) is batches:
            warnings.warn(
                "mean_dc is left out, because it reads the batches twice: give a list or a "
                "DataLoader, or mean_dc(report)",
                stacklevel=2,
            )
            needs_means = False
            named = {name: each for name, each in named.items() if each is not mean_dc}
        else:
            named = {k: replaced_dc(means.of) if v is mean_dc else v for k, v in named.items()}
    reference_run = _Reference(model, select, given)
    replay: Replay | None = reference_run.replay
    interventions: dict[tuple[Site, str], Intervention] = {}
    scores: dict[tuple[Site, str], list[Tensor]] = {}
    bases: list[Tensor] = []
    length = operator.length_hint(batches)  # 0: unknown
    bar = progress_bar(shown=progress, unit=" forwards", smoothing=0, delay=0.3)
    try:
        # Without inference mode, which doesn't count writes to tensors: `Replay` needs that.
        with bar, torch.inference_mode(False), torch.no_grad():
            with means if needs_means else nullcontext():
                for batch, _ in with_targets(batches, targets) if needs_means else ():
                    model(*tree_map_only(Tensor, _writable, batch))
                    bar.update()
            for batch, target in with_targets(batches, targets):
                inputs = tree_map_only(Tensor, _writable, batch)
                with reference_run.replay.recording(model, inputs), reference_run:
                    reference = tensor(model(*inputs))
                if not bases and reference_run.sites:
                    replay = _checked(reference_run, model, inputs, reference, options)
                if not bases and (number := length or -(-(n_inputs or 0) // len(reference))):
                    bar.total = bar.n + number * (1 + len(named) * len(reference_run.sites))
                bases.append(_scored(chosen, reference, reference, target))
                bar.update()
                reused = None if reference_run.replay.is_random else replay
                for site in reference_run.sites:
                    for name, operation in named.items():
                        key = site, name
                        if key not in interventions:
                            one = glob.escape(site.name)
                            interventions[key] = intervene(model, one, operation, **options)
                        with reused.replaying() if reused else nullcontext(), interventions[key]:
                            output = tensor(model(*inputs))
                        found = _scored(chosen, output, reference, target)
                        scores.setdefault(key, []).append(found)
                        bar.set_postfix_str(f"{site.name} {name}", refresh=False)
                        bar.update()
    except KeyboardInterrupt:
        if not scores:
            raise
        warnings.warn(
            f"interrupted in batch {len(bases)}: each row is of the inputs that came so far",
            stacklevel=2,
        )
    finally:
        reference_run.replay.forget()
    if missed := reference_run.missed():
        warnings.warn(f"{type(model).__name__}: not judged: {missed}", stacklevel=2)
    if not scores:
        raise RequestError("importance: no batch was given, or no activation asked for ran")
    label = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    label = "metric" if label == "<lambda>" else label
    if unit is None:
        unit = schema.METRICS[label].unit if metric in schema.METRICS else ""
    base = torch.cat(bases)
    rows = [
        {"site": site.name, **site._asdict(), "operation": name, "metric": label, "unit": unit}
        | _compared(chosen, base, torch.cat(parts), block)
        | {"by_construction": reference_run.by_construction(site.name, name)}
        for (site, name), parts in scores.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


class _Reference(CaptureSession):
    """The untouched forward: which sites fire in it, and what can be used again."""

    def __init__(self, model: nn.Module, select: Select, options: Mapping[str, Any]):
        self.replay = Replay()
        self.sites: dict[Site, None] = {}  # in order
        self._single: dict[str, bool] = {}  # whether each channel of an input is one value
        capture = Capture(model, self._fired, select=select, **options)
        super().__init__(capture, type(model).__name__, "judged")

    def missed(self) -> str:
        """What can't be seen, and why."""
        return self._capture.discovery.describe_gaps()

    def by_construction(self, site: str, operation: str) -> str | None:
        """Why nothing but the DC is read after a site; empty if more is, None if unknown."""
        if operation not in ("remove_dc", "mean_dc", "only_dc"):
            return ""
        if self._single[site]:
            return "one value per channel"
        only_mean = self._capture.paths.only_mean.get(site)
        return None if only_mean is None else "only the mean is read" if only_mean else ""

    def _on_enter(self) -> None:
        self.sites.clear()

    def _warning(self) -> None:
        """No warning for each batch: `importance` warns at its end."""

    def _fired(self, call: ActivationCall) -> None:
        self.sites[call.site] = None
        single = all(length == 1 for length in call.input.shape[2:])
        self._single[call.name] = single and self._single.get(call.name, True)


class _MeanDC(CaptureSession):
    """The mean DC of each channel over all inputs.

    Attributes:
        of: ``[C]``, float64, by site.
    """

    def __init__(self, model: nn.Module, select: Select, options: Mapping[str, Any]):
        self.of: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        capture = Capture(model, self._observe, select=select, **options)
        super().__init__(capture, type(model).__name__, "read")

    def _warning(self) -> None:
        """No warning: `importance` warns at its end."""

    def _observe(self, call: ActivationCall) -> Callable[[], None]:
        def finish() -> None:
            output = call.output.double()
            dc = output.flatten(2).mean(-1) if output.dim() > 2 else output
            finite = dc.isfinite()
            count = self._counts.get(call.name, 0) + finite.sum(0)
            change = (dc - self.of.get(call.name, 0.0)).where(finite, 0).sum(0)
            self.of[call.name] = self.of.get(call.name, 0.0) + change / count.clamp_min(1)
            self._counts[call.name] = count

        return finish


def _checked(
    reference_run: _Reference,
    model: nn.Module,
    inputs: tuple[Any, ...],
    reference: Tensor,
    options: dict[str, Any],
) -> Replay | None:
    """The replay if the reference can be reproduced bit by bit; otherwise None, with a warning.

    Both by a second forward, and by a replay with an operation that changes nothing.
    """
    last = glob.escape(list(reference_run.sites)[-1].name)
    replay = reference_run.replay
    if not _same_bits(tensor(model(*inputs)), reference):
        cause = "it draws random numbers" if replay.is_random else "it isn't deterministic"
        warnings.warn(
            f"{type(model).__name__}: a second forward does not reproduce the "
            f"outputs ({cause}, or keeps a state): differences smaller than that mean nothing",
            stacklevel=3,
        )
        return None
    with replay.replaying(), intervene(model, last, _unchanged, **options):
        replayed = tensor(model(*inputs))
    if not _same_bits(replayed, reference):
        warnings.warn(
            f"{type(model).__name__}: results of the first forward can't be reused, "
            "so every forward is computed whole",
            stacklevel=3,
        )
        return None
    return replay


def _unchanged(output: Tensor, firing: Firing) -> Tensor:
    return output.clone()


def _same_bits(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.equal(*(side.contiguous().flatten().view(torch.uint8) for side in (x, y)))


def _writable(tensor: Tensor) -> Tensor:
    """Of an inference tensor a copy that can be written to outside of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _named(operations: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(operations, Mapping):
        return dict(operations)
    return {getattr(operation, "__name__", str(operation)): operation for operation in operations}


def _metric(metric: str | Custom) -> Metric:
    if isinstance(metric, str):
        if metric not in METRICS:
            raise RequestError(f"{metric=} is none of {', '.join(METRICS)}, and no function")
        return METRICS[metric]

    def score(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
        found = metric(outputs, reference if targets is None else targets)
        if not isinstance(found, Tensor) or found.shape != outputs.shape[:1]:
            what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RequestError(
                f"a metric must give one score for each input, [{len(outputs)}], not {what}; "
                "(outputs - targets).abs(), say, without the mean"
            )
        return found

    return Metric(score)


def _scored(metric: Metric, output: Tensor, reference: Tensor, target: Tensor | None) -> Tensor:
    return metric.score(output, reference, target).double().cpu()


def _compared(metric: Metric, base: Tensor, scores: Tensor, block: int) -> dict[str, float | str]:
    """The columns of a row, over the inputs that both have."""
    base = base[: len(scores)]
    low, high, method = change_interval(scores.numpy(), base.numpy(), root=metric.root, block=block)
    before, after = metric.of(base), metric.of(scores)
    return {
        "n_samples": len(scores),
        "baseline": before,
        "value": after,
        "change": after - before,
        "change_low": low,
        "change_high": high,
        "interval": method,
    }
