from __future__ import annotations

import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.sweeps.hyperband import Hyperband, read_hyperband


def test_rungs_grow_from_the_first_or_shrink_from_the_last():
    assert read_hyperband(None) is None
    assert read_hyperband({"type": "hyperband", "min_iter": 3}).rungs[:4] == (3, 9, 27, 81)
    assert read_hyperband({"type": "hyperband", "min_iter": 2, "eta": 2}).rungs[:3] == (2, 4, 8)
    assert read_hyperband({"type": "hyperband", "max_iter": 27, "s": 2}).rungs == (3, 9)
    assert read_hyperband({"type": "hyperband", "max_iter": 27, "s": 9}).rungs == (1, 3, 9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "envelope"}, "must be hyperband, not 'envelope'"),
        ({"type": "hyperband"}, "needs min_iter, or max_iter and s"),
        ({"type": "hyperband", "min_iter": 1, "eta": 1}, "eta must be above 1"),
        ({"type": "hyperband", "max_iter": 2, "s": 1}, "no epoch to decide at"),
    ],
)
def test_what_is_wrong_is_said(spec: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        read_hyperband(spec)


def test_the_best_third_goes_on():
    rule = Hyperband((2, 6), 3)
    others = [[9.0, float(k)] for k in range(1, 9)]
    assert rule.failed_at([9.0, 2.5], others) is None, "third of nine"
    assert rule.failed_at([9.0, 4.5], others) == 2
    assert rule.failed_at([9.0], others) is None, "not there yet"
    assert rule.failed_at([9.0, 4.5, 0.0], others) == 2, "what comes behind a rung does not undo it"


def test_each_rung_compares_those_that_reached_it():
    rule = Hyperband((1, 3), 2)
    assert rule.failed_at([5.0, 5.0, 1.0], [[1.0], [2.0], [9.0, 9.0, 9.0]]) is None
    assert rule.failed_at([1.0, 1.0, 9.5], [[1.0], [2.0], [9.0, 9.0, 9.0]]) is None, "two: the worse may stay"
    assert rule.failed_at([5.0], []) is None
    assert Hyperband((1,), 3).failed_at([5.0], [[4.0]]) == 1, "two: with eta 3 the better alone"
