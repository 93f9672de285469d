"""Paired differences against scipy and statsmodels; what cannot be tested says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from anomalib_lite.comparison.paired import difference, holm, pairs_needed, sign_flips

A = np.array([0.812, 0.845, 0.793, 0.83, 0.88])
B = np.array([0.801, 0.822, 0.801, 0.80, 0.85])
RANDOM = np.random.default_rng(0)


def test_one_data_set_is_the_paired_t_test():
    known = stats.ttest_rel(A, B)
    found = difference([A - B], RANDOM)
    low, high = known.confidence_interval()
    assert (found.p_student, found.interval.low, found.interval.high) == pytest.approx((known.pvalue, low, high))
    assert (found.pairs, found.varies, found.mean) == (5, "seeds", pytest.approx((A - B).mean()))


def test_two_data_sets_are_welchs_test_of_their_differences():
    first, second = A - B, np.array([0.01, 0.02, -0.01])
    known = stats.ttest_ind(first, -second, equal_var=False)
    assert difference([first, second], RANDOM).p_student == pytest.approx(known.pvalue)


@pytest.mark.parametrize("strata", [[A - B], [A - B, np.array([0.01, 0.02, -0.01])]])
def test_sign_flips_are_scipys_exact_permutation_test(strata: list[np.ndarray]):
    weights = np.concatenate([np.full(len(x), 1 / len(x)) for x in strata])
    known = stats.permutation_test(
        (np.concatenate(strata),), lambda x: float((weights * x).sum()), permutation_type="samples", n_resamples=np.inf
    )
    p, least = sign_flips(strata, RANDOM)
    assert p == pytest.approx(known.pvalue)
    assert least == 2 / 2 ** sum(map(len, strata))


def test_many_sign_flips_are_drawn_and_come_close_to_the_exact_share():
    values = np.random.default_rng(5).normal(0.4, 1, 16)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9)
    assert sign_flips([values], np.random.default_rng(1))[0] == pytest.approx(exact, abs=0.01)


def test_three_seeds_cannot_go_below_a_quarter_without_assumptions():
    p, least = sign_flips([np.array([0.5, 0.51, 0.52])], RANDOM)
    assert (p, least) == (0.25, 0.25)


def test_holm_is_that_of_statsmodels_and_leaves_out_what_was_not_tested():
    p = np.array([0.03, 0.001, 0.2, 0.012, 0.04])
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    with_gap = holm(np.array([0.03, math.nan, 0.02]))
    assert with_gap[[0, 2]] == pytest.approx(multipletests([0.03, 0.02], method="holm")[1])
    assert math.isnan(with_gap[1])


def test_differences_that_do_not_vary_are_not_called_significant():
    """A t test would divide by zero: three times the same difference is p = 0.25, not p = 0."""
    found = difference([np.full(3, 0.0125)], RANDOM)
    assert (found.constant, found.p(1)) == (True, 0.25)
    equal = difference([np.zeros(3)], RANDOM)
    assert (equal.p(1), equal.interval.low, equal.interval.high) == (1, 0, 0)


def test_one_seed_a_data_set_takes_the_data_sets_as_the_sample():
    gains = A - B
    found = difference([np.array([gain]) for gain in gains], RANDOM)
    assert (found.varies, found.p_student) == ("data sets", pytest.approx(stats.ttest_1samp(gains, 0).pvalue))


def test_a_single_seed_among_data_sets_with_more_is_left_out():
    found = difference([A - B, np.array([0.5])], RANDOM)
    assert (found.pairs, found.p_student) == (5, pytest.approx(stats.ttest_rel(A, B).pvalue))


def test_one_pair_is_no_test():
    found = difference([np.array([0.1])], RANDOM)
    assert found.varies == "" and math.isnan(found.p(1)) and not found.interval.known


def test_both_tests_have_to_agree_where_there_are_enough_pairs_for_all_rows_of_a_table():
    values = np.random.default_rng(2).normal(1, 1, 10)
    found = difference([values[:5], values[5:]], RANDOM)
    assert found.flips_decide(6) and found.p(6) == max(found.p_flips, found.p_student)
    assert not found.flips_decide(66) and found.p(66) == found.p_student
    assert [pairs_needed(rows) for rows in (1, 6, 66)] == [8, 10, 14]
    assert not difference([values[:3]], RANDOM).flips_decide(1)


def test_one_wild_seed_fools_neither_test():
    """Nine small gains are significant; with a tenth seed that loses much, nothing is."""
    tiny = np.full(9, 0.001) + np.arange(9) * 1e-5
    wild = np.append(tiny, -0.5)
    assert difference([tiny], RANDOM).p(1) < 0.01
    assert difference([wild], RANDOM).p(1) > 0.3
