"""Estimates and tests against scipy, statsmodels and all possible draws; what cannot be tested says so."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from anomalib_lite.comparison import statistics as st
from anomalib_lite.comparison.study import front

A = np.array([0.812, 0.845, 0.793, 0.83, 0.88])
B = np.array([0.801, 0.822, 0.801, 0.80, 0.85])
X, Y = np.array([0.7, 0.8, 0.9]), np.array([0.75, 0.8, 0.6])
FEW = np.array([0.01, 0.02, -0.01])
RANDOM = np.random.default_rng(0)


def difference(*strata: np.ndarray) -> st.Difference:
    return st.difference(strata, RANDOM)


def test_one_seed_has_no_interval():
    assert math.isnan(st.bootstrap([np.array([1.0]), np.array([2.0])], st.means, 100, RANDOM).low)
    assert math.isnan(st.student([A, np.array([0.5])]).low)
    assert math.isnan(st.within([np.array([0.5])]))


def test_data_sets_count_the_same_and_spread_is_pooled_within_them():
    assert st.mean([np.zeros(9), np.ones(1)]) == 0.5
    assert st.within([A, A + 0.5]) == pytest.approx(A.std(ddof=1))
    assert st.spread([np.ones(3), np.ones(3)])[0] == 0


@pytest.mark.parametrize(("blocks", "seeds"), [(1, 3), (3, 3), (2, 5)])
def test_students_interval_holds_what_it_promises(blocks: int, seeds: int):
    generator, held = np.random.default_rng(0), 0
    for _ in range(400):
        found = st.student([width * generator.normal(size=seeds) for width in np.linspace(0.3, 2, blocks)])
        held += found.low <= 0 <= found.high
    assert 0.92 < held / 400 < 0.985


def every_draw(statistic, *strata: np.ndarray) -> np.ndarray:
    """The statistic of all equally likely draws."""
    draws = itertools.product(*(itertools.product(x, repeat=len(x)) for x in strata))
    return np.array([statistic(*(np.array([x]) for x in draw))[0] for draw in draws])


@pytest.mark.parametrize(
    ("statistic", "strata"), [(st.means, [A]), (st.means, [X, Y + 0.2]), (st.improvements, [X, Y])]
)
def test_bootstrap_intervals_are_those_of_all_possible_draws(statistic, strata: list[np.ndarray]):
    found = st.bootstrap(strata, statistic, 40_000, np.random.default_rng(0))
    assert found == pytest.approx(np.percentile(every_draw(statistic, *strata), [2.5, 97.5]), abs=5e-3)


def test_interquartile_mean_and_improvement_are_those_of_scipy():
    """An improvement is the Mann-Whitney statistic over the number of pairs."""
    values = np.random.default_rng(0).normal(size=(2, 11))
    assert st.interquartile_means(*values[:, None]) == pytest.approx(stats.trim_mean(values.ravel(), 0.25))
    known = stats.mannwhitneyu(X, Y).statistic / 9
    assert st.improvements(X[None], Y[None]) == pytest.approx(known)
    assert st.improvements(X[None], Y[None], Y[None], Y[None]) == pytest.approx((known + 0.5) / 2)


def test_one_data_set_is_the_paired_t_test():
    known, found = stats.ttest_rel(A, B), difference(A - B)
    assert (found.p_student, found.low, found.high) == pytest.approx((known.pvalue, *known.confidence_interval()))
    assert (found.pairs, found.varies, found.difference) == (5, "seeds", pytest.approx((A - B).mean()))
    more = difference(A - B, np.array([0.5]))
    assert (more.pairs, more.p_student) == (5, found.p_student), "a data set with one seed is left out"
    each = difference(*(A - B)[:, None])
    assert (each.varies, each.p_student) == ("data sets", pytest.approx(known.pvalue)), "they are the sample"


def test_two_data_sets_are_welchs_test_of_their_differences():
    """The mean of two means is half the difference of one and the other's negative, which scipy knows."""
    known, found = stats.ttest_ind(A - B, -FEW, equal_var=False), difference(A - B, FEW)
    low, high = known.confidence_interval()
    assert (found.p_student, found.low, found.high) == pytest.approx((known.pvalue, low / 2, high / 2))
    assert found.difference == pytest.approx(((A - B).mean() + FEW.mean()) / 2)


