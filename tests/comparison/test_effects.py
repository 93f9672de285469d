"""Marginal effects and interactions against least squares and hand calculation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from anomalib_lite.comparison.design import interactions, marginal_effects
from anomalib_lite.comparison.study import Settings, compare
from tests.comparison.made import make_table, make_view

FACTORS = {"augment": ["none", "flips"], "lr": ["0.1", "0.4", "1"]}
RANDOM = np.random.default_rng(0)


def noisy(seed: int = 0):
    noise = np.random.default_rng(seed)
    return lambda block, s, augment, lr: float((augment == "flips") * 0.3 + float(lr) + noise.normal(0, 0.1))


def test_effects_of_a_whole_design_are_those_of_least_squares():
    table = make_table(FACTORS, ["a", "b"], 3, noisy())
    design, view = make_view(table)
    found = marginal_effects(design, view, "aupro", {}, RANDOM)
    rows = table.rows
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
    table = make_table(FACTORS, ["a"], 3, noisy())
    design, view = make_view(table)
    wide = table.rows.pivot_table("aupro", ["seed", "lr"], "augment")
    by_seed = (wide["flips"] - wide["none"]).groupby("seed").mean()
    found = marginal_effects(design, view, "aupro", {}, RANDOM)
    assert found.p_student.iloc[-1] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)


def test_levels_are_compared_only_where_all_else_is_equal():
    """flips was run with the best rate alone: its mean is higher, its effect is none."""
    table = make_table(FACTORS, ["a"], 2, lambda block, seed, augment, lr: float(lr))
    table.rows.drop(table.rows.index[(table.rows.augment == "flips") & (table.rows.lr != "1")], inplace=True)
    design, view = make_view(table)
    found = marginal_effects(design, view, "aupro", {}, RANDOM)
    flips = found[found.level == "flips"].iloc[0]
    assert (flips.difference, flips.contexts) == (0, 2)


def test_a_reference_is_what_levels_are_compared_with():
    table = make_table(FACTORS, ["a"], 2, noisy())
    study = compare(table, Settings(reference="augment=flips lr=1", resamples=100)).studies[0]
    assert dict(zip(study.effects.factor, study.effects.baseline, strict=True)) == {"lr": "1", "augment": "flips"}
    assert set(study.pairs.less) == {"augment=flips lr=1"}


def test_an_interaction_has_the_means_of_its_combinations():
    table = make_table(FACTORS, ["a", "b"], 3, noisy())
    found = {tuple(one.columns[:2]): one for one in interactions(*make_view(table), "aupro")}
    assert set(found) == {("augment", "lr"), ("augment", "data"), ("lr", "data")}
    own = table.rows[(table.rows.augment == "flips") & (table.rows.lr == "0.4")]
    cell = found["augment", "lr"].query("augment == 'flips' and lr == '0.4'").iloc[0]
    assert (cell["mean"], cell.runs) == (pytest.approx(own.groupby("data").aupro.mean().mean()), 6)
    low, high = stats.ttest_1samp(own[own.data == "a"].aupro, 0).confidence_interval()
    alone = interactions(*make_view(make_table(FACTORS, ["a"], 3, noisy())), "aupro")[0]
    cell = alone.query("augment == 'flips' and lr == '0.4'").iloc[0]
    assert (cell.low, cell.high) == pytest.approx((low, high))


def test_an_interaction_averages_only_where_all_combinations_were_run():
    factors = {"a": ["0", "1"], "b": ["0", "1"], "c": ["0", "1"]}
    table = make_table(factors, ["x"], 1, lambda block, seed, a, b, c: 10.0 * int(c) + int(a) * int(b))
    table.rows.drop(table.rows.index[(table.rows.c == "1") & (table.rows.a == "0")], inplace=True)
    found = next(i for i in interactions(*make_view(table), "aupro") if list(i.columns[:2]) == ["a", "b"])
    assert not found.attrs["whole"]
    assert found[["a", "b", "mean"]].to_numpy().tolist() == [
        ["0", "0", 0], ["0", "1", 0], ["1", "0", 0], ["1", "1", 1],
    ]  # fmt: skip
