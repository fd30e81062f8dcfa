"""A recording as one file of arrays (NumPy's npz), readable without running anything in it."""

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from spectroscope.capture.sites import Downsampling, Found, Site
from spectroscope.dsp.moments import ChannelMoments, CoMoments, Moments
from spectroscope.dsp.spectra import max_norm_bin_count, radial_bin_count
from spectroscope.errors import RequestError
from spectroscope.statistics import HarmonicSums, SideStatistics, SiteStatistics, SpectralSums
from spectroscope.statistics.parts import Part
from spectroscope.statistics.recording import Recording, SiteRecord

FORMAT = 2

Arrays = dict[str, Any]


def write(
    recording: Recording, to: Path | IO[bytes], *, more: Mapping[str, Any] | None = None
) -> None:
    """Write `recording`.

    Args:
        recording: whatever it is.
        to: a file's path, or an open file.
        more: what is to be kept beside it, as JSON can have it; floats keep every bit.
    """
    arrays: Arrays = {}
    sites = []
    for number, record in enumerate(recording.records.values()):
        decimation = None if math.isnan(record.decimation) else record.decimation
        sites.append(
            {"site": record.site._asdict(), "shape": record.shape, "decimation": decimation}
        )
        for name, array in _arrays(record.statistics).items():
            arrays[f"{number}.{name}"] = array
    header = {
        "format": FORMAT,
        "fs": recording.fs,
        "window": recording.window,
        "sites": sites,
        "downsamplings": {
            site: [lower.place, str(lower.factor), lower.between, lower.whole]
            for site, lower in recording.downsamplings.items()
        },
        "found": [asdict(found) for found in recording.found.values()],
        "about": recording.about,
        "part": None if recording.part is None else recording.part.to_json(),
        "more": dict(more or {}),
    }
    with to.open("wb") if isinstance(to, Path) else nullcontext(to) as file:
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)


def read(path: Path) -> Recording:
    """Read what :func:`write` wrote; the tensors are on the CPU.

    Raises:
        RequestError: there is no such file, or it isn't a recording that this version knows.
    """
    return read_with_more(path)[0]


def read_with_more(path: Path | IO[bytes]) -> tuple[Recording, dict[str, Any]]:
    """The recording, and what was kept beside it. Arguments and errors as of :func:`read`."""
    try:
        with (
            path.open("rb") if isinstance(path, Path) else nullcontext(path) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            # We don't compress. What is would take a thousand times its size, once it is read.
            if any(entry.file_size > entry.compress_size for entry in arrays.zip.infolist()):
                raise ValueError("compressed")
            header = json.loads(str(arrays["header"]))
            if header["format"] != FORMAT:
                raise RequestError(
                    f"{path} has format {header['format']!r}; this version reads {FORMAT}"
                )
            records = [
                SiteRecord(
                    Site(**entry["site"]),
                    tuple(entry["shape"]),
                    math.nan if entry["decimation"] is None else float(entry["decimation"]),
                    _statistics(arrays, f"{n}."),
                )
                for n, entry in enumerate(header["sites"])
            ]
            found = [Found(**row) for row in header["found"]]
            downsamplings = {
                site: Downsampling(str(place), float(factor), int(between), bool(whole))
                for site, (place, factor, between, whole) in header["downsamplings"].items()
            }
            about = {
                str(key): tuple(map(str, texts)) for key, texts in header.get("about", {}).items()
            }
            part = None if header.get("part") is None else Part.from_json(header["part"])
            more = dict(header.get("more", {}))
            fs, window = header["fs"], header["window"]
            window = tuple(window) if isinstance(window, list) else str(window)
            scipy.signal.get_window(window, 8)
            if fs is not None and not float(fs) > 0:
                raise ValueError("fs")
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # what a damaged file raises can be anything
        reason = type(error).__name__
        raise RequestError(f"{path} is not a saved report, or damaged ({reason})") from error
    recording = Recording(
        fs,
        window,
        {record.site.name: record for record in records},
        {row.place: row for row in found},
        downsamplings,
        about,
        part,
    )
    return recording, more


def _arrays(statistics: SiteStatistics) -> Arrays:
    arrays: Arrays = {}
    for name in ("input", "output"):
        side: SideStatistics = getattr(statistics, name)
        arrays[f"{name}.inputs"] = np.array(side.inputs)
        arrays[f"{name}.dc"] = torch.stack(side.dc).numpy()
        arrays[f"{name}.sums"] = side.sums.numpy()
    for field, tensor in statistics.joint._asdict().items():
        arrays[f"joint.{field}"] = tensor.numpy()
    for name in ("spectra", "harmonics"):
        sums: SpectralSums | HarmonicSums | None = getattr(statistics, name)
        if sums is not None:
            for field, value in sums._asdict().items():
                if value is not None:
                    array = value.numpy() if isinstance(value, Tensor) else np.array(value)
                    arrays[f"{name}.{field}"] = array
    return arrays


def _statistics(arrays: np.lib.npyio.NpzFile, prefix: str) -> SiteStatistics:
    def tensor(name: str, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        found = torch.from_numpy(arrays[prefix + name])
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"{name} has {found.shape} {found.dtype}, not {shape} {dtype}")
        return found

    channels = arrays[f"{prefix}input.sums"].shape[-1]
    sides = "input", "output"
    moments = ChannelMoments.of(
        Moments(*torch.stack([tensor(f"{side}.dc", 4, 2, channels) for side in sides], 1)),
        torch.stack([tensor(f"{side}.sums", 3, channels) for side in sides]),
        CoMoments(
            tensor("joint.weight", channels),
            tensor("joint.mean", 2, channels),
            tensor("joint.m2", 3, channels),
        ),
    )
    inputs = int(arrays[f"{prefix}output.inputs"])
    spectra = harmonics = None
    if f"{prefix}spectra.input" in arrays:
        lengths = tuple(map(int, arrays[f"{prefix}spectra.lengths"]))
        bins = arrays[f"{prefix}spectra.input"].shape[-1]
        if bins not in _bins(lengths):
            raise ValueError(f"{bins} bins of {lengths}")
        shells = None
        if len(lengths) == 2:
            shells = tensor("spectra.shells", channels, max_norm_bin_count(*lengths))
        spectra = SpectralSums(
            lengths,
            tensor("spectra.inputs", channels),
            tensor("spectra.input", channels, bins),
            tensor("spectra.output", channels, bins),
            tensor("spectra.cross", channels, bins, dtype=torch.complex128),
            shells,
        )
    if f"{prefix}harmonics.freq" in arrays:
        orders = arrays[f"{prefix}harmonics.freq"].shape[-1]
        harmonics = HarmonicSums(
            tensor("harmonics.freq", 2, orders),
            tensor("harmonics.inputs", 2, orders),
            tensor("harmonics.found", 2, channels, orders),
            tensor("harmonics.squares", 2, 2, channels, orders),
            tensor("harmonics.tones", 5, channels),
        )
    return SiteStatistics(inputs, moments, spectra, harmonics)


def _bins(lengths: tuple[int, ...]) -> set[int]:
    """How many bins a spectrum over `lengths` may have: of a line, rings or the whole plane."""
    if len(lengths) not in (1, 2) or min(lengths) < 2:
        raise ValueError(f"lengths {lengths}")
    if len(lengths) == 1:
        return {lengths[0] // 2 + 1}
    height, width = lengths
    return {radial_bin_count(height, width), height * (width // 2 + 1)}
