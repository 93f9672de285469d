"""Stratified bootstrap: seeds are drawn again within each data set (Agarwal et al. 2021, "Deep Reinforcement Learning
at the Edge of the Statistical Precipice", section 4.1; their library rliable uses the percentile interval, too).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anomalib_lite.comparison.strata import Interval, Strata

Draws = list[np.ndarray]  # one array (resamples, n) a data set


def resample(strata: Strata, resamples: int, generator: np.random.Generator) -> Draws:
    """Each data set's values drawn with replacement, independently of the others."""
    return [x[generator.integers(0, len(x), (resamples, len(x)))] for x in strata]


def means(draws: Draws) -> np.ndarray:
    """The mean over data sets of the means over seeds, (resamples,)."""
    return np.mean([draw.mean(axis=1) for draw in draws], axis=0)


def interquartile_means(draws: Draws) -> np.ndarray:
    """The mean of the middle half of all data sets' values together, (resamples,)."""
    together = np.sort(np.concatenate(draws, axis=1), axis=1)
    cut = together.shape[1] // 4
    return together[:, cut : together.shape[1] - cut].mean(axis=1)


def interval(
    strata: Strata,
    statistic: Callable[[Draws], np.ndarray],
    resamples: int,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> Interval:
    """The percentile interval; unknown where no data set has two seeds, since nothing could be drawn differently."""
    if all(len(values) < 2 for values in strata):
        return Interval()
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(resample(strata, resamples, generator)), [tail, 100 - tail])
    return Interval(float(low), float(high))


def interquartile_mean(strata: Strata) -> float:
    return float(interquartile_means([values[None] for values in strata])[0])
