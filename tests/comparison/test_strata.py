"""Intervals of a mean over data sets: against scipy, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.comparison.strata import mean, spread, student, within

A, B = np.array([0.81, 0.84, 0.79, 0.83]), np.array([0.91, 0.97, 0.92])


def test_one_data_set_has_students_interval():
    low, high = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    found = student([A])
    assert (found.low, found.high) == pytest.approx((low, high))


def test_two_data_sets_have_welchs_interval():
    """The mean of two means is half the difference of A and -B, whose interval scipy knows."""
    low, high = stats.ttest_ind(A, -B, equal_var=False).confidence_interval(0.9)
    found = student([A, B], 0.9)
    assert (found.low, found.high) == pytest.approx((low / 2, high / 2))
    assert mean([A, B]) == pytest.approx((A.mean() + B.mean()) / 2)


def test_each_data_set_counts_the_same_whatever_its_number_of_seeds():
    assert mean([np.zeros(9), np.ones(1)]) == 0.5


def test_one_seed_has_no_interval():
    assert not student([A, np.array([0.5])]).known
    assert math.isnan(within([np.array([0.5])]))


def test_spread_between_seeds_is_pooled_within_data_sets():
    assert within([A, A + 0.5]) == pytest.approx(A.std(ddof=1))
    assert spread([np.ones(3), np.ones(3)]).error == 0


@pytest.mark.parametrize(("blocks", "seeds"), [(1, 3), (3, 3), (2, 5)])
def test_students_interval_holds_what_it_promises(blocks: int, seeds: int):
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        found = student([width * generator.normal(size=seeds) for width in np.linspace(0.3, 2, blocks)])
        held += found.low <= 0 <= found.high
    assert 0.925 < held / 600 < 0.98
