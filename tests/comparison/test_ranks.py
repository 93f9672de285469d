"""Average ranks over data sets: Demšar's own example, and where settings are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.comparison.figures import ranks_figure
from anomalib_lite.comparison.page import write_all
from anomalib_lite.comparison.ranks import rank
from anomalib_lite.comparison.study import Settings, compare
from anomalib_lite.report import ink
from tests.comparison.made import make_table

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
    ranks = rank(["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"], DEMSAR)
    assert dict(zip(ranks.settings, ranks.mean, strict=True)) == pytest.approx(
        {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}, abs=1e-3
    )
    assert ranks.critical == pytest.approx(1.25, abs=0.01)
    friedman = 12 * 14 / 20 * (sum(r * r for r in ranks.mean) - 25)
    assert friedman == pytest.approx(9.28, abs=0.01)
    assert ranks.p < stats.chi2.sf(friedman, 3)  # the paper does not correct for ties, scipy does
    assert ranks.alike == [(0, 3)]  # Nemenyi's test cannot tell any apart there


def test_bars_are_as_long_as_they_can_be_and_none_lies_in_another():
    rng = np.random.default_rng(0)
    values = np.array([5.0, 4.9, 3.0, 2.9, 0.0]) + rng.normal(0, 0.3, (40, 5))
    ranks = rank(list("abcde"), values)
    assert ranks.settings == tuple("abcde")
    assert ranks.alike == [(0, 1), (2, 3)]
    assert "40 data sets" in ranks.in_words()


def test_equal_settings_and_too_few_of_them():
    assert rank(list("abc"), np.ones((6, 3))).p == 1
    assert rank(list("abc"), np.ones((4, 3))) is None
    assert rank(list("ab"), np.ones((9, 2))) is None


def test_a_comparison_over_enough_data_sets_draws_them(tmp_path):
    gain = {"padim": 0.0, "stfpm": 0.1, "fusion": 0.11}
    noise = np.random.default_rng(1)
    blocks = [f"set{k}" for k in range(6)]
    table = make_table({"detector": list(gain)}, blocks, 2, lambda b, s, d: 0.7 + gain[d] + 0.02 * noise.normal())
    found = compare(table, Settings(("aupro",), resamples=100))
    write_all(found, tmp_path)
    assert "Ranks over data sets" in (tmp_path / "compare.html").read_text()
    assert "Mean ranks over 6 data sets" in (tmp_path / "compare.md").read_text()
    ink.save_png(ranks_figure(found.studies[0]), tmp_path / "ranks.png")
