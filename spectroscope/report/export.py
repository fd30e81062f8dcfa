"""Tables in other libraries' forms: Parquet files, and xarray's datasets of spectra."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spectroscope.errors import RequestError
from spectroscope.schema import COLUMNS, Column

if TYPE_CHECKING:
    import xarray

_CROSS = ["cross_real", "cross_imag", "coherence", "preserved", "introduced"]


def needs(package: str, what: str, extra: str) -> None:
    """Refuse `what` if there is no `package`.

    Raises:
        RequestError: there is none.
    """
    if find_spec(package) is None:
        raise RequestError(f"{what} takes {package}: pip install {package} (the extra [{extra}])")


def write_parquet(table: pd.DataFrame, path: Path, columns: Mapping[str, Column]) -> None:
    """Write `table` to the file `path`, unit and definition of each column with its field.

    Shapes become lists.
    """
    import pyarrow as pa
    import pyarrow.parquet

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_metadata(columns[field.name]._asdict()) for field in arrow.schema]
    pyarrow.parquet.write_table(arrow.cast(pa.schema(fields)), path)


def dataset(
    spectra: pd.DataFrame, cross: pd.DataFrame, attributes: dict[str, str | int | float]
) -> "xarray.Dataset":
    """Of one site its rows of `Report.spectra` and of `Report.cross_spectra`, as arrays.

    Args:
        spectra: by side, then channel, then frequency.
        cross: by channel, then frequency.
        attributes: of the dataset.
    """
    import xarray

    channels = cross["channel"].unique()
    freq = cross["freq"].to_numpy()[: len(cross) // len(channels)]
    size = len(channels), len(freq)
    power = spectra["power"].to_numpy().reshape(2, *size)
    arrays: dict[str, Any] = {"power": (("side", "channel", "freq"), power)}
    for name in _CROSS:
        arrays[name] = (("channel", "freq"), cross[name].to_numpy().reshape(size))
    coordinates = {"side": np.array(["in", "out"]), "channel": channels, "freq": freq}
    found = xarray.Dataset(arrays, coordinates, attributes)
    for name, variable in found.variables.items():
        column = COLUMNS[str(name)]
        unit = cross["freq_unit"].iloc[0] if column.unit == "see freq_unit" else column.unit
        variable.attrs = {"units": unit, "long_name": column.definition}
    return found