@pytest.mark.parametrize("strata", [[A - B], [A - B, FEW]])
def test_sign_flips_are_scipys_exact_permutation_test(strata: list[np.ndarray]):
    weights = np.concatenate([np.full(len(x), 1 / len(x)) for x in strata])
    known = stats.permutation_test(
        (np.concatenate(strata),), lambda x: float((weights * x).sum()), permutation_type="samples", n_resamples=np.inf
    )
    p, least = st.sign_flips(strata, RANDOM)
    assert (p, least) == (pytest.approx(known.pvalue), 2 / 2 ** sum(map(len, strata)))


def test_many_sign_flips_are_drawn_and_come_close_to_the_exact_share():
    values = np.random.default_rng(5).normal(0.4, 1, 16)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = np.mean(np.abs(signs @ values) >= abs(values.sum()) - 1e-9)
    assert st.sign_flips([values], np.random.default_rng(1))[0] == pytest.approx(exact, abs=0.01)


def test_holm_is_that_of_statsmodels_and_leaves_out_what_was_not_tested():
    p = [0.03, 0.001, 0.2, 0.012, 0.04]
    assert st.holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    known = multipletests([0.03, 0.02], method="holm")[1]
    assert st.holm([0.03, math.nan, 0.02]) == pytest.approx([known[0], math.nan, known[1]], nan_ok=True)


def test_differences_that_do_not_vary_are_not_called_significant():
    """A t test would divide by zero: three times the same difference is p = 0.25, not p = 0."""
    found, equal = difference(np.full(3, 0.0125)), difference(np.zeros(3))
    assert (found.constant, found.p(1)) == (True, 0.25)
    assert (equal.p(1), equal.low, equal.high) == (1, 0, 0)


def test_one_pair_is_no_test():
    found = difference(np.array([0.1]))
    assert found.varies == "" and math.isnan(found.p(1)) and math.isnan(found.low)


def test_both_tests_have_to_agree_where_there_are_enough_pairs_for_all_rows_of_a_table():
    values = np.random.default_rng(2).normal(1, 1, 10)
    found = difference(values[:5], values[5:])
    assert (found.decided_by(6), found.p(6)) == (st.BOTH, max(found.p_sign_flips, found.p_student))
    assert (found.decided_by(66), found.p(66)) == (st.STUDENT, found.p_student)
    assert difference(values[:3]).decided_by(1) == st.STUDENT
    assert [st.pairs_needed(rows) for rows in (1, 6, 66)] == [8, 10, 14]


def test_one_wild_seed_fools_neither_test():
    """Nine small gains are significant; with a tenth seed that loses much, nothing is."""
    tiny = np.full(9, 0.001) + np.arange(9) * 1e-5
    assert difference(tiny).p(1) < 0.01 and difference(np.append(tiny, -0.5)).p(1) > 0.3


@pytest.mark.parametrize(("seeds", "blocks", "alpha"), [(5, 1, 0.05), (2, 1, 0.05 / 66), (3, 4, 0.01)])
def test_the_detectable_effect_is_found_four_times_in_five(seeds: int, blocks: int, alpha: float):
    """Also with few seeds and a corrected level, where solvers are known to give up."""
    effect = st.detectable(seeds, blocks, alpha)
    draws = effect + np.random.default_rng(0).normal(size=(20_000, blocks, seeds))
    error = np.sqrt(draws.var(axis=2, ddof=1).mean(axis=1) / (blocks * seeds))
    p = 2 * stats.t.sf(np.abs(draws.mean(axis=(1, 2))) / error, blocks * (seeds - 1))
    assert (p < alpha).mean() == pytest.approx(0.8, abs=0.01)
    assert st.detectable(1) == math.inf


