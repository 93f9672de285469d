"""What so many seeds can show at all."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

QUANTILES = 2000


def power(effect: float, seeds: int, blocks: int = 1, alpha: float = 0.05) -> float:
    """The probability that a two-sided paired t test finds an effect, given in standard deviations of the differences
    (Cohen 1988, chapter 2). NaN with a single seed.
    """
    freedom = blocks * (seeds - 1)
    if freedom < 1:
        return math.nan
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    shift = effect * math.sqrt(blocks * seeds)
    # the noncentral t is a normal variable over an independent estimate of its standard deviation; averaged over
    # quantiles of that estimate, since scipy's own gives NaN far from the centre
    deviations = np.sqrt(stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, freedom) / freedom)
    above, below = stats.norm.sf(critical * deviations - shift), stats.norm.cdf(-critical * deviations - shift)
    return float((above + below).mean())


def detectable(seeds: int, blocks: int = 1, alpha: float = 0.05, wanted: float = 0.8) -> float:
    """The least effect, in standard deviations of the differences, that is found with the wanted probability."""
    if blocks * (seeds - 1) < 1:
        return math.inf
    high = 1.0
    while power(high, seeds, blocks, alpha) < wanted:
        high *= 2
    return float(optimize.brentq(lambda effect: power(effect, seeds, blocks, alpha) - wanted, 0, high, xtol=1e-6))
