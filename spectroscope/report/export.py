"""Export of tables: Parquet files, and spectra as xarray datasets."""

from collections.abc import Callable, Mapping
from contextlib import suppress
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
    """Check that `package`, which `what` needs, is installed.

    Raises:
        RequestError: it isn't.
    """
    if find_spec(package) is None:
        raise RequestError(f"{what} needs {package}: pip install {package} (the extra [{extra}])")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV with 7 significant digits, those of the float32 activations."""
    # pandas' own float_format takes twice as long.
    texts = {
        name: ["" if value != value else f"{value:.7g}" for value in column.tolist()]
        for name, column in table.items()
        if isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
    }
    table.assign(**texts).to_csv(path, index=False)


def write_parquet(table: pd.DataFrame, path: Path, columns: Mapping[str, Column]) -> None:
    """Write a table as a Parquet file, with unit and definition as metadata of each field.

    Tuples (the columns `shape` and `inputs`) become lists.
    """
    import pyarrow as pa
    import pyarrow.parquet

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_metadata(columns[field.name]._asdict()) for field in arrow.schema]
    pyarrow.parquet.write_table(arrow.cast(pa.schema(fields, arrow.schema.metadata)), path)


def dataset(
    spectra: pd.DataFrame, cross: pd.DataFrame, attributes: dict[str, str | int | float]
) -> "xarray.Dataset":
    """The spectra and cross-spectra of one site as arrays.

    Args:
        spectra: rows of `Report.spectra`, ordered by side, channel and frequency.
        cross: rows of `Report.cross_spectra`, ordered by channel and frequency.
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
    result = xarray.Dataset(arrays, coordinates, attributes)
    for name, variable in result.variables.items():
        column = COLUMNS[str(name)]
        unit = cross["freq_unit"].iloc[0] if column.unit == "see freq_unit" else column.unit
        variable.attrs = {"units": unit, "long_name": column.definition}
    return result


def recorded(table: Callable[..., pd.DataFrame], *select: str) -> pd.DataFrame | None:
    """A table of a report; None if it wasn't recorded."""
    with suppress(RequestError):
        return table(*select)
    return None
