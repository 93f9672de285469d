"""Metrics from tie counts against scikit-learn on the same scores."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_lite.metrics.counts import aupro, auroc, average_precision, count_ties, f1_max

DRAWS = {
    "continuous": lambda rng, n: rng.normal(size=n),
    "ties": lambda rng, n: rng.integers(0, 6, n).astype(float),
    "all equal": lambda rng, n: np.zeros(n),
    "negative and skewed": lambda rng, n: -np.exp(5 * rng.normal(size=n)),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_agree_with_scikit_learn(draw):
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.3
    scores = DRAWS[draw](rng, 80)
    values, ok, nok = count_ties(scores, labels)
    assert auroc(ok, nok) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(ok, nok) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best, lowest = f1_max(ok, nok)
    each = [f1_score(labels, scores >= value) for value in values]
    assert best == pytest.approx(max(each), abs=1e-12)
    assert lowest == max(i for i, f1 in enumerate(each) if f1 == pytest.approx(best))


def test_empty_bins_change_nothing():
    ok, nok = np.array([5, 0, 3, 0, 1]), np.array([0, 2, 2, 0, 4])
    wide_ok, wide_nok = np.zeros((2, 15), int)
    wide_ok[1::3], wide_nok[1::3] = ok, nok
    for metric in (auroc, average_precision, lambda a, b: f1_max(a, b)[0], lambda a, b: aupro(a, b, 0.3)):
        assert metric(wide_ok, wide_nok) == pytest.approx(metric(ok, nok))


def test_counts_beyond_32_bits():
    ok, nok = np.array([3, 1]) * 10**12, np.array([1, 3]) * 10**12
    assert auroc(ok, nok) == pytest.approx(0.75)
    assert average_precision(ok, nok) == pytest.approx(0.75 * 0.75 + 0.25 * 0.5)


@pytest.mark.parametrize("limit", [0.1, 0.25, 0.3, 0.999, 1.0])
def test_aupro_limits(limit):
    ok = np.array([1, 1, 1, 1])
    assert aupro(np.append(ok, 0), np.array([0, 0, 0, 0, 7]), limit) == pytest.approx(1)  # all above the OK pixels
    assert aupro(np.append(0, ok), np.array([7, 0, 0, 0, 0]), limit) == pytest.approx(0)  # all below
    assert aupro(ok, ok, limit) == pytest.approx(limit / 2)  # chance: the diagonal
