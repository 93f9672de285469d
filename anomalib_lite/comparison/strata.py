"""Estimates over seeds, each data set a stratum of its own and all of the same weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Strata = Sequence[np.ndarray]  # one array (n,) a data set: a value for each seed


@dataclass(frozen=True)
class Interval:
    """NaN where it cannot be computed."""

    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Spread:
    """Of a mean over strata: its standard error, and the degrees of freedom (Satterthwaite) of that error."""

    mean: float
    error: float
    freedom: float


def mean(strata: Strata) -> float:
    """The mean over the data sets of each one's mean over seeds."""
    return float(np.mean([values.mean() for values in strata]))


def spread(strata: Strata) -> Spread:
    """Variances may differ between the data sets (Welch 1947; Satterthwaite 1946). A data set with one seed has no
    variance: error and freedom are then NaN.
    """
    if any(len(values) < 2 for values in strata):
        return Spread(mean(strata), math.nan, math.nan)
    variances = np.array([values.var(ddof=1) / len(values) for values in strata]) / len(strata) ** 2
    total = float(variances.sum())
    if total == 0:
        return Spread(mean(strata), 0.0, float(sum(len(values) - 1 for values in strata)))
    freedom = total**2 / float(sum(v**2 / (len(x) - 1) for v, x in zip(variances, strata, strict=True)))
    return Spread(mean(strata), math.sqrt(total), freedom)


def student(strata: Strata, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean: exact for normal values of one data set, however few."""
    found = spread(strata)
    if math.isnan(found.error):
        return Interval()
    half = float(stats.t.ppf(0.5 + confidence / 2, found.freedom)) * found.error
    return Interval(found.mean - half, found.mean + half)


def within(strata: Strata) -> float:
    """Standard deviation between seeds, pooled over the data sets; NaN where no data set has two seeds."""
    freedom = sum(len(values) - 1 for values in strata)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in strata)
    return math.sqrt(squares / freedom) if freedom else math.nan
