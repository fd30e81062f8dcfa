"""The loop over the batches of a specimen or shard: model, recorder, scores and checkpoints."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spectroscope.capture.sites import Select
from spectroscope.dsp.spectra import Window
from spectroscope.errors import RequestError, first_line
from spectroscope.progress import progress_bar
from spectroscope.recorder import Recorder, record
from spectroscope.report import Report
from spectroscope.run.checkpoint import Checkpoint
from spectroscope.run.distributed import ProcessGroup
from spectroscope.run.fingerprint import fingerprint, parameter_hash
from spectroscope.run.placement import Placement
from spectroscope.run.scores import Scores, means
from spectroscope.run.shards import WHOLE, Batch, Shard, batches
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics.base import Statistic
from spectroscope.statistics.fundamentals import F0
from spectroscope.statistics.recording import Recording
from spectroscope.statistics.run_shard import RunShard

# What a model raises that is given inputs of a wrong shape, dtype or structure.
_INPUT_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)


class Inspection(NamedTuple):
    """Result of :func:`inspect`; scores and labels are empty where the specimen has none.

    Attributes:
        report: on the activations.
        scores: means over the inputs, by name.
        labels: one line for each of the first few inputs.
    """

    report: Report
    scores: Mapping[str, float]
    labels: Sequence[str]

    @classmethod
    def from_recording(cls, recording: Recording) -> "Inspection":
        """The result that a recording made by :func:`inspect` holds."""
        part = recording.run_shard
        scores = {} if part is None else means(part.scores)
        labels = () if part is None else tuple(part.labels.values())
        return cls(Report(recording), scores, labels)


def inspect(
    specimen: Specimen,
    *,
    select: Select = None,
    spectra: bool = True,
    f0: F0 = None,
    harmonics: int = 8,
    window: Window = "boxcar",
    kinds: Iterable[str | type[nn.Module]] = (),
    statistics: Iterable[Statistic] = (),
    spectra_every: int = 1,
    examples: int = 0,
    about: Mapping[str, str] | None = None,
    progress: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    channels_last: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    shard: Shard = WHOLE,
    checkpoint: Checkpoint | None = None,
    group: ProcessGroup | None = None,
) -> Inspection:
    """Run the inputs of `specimen` through its model and record every activation.

    Memory doesn't grow with the number of inputs. The specimen's model isn't modified: with another
    device, dtype or memory format, a copy runs.

    Args:
        specimen: model and inputs.
        select: as in :func:`spectroscope.record`.
        spectra: as in :func:`spectroscope.record`.
        f0: as in :func:`spectroscope.record`; None: the specimen's own.
        harmonics: as in :func:`spectroscope.record`.
        window: as in :func:`spectroscope.record`.
        kinds: as in :func:`spectroscope.record`.
        statistics: as in :func:`spectroscope.record`.
        spectra_every: as in :func:`spectroscope.record`.
        examples: as in :func:`spectroscope.record`; of a shard its own first inputs.
        about: as in :func:`spectroscope.record`, added to the specimen's description.
        progress: show a progress bar on standard error.
        device: where to run, ``"cuda:0"``; None: the device of the model.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"`` or ``"float64"``, of the model and of
            floating-point inputs; None: unchanged. Statistics are always float64.
        channels_last: use the channels-last memory format for images.
        limit: run only the first `limit` inputs.
        workers: processes that load data; None: as in the specimen's `DataLoader`.
        shard: run only this shard; its report merges with those of the others.
        checkpoint: where the state is written to, and read from to resume. The caller removes it
            once the report is written.
        group: processes that run one shard each, :func:`spectroscope.run.process_group`. Rank 0
            returns the report on all shards, other ranks that on their own.

    Raises:
        RequestError: the specimen has no inputs; an option is invalid; there is no checkpoint to
            resume from, or it is of another run; the model can't run the inputs.
        UnfinishedError: another process of the group died or hangs.
    """
    if limit is not None:
        specimen = specimen.first(limit)
    if group is not None:
        shard = group.shard
    if f0 is not None:
        specimen = replace(specimen, f0=None)
    statistics = tuple(statistics)
    kinds = (kinds,) if isinstance(kinds, str | type) else tuple(kinds)
    if select is not None and not isinstance(select, str) and not callable(select):
        select = tuple(select)
    placement = Placement.parse(device, dtype, channels_last)
    model = placement.model(specimen.model)
    notes = {"specimen": f"{specimen.name}: {specimen.description}", "license": specimen.license}
    notes |= {"shard": str(shard)} if shard.of > 1 else {}
    notes |= {"device": device} if device else {}
    notes |= {"dtype": dtype} if dtype else {}
    recorder = record(
        model,
        fs=specimen.fs,
        select=select,
        spectra=spectra,
        f0=f0,
        harmonics=harmonics,
        window=window,
        kinds=kinds,
        statistics=statistics,
        spectra_every=spectra_every,
        examples=examples,
        channel_axis=specimen.channel_axis,
        time_axis=specimen.time_axis,
        about=notes | dict(about or {}),
    )
    options = {
        "select": getattr(select, "__qualname__", select),
        "spectra": spectra,
        "f0": f0,
        "harmonics": harmonics,
        "window": window,
        "statistics": ", ".join(statistic.name for statistic in statistics) or "built-in",
        "spectra_every": spectra_every,
        "examples": examples,
        "kinds": ", ".join(sorted(str(kind) for kind in kinds)) or "the ReLU family",
        "dtype": dtype or "the model's",
        "device": "the model's" if placement.device is None else placement.device.type,
        "channels_last": channels_last,
    }
    run = _Run(specimen, model, placement, recorder, shard, checkpoint)
    gpus = {tensor.device.index for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(sorted(gpus)):
        recording = run.record(options, workers, progress, group)
    if group is not None:
        if checkpoint is not None:
            checkpoint.keep_finished(recording)
        recording = group.gather(recording)
    return Inspection.from_recording(recording)


class _Run(NamedTuple):
    """One shard of a run: what runs, and where its state is written."""

    specimen: Specimen
    model: nn.Module
    placement: Placement
    recorder: Recorder
    shard: Shard
    checkpoint: Checkpoint | None

    def record(
        self,
        options: Mapping[str, object],
        workers: int | None,
        progress: bool,
        group: ProcessGroup | None,
    ) -> Recording:
        """Record this shard from its start or a checkpoint, or read its kept recording."""
        checkpoint = self.checkpoint
        state = finished = None
        if checkpoint is not None and checkpoint.resume:
            exists = checkpoint.exists
            if not (group.any(exists) if group is not None else exists):
                raise RequestError(f"there is no {checkpoint.path} to resume from")
            finished = checkpoint.read_finished()
            state = checkpoint.read()
        done = 0 if state is None else state.batches
        loaded = batches(self.specimen, self.shard, after=done, workers=workers)
        with closing(loaded):  # type: ignore[type-var]
            first = next(loaded, None)
            if first is None:
                raise RequestError(f"{self.specimen.name} has no inputs")
            parameters = parameter_hash(self.specimen.model)
            identity = fingerprint(self.specimen, parameters, first, options)
            if checkpoint is not None and finished is not None:
                checkpoint.check(finished.run_shard, identity)
                return finished
            if checkpoint is not None and state is not None:
                checkpoint.check(state.recording.run_shard, identity)
                self.recorder.load_state_dict(state.recording, state.recorder)
            scores = Scores(self.specimen, None if state is None else state.recording.run_shard)
            own = (b for b in chain([first], loaded) if self.shard.includes(b.number, done))
            self._run_batches(own, done, identity, scores, progress)
        return self._recording(identity, scores)

    def _run_batches(
        self,
        own: Iterator[Batch],
        done: int,
        identity: Mapping[str, str],
        scores: Scores,
        progress: bool,
    ) -> None:
        """Run the batches `own`, after `done` batches that a resumed run has run before."""
        first = next(own, None)
        if first is None and not done:
            return  # a shard without inputs must not warn that nothing was recorded
        specimen, checkpoint = self.specimen, self.checkpoint
        bar = progress_bar(
            shown=progress,
            desc=specimen.name if self.shard.of == 1 else f"{specimen.name} {self.shard}",
            total=-(-specimen.n_inputs // self.shard.of),
            initial=scores.inputs,
            unit=" inputs",
            smoothing=0.05,
            delay=0.3,  # nothing of what is over, or refused, at once
        )
        batch: Batch | None = None
        try:
            with bar, self.recorder, torch.inference_mode():
                for batch in chain([] if first is None else [first], own):
                    # Loading the batch may have drawn random numbers.
                    torch.manual_seed(batch.number)
                    self.recorder.position = batch.first
                    if specimen.f0 is not None:
                        self.recorder.f0 = batch.select(specimen.f0, "f0")
                    scores.add(batch, self.model(*self.placement.inputs(batch.arguments)))
                    done += 1
                    if checkpoint is not None and checkpoint.due(done):
                        recording = self._recording(identity, scores)
                        checkpoint.write(recording, done, self.recorder.state_dict())
                    bar.update(batch.size)
                bar.total = bar.n
        except RequestError:
            raise
        except _INPUT_ERRORS:
            if batch is not None:
                self._check_plain(batch)
            raise

    def _check_plain(self, batch: Batch) -> None:
        """Run the model on `batch` without recording.

        Raises:
            RequestError: the model can't run it: the inputs are wrong, or the model itself is.
        """
        try:
            with torch.inference_mode():
                self.model(*self.placement.inputs(batch.arguments))
        except _INPUT_ERRORS as error:
            given = ", ".join(map(_described, batch.arguments))
            raise RequestError(
                f"{self.specimen.name} can't run its inputs, model({given}): "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error

    def _recording(self, identity: Mapping[str, str], scores: Scores) -> Recording:
        shards = (self.shard.number,)
        part = RunShard(
            identity, shards, self.shard.of, scores.inputs, scores.sums(), scores.labels
        )
        return replace(self.recorder.recording(), run_shard=part)


def _described(argument: object) -> str:
    """Shape and dtype of a tensor, type of anything else."""
    if isinstance(argument, Tensor):
        return f"{list(argument.shape)} {str(argument.dtype).removeprefix('torch.')}"
    return type(argument).__name__
