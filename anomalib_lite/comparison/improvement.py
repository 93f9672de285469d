"""The probability that one setting beats another (Agarwal et al. 2021, section 4.3)."""

from __future__ import annotations

import numpy as np

from anomalib_lite.comparison.strata import Interval, Strata


def probability_of_improvement(a: Strata, b: Strata) -> float:
    """That a run of `a` has a higher value than a run of `b` on the same data, a tie counting half; mean over the
    data sets. It is the Mann-Whitney U statistic over the number of pairs.
    """
    return float(np.mean([_wins(x, y).mean() for x, y in zip(a, b, strict=True)]))


def improvement_interval(
    a: Strata, b: Strata, resamples: int, generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Stratified bootstrap, percentile; unknown where neither side has two seeds of a data set."""
    if all(len(values) < 2 for values in [*a, *b]):
        return Interval()
    total = np.zeros(resamples)
    for x, y in zip(a, b, strict=True):
        wins = _wins(x, y)
        rows, columns = (generator.multinomial(n, np.full(n, 1 / n), resamples) / n for n in wins.shape)
        total += np.einsum("ri,ij,rj->r", rows, wins, columns)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(total / len(a), [tail, 100 - tail])
    return Interval(float(low), float(high))


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    gain = x[:, None] - y[None]
    return (np.sign(gain) + 1) / 2
