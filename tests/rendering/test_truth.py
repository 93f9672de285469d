"""Which found product is which drawn one, and masks cut like their products."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.registration.cropping import Found
from anomalib_lite.rendering.sheet import Placed
from anomalib_lite.rendering.truth import crop_mask, match_truth, overlap

SIDE = 100


def found(x: float, y: float) -> Found:
    return Found(np.array([[1.0, 0, x], [0, 1, y]]), (SIDE, SIDE), 0.9)


def placed(x: float, y: float) -> Placed:
    return Placed(found(x, y).corners, 0.0, None, None)


@pytest.mark.parametrize(
    ("shift", "expected"), [((0, 0), 1.0), ((50, 0), 1 / 3), ((20, 50), 4000 / 16000), ((100, 0), 0.0), ((300, 0), 0.0)]
)
def test_overlap_of_squares(shift, expected):
    assert overlap(found(0, 0).corners, found(*shift).corners) == pytest.approx(expected, abs=1e-5)


def test_overlap_of_a_square_and_itself_turned_by_45_degrees():
    """Their intersection is the regular octagon with the square's inscribed circle."""
    square = found(-50, -50).corners
    turned = square @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    octagon = 2 * (np.sqrt(2) - 1) * SIDE**2
    assert overlap(square, turned) == pytest.approx(octagon / (2 * SIDE**2 - octagon), abs=1e-4)


def test_products_are_told_by_their_place_whatever_their_order():
    drawn = [placed(0, 0), placed(120, 0), placed(0, 120)]
    assert match_truth([found(3, 118), found(-4, 2), found(121, 5)], drawn) == [drawn[2], drawn[0], drawn[1]]


def test_what_shows_no_product_or_one_that_is_taken_stays_without():
    drawn = [placed(0, 0), placed(120, 0)]
    assert match_truth([found(60, 0), found(20, 0), found(2, 0)], drawn) == [None, None, drawn[0]]
    assert match_truth([], drawn) == [] and match_truth([found(0, 0)], []) == [None]


def test_a_mask_is_cut_where_at_least_half_a_pixel_is_marked():
    panel = np.zeros((300, 300), bool)
    panel[60:80, 70:90] = True
    assert np.argwhere(crop_mask(panel, found(50, 40)))[[0, -1]].tolist() == [[20, 20], [39, 39]]
    assert crop_mask(panel, found(50.2, 40.2)).sum() == 400  # even in the corners, 0.8 * 0.8 of a pixel


def test_a_mark_finer_than_a_pixel_is_kept():
    panel = np.zeros((300, 300), bool)
    panel[60, 70] = True
    assert crop_mask(panel, found(50.45, 40.45)).sum() == 4
    assert not crop_mask(np.zeros_like(panel), found(0, 0)).any()
