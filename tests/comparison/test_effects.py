"""Marginal effects and interactions against least squares and hand calculation."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anomalib_lite.comparison.study import compare, compare_pairs, interactions, marginal_effects
from anomalib_lite.comparison.table import RunTable
from anomalib_lite.comparison.words import cautions, findings
from tests.comparison.made import make_table, make_view, without

FACTORS = {"augment": ["none", "flips"], "lr": ["0.1", "0.4", "1"]}
RANDOM = np.random.default_rng(0)


def noisy(blocks: str, seeds: int) -> RunTable:
    noise = np.random.default_rng(0)
    return make_table(
        FACTORS,
        [*blocks],
        seeds,
        lambda b, s, augment, lr: (augment == "flips") * 0.3 + float(lr) + noise.normal(0, 0.1),
    )


def effects(table: RunTable) -> pd.DataFrame:
    return marginal_effects(make_view(table), {}, RANDOM)


def test_effects_of_a_whole_design_are_those_of_least_squares():
    table = noisy("ab", 3)
    found, rows = effects(table), table.rows
    dummies = pd.get_dummies(rows[["data", "augment", "lr"]].assign(augment=rows.augment == "flips"), drop_first=True)
    matrix = np.column_stack([np.ones(len(rows)), dummies.to_numpy(float)])
    known = dict(zip(["1", *dummies], np.linalg.lstsq(matrix, rows.aupro.to_numpy(), rcond=None)[0], strict=True))
    assert found.factor.tolist() == ["lr"] * 3 + ["augment"] * 2  # the stronger one first
    assert found.level.tolist() == ["0.1", "0.4", "1", "none", "flips"]
    expected = [np.nan, known["lr_0.4"], known["lr_1"], np.nan, known["augment"]]
    assert found.difference.tolist() == pytest.approx(expected, nan_ok=True)
    assert found["mean"].tolist()[3:] == pytest.approx(rows.groupby("augment").aupro.mean()[["none", "flips"]])


def test_seeds_are_what_an_effect_is_tested_over():
    """Differences of one seed are averaged over the other factor first: three numbers, not nine."""
    table = noisy("a", 3)
    wide = table.rows.pivot_table("aupro", ["seed", "lr"], "augment")
    by_seed = (wide["flips"] - wide["none"]).groupby("seed").mean()
    assert effects(table).p_student.iloc[-1] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)


def test_levels_are_compared_only_where_all_else_is_equal():
    """flips was run with the best rate alone: its mean is higher, its effect is none."""
    table = make_table(FACTORS, ["a"], 2, lambda block, seed, augment, lr: float(lr))
    found = effects(without(table, (table.rows.augment == "flips") & (table.rows.lr != "1")))
    flips = found[found.level == "flips"].iloc[0]
    assert (flips.difference, flips.contexts) == (0, 2)


def test_a_reference_is_what_levels_are_compared_with():
    study = compare(noisy("a", 2), reference="augment=flips lr=1", resamples=100).studies[0]
    assert dict(zip(study.effects.factor, study.effects.baseline, strict=True)) == {"lr": "1", "augment": "flips"}
    assert set(study.pairs.less) == {"augment=flips lr=1"}


def test_an_interaction_has_the_means_of_its_combinations():
    rows = noisy("ab", 3).rows
    own = rows[(rows.augment == "flips") & (rows.lr == "0.4")]
    found = {tuple(one.columns[:2]): one for one in interactions(make_view(noisy("ab", 3)))}
    assert set(found) == {("augment", "lr"), ("augment", "data"), ("lr", "data")}
    cell = found["augment", "lr"].query("augment == 'flips' and lr == '0.4'").iloc[0]
    assert (cell["mean"], cell.runs) == (pytest.approx(own.groupby("data").aupro.mean().mean()), 6)
    (alone,) = interactions(make_view(noisy("a", 3)))
    cell = alone.query("augment == 'flips' and lr == '0.4'").iloc[0]
    known = stats.ttest_1samp(own[own.data == "a"].aupro, 0).confidence_interval()
    assert (cell.low, cell.high) == pytest.approx((known.low, known.high))


def test_an_interaction_averages_only_where_all_combinations_were_run():
    table = make_table(dict.fromkeys("abc", "01"), ["x"], 1, lambda _, seed, a, b, c: 10.0 * int(c) + int(a) * int(b))
    view = make_view(without(table, (table.rows.c == "1") & (table.rows.a == "0")))
    found = next(i for i in interactions(view) if list(i.columns[:2]) == ["a", "b"])
    assert not found.attrs["whole"]
    assert found[["a", "b", "mean"]].to_numpy().tolist() == [["0", "0", 0], ["0", "1", 0], ["1", "0", 0], ["1", "1", 1]]


# Simulated experiments: what is there is found, what is not there is not claimed.
VIEWS = {"augment": ["none", "flips"], "tta": ["none", "flips"]}
EXPERIMENTS = 200


def experiment(number: int, seeds: int, effect: float = 0.0) -> RunTable:
    """Data sets differ by far more than seeds do; one has thrice the other's spread."""
    noise = np.random.default_rng(number)
    spread = {"bottle": 0.01, "panels": 0.03}

    def value(block: str, seed: int, augment: str, tta: str) -> float:
        gain = noise.normal() + effect * (augment == "flips" and tta == "flips")
        return 0.6 + 0.3 * (block == "bottle") + spread[block] * gain

    return make_table(VIEWS, list(spread), seeds, value)


