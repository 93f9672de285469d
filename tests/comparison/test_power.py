"""What so many seeds can show, against statsmodels."""

from __future__ import annotations

import math

import pytest
from statsmodels.stats.power import TTestPower

from anomalib_lite.comparison.power import detectable, power


@pytest.mark.parametrize(
    ("effect", "seeds", "alpha"), [(1.0, 5, 0.05), (2.0, 3, 0.05), (0.5, 20, 0.01), (3.0, 4, 0.001)]
)
def test_power_is_that_of_the_paired_t_test(effect: float, seeds: int, alpha: float):
    assert power(effect, seeds, alpha=alpha) == pytest.approx(TTestPower().power(effect, seeds, alpha), abs=2e-3)


def test_the_detectable_effect_is_found_four_times_in_five():
    known = TTestPower().solve_power(None, 5, 0.05, 0.8)
    assert detectable(5) == pytest.approx(known, abs=0.01)
    assert power(detectable(3, 4, 0.01), 3, 4, 0.01) == pytest.approx(0.8, abs=1e-3)


def test_more_seeds_show_less_and_one_shows_nothing():
    assert detectable(3) > detectable(5) > detectable(10)
    assert detectable(1) == math.inf
    assert math.isfinite(detectable(2, alpha=0.05 / 66))
