"""What feeds what in a model: the frame of `Report.network`."""

import math

import pandas as pd

from spectroscope.report import spectra
from spectroscope.statistics.recording import Recording

_COLUMNS = ["node", "operation", "place", "site", "inputs", "shape", "decimation", "fs",
            "aliasing_from", "above_nyquist"]  # fmt: skip


def network(recording: Recording) -> pd.DataFrame:
    """See `Report.network`."""
    timed = any(record.layout.is_time for record in recording.records.values())
    fs = 1.0 if recording.fs is None else recording.fs if timed else math.nan
    aliasing = _aliasing(recording)
    rows = []
    for name, node in recording.network.items():
        shape = node.shape
        decimation = math.nan if node.decimation is None else node.decimation
        record = recording.records.get(name)
        if record is not None:  # read as the recorder was asked to
            shape, decimation = record.shape, record.decimation
        site = None if record is None else name
        rows.append((name, node.operation, node.place, site, node.inputs, shape, decimation,
                     fs / decimation, *aliasing.get(name, (None, math.nan))))  # fmt: skip
    return pd.DataFrame(rows, columns=_COLUMNS)


def _aliasing(recording: Recording) -> dict[str, tuple[str, float]]:
    """By downsampling node, the site directly before it with the most above its Nyquist.

    A site may feed several: those by the factor of its next downsampling have the same Nyquist.
    """
    consumers: dict[str, list[str]] = {}
    for name, node in recording.network.items():
        for source in node.inputs:
            consumers.setdefault(source, []).append(name)
    worst: dict[str, tuple[str, float]] = {}
    for site, step in recording.downsamplings.items():
        if step.whole or site not in recording.records:
            continue
        record = recording.records[site]
        above, rate = spectra.above_next_nyquist(recording, record), record.decimation
        pending, seen = [site], set()
        while pending:
            for name in consumers.get(pending.pop(), ()):
                node = recording.network[name]
                if name in seen or node.operation == "activation":
                    continue
                seen.add(name)
                decimation = math.nan if node.decimation is None else node.decimation
                if node.place != step.place and not math.isclose(decimation, rate * step.factor):
                    if not decimation > rate:  # otherwise another Nyquist
                        pending.append(name)
                elif above > worst.get(name, ("", -1.0))[1]:
                    worst[name] = site, above
    return worst
