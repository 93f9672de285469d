"""The front against its definition, point by point."""

from __future__ import annotations

import numpy as np

from anomalib_lite.comparison.pareto import front


def test_the_front_is_what_no_point_dominates():
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)
    known = [not any((q >= p).all() and (q > p).any() for q in points) for p in points]
    assert front(points).tolist() == known


def test_what_was_not_measured_is_not_on_the_front_and_beats_nobody():
    points = np.array([[1.0, 1.0], [9.0, np.nan], [0.5, 0.5], [1.0, 1.0]])
    assert front(points).tolist() == [True, False, False, True]
