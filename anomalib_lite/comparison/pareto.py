"""What is worth its price: no other setting is better and cheaper at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomalib_lite.comparison.design import Design, View
from anomalib_lite.comparison.summaries import Summary, sign


@dataclass(frozen=True)
class Price:
    """Milliseconds an image (median over runs, since other work on the machine only adds to it) and megabytes of the
    model (mean); NaN where unknown. `fastest` and `smallest` tell whether the setting lies on the front.
    """

    variant: str
    quality: float
    milliseconds: float
    megabytes: float
    fastest: bool
    smallest: bool


def prices(design: Design, view: View, metric: str, summaries: Sequence[Summary]) -> list[Price]:
    rows = design.part(view)
    quality = np.array([sign(metric) * s.mean for s in summaries])
    costs = []
    for summary in summaries:
        own = rows[rows["variant"] == summary.variant].groupby("data")
        costs.append([own[n].agg(how).mean() for n, how in (("ms_per_image", "median"), ("model_mb", "mean"))])
    price = np.array(costs, dtype=float)
    fronts = [front(np.column_stack([quality, -price[:, i]])) for i in (0, 1)]
    return [
        Price(s.variant, s.mean, *map(float, price[i]), bool(fronts[0][i]), bool(fronts[1][i]))
        for i, s in enumerate(summaries)
    ]


def front(points: np.ndarray) -> np.ndarray:
    """Which of the points (n, criteria), more being better, no other one dominates: as good in all criteria and better
    in one. (n,) bool; a point with NaN is not on the front, and dominates none.
    """
    known = ~np.isnan(points).any(axis=1)
    at_least = (points[:, None] >= points[None]).all(axis=2)
    above = (points[:, None] > points[None]).any(axis=2)
    return known & ~(at_least & above).any(axis=0)


def priced(found: Sequence[Price]) -> bool:
    return any(math.isfinite(p.milliseconds) or math.isfinite(p.megabytes) for p in found)
