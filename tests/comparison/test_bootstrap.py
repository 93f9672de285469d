"""The bootstrap against all possible draws, and against scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.comparison import bootstrap

A, B = np.array([0.81, 0.84, 0.79]), np.array([0.91, 0.97, 0.92])


def every_mean(*strata: np.ndarray) -> np.ndarray:
    """Of all equally likely draws."""
    each = [[np.mean(draw) for draw in itertools.product(x, repeat=len(x))] for x in strata]
    return np.array([np.mean(means) for means in itertools.product(*each)])


@pytest.mark.parametrize("strata", [[A], [A, B]])
def test_the_interval_is_that_of_all_possible_draws(strata: list[np.ndarray]):
    found = bootstrap.interval(strata, bootstrap.means, 40_000, np.random.default_rng(0), 0.8)
    assert (found.low, found.high) == pytest.approx(np.percentile(every_mean(*strata), [10, 90]), abs=1e-3)


def test_one_data_set_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(size=12)
    known = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    found = bootstrap.interval([values], bootstrap.means, 20_000, np.random.default_rng(3))
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.02)


def test_seeds_are_drawn_within_their_data_set():
    """Two data sets far apart, without spread within: every draw has the same mean."""
    found = bootstrap.interval([np.zeros(4), np.ones(4)], bootstrap.means, 200, np.random.default_rng(0))
    assert (found.low, found.high) == (0.5, 0.5)


def test_interquartile_mean_is_scipys_trimmed_mean():
    values = np.random.default_rng(0).normal(size=(2, 11))
    assert bootstrap.interquartile_mean(list(values)) == pytest.approx(stats.trim_mean(values.ravel(), 0.25))


def test_one_seed_has_no_interval():
    one = [np.array([1.0]), np.array([2.0])]
    assert not bootstrap.interval(one, bootstrap.means, 100, np.random.default_rng(0)).known
