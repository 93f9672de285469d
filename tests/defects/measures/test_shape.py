from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.defects.measures.shape import length_and_width, pieces


@pytest.mark.parametrize(("length", "width"), [(60, 1), (60, 3), (80, 6), (50, 9)])
def test_a_straight_stroke(length, width):
    mask = np.zeros((40, 100), bool)
    mask[10 : 10 + width, 5 : 5 + length] = True
    found_length, found_width = length_and_width(mask)
    assert found_length == pytest.approx(length, abs=1.5) and found_width == pytest.approx(width, rel=0.04)


def test_a_diagonal_stroke():
    rows, columns = np.mgrid[:120, :120]
    across, along = (columns - rows) / 2**0.5, (columns + rows - 120) / 2**0.5
    length, width = length_and_width((abs(across) <= 3) & (abs(along) <= 40))
    assert length == pytest.approx(80, rel=0.05) and width == pytest.approx(6, rel=0.08)


def test_a_stroke_up_to_the_border():
    mask = np.zeros((20, 50), bool)
    mask[17:20] = True
    length, width = length_and_width(mask)
    assert length == pytest.approx(50, abs=1.5) and width == pytest.approx(3, rel=0.04)


def test_a_bent_stroke_is_measured_along():
    mask = np.zeros((100, 100), bool)
    mask[20:23, 20:80] = mask[20:80, 20:23] = True
    assert length_and_width(mask)[0] == pytest.approx(117, rel=0.04)


def test_a_disc():
    rows, columns = np.mgrid[:60, :60]
    length, width = length_and_width((rows - 30) ** 2 + (columns - 30) ** 2 <= 20**2)
    assert length == pytest.approx(40, rel=0.06) and width == pytest.approx(np.pi / 4 * 40, rel=0.06)


def test_pieces_add_up():
    mask = np.zeros((20, 60), bool)
    mask[10, 5:25] = mask[10, 35:55] = True
    assert pieces(mask) == 2 and length_and_width(mask)[0] == pytest.approx(40, abs=2)


def test_one_pixel_and_everything():
    one = np.zeros((5, 5), bool)
    one[2, 2] = True
    assert length_and_width(one) == (1.0, 1.0)
    length, width = length_and_width(np.ones((30, 30), bool))
    assert 30 <= length <= 45 and length * width == pytest.approx(900)
