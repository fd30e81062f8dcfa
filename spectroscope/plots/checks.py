"""Validation of the frames to plot, and how names and units are written on Axes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from spectroscope.schema import COLUMNS

Floats = NDArray[np.float64]
# Of frequencies: None: that of the frame.
Unit: TypeAlias = Literal["Hz", "BPM"] | None
# Of channels, by number.
Names: TypeAlias = Sequence[str] | Mapping[int, str] | None

_MAX_NAME = 48  # characters; longer names of sites leave no room for the plot


def check(frame: pd.DataFrame, columns: Iterable[str], source: str) -> None:
    """Raise unless `frame` has rows and `columns`; `source`: the call that returns such frames."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"expected a DataFrame from {source}, not {type(frame).__name__}")
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the frame has no column {missing[0]!r}: expected one from {source}")
    if frame.empty:
        raise ValueError(f"the frame is empty: expected rows from {source}")


def check_unique(frame: pd.DataFrame, key: Sequence[str], source: str) -> None:
    """Raise if several rows of `frame` have the same `key`, as in concatenated reports."""
    if (repeated := frame.duplicated(list(key))).any():
        row = frame.loc[repeated, list(key)].iloc[0]
        values = ", ".join(f"{name} {value}" for name, value in row.items())
        raise ValueError(
            f"the frame has several rows with {values}: expected {source} of one report; "
            "to plot several reports, call once for each with the same ax=…"
        )


def check_site(frame: pd.DataFrame, columns: Iterable[str], source: str) -> str:
    """As :func:`check`, and `frame` must be of a single site, whose name is returned."""
    check(frame, ["site", *columns], source)
    sites = frame["site"].unique()
    if len(sites) > 1:
        names = ", ".join(map(str, sites[:3])) + (", …" if len(sites) > 3 else "")
        raise ValueError(
            f"the frame has {len(sites)} sites ({names}), expected one: "
            'select it with frame[frame["site"] == …]'
        )
    return str(sites[0])


def numbers(frame: pd.DataFrame, column: str) -> Floats:
    """Values of a numeric column."""
    if not pd.api.types.is_numeric_dtype(frame[column].infer_objects()):
        raise ValueError(
            f"column {column!r} is not numeric, its first value is {frame[column].iloc[0]!r}: "
            "choose another, such as 'dc_out'"
        )
    values: Floats = frame[column].to_numpy(np.float64)
    return values


def fundamentals(f0: ArrayLike | None) -> Floats:
    """Finite values of `f0` ``[N]``; empty for None."""
    try:
        values = np.asarray([] if f0 is None else f0, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise ValueError(
            f"f0={f0!r} must be a frequency such as 1.2, or one per input; record(..., f0=...) "
            "can search a range, and report.harmonics() has the mean of what it found"
        ) from None
    return values[np.isfinite(values)]


def select_channels(
    frame: pd.DataFrame, channels: int | Iterable[int] | None, name: str
) -> list[int]:
    """The channels to plot: `channels` as a list, or all of the frame's; `name` is for errors."""
    available = sorted(frame["channel"].unique().tolist())
    if channels is None:
        return available
    single = isinstance(channels, int | np.integer)
    selected: list[int] = list(dict.fromkeys([channels] if single else channels))  # type: ignore
    if wrong := [channel for channel in selected if not isinstance(channel, int | np.integer)]:
        raise ValueError(f"channels must be integers, such as [0, 1], not {wrong[0]!r}")
    if not selected:
        raise ValueError("channels is empty: give at least one, or None for all")
    if unknown := set(selected) - set(available):
        raise ValueError(
            f"{name} has no channel {min(unknown)}: the frame has {len(available)}, "
            f"from {available[0]} to {available[-1]}"
        )
    return selected


def channel_name(channel: int, names: Names) -> str:
    """Name of a channel for Axes; without one its number."""
    known = names or {}
    if isinstance(known, Mapping):
        return escape(str(known.get(channel, f"channel {channel}")))
    if channel >= len(known):
        raise ValueError(f"names has {len(known)} names, and none for channel {channel}")
    return escape(str(known[channel]))


def frequencies(frame: pd.DataFrame, f0: ArrayLike | None, unit: Unit) -> tuple[float, str]:
    """Factor for the frame's frequencies, and the unit of the product.

    Raises:
        ValueError: `unit` isn't known, or `unit` or `f0` needs frequencies in another unit.
    """
    own = single_value(frame, "freq_unit", "the frame")
    if unit not in (None, "Hz", "BPM"):
        raise ValueError(f"{unit=} must be 'Hz', 'BPM' or None")
    if unit is not None and own != "Hz":
        raise ValueError(f"{unit} needs frequencies in Hz, but the frame's are in {own}")
    fundamentals(f0)  # raises unless numeric
    if f0 is not None and own not in ("Hz", "cycles/sample"):
        raise ValueError(
            f"f0 needs frequencies in Hz or cycles/sample, but the frame's are in {own}"
        )
    return (60.0, "BPM") if unit == "BPM" else (1.0, own)


def single_value(frame: pd.DataFrame, column: str, source: str) -> str:
    """The value that `column` has in all rows, such as the unit of the frequencies."""
    values = frame[column].unique()
    if len(values) != 1:
        raise ValueError(
            f"{column} must be the same in all rows of {source}, not {', '.join(map(str, values))}"
        )
    return str(values[0])


def grid(frame: pd.DataFrame, channels: Sequence[int], side: str, value: str) -> tuple[Floats, Any]:
    """Frequencies ``[F]`` and values ``[len(channels), F]`` of one side."""
    rows = frame[(frame["side"] == side) & frame["channel"].isin(channels)]
    table = rows.pivot(index="channel", columns="freq", values=value).reindex(channels)
    return table.columns.to_numpy(np.float64), table.to_numpy(np.float64)


def unit(column: str, freq_unit: str | None = None) -> str:
    """Unit of a column as in `Report.describe()`; empty if the column is not in it."""
    unit = COLUMNS[column].unit if column in COLUMNS else ""
    if freq_unit is None:
        return unit
    if unit == "see freq_unit":
        return freq_unit
    # "activation² per freq_unit"; for images per area of the frequency plane.
    per = f"({freq_unit})²" if freq_unit.startswith("cycles/pixel") else freq_unit
    return unit.replace("freq_unit", per)


def label(words: str, unit: str) -> str:
    """Text of an axis."""
    between = "" if words.endswith("\n") else " "
    return escape(f"{words}{between}({unit})" if unit else words)


def escape(text: str) -> str:
    """`text` for Matplotlib, where ``$`` would begin a formula and a leading ``_`` hide it."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def title(frame: pd.DataFrame, site: str) -> str:
    """A site's title, as ``conv2 → relu`` or ``layer1.0.relu, call 2 of 2``; else its name."""
    return shorten([frame.attrs.get("titles", {}).get(site, site)])[0]


def titles(frame: pd.DataFrame, sites: Sequence[str]) -> list[str]:
    """Names of sites for rows; function calls, whose names say little, have their :func:`title`."""
    return shorten(
        [frame.attrs.get("titles", {}).get(site, site) if "/" in site else site for site in sites]
    )


def shorten(names: Sequence[str]) -> list[str]:
    """Names of sites for Axes: long ones without their middle, if all stay distinct."""
    head = _MAX_NAME // 3
    short = [
        name if len(name) <= _MAX_NAME else f"{name[:head]}…{name[head + 1 - _MAX_NAME :]}"
        for name in names
    ]
    return [escape(name) for name in (short if len(set(short)) == len(set(names)) else names)]
