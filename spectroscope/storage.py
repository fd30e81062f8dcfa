"""A recording as one file of arrays (NumPy's npz), readable without running anything in it."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectroscope.dsp.moments import Moments
from spectroscope.errors import RequestError
from spectroscope.recording import Recording, SiteRecord
from spectroscope.sites import Found, Site
from spectroscope.statistics import SideStatistics, SiteStatistics

FORMAT = 1

Arrays = dict[str, Any]


def write(recording: Recording, path: Path) -> None:
    """Write `recording` to the file `path`."""
    arrays: Arrays = {}
    sites = []
    for number, record in enumerate(recording.records.values()):
        decimation = None if math.isnan(record.decimation) else record.decimation
        sites.append(
            {"site": record.site._asdict(), "shape": record.shape, "decimation": decimation}
        )
        for side in ("input", "output"):
            for name, array in _side_arrays(getattr(record.statistics, side)).items():
                arrays[f"{number}.{side}.{name}"] = array
    header = {
        "format": FORMAT,
        "fs": recording.fs,
        "sites": sites,
        "found": [asdict(found) for found in recording.found.values()],
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)


def read(path: Path) -> Recording:
    """Read what :func:`write` wrote; the tensors are on the CPU.

    Raises:
        RequestError: there is no such file, or it isn't a recording that this version knows.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
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
                    SiteStatistics(_side(arrays, f"{n}.input."), _side(arrays, f"{n}.output.")),
                )
                for n, entry in enumerate(header["sites"])
            ]
            found = [Found(**row) for row in header["found"]]
            fs = header["fs"]
            if fs is not None and not float(fs) > 0:
                raise ValueError("fs")
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # what a damaged file raises can be anything
        reason = type(error).__name__
        raise RequestError(f"{path} is not a saved report, or damaged ({reason})") from error
    return Recording(
        fs,
        {record.site.name: record for record in records},
        {row.place: row for row in found},
    )


def _side_arrays(side: SideStatistics) -> Arrays:
    arrays: Arrays = {
        "inputs": np.array(side.inputs),
        "length": np.array(-1 if side.length is None else side.length),
        "dc": torch.stack(side.dc).cpu().numpy(),
        "sums": side.sums.cpu().numpy(),
    }
    if side.spectrum is not None:
        arrays["spectrum"] = side.spectrum.cpu().numpy()
    return arrays


def _side(arrays: np.lib.npyio.NpzFile, prefix: str) -> SideStatistics:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(arrays[prefix + name])

    length = int(arrays[prefix + "length"])
    dc, sums = tensor("dc"), tensor("sums")
    spectrum = tensor("spectrum") if prefix + "spectrum" in arrays else None
    channels = sums.shape[-1]
    if sums.shape != (4, channels) or dc.shape != (4, 2, channels):
        raise ValueError("shapes that don't fit each other")
    if spectrum is not None and spectrum.shape != (channels, length // 2 + 1):
        raise ValueError("a spectrum whose shape doesn't fit")
    return SideStatistics(
        inputs=int(arrays[prefix + "inputs"]),
        length=None if length < 0 else length,
        dc=Moments(*dc),
        sums=sums,
        spectrum=spectrum,
    )
