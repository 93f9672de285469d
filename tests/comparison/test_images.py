"""DeLong's test and intervals over test images: against their definitions, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from anomalib_lite.comparison.statistics import auroc_interval, delong, is_within


def drawn(generator: np.random.Generator, nok: int = 30, ok: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and two runs' scores, which agree in part. Rounded, so that there are ties."""
    labels = np.arange(nok + ok) < nok
    shared = generator.normal(size=len(labels)) + labels
    a, b = (np.round(shared + generator.normal(size=len(labels)), 1) for _ in range(2))
    return labels, a, b


def by_definition(nok: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Difference and p from the structural components of the paper, pair by pair."""
    components = []
    for scores in (a, b):
        psi = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in scores[~nok]] for x in scores[nok]])
        components.append((psi.mean(axis=1), psi.mean(axis=0)))
    covariance = sum(np.cov(*(c[k] for c in components)) / len(components[0][k]) for k in (0, 1))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = components[0][0].mean() - components[1][0].mean()
    return difference, 2 * stats.norm.sf(abs(difference) / math.sqrt(variance))


@pytest.mark.parametrize("seed", range(3))
def test_delong_is_that_of_the_paper(seed: int):
    nok, a, b = drawn(np.random.default_rng(seed))
    found = delong(nok, a, b)
    assert (found.difference, found.p) == pytest.approx(by_definition(nok, a, b))
    assert found.difference == pytest.approx(roc_auc_score(nok, a) - roc_auc_score(nok, b))
    assert math.isnan(delong(nok, a, 2 * a).p) and delong(nok, a, 2 * a).difference == 0


def test_no_difference_is_claimed_in_more_than_a_twentieth_of_test_sets():
    generator = np.random.default_rng(0)
    claimed = sum(delong(*drawn(generator)).p < 0.05 for _ in range(500))
    assert 0.02 < claimed / 500 < 0.08


def test_the_interval_of_an_auroc_holds_what_it_promises():
    """Of 500 simulated test sets; normal scores one standard deviation of their difference apart."""
    generator, truth, held = np.random.default_rng(1), stats.norm.cdf(1 / math.sqrt(2)), 0
    for _ in range(500):
        nok = np.arange(70) < 30
        found = auroc_interval(nok, generator.normal(size=70) + nok, generator, resamples=400)
        held += found.low <= truth <= found.high
    assert 0.91 < held / 500 < 0.98


def test_practically_equal_is_an_interval_within_the_margin():
    assert (
        is_within(-0.004, 0.009, 0.01) and not is_within(-0.011, 0.0, 0.01) and not is_within(math.nan, math.nan, 0.01)
    )
