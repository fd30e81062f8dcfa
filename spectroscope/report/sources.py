"""Where the channels of a site come from: layers, and filters of dead channels."""

import fnmatch
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.capture.channel_sources import Sources
from spectroscope.report.channels import to_numpy
from spectroscope.statistics.recording import Recording, SiteRecord

COLUMNS = ["site", "module", "function", "call", "kind", "channel", "source", "filter"]


def source(recording: Recording, record: SiteRecord) -> str | None:
    """The layers whose filters the channels of a site are, as text; None if unknown.

    Layers whose outputs are added are joined by ``+``. Of concatenated layers all but the first
    have the number of the first channel, as in ``a, b from 64``, unless channels were permuted.
    """
    sources = recording.sources.get(record.site.name)
    return None if sources is None else text(sources)


def text(sources: Sources) -> str:
    """See :func:`source`.

    >>> from spectroscope.capture.channel_sources import SourceRange
    >>> text((SourceRange("a", 0, 0, 8), SourceRange("b", 0, 0, 8), SourceRange("c", 8, 0, 4)))
    'a + b, c from 8'
    """
    layers = list(dict.fromkeys(part.layer for part in sources))
    if len(layers) < len(sources):  # permuted
        return ", ".join(layers)
    by_channel: dict[int, list[str]] = {}
    for part in sources:
        by_channel.setdefault(part.channel, []).append(part.layer)
    return ", ".join(
        " + ".join(names) + (f" from {channel}" if channel else "")
        for channel, names in by_channel.items()
    )


def titles(recording: Recording) -> dict[str, str]:
    """Titles of sites for plots, of those whose names say little to a reader.

    A function call has the layer before it, ``conv2 → relu``; one of several calls its number,
    ``layer1.0.relu, call 2 of 2``.
    """
    calls: dict[str, list[str]] = {}
    for name, record in recording.records.items():
        layer = source(recording, record) if record.site.function else None
        title = f"{layer} → {record.site.function}" if layer else record.site.place
        calls.setdefault(title, []).append(name)
    return {
        name: f"{title}, call {number} of {len(names)}" if len(names) > 1 else title
        for title, names in calls.items()
        for number, name in enumerate(names, 1)
        if len(names) > 1 or "→" in title
    }


def matching(recording: Recording, globs: Iterable[str]) -> list[SiteRecord]:
    """The sites that match one of the globs, by a source of theirs if no site's name matches it."""
    records = recording.records.values()
    selected = set()
    for glob in globs:
        names = {record.site.name for record in records if record.site.matches(glob)}
        selected |= names or {
            site
            for site, parts in recording.sources.items()
            if any(fnmatch.fnmatchcase(part.layer, glob) for part in parts)
        }
    return [record for record in records if record.site.name in selected]


def dead(recording: Recording) -> pd.DataFrame:
    """See `Report.dead`."""
    rows: list[dict[str, Any]] = []
    for record in recording.records.values():
        values, active = to_numpy(record.output.dc.weight[1]), to_numpy(record.output.active)
        sources = recording.sources.get(record.site.name, ())
        for channel in np.flatnonzero((values > 0) & (active == 0)).tolist():
            filters: list[tuple[str | None, int | None]] = [
                (part.layer, part.filter + channel - part.channel)
                for part in sources
                if part.channel <= channel < part.channel + part.size
            ]
            rows += [
                {"site": record.site.name, **record.site._asdict(), "channel": channel,
                 "source": layer, "filter": number}
                for layer, number in filters or [(None, None)]
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"filter": "Int64"})
