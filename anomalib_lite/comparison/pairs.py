"""All pairs of settings, or all against a reference: differences, corrected p values, and what may be concluded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from anomalib_lite.comparison.design import Series, View, paired, strata
from anomalib_lite.comparison.improvement import improvement_interval, probability_of_improvement
from anomalib_lite.comparison.paired import SIGNIFICANT, Difference, difference, holm
from anomalib_lite.comparison.strata import Interval, mean
from anomalib_lite.comparison.summaries import sign


@dataclass(frozen=True)
class Pair:
    """`found.mean` is that of `a` less `b`; `improvement` the probability that `a` is the better one. `found` is None
    where they share no seed of any data set.
    """

    a: str
    b: str
    found: Difference | None
    p_holm: float
    improvement: float
    improvement_interval: Interval
    better: bool  # the mean of `a` is
    flips_decide: bool = False  # p_holm is the larger of both tests, else of Student's alone

    @property
    def significant(self) -> bool:
        return self.p_holm < SIGNIFICANT

    @property
    def verdict(self) -> str:
        return _verdict(self)


def compare_pairs(
    series: Mapping[tuple[str, str], Series],
    view: View,
    metric: str,
    reference: str | None,
    resamples: int,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> list[Pair]:
    """Of all pairs, the better setting is `a`; with a reference that takes part in the view, it is always `b`."""
    chosen: list[tuple[str, str]] = list(itertools.combinations(view.variants, 2))
    if reference in view.variants:
        chosen = [(variant, str(reference)) for variant in view.variants if variant != reference]
    direction, found = sign(metric), []
    for a, b in chosen:
        x, y = strata(series, view, a), strata(series, view, b)
        if reference not in view.variants and direction * (mean(x) - mean(y)) < 0:
            a, b, x, y = b, a, y, x
        better = (x, y) if direction > 0 else (y, x)
        gains = paired(series, view, a, b)
        found.append(
            Pair(
                a,
                b,
                difference(gains, generator, confidence) if gains else None,
                np.nan,
                probability_of_improvement(*better),
                improvement_interval(*better, resamples, generator, confidence),
                direction * (mean(x) - mean(y)) > 0,
            )
        )
    corrected = holm(np.array([np.nan if p.found is None else p.found.p(len(found)) for p in found]))
    decide = [pair.found is not None and pair.found.flips_decide(len(found)) for pair in found]
    told = zip(found, corrected, decide, strict=True)
    return [replace(pair, p_holm=float(p), flips_decide=flips) for pair, p, flips in told]


def _verdict(pair: Pair) -> str:
    found = pair.found
    if found is None:
        return "no seed in common"
    if not found.varies:
        return "one seed: no statement about chance"
    if pair.significant:
        return ("better" if pair.better else "worse") + ("" if pair.flips_decide else ", if differences are normal")
    if found.constant:
        return f"the same in every pair{': equal' if found.mean == 0 else ''}"
    return "not told apart"
