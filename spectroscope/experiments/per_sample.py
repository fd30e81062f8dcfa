"""Each input's own DC at every site and channel: as a frame, or streamed into a file."""

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from spectroscope.capture.axes import ChannelAxis
from spectroscope.capture.call import ActivationCall
from spectroscope.capture.capture import Capture
from spectroscope.capture.session import CaptureSession
from spectroscope.capture.sites import Select
from spectroscope.errors import RequestError
from spectroscope.progress import progress_bar
from spectroscope.report.export import needs
from spectroscope.specimens.batches import count as inputs_in
from spectroscope.specimens.batches import with_targets

_ROWS = 2**20  # of a row group, at least: 20 MB in memory


def dc_by_sample(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    ids: Iterable[Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    select: Select = None,
    kinds: Iterable[str | type[nn.Module]] = (),
    channel_axis: ChannelAxis = "auto",
    progress: bool = False,
) -> pd.DataFrame | None:
    """Output DC of each input, at every site and channel.

    Args:
        model: any `nn.Module`.
        batches: as of :func:`spectroscope.importance`; targets are passed over.
        ids: what each input is called, in order, such as its file; its text is in the column `id`.
        path: a Parquet file to be written (extra ``[parquet]``), row group by row group, so that
            memory doesn't grow with the data; it appears when it is whole.
        select: which sites, as in :func:`spectroscope.record`.
        kinds: likewise.
        channel_axis: likewise.
        progress: show a bar on standard error.

    Returns:
        One row per input, site and channel, with `sample` (from 0, in order), `id` if there are
        ids, `site`, `channel`, `dc_out` (float32, in the unit of the activation). None if there is
        a `path`: they are in the file. A site whose activation has not one row for each input (as
        behind a detector's proposals) is left out, with a warning.

    Raises:
        TypeError: as in `record`.
        RequestError: as in `record`; no batch, or no activation asked for ran; fewer ids than
            inputs; the file can't be written.
    """
    reader = DCReader(model, select=select, kinds=kinds, channel_axis=channel_axis)
    if path is None:
        frames: list[pd.DataFrame] = []
        _run(model, reader, batches, ids, progress, frames.append)
        return pd.concat(frames, ignore_index=True)
    with DCWriter(path) as writer:
        _run(model, reader, batches, ids, progress, writer.add)
    return None


def paired_t(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Paired t-test of the DC of each channel, for two models or treatments of the same inputs.

    `Report.compare` has Welch's t, for independent inputs: reports don't keep the DC of each input.

    Args:
        before: of :func:`dc_by_sample`.
        after: likewise, of the same inputs in the same order.

    Returns:
        One row per site and channel in both, with `n_samples`, `dc_out_change` (mean over inputs),
        `paired_t` (that over its standard error; NaN with fewer than 2 inputs, infinite if all
        changed alike) and `p` (two-sided).

    Raises:
        RequestError: the frames aren't of the same inputs, or share no site and channel.

    >>> one = pd.DataFrame({"sample": [0, 1], "site": "0#0", "channel": 0, "dc_out": [1.0, 5.0]})
    >>> paired_t(one, one.assign(dc_out=[2.0, 7.0]))["paired_t"].round(6).tolist()
    [3.0]
    """
    keys = ["site", "channel"]
    pairs = before.merge(after, on=["sample", *keys], suffixes=("_before", "_after"))
    if set(before["sample"]) != set(after["sample"]) or pairs.empty:
        raise RequestError("paired_t takes two frames of dc_by_sample, of the same inputs")
    pairs["change"] = pairs["dc_out_after"].astype(float) - pairs["dc_out_before"]
    by_channel = pairs.groupby(keys, sort=False)["change"]
    table = by_channel.agg(n_samples="size", dc_out_change="mean", error="sem").reset_index()
    with np.errstate(invalid="ignore", divide="ignore"):
        t = table["dc_out_change"] / table.pop("error")
    return table.assign(paired_t=t, p=2 * stats.t.sf(np.abs(t), table["n_samples"] - 1))


class DCReader(CaptureSession):
    """A context manager in which the DC of each input of a batch is kept until it is taken.

    Args:
        model: any `nn.Module`.
        select: which sites, as in :func:`spectroscope.record`.
        kinds: likewise.
        channel_axis: likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        select: Select = None,
        kinds: Iterable[str | type[nn.Module]] = (),
        channel_axis: ChannelAxis = "auto",
    ):
        self._found: dict[str, Tensor] = {}
        self._left_out: dict[str, str] = {}
        capture = Capture(
            model, self._observe, select=select, kinds=kinds, channel_axis=channel_axis
        )
        super().__init__(capture, type(model).__name__, "read")

    def _problems(self) -> list[str]:
        return [*super()._problems(), *self._left_out.values()]

    def take(self, first: int, names: Any, count: int) -> pd.DataFrame:
        """The rows of the batch that ran last, of `count` inputs from number `first` on."""
        frames = []
        for site, dc in self._found.items():
            if len(dc) != count and site not in self._left_out:
                self._left_out[site] = f"{site} ({len(dc)} rows for {count} inputs)"
            if site in self._left_out:  # a last batch of one may fit by chance
                continue
            channels = dc.shape[1]
            columns = {"sample": np.arange(first, first + count).repeat(channels)}
            if names is not None:
                columns["id"] = np.array([_text(name) for name in names], dtype=object).repeat(
                    channels
                )
            columns["site"] = np.full(count * channels, site, dtype=object)
            columns["channel"] = np.tile(np.arange(channels), count)
            frames.append(pd.DataFrame(columns | {"dc_out": dc.cpu().numpy().ravel()}))
        self._found.clear()
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _observe(self, call: ActivationCall) -> Callable[[], None]:
        def finish() -> None:
            self._found[call.name] = dc_of(call.output)

        return finish


class DCWriter:
    """A context manager that writes frames into one Parquet file, whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._waiting: list[pd.DataFrame] = []
        self._rows = 0  # of what waits
        self._file: Any = None

    def __enter__(self) -> Self:
        needs("pyarrow", "a Parquet file", "parquet")
        if self.path.is_dir():
            raise RequestError(f"cannot write {self.path}: there is a folder of that name")
        if self.path.exists() and not self.path.is_file():  # or root would replace /dev/null
            raise RequestError(f"cannot write {self.path}: a file would take the device's place")
        self._staging = self.path.with_name(f".writing-{os.getpid()}-{self.path.name}")
        try:
            self._staging.touch()
        except OSError as error:
            raise RequestError(f"cannot write {self.path}: {error.strerror or error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
            if self._file is not None:
                self._file.close()
            if error is None:
                os.replace(self._staging, self.path)
        except OSError as failure:
            raise RequestError(f"cannot write {self.path}: {failure}") from failure
        finally:
            self._staging.unlink(missing_ok=True)

    def add(self, frame: pd.DataFrame) -> None:
        """Write the rows of one batch, in row groups of a million or more."""
        self._waiting.append(frame)
        self._rows += len(frame)
        if self._rows >= _ROWS:
            try:
                self._flush()
            except OSError as error:
                raise RequestError(f"cannot write {self.path}: {error}") from error

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        waiting = [frame for frame in self._waiting if len(frame)]
        self._waiting, self._rows = [], 0
        if not waiting:
            return
        table = pa.Table.from_pandas(pd.concat(waiting, ignore_index=True), preserve_index=False)
        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(self._staging, table.schema)
        self._file.write_table(table)


def _text(name: Any) -> str:
    """As text that can be written: the name of a file needn't be."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def dc_of(output: Tensor) -> Tensor:
    """``[N, C]``, float32, the DC of each input of an activation ``[N, C, ...]``."""
    y = output.float()
    return y.flatten(2).mean(-1) if y.dim() > 2 else y.clone()


def _run(
    model: nn.Module,
    reader: DCReader,
    batches: Iterable[Any],
    ids: Iterable[Any] | None,
    progress: bool,
    add: Callable[[pd.DataFrame], None],
) -> None:
    names = None if ids is None else iter(ids)
    first = rows = 0
    with reader, torch.inference_mode():
        for inputs, _ in progress_bar(with_targets(batches, None), shown=progress, unit=" batches"):
            count = inputs_in(inputs[0])
            called = None if names is None else list(itertools.islice(names, count))
            if called is not None and len(called) < count:
                raise RequestError(f"{first + len(called)} ids for {first + count} inputs or more")
            model(*inputs)
            frame = reader.take(first, called, count)
            first += count
            rows += len(frame)
            add(frame)
    if rows == 0:
        raise RequestError("no batch was given, or no activation asked for ran")
