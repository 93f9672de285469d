"""Each setting by itself: its mean, and how far that mean can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from anomalib_lite.comparison import bootstrap
from anomalib_lite.comparison.design import Series, View, strata
from anomalib_lite.comparison.strata import Interval, mean, student, within
from anomalib_lite.comparison.table import COSTS

MANY = 10  # runs of a setting from which on its interquartile mean is shown
LOWER_IS_BETTER = ("image_false_alarm_rate", *COSTS)


@dataclass(frozen=True)
class Summary:
    """`deviation`: between seeds. `values`: data set -> seed -> value. `iqm`: None with few runs."""

    variant: str
    runs: int
    seeds: int  # the fewest that a data set has
    mean: float
    deviation: float
    drawn: Interval
    student: Interval
    values: dict[str, Series]
    iqm: float | None = None
    iqm_interval: Interval | None = None
    best: bool = False


def summarise(
    series: Mapping[tuple[str, str], Series],
    view: View,
    metric: str,
    resamples: int,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> list[Summary]:
    """One for each setting of the view, in its order. The best mean is marked, among settings with two seeds or more
    where there are such: a single seed may be a lucky one.
    """
    found = []
    for variant in view.variants:
        data = strata(series, view, variant)
        runs = sum(map(len, data))
        summary = Summary(
            variant,
            runs,
            min(map(len, data)),
            mean(data),
            within(data),
            bootstrap.interval(data, bootstrap.means, resamples, generator, confidence),
            student(data, confidence),
            {block: series[variant, block] for block in view.blocks},
        )
        if runs >= MANY:
            middle = bootstrap.interval(data, bootstrap.interquartile_means, resamples, generator, confidence)
            summary = replace(summary, iqm=bootstrap.interquartile_mean(data), iqm_interval=middle)
        found.append(summary)
    best = max(range(len(found)), key=lambda i: (found[i].seeds > 1, sign(metric) * found[i].mean))
    found[best] = replace(found[best], best=True)
    return found


def sign(metric: str) -> int:
    """1 where more is better, else -1."""
    return -1 if metric in LOWER_IS_BETTER else 1
