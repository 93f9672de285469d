import numpy as np
import pytest

from anomalib_lite.defects.measures import edge_displacement, length_and_width, outline, pieces


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
