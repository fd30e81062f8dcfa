"""The long loop: every batch of a specimen, or of a share of it, through its model, recorded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from spectroscope.errors import RequestError
from spectroscope.recorder import Recorder, record
from spectroscope.report import Report
from spectroscope.run.checkpoint import Checkpoint
from spectroscope.run.distributed import Group
from spectroscope.run.fingerprint import identity, of_model
from spectroscope.run.placement import Placement
from spectroscope.run.shards import WHOLE, Batch, Shard, batches
from spectroscope.run.tally import Tally, means
from spectroscope.specimens.specimen import Specimen
from spectroscope.statistics.recording import Recording
from spectroscope.statistics.run_shard import RunShard


class Inspection(NamedTuple):
    """What :func:`inspect` found; scores and labels are empty where the specimen has none.

    Attributes:
        report: on the activations.
        scores: means over the inputs, by name.
        labels: lines on the first few inputs.
    """

    report: Report
    scores: Mapping[str, float]
    labels: Sequence[str]

    @classmethod
    def of(cls, recording: Recording) -> "Inspection":
        """What a recording that :func:`inspect` made says."""
        part = recording.run_shard
        scores = {} if part is None else means(part.scores)
        labels = () if part is None else tuple(part.labels.values())
        return cls(Report(recording), scores, labels)


def inspect(
    specimen: Specimen,
    *,
    spectra: bool = True,
    about: Mapping[str, str] | None = None,
    progress: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    channels_last: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    shard: Shard = WHOLE,
    checkpoint: Checkpoint | None = None,
    group: Group | None = None,
) -> Inspection:
    """Run the inputs of `specimen` through its model and record every activation.

    The memory that it takes doesn't grow with the inputs. The specimen's model stays as it is:
    where another device, dtype or memory format is asked for, a copy runs.

    Args:
        specimen: what to look at.
        spectra: as in :func:`spectroscope.record`.
        about: likewise, beside what the specimen says of itself.
        progress: show a bar on standard error.
        device: where to run, ``"cuda:0"``; None: where the model is.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"`` or ``"float64"``: of the model and of
            inputs with a point; None: as they are. Statistics are float64 in any case.
        channels_last: images lie in memory with the channels last.
        limit: run the first so many inputs alone.
        workers: processes that load data; None: as the specimen's `DataLoader` has it.
        shard: run this share alone; the report merges with those of the others.
        checkpoint: where the state is kept on the way, and read from if it is to be resumed. To
            remove it, once the report is where it should be, is the caller's.
        group: the processes that share the run, which have a shard each: :func:`ranks.joined`. The
            first gets the report on all of it, the others that on their own share.

    Raises:
        RequestError: the specimen has no inputs; an option can't be done; there is no checkpoint to
            resume from, or it is of another run.
        UnfinishedError: another process of the group can't finish.
    """
    if limit is not None:
        specimen = specimen.first(limit)
    if group is not None:
        shard = group.shard
    placement = Placement.of(device, dtype, channels_last)
    model = placement.placed(specimen.model)
    told = {"specimen": f"{specimen.name}: {specimen.description}", "license": specimen.license}
    told |= {"shard": str(shard)} if shard.of > 1 else {}
    told |= {"device": device} if device else {}
    told |= {"dtype": dtype} if dtype else {}
    recorder = record(
        model,
        fs=specimen.fs,
        spectra=spectra,
        channel_axis=specimen.channel_axis,
        about=told | dict(about or {}),
    )
    options = {
        "spectra": spectra,
        "dtype": dtype or "the model's",
        "device": "the model's" if placement.device is None else placement.device.type,
        "channels_last": channels_last,
    }
    run = _Run(specimen, model, placement, recorder, shard, checkpoint)
    gpus = {tensor.device.index for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(sorted(gpus)):
        recording = run.recording(options, workers, progress, group)
    if group is not None:
        if checkpoint is not None:
            checkpoint.keep_finished(recording)
        recording = group.gathered(recording)
    return Inspection.of(recording)


class _Run(NamedTuple):
    """What runs, and where its state is kept."""

    specimen: Specimen
    model: nn.Module
    placement: Placement
    recorder: Recorder
    shard: Shard
    checkpoint: Checkpoint | None

    def recording(
        self,
        options: Mapping[str, object],
        workers: int | None,
        progress: bool,
        group: Group | None,
    ) -> Recording:
        """Of this shard: from its beginning, from a checkpoint, or as it was kept when finished."""
        checkpoint = self.checkpoint
        state = finished = None
        if checkpoint is not None and checkpoint.resume:
            there = checkpoint.there
            if not (group.any(there) if group is not None else there):
                raise RequestError(f"there is no {checkpoint.path} to resume from")
            finished = checkpoint.read_finished()
            state = checkpoint.read()
        after = 0 if state is None else state.batches
        coming = batches(self.specimen, self.shard, after=after, workers=workers)
        with closing(coming):  # type: ignore[type-var]
            start = next(coming, None)
            if start is None:
                raise RequestError(f"{self.specimen.name} has no inputs")
            parameters = of_model(self.specimen.model)
            run = identity(self.specimen, parameters, start, options)
            if checkpoint is not None and finished is not None:
                checkpoint.check(finished.run_shard, run)
                return finished
            if checkpoint is not None and state is not None:
                checkpoint.check(state.recording.run_shard, run)
                self.recorder.load_state_dict(state.recording, state.seen)
            tally = Tally(self.specimen, None if state is None else state.recording.run_shard)
            own = (b for b in chain([start], coming) if self.shard.has(b.number, after))
            self._through(own, after, run, tally, progress)
        return self._so_far(run, tally)

    def _through(
        self,
        own: Iterator[Batch],
        done: int,
        run: Mapping[str, str],
        tally: Tally,
        progress: bool,
    ) -> None:
        """Run the batches `own`, after `done` that were run before."""
        first = next(own, None)
        if first is None and not done:
            return  # a share without inputs: nothing ran, and nothing is amiss
        specimen, checkpoint = self.specimen, self.checkpoint
        bar = tqdm(
            desc=specimen.name if self.shard.of == 1 else f"{specimen.name} {self.shard}",
            total=-(-specimen.n_inputs // self.shard.of),
            initial=tally.inputs,
            unit=" inputs",
            smoothing=0.05,
            disable=not progress,
        )
        with bar, self.recorder, torch.inference_mode():
            for batch in chain([] if first is None else [first], own):
                torch.manual_seed(batch.number)  # whatever loaded the data has drawn in between
                if specimen.f0 is not None:
                    self.recorder.f0 = batch.its(specimen.f0, "f0")
                tally.add(batch, self.model(*self.placement.inputs(batch.arguments)))
                done += 1
                if checkpoint is not None and checkpoint.due(done):
                    checkpoint.write(self._so_far(run, tally), done, self.recorder.state_dict())
                bar.update(batch.size)
            bar.total = bar.n

    def _so_far(self, run: Mapping[str, str], tally: Tally) -> Recording:
        shard = self.shard
        part = RunShard(run, (shard.number,), shard.of, tally.inputs, tally.scores(), tally.labels)
        return replace(self.recorder.recording(), run_shard=part)
