"""Probability of improvement against the Mann-Whitney statistic and all possible draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.comparison.improvement import improvement_interval, probability_of_improvement

X, Y = np.array([0.7, 0.8, 0.9]), np.array([0.75, 0.8, 0.6])


def test_it_is_the_mann_whitney_statistic_over_the_number_of_pairs():
    known = stats.mannwhitneyu(X, Y).statistic / 9
    assert probability_of_improvement([X], [Y]) == pytest.approx(known)
    assert probability_of_improvement([X, Y], [Y, Y]) == pytest.approx((known + 0.5) / 2)


def test_its_interval_is_that_of_all_possible_draws():
    def wins(x: tuple[float, ...], y: tuple[float, ...]) -> float:
        return float(np.mean([(a > b) + (a == b) / 2 for a in x for b in y]))

    draws = [wins(a, b) for a in itertools.product(X, repeat=3) for b in itertools.product(Y, repeat=3)]
    found = improvement_interval([X], [Y], 20_000, np.random.default_rng(0), 0.8)
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [10, 90]), abs=0.06)
    assert not improvement_interval([X[:1]], [Y[:1]], 100, np.random.default_rng(0)).known
