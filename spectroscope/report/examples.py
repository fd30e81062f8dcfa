"""Frames of the example inputs: lines over time, and thumbnails of images."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from spectroscope.report.channels import to_numpy
from spectroscope.report.spectra import SiteRate
from spectroscope.statistics.examples import Examples, size_of
from spectroscope.statistics.recording import Recording, SiteRecord

# Units of positions, by the first word of the unit of frequencies.
_UNITS = {"Hz": "s", "cycles/sample": "samples", "cycles/pixel": "pixels"}


def examples(recording: Recording, record: SiteRecord) -> Iterator[pd.DataFrame]:
    """Rows of `Report.examples`, one frame per input, channel and side."""
    arrays = record.state.get(Examples.name)
    if not arrays:
        return
    rate = SiteRate.of(recording, record)
    word, _, rest = rate.unit.partition(" ")
    state = {name: to_numpy(array) for name, array in arrays.items()}
    number_of, channels = range(len(state["channels"])), range(state["channels"].shape[1])
    for i, k, side in product(number_of, channels, (0, 1)):
        shape = state["shape"][i].tolist()
        size = size_of(shape, int(state["wanted"]))
        points = int(np.prod(size))
        if len(shape) == 2:
            # Centres of the areas that a thumbnail's values are means of.
            centres = [
                ((np.arange(n) + 0.5) * length / n - 0.5) / rate.fs
                for n, length in zip(size, shape, strict=True)
            ]
            row, column = np.meshgrid(*centres, indexing="ij")
            where = {"row": row.ravel(), "column": column.ravel()}
        else:
            where = {"position": state["positions"][i, k, :points] / rate.fs}
        yield pd.DataFrame(
            {
                "site": record.site.name,
                "input": i,
                "channel": int(state["channels"][i, k]),
                "side": ("in", "out")[side],
                **where,
                "position_unit": f"{_UNITS[word]} {rest}".rstrip(),
                "value": state["values"][i, k, side, :points],
                "dc": state["dc"][i, k, side],
            }
        )
