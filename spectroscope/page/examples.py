"""Example inputs of a layer as the page embeds them: both sides of a few channels.

Values are whole multiples of a fraction of the greatest, so that 0 stays 0: of lines 1/32767, of
images, which have 255 colours, 1/127.
"""

import base64
from typing import Any

import numpy as np
import pandas as pd

from spectroscope.page.numbers import Floats, to_json

_DIGITS = 6  # of positions
_SIDES = ["in", "out"]


def embedded(frame: pd.DataFrame) -> dict[str, Any] | None:
    """Data for the script, ready for JSON; None without a line or an image.

    Args:
        frame: `Report.examples()` of one site.
    """
    images = "row" in frame and bool(frame["row"].notna().all())
    panels = []
    for (number, channel), rows in frame.groupby(["input", "channel"], sort=False):
        sides = [rows[rows["side"] == side] for side in _SIDES]
        values = np.stack([side["value"].to_numpy(np.float64) for side in sides])
        panel = {
            "input": number,
            "channel": channel,
            "dc": [to_json(float(side["dc"].iloc[0])) for side in sides],
            **_in_steps(values, np.int8 if images else np.int16),
        }
        if images:
            panel["size"] = [int(rows[axis].nunique()) for axis in ("row", "column")]
        else:
            panel["x"] = _positions(sides[0]["position"].to_numpy(np.float64))
        if values.shape[1] > 1 and np.isfinite(values).any():
            panels.append(panel)
    unit = str(frame["position_unit"].iloc[0])
    return {"images": images, "unit": unit, "panels": panels} if panels else None


def _in_steps(values: Floats, dtype: type[np.signedinteger[Any]]) -> dict[str, Any]:
    """The least number of the type stands for NaN and infinity."""
    finite = np.isfinite(values)
    greatest = float(np.abs(values[finite]).max(initial=0.0))
    limits = np.iinfo(dtype)
    steps = np.rint(np.where(finite, values, 0.0) / (greatest or 1.0) * limits.max)
    steps = np.where(finite, steps, limits.min).astype(f"<i{limits.bits // 8}")
    return {"greatest": to_json(greatest), "cells": base64.b64encode(steps.tobytes()).decode()}


def _positions(positions: Floats) -> Any:
    """Positions of the points; of all samples of a line the distance of two."""
    steps = np.diff(positions)
    if len(steps) and positions[0] == 0 and np.allclose(steps, steps[0], rtol=1e-6, atol=0):
        return float(steps[0])
    return [float(f"{position:.{_DIGITS}g}") for position in positions]
