"""docs/paper.md and its CSV against what makes them."""

from pathlib import Path

import figures
import numpy as np
import pandas as pd
import pytest
import verdicts
from scipy import stats

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(DOCS / "paper.csv")


def test_the_page_has_the_numbers_of_the_csv(table):
    text = (DOCS / "paper.md").read_text("utf-8")
    assert verdicts.page(text, table) == text


def test_what_is_cheap_gives_the_numbers_again(table):
    """The commands in the last column give the others."""
    again = pd.DataFrame(verdicts.of_signals() + verdicts.of_filters())
    kept = table[table["on"].isin(again["on"])].reset_index(drop=True)
    names = ["claim", "measured", "on", "form", "command"]
    order = {claim: number for number, claim in enumerate(verdicts.CLAIMS)}
    again = again.sort_values("claim", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(kept[names], again[names])
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(kept[column], again[column], rtol=2e-5)


def test_every_claim_is_measured_and_every_interval_has_its_value(table):
    assert list(table["claim"].unique()) == list(verdicts.CLAIMS)
    with_interval = table.dropna(subset="low")
    assert with_interval["value"].between(with_interval["low"], with_interval["high"]).all()
    assert len(with_interval) > len(table) / 2


def test_jackknife_of_a_mean_is_its_standard_error():
    class Fake:
        """A report of some values, with their mean and twice that."""

        def __init__(self, values):
            self.values = values

        def merge(self, other):
            return Fake([*self.values, *other.values])

    values = np.random.default_rng(0).normal(100, 1, 12)
    table = figures.jackknife(
        [Fake([value]) for value in values],
        lambda report: pd.Series(
            {"one": np.mean(report.values), "two": 2 * np.mean(report.values)}
        ),
    )
    error = stats.sem(values) * stats.t.ppf(0.975, 11)
    np.testing.assert_allclose(table["value"], [values.mean(), 2 * values.mean()])
    # Of small intervals those of the logarithm are the same.
    np.testing.assert_allclose(table["high"] - table["value"], [error, 2 * error], rtol=0.02)
    np.testing.assert_allclose(table["value"] - table["low"], [error, 2 * error], rtol=0.02)
