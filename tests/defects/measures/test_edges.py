from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.defects.measures.edges import edge_displacement, outline


def half_plane(at: int) -> np.ndarray:
    return np.tile(np.arange(80) < at, (60, 1))


@pytest.mark.parametrize("shift", [0, 1, 4, 9, -6])
def test_an_edge_shifted_by_a_known_distance(shift):
    near = np.zeros((60, 80), bool)
    near[20:40, 20:60] = True
    assert edge_displacement(half_plane(40 + shift), half_plane(40), near) == abs(shift)


def test_no_edge_near_is_no_displacement():
    near = np.zeros((60, 80), bool)
    near[:, :10] = True
    assert edge_displacement(half_plane(40), half_plane(44), near) == 0


def test_a_part_far_from_all_others_is_not_displaced_farther_than_it_is_large():
    found, near = half_plane(10), np.zeros((60, 80), bool)
    found[30:34, 70:73] = near[30:34, 70:73] = True
    assert edge_displacement(found, half_plane(10), near) == 5  # the diagonal of 4 x 3
    assert edge_displacement(found, np.zeros_like(found), near) == 5


def test_the_border_of_the_picture_is_no_outline():
    assert not outline(np.ones((9, 9), bool)).any()
    assert outline(half_plane(40)).sum() == 60