def null_results(seeds: int):
    """Experiments without any effect: all that changes is the noise."""
    for number in range(EXPERIMENTS):
        yield make_view(experiment(number, seeds))


SLOWLY = [pytest.param(seeds, EXPERIMENTS, marks=pytest.mark.slow) for seeds in (3, 4, 5, 10)]


@pytest.mark.parametrize(("seeds", "experiments"), [(5, 60), *SLOWLY])
def test_neither_pairs_nor_effects_are_claimed_where_there_are_none(seeds: int, experiments: int):
    generator = np.random.default_rng(0)
    pairs = effects = 0
    for view in islice(null_results(seeds), experiments):
        pairs += compare_pairs(view, None, 100, generator).significant.any()
        effects += (marginal_effects(view, {}, generator).p_holm < 0.05).any()
    assert max(pairs, effects) <= 0.05 * experiments + 4  # two standard deviations of chance, or less


def test_an_effect_of_two_standard_deviations_is_found():
    """With ten seeds: the planted setting is called better than each of the others."""
    generator, found = np.random.default_rng(0), 0
    for number in range(20):
        pairs = compare_pairs(make_view(experiment(number, 10, effect=2.0)), None, 100, generator)
        found += pairs.verdict[pairs.setting == "augment=flips tta=flips"].tolist() == ["better"] * 3
    assert found >= 18


def test_three_seeds_of_one_data_set_say_what_they_rest_on():
    table = make_table(VIEWS, ["panels"], 3, lambda _, seed, a, tta: seed + 5.0 * (tta == "flips") + len(a) ** seed)
    study = compare(table, resamples=100).studies[0]
    words = " ".join(findings(study) + cautions(study))
    assert "With 3 pairs of runs, no test without assumptions" in words and "p = 0.25" in words and "10 pairs" in words
    assert "missed in more than one case out of five" in words


def test_one_seed_says_nothing_about_chance():
    table = make_table(VIEWS, ["panels"], 1, lambda block, seed, augment, tta: float(tta == "flips"))
    study = compare(table, resamples=100).studies[0]
    assert "nothing can be said about chance" in cautions(study)[0]
    assert set(study.pairs.verdict) == {"one seed: not tested"}


def test_a_lone_lucky_seed_is_not_the_best():
    table = make_table({"tta": VIEWS["tta"]}, ["panels"], 3, lambda _, seed, tta: seed + 100.0 * (tta == "flips"))
    lone = without(table, (table.rows.tta == "flips") & (table.rows.seed > 0))
    study = compare(lone, resamples=100).studies[0]
    assert study.best.setting == "tta=none"
    assert "1 of 2 settings have a single seed" in " ".join(findings(study))


def test_better_is_what_is_better_at_equal_seeds():
    """A sixth seed, which only one setting has, raises its mean above that of the other, which wins in each pair."""

    def value(_: str, seed: int, tta: str) -> float:
        return 99.0 if seed == 5 else seed + (tta == "none") * (1 + seed / 50)

    table = make_table({"tta": VIEWS["tta"]}, ["a"], 6, value)
    view = make_view(without(table, (table.rows.tta == "none") & (table.rows.seed == 5)))
    (pair,) = compare_pairs(view, "tta=flips", 100, RANDOM).itertuples()
    assert (pair.setting, pair.verdict) == ("tta=none", "better, if differences are normal")


def test_the_lowest_cost_comes_first():
    table = make_table({"tta": [*"abc"]}, ["x"], 2, lambda _, seed, tta: 0.0)
    table.rows["ms_per_image"] = [5.0, 5.0, 3.0, 3.0, 9.0, 9.0]
    study = compare(table, ["ms_per_image"], resamples=100).studies[0]
    assert study.ranked["setting"].tolist() == ["tta=b", "tta=a", "tta=c"] and study.best.setting == "tta=b"
