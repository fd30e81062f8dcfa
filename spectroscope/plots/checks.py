"""What a frame must have to be drawn, and how its names and units are written on Axes."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from spectroscope.schema import COLUMNS

Floats = NDArray[np.float64]

# Longer names leave no room for the picture.
_LONGEST = 48


def check(frame: pd.DataFrame, columns: Iterable[str], maker: str) -> None:
    """Raise unless `frame` has rows and `columns`; `maker` is what makes one that has them."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"a DataFrame of {maker} is wanted, not {type(frame).__name__}")
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the frame has no column {missing[0]!r}: one of {maker} is wanted")
    if frame.empty:
        raise ValueError(f"the frame is empty: rows of {maker} are wanted")


def once(frame: pd.DataFrame, key: Sequence[str], maker: str) -> None:
    """Raise if two rows of `frame` have the same `key`, as those of two reports have."""
    if (twice := frame.duplicated(list(key))).any():
        row = frame.loc[twice, list(key)].iloc[0]
        where = ", ".join(f"{name} {value}" for name, value in row.items())
        raise ValueError(
            f"the frame has several rows of {where}, as of reports put together: {maker} of one "
            "report is wanted; draw the others by ax=… on the same Axes"
        )


def numbers(frame: pd.DataFrame, column: str) -> Floats:
    """A column of numbers."""
    if not pd.api.types.is_numeric_dtype(frame[column].infer_objects()):
        raise ValueError(
            f"column {column!r} has no numbers, but such as {frame[column].iloc[0]!r}: name one "
            "that has, such as 'dc_out'"
        )
    values: Floats = frame[column].to_numpy(np.float64)
    return values


def fundamentals(f0: ArrayLike | None) -> Floats:
    """Those of `f0` that are known ``[N]``; None: there are none."""
    try:
        values = np.asarray([] if f0 is None else f0, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(
            f"f0={f0!r} must be a frequency, or one for each input, as a number such as 1.2"
        ) from None
    return values[np.isfinite(values)]


def one_site(frame: pd.DataFrame, columns: Iterable[str], maker: str) -> str:
    """The name of the site that `frame` is of; as :func:`check`, and there must be but one."""
    check(frame, ["site", *columns], maker)
    sites = frame["site"].unique()
    if len(sites) > 1:
        named = ", ".join(map(str, sites[:3])) + (", …" if len(sites) > 3 else "")
        raise ValueError(
            f"the frame is of {len(sites)} sites ({named}) and must be of one: choose it by "
            'frame[frame["site"] == …]'
        )
    return str(sites[0])


def chosen(frame: pd.DataFrame, channels: int | Iterable[int] | None, site: str) -> list[int]:
    """Those of the frame's channels that are asked for, one or several; None: all."""
    there = sorted(frame["channel"].unique().tolist())
    if channels is None:
        return there
    single = isinstance(channels, int | np.integer)
    wanted: list[int] = list(dict.fromkeys([channels] if single else channels))  # type: ignore
    if strangers := [some for some in wanted if not isinstance(some, int | np.integer)]:
        raise ValueError(f"channels must be whole numbers, such as [0, 1], not {strangers[0]!r}")
    if not wanted:
        raise ValueError("channels is empty: name one or more, or None for all")
    if strange := set(wanted) - set(there):
        raise ValueError(
            f"{site} has no channel {min(strange)}: the frame has {len(there)}, "
            f"from {there[0]} to {there[-1]}"
        )
    return wanted


def only(frame: pd.DataFrame, column: str, maker: str) -> str:
    """The one text that is in `column`, such as the unit of the frequencies."""
    values = frame[column].unique()
    if len(values) != 1:
        raise ValueError(
            f"{column} must be the same in all rows, not {', '.join(map(str, values))}: "
            f"draw one after the other of {maker}"
        )
    return str(values[0])


def grid(frame: pd.DataFrame, channels: Sequence[int], side: str, value: str) -> tuple[Floats, Any]:
    """Frequencies ``[F]`` and values ``[len(channels), F]`` of one side."""
    rows = frame[(frame["side"] == side) & frame["channel"].isin(channels)]
    table = rows.pivot(index="channel", columns="freq", values=value).reindex(channels)
    return table.columns.to_numpy(np.float64), table.to_numpy(np.float64)


def unit(column: str, freq_unit: str | None = None) -> str:
    """Unit of a column, as `Report.describe()` has it; empty if that doesn't know the column."""
    found = COLUMNS[column].unit if column in COLUMNS else ""
    if freq_unit is None:
        return found
    if found == "see freq_unit":
        return freq_unit
    # "activation² per freq_unit"; of images per area of the plane of frequencies.
    per = f"({freq_unit})²" if freq_unit.startswith("cycles/pixel") else freq_unit
    return found.replace("freq_unit", per)


def label(words: str, unit: str) -> str:
    """Text of an axis."""
    return escaped(f"{words} ({unit})" if unit else words)


def escaped(text: str) -> str:
    """`text` as Matplotlib shows it: a ``$`` would begin a formula, a first ``_`` hide it."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def short(names: Sequence[str]) -> list[str]:
    """Names of sites to stand on Axes: long ones without their middle, if they stay distinct."""
    head = _LONGEST // 3
    cut = [
        name if len(name) <= _LONGEST else f"{name[:head]}…{name[head + 1 - _LONGEST :]}"
        for name in names
    ]
    return [escaped(name) for name in (cut if len(set(cut)) == len(set(names)) else names)]
