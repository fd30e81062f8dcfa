"""Confidence intervals of a change of scores, by the studentized bootstrap over blocks of inputs.

The statistic is resampled relative to its own standard error: percentiles of the statistic itself
cover too little where inputs are few or skewed (B. Efron and R. J. Tibshirani, *An Introduction to
the Bootstrap*, 1993, section 12.5). Blocks of consecutive inputs keep the dependence between
neighbours (F. Götze and H. R. Künsch, "Second-order correctness of the blockwise bootstrap for
stationary observations", *Annals of Statistics* 24, 1996).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
_FEWEST = 5  # blocks
_RESAMPLES = 1000
_VALUES = 2_000_000  # resampled at once


class Interval(NamedTuple):
    """A confidence interval.

    Attributes:
        low: lower end; NaN where the data can't tell.
        high: upper end, likewise.
        method: how it was computed, or why it is unknown.
    """

    low: float
    high: float
    method: str


def change_interval(
    after: Floats, before: Floats, *, root: bool = False, block: int = 1
) -> Interval:
    """95 % confidence interval of mean(after) − mean(before), over inputs that have both.

    Args:
        after: ``[N]``, a score of each input, in the order of the inputs.
        before: ``[N]``, likewise.
        root: of √mean(after) − √mean(before) instead; no score is negative.
        block: number of consecutive inputs that are resampled together; 1: inputs are independent.

    Returns:
        The interval. Unknown with fewer than 5 blocks, if a score isn't finite, if all scores
        changed by the same amount, or if so few changed by another amount that many resamples have
        none of them.

    >>> change_interval(np.array([1.0, 2.0, 4.0]), np.zeros(3)).method
    'unknown: 3 inputs, not 5 or more'
    """
    count = len(after) // block
    if count < _FEWEST:
        what = "inputs" if block == 1 else f"blocks of {block} inputs"
        return Interval(np.nan, np.nan, f"unknown: {count} {what}, not {_FEWEST} or more")
    if not (np.isfinite(after).all() and np.isfinite(before).all()):
        return Interval(np.nan, np.nan, "unknown: a score is NaN or infinite")
    x, y = _block_means(after, block), _block_means(before, block)
    spread = _standard_deviation(x, y, root=root)
    # A difference of rounding errors has a spread too.
    least = 1e-12 * (np.abs(x).max() + np.abs(y).max())
    if not spread > least:
        return Interval(np.nan, np.nan, "unknown: all scores changed by the same amount")
    centre = _change(x, y, root=root)
    rng = np.random.default_rng(0)
    quotients = []
    step = max(1, _VALUES // count)
    for start in range(0, _RESAMPLES, step):
        index = rng.integers(len(x), size=(min(step, _RESAMPLES - start), count))
        a, b = x[index], y[index]
        error = _standard_deviation(a, b, root=root) / np.sqrt(count)
        error[error <= least / np.sqrt(count)] = np.nan
        quotients.append((_change(a, b, root=root) - centre) / error)
    t = np.concatenate(quotients)
    tail = (1 - CONFIDENCE) / 2
    if np.isnan(t).mean() > tail:
        return Interval(np.nan, np.nan, "unknown: too few scores changed by another amount")
    low, high = np.nanquantile(t, [tail, 1 - tail])
    # Means of overlapping blocks spread less around their own mean than around the true one.
    n = len(after)
    error = spread * np.sqrt((len(x) - 1) / len(x) / (1 - block / n) * block / n)
    change = _change(after, before, root=root)
    blocks = "" if block == 1 else f", blocks of {block} inputs"
    ends = float(change - high * error), float(change - low * error)
    return Interval(*ends, f"studentized bootstrap{blocks}")


def _block_means(scores: Floats, block: int) -> Floats:
    """Means of all runs of `block` consecutive scores, ``[N - block + 1]``."""
    means: Floats = np.lib.stride_tricks.sliding_window_view(scores, block).mean(1)
    return means


def _change(after: Floats, before: Floats, *, root: bool) -> Any:
    """The statistic, along the last axis."""
    x, y = after.mean(-1), before.mean(-1)
    return np.sqrt(x) - np.sqrt(y) if root else x - y


def _standard_deviation(after: Floats, before: Floats, *, root: bool) -> Any:
    """Standard deviation along the last axis of each pair's contribution to the statistic."""
    if root:  # times the derivative of √mean; where that mean is 0, all scores are 0
        after, before = (
            scores / (2 * np.sqrt(np.where(mean > 0, mean, 1)))
            for scores in (after, before)
            for mean in [scores.mean(-1, keepdims=True)]
        )
    return (after - before).std(-1, ddof=1)
