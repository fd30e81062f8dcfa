"""The 95 % interval of `importance`: how often it has the true value, by simulation."""

import numpy as np
import pytest
import scipy.stats

from spectroscope.experiments.intervals import change_interval

DRAWS = [
    pytest.param(500, id="few draws"),
    pytest.param(4000, marks=pytest.mark.slow, id="many draws"),
]


def coverage(draw, true, draws, **options):
    """Fraction of the known intervals that have `true`, and fraction of those unknown."""
    rng = np.random.default_rng(0)
    intervals = [change_interval(*draw(rng), **options) for _ in range(draws)]
    inside = [low <= true <= high for low, high, _ in intervals if not np.isnan(low)]
    return np.mean(inside), 1 - len(inside) / draws


def paired(scores):
    """Scores after and before that differ by `scores`, and share much more."""
    common = 50 + 10 * np.linspace(-1, 1, len(scores)) ** 2
    return scores + common, common


def moving_average(rng, count, length):
    """Consecutive windows share all but one of `length` independent values."""
    noise = rng.normal(size=count + length - 1)
    return np.convolve(noise, np.ones(length) / length, "valid")


def autoregressive(rng, count, rho):
    noise = rng.normal(size=count + 200)
    return scipy.signal.lfilter([1], [1, -rho], noise)[200:]


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("count", [5, 8, 20])
def test_of_normal_differences(count, draws):
    inside, unknown = coverage(lambda rng: paired(rng.normal(3, 2, count)), 3, draws)
    assert 0.93 <= inside <= 0.97
    assert unknown == 0


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("count", [20, 50])
def test_of_lognormal_differences(count, draws):
    inside, _ = coverage(lambda rng: paired(rng.lognormal(size=count)), np.exp(0.5), draws)
    assert 0.90 <= inside <= 0.97


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("draw", [
    lambda rng: moving_average(rng, 214, 5),  # overlap as KID-PPG's inputs do
    lambda rng: autoregressive(rng, 214, 0.8),
])  # fmt: skip
def test_of_series_that_depend_on_their_neighbours(draw, draws):
    inside, _ = coverage(lambda rng: paired(draw(rng)), 0, draws, block=20)
    assert 0.90 <= inside <= 0.97
    inside, _ = coverage(lambda rng: paired(draw(rng)), 0, draws // 5)
    assert inside < 0.70


@pytest.mark.parametrize("draws", DRAWS)
def test_of_the_root_of_mean_squares(draws):
    def draw(rng):
        error, more = rng.normal(size=(2, 50))
        return (error + more) ** 2, error**2

    inside, _ = coverage(draw, np.sqrt(2) - 1, draws, root=True)
    assert 0.91 <= inside <= 0.97


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(("count", "wrong", "most_unknown"), [(20, 0.3, 0.12), (100, 0.1, 0.01)])
def test_of_fractions(count, wrong, most_unknown, draws):
    def draw(rng):
        return (rng.random(count) > wrong).astype(float), np.ones(count)

    inside, unknown = coverage(draw, -wrong, draws)
    assert 0.93 <= inside <= 0.995  # only so many fractions are possible
    assert unknown <= most_unknown


def test_with_many_inputs_it_is_the_t_interval():
    rng = np.random.default_rng(0)
    after, before = rng.normal(size=(2, 2000))
    low, high, method = change_interval(after, before)
    expected = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    np.testing.assert_allclose([low, high], expected, atol=0.1 * (expected.high - expected.low) / 2)
    assert method == "studentized bootstrap"
    assert change_interval(after, before, block=7).method.endswith("blocks of 7 inputs")


@pytest.mark.parametrize(("after", "before", "options", "why"), [
    ([1.0, 2, 3, 4], [0.0, 0, 0, 0], {}, "4 inputs, not 5 or more"),
    (np.arange(99.0), np.zeros(99), {"block": 20}, "4 blocks of 20 inputs, not 5 or more"),
    (np.arange(9) + 0.1, np.arange(9.0), {}, "all scores changed by the same amount"),
    (np.zeros(9), np.zeros(9), {"root": True}, "all scores changed by the same amount"),
    (np.eye(30)[0], np.zeros(30), {}, "too few scores changed by another amount"),
    ([1.0, 2, 3, 4, np.nan], np.zeros(5), {}, "NaN or infinite"),
    ([1.0, 2, 3, 4, np.inf], np.zeros(5), {}, "NaN or infinite"),
])  # fmt: skip
def test_what_no_method_can_know_is_nan_with_the_reason(after, before, options, why):
    low, high, method = change_interval(np.array(after), np.array(before), **options)
    assert np.isnan([low, high]).all()
    assert method.startswith("unknown: ")
    assert why in method
