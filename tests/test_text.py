"""Tables and findings for a terminal."""

import pandas as pd
import pytest

from spectroscope.report import text

TABLE = pd.DataFrame(
    {
        "site": ["a#0", "encoder." + "deep." * 12 + "relu#0"],
        "shape": [(3, None), (4,)],
        "dc_out": [0.5, float("nan")],
        "power": [1.23456e-7, 2.0],
        "active_fraction": [1.0, 0.25],
        "never": [float("nan")] * 2,
    }
)
UNITS = {"dc_out": "activation", "power": "activation²", "active_fraction": "1"}
IMPORTANCE = ["site", "active_fraction", "never", "dc_out", "power", "shape"]


@pytest.mark.parametrize("width", [60, 72, 100, 200])
def test_a_table_fits_and_loses_the_least_important_columns(width):
    lines = text.fitted(TABLE, IMPORTANCE, UNITS, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[-2].startswith("a#0 ")
    assert "never" not in "".join(lines)
    whole = lines[-1].startswith(TABLE["site"][1])
    assert whole == (width > 100)
    assert lines[-1].split()[0].endswith("relu#0")
    assert ("3×?" in lines[-2]) == (width > 72)
    assert "0.25" in lines[-1]


def test_units_are_under_the_names_and_columns_in_their_own_order():
    lines = text.fitted(TABLE, IMPORTANCE, UNITS, 200).splitlines()
    *_, head, units, first, second = lines
    assert head.split() == ["site", "shape", "dc_out", "power", "fraction"]
    assert units.split() == ["act.", "act.²"]
    assert first.split() == ["a#0", "3×?", "0.5", "1.235e-07", "1"]
    assert second.split()[1:] == ["4", "NaN", "2", "0.25"]
    ends = {line.rindex("act.²") + len("act.²") for line in (units,)}
    assert first.index("1.235e-07") + len("1.235e-07") in ends


def test_even_a_narrow_terminal_has_a_number():
    lines = text.fitted(TABLE, IMPORTANCE, UNITS, 20).splitlines()
    assert "0.25" in lines[-1]


def test_text_is_wrapped_but_no_name_is_broken():
    lines = text.filled("aa bb " + "c" * 30 + "-d", 10).splitlines()
    assert lines == ["aa bb", "  " + "c" * 30 + "-d"]
