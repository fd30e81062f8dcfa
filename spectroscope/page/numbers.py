"""Numbers of the page: in sentences, and in JSON with four significant digits."""

import base64
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DIGITS = 4
Floats = NDArray[np.float64]


def three_digits(value: float) -> str:
    """Three significant digits: 1,230; 0.0123; 1.23e-05."""
    return f"{value:,.3g}" if not 1e3 <= abs(value) < 1e6 else f"{value:,.0f}"


def quantity(number: int, noun: str) -> str:
    """``1 layer``, ``2,048 layers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def out_of(number: int, total: int, noun: str) -> str:
    """``2 of 5 layers``, ``all 5 layers``."""
    if number == total > 1:
        return f"all {quantity(total, noun)}"
    return f"{number:,} of {quantity(total, noun)}"


def percent(share: float) -> str:
    """With one decimal; a tiny share is not shown as 0 %, nor almost all as 100 %."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    if 0.9995 <= share < 1:
        return "over 99.9\u00a0%"
    return f"{share:.1%}".replace("%", "\u00a0%")


def rounded(values: Iterable[Any]) -> list[Any]:
    """Values for JSON: floats with four significant digits, None for NaN, infinity as text."""
    return [to_json(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def to_json(value: Any) -> Any:
    """One of the values of :func:`rounded`."""
    if not isinstance(value, float):
        return None if value is pd.NA else value
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # JavaScript's Number() reads these
    value = float(f"{value:.{DIGITS}g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def tenths_of_decibel(power: Floats) -> list[int | None]:
    """Power in units of 0.1 dB re 1 activation²; None for zero, NaN and infinity."""
    with np.errstate(divide="ignore"):
        tenths = np.rint(100 * np.log10(power))
    return [int(value) if math.isfinite(value) else None for value in tenths]


def packed(column: "pd.Series[Any]") -> list[Any] | str:
    """:func:`rounded`, or if that is shorter the same floats in three bytes each, in base64.

    First ``[N]`` int16, m, then ``[N]`` int8, e: the values are m·10^e. Of infinity m is ±10000, of
    NaN −32768.
    """
    values = rounded(column)
    if column.dtype.kind != "f":
        return values
    m, e = (np.zeros(len(column), dtype) for dtype in ("<i2", "i1"))
    for i, value in enumerate(column.tolist()):
        if math.isfinite(value):
            mantissa, exponent = f"{value:.{DIGITS - 1}e}".split("e")
            power = int(exponent) - DIGITS + 1 if value else 0
            if power < -128:
                return values
            m[i], e[i] = int(mantissa.replace(".", "")), power
        else:
            m[i] = -32768 if math.isnan(value) else math.copysign(10000, value)
    text = base64.b64encode(m.tobytes() + e.tobytes()).decode()
    return text if len(text) < len(json.dumps(values, separators=(",", ":"))) else values