def test_the_front_is_what_no_point_dominates_and_what_was_not_measured_is_not_on_it():
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    points[7] = 9, np.nan
    known = [not np.isnan(p).any() and not any((q >= p).all() and (q > p).any() for q in points) for p in points]
    assert front(points).tolist() == known


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
    found = st.delong(nok, a, b)
    assert (found[0], found[2]) == pytest.approx(by_definition(nok, a, b))
    assert found[0] == pytest.approx(roc_auc_score(nok, a) - roc_auc_score(nok, b))
    assert math.isnan(st.delong(nok, a, 2 * a)[2]) and st.delong(nok, a, 2 * a)[0] == 0


def test_no_difference_is_claimed_in_more_than_a_twentieth_of_test_sets():
    generator = np.random.default_rng(0)
    claimed = sum(st.delong(*drawn(generator))[2] < 0.05 for _ in range(300))
    assert 0.02 < claimed / 300 < 0.08


@pytest.mark.parametrize(("ok", "gaps"), [(40, (1.2, 0.9)), (15, (3.5, 3.0))])
def test_intervals_over_images_hold_what_they_promise_where_no_image_is_confused_too(
    ok: int, gaps: tuple[float, float]
):
    """The area of a run, and the difference of two; 300 simulated test sets."""
    generator, nok, held, apart = np.random.default_rng(2), np.arange(ok + 15) < 15, 0, 0
    one, other = (stats.norm.cdf(gap / math.sqrt(2)) for gap in gaps)
    for _ in range(300):
        shared = generator.normal(size=ok + 15)
        a, b = ((shared + generator.normal(size=ok + 15)) / math.sqrt(2) + gap * nok for gap in gaps)
        area, interval = st.auroc_interval(nok, a), st.delong(nok, a, b)[1]
        held += area.low <= one <= area.high
        apart += interval.low <= one - other <= interval.high
    assert held / 300 > 0.92 and apart / 300 > 0.92
    perfect = st.delong(nok, 1.0 * nok, 2.0 * nok)
    assert perfect[0] == 0 and math.isnan(perfect[2]) and perfect[1].low < -0.05 and perfect[1].high > 0.05
    assert st.auroc_interval(np.array([True, True, False]), np.array([1.0, 2.0, 0.0])).high == 1


# Demšar 2006, table 6: AUC of C4.5 and three variants on 14 data sets
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_the_papers_example():
    ranks = st.rank(["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"], DEMSAR)
    assert ranks.settings == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert ranks.mean == pytest.approx((1.964, 2.000, 2.893, 3.143), abs=1e-3)
    assert ranks.critical == pytest.approx(1.25, abs=0.01)
    friedman = 12 * 14 / 20 * (sum(r * r for r in ranks.mean) - 25)
    assert friedman == pytest.approx(9.28, abs=0.01)
    assert ranks.p < stats.chi2.sf(friedman, 3)  # the paper does not correct for ties, scipy does
    assert ranks.alike == [(0, 3)]  # Nemenyi's test cannot tell any apart there


def test_bars_are_as_long_as_they_can_be_and_none_lies_in_another():
    noise = np.random.default_rng(0).normal(0, 0.3, (40, 5))
    ranks = st.rank(list("abcde"), np.array([5.0, 4.9, 3.0, 2.9, 0.0]) + noise)
    assert ranks.settings == tuple("abcde") and ranks.alike == [(0, 1), (2, 3)]
    assert "40 data sets" in ranks.in_words()


def test_equal_settings_and_too_few_of_them():
    assert st.rank(list("abc"), np.ones((6, 3))).p == 1
    assert st.rank(list("abc"), np.ones((4, 3))) is None
    assert st.rank(list("ab"), np.ones((9, 2))) is None
