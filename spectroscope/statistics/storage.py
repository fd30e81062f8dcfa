"""A recording as one NumPy npz file, which is read without running code from it."""

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from spectroscope.capture import network
from spectroscope.capture.axes import Layout
from spectroscope.capture.channel_sources import SourceRange
from spectroscope.capture.sites import CoverageRow, Downsampling, Site
from spectroscope.dsp.spectra import get_window
from spectroscope.errors import RequestError
from spectroscope.statistics.base import COLUMN, Arrays, Statistic, by_name, without_columns
from spectroscope.statistics.built_in import BUILT_IN
from spectroscope.statistics.moments import DCMoments
from spectroscope.statistics.recording import Recording, SiteRecord
from spectroscope.statistics.run_shard import RunShard

FORMAT = 6


class StoredStatistic(Statistic):
    """A user's statistic read from a file, without its class: only the computed columns.

    Args:
        name: of the statistic.
        columns: unit and definition, by name of the column.
    """

    def __init__(self, name: str, columns: Mapping[str, tuple[str, str]]):
        self.name = name  # type: ignore[misc]
        self.columns = columns  # type: ignore[misc]

    def merged(self, first: Arrays, second: Arrays) -> Arrays:
        """Merging needs the class.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            f"merging {self.name} needs its class: load(folder, statistics=[{self.name}()])"
        )

    def preferred(self, other: Statistic) -> Statistic:
        """See :meth:`Statistic.preferred`."""
        return other

    def compute(self, **arrays: Any) -> Arrays:
        """See :meth:`Statistic.compute`."""
        return {name: arrays[COLUMN + name] for name in self.columns if COLUMN + name in arrays}


def write(
    recording: Recording, to: Path | IO[bytes], *, more: Mapping[str, Any] | None = None
) -> None:
    """Write a recording.

    Args:
        recording: the recording.
        to: path of the file, or an open file.
        more: further JSON data for :func:`read_with_more`; floats keep every bit.
    """
    arrays: dict[str, Any] = {}
    sites = []
    for number, record in enumerate(recording.records.values()):
        decimation = None if math.isnan(record.decimation) else record.decimation
        sites.append(
            {
                "site": record.site._asdict(),
                "shape": record.shape,
                "layout": record.layout._asdict(),
                "decimation": decimation,
                "inputs": record.inputs,
                "dropped": [name for name, state in record.state.items() if state is None],
            }
        )
        for name, state in record.state.items():
            if state is None:
                continue
            columns = {} if name in BUILT_IN else recording.statistics[name].compute(**state)
            stored = dict(without_columns(state)) | {
                COLUMN + column: values for column, values in columns.items()
            }
            for key, array in stored.items():
                arrays[f"{number}.{name}.{key}"] = array.numpy()
    header = {
        "format": FORMAT,
        "fs": recording.fs,
        "window": recording.window,
        "statistics": {name: s.columns for name, s in recording.statistics.items()},
        "sites": sites,
        "downsamplings": {
            site: [row.place, str(row.factor), row.between, row.whole, row.average]
            for site, row in recording.downsamplings.items()
        },
        "only_mean": recording.only_mean,
        "sources": recording.sources,
        "network": network.to_json(recording.network),
        "coverage": [asdict(row) for row in recording.coverage.values()],
        "about": recording.about,
        "run_shard": None if recording.run_shard is None else recording.run_shard.to_json(),
        "more": dict(more or {}),
    }
    with to.open("wb") if isinstance(to, Path) else nullcontext(to) as file:
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)


def read(path: Path, statistics: Iterable[Statistic] = ()) -> Recording:
    """Read a file that :func:`write` wrote; tensors are on the CPU.

    Args:
        path: of the file.
        statistics: the user's own; of those that aren't given only the columns are read.

    Raises:
        RequestError: the file can't be read, or isn't a recording of this version's format.
    """
    return read_with_more(path, statistics)[0]


def read_with_more(
    path: Path | IO[bytes], statistics: Iterable[Statistic] = ()
) -> tuple[Recording, dict[str, Any]]:
    """The recording and `more` of :func:`write`. Arguments and errors as in :func:`read`."""
    known = BUILT_IN | by_name(statistics, BUILT_IN)
    try:
        with (
            path.open("rb") if isinstance(path, Path) else nullcontext(path) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            # `write` doesn't compress; a compressed file might need a thousandfold of memory.
            if any(entry.file_size > entry.compress_size for entry in arrays.zip.infolist()):
                raise ValueError("compressed")
            header = json.loads(str(arrays["header"]))
            if header["format"] != FORMAT:
                raise RequestError(
                    f"{path} has format {header['format']!r}; this version reads {FORMAT}"
                )
            return _recording(header, arrays, known), dict(header.get("more", {}))
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file may raise anything
        reason = type(error).__name__
        raise RequestError(f"{path} is not a saved report, or damaged ({reason})") from error


def _layout(stored: Mapping[str, Any], size: int) -> Layout:
    """The layout of a site whose activations have `size` axes beside that of the inputs."""
    batch, channel = stored["batch"], int(stored["channel"])
    layout = Layout(
        None if batch is None else int(batch),
        channel,
        tuple(map(int, stored["transformed"])),
        bool(stored["is_time"]),
    )
    dim = size + len(layout.leading) - 1
    axes = [*layout.leading, *layout.transformed]
    if len(set(axes)) < len(axes) or not all(0 <= axis < dim for axis in axes):
        raise ValueError(f"{layout}")
    return layout


def _recording(
    header: Mapping[str, Any], arrays: np.lib.npyio.NpzFile, known: Mapping[str, Statistic]
) -> Recording:
    window = header["window"]
    window = tuple(window) if isinstance(window, list) else str(window)
    get_window(window, 8)
    fs = header["fs"]
    if fs is not None and not float(fs) > 0:
        raise ValueError("fs")
    statistics = {}
    for name, columns in header["statistics"].items():
        pairs = {str(k): (str(unit), str(text)) for k, (unit, text) in columns.items()}
        statistics[str(name)] = known.get(name) or StoredStatistic(str(name), pairs)
    array_names: dict[tuple[int, str], list[str]] = {}  # by number of the site and statistic
    for key in arrays.files:
        if key != "header":
            site, name, array_name = key.split(".", 2)
            array_names.setdefault((int(site), name), []).append(array_name)
    records = {}
    for number, entry in enumerate(header["sites"]):
        shape = tuple(entry["shape"])
        state: dict[str, Arrays | None] = dict.fromkeys(entry["dropped"])
        for name, statistic in statistics.items():
            if (number, name) in array_names:
                stored = {
                    key: torch.from_numpy(arrays[f"{number}.{name}.{key}"])
                    for key in array_names[number, name]
                    if isinstance(statistic, StoredStatistic) or not key.startswith(COLUMN)
                }
                state[name] = statistic.checked(stored, int(shape[0]))
        record = SiteRecord(
            Site(**entry["site"]),
            shape,
            _layout(entry["layout"], len(shape)),
            math.nan if entry["decimation"] is None else float(entry["decimation"]),
            int(entry["inputs"]),
            state,
        )
        if not isinstance(state.get(DCMoments.name), Mapping):
            raise ValueError("no moments")
        records[record.site.name] = record
    coverage = [CoverageRow(**row) for row in header["coverage"]]
    return Recording(
        fs,
        window,
        statistics,
        records,
        {row.place: row for row in coverage},
        {
            site: Downsampling(
                str(place),
                float(factor),
                int(between),
                bool(whole),
                None if average is None else int(average),
            )
            for site, (place, factor, between, whole, average) in header["downsamplings"].items()
        },
        {site: None if x is None else bool(x) for site, x in header["only_mean"].items()},
        {
            str(site): tuple(
                SourceRange(str(layer), int(channel), int(filter), int(size))
                for layer, channel, filter, size in ranges
            )
            for site, ranges in header["sources"].items()
        },
        {str(key): tuple(map(str, texts)) for key, texts in header.get("about", {}).items()},
        None if header["run_shard"] is None else RunShard.from_json(header["run_shard"]),
        network.from_json(header.get("network", {})),  # files of earlier versions have none
    )
