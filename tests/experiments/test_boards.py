"""Types by what a piece touches, boxes around what differs: drawn boards with known answers."""

import numpy as np
import pytest

from anomalib_lite.errors import UserError
from experiments.deeppcb.boards import BoardRules, find_defects

RULES = BoardRules(margin=0)
BOARD = np.ones((100, 120), np.float32)  # grey; copper is dark: two tracks, left to right
BOARD[20:40] = BOARD[60:80] = 0
CASES = {
    "open": (slice(20, 40), slice(50, 58), 1.0),
    "mousebite": (slice(20, 28), slice(50, 58), 1.0),
    "pin-hole": (slice(27, 33), slice(50, 58), 1.0),
    "short": (slice(40, 60), slice(50, 55), 0.0),
    "spur": (slice(40, 48), slice(50, 55), 0.0),
    "copper": (slice(46, 54), slice(50, 58), 0.0),
}


def inspect(*changes: tuple[slice, slice, float], rules: BoardRules = RULES):
    image, template = BOARD.copy(), BOARD
    for rows, columns, value in changes:
        image[rows, columns] = value
    if rules.copper == "bright":
        image, template = 1 - image, 1 - template
    return find_defects(np.abs(image - template), 0.5, image, template, rules)


@pytest.mark.parametrize("copper", ["dark", "bright"])
@pytest.mark.parametrize("kind", CASES)
def test_each_type_and_its_exact_box(kind: str, copper: str):
    (found,) = inspect(CASES[kind], rules=BoardRules(copper=copper, margin=0))
    rows, columns, _ = CASES[kind]
    assert found.kind == kind
    assert (found.x0, found.y0, found.x1, found.y1) == (columns.start, rows.start, columns.stop, rows.stop)


def test_an_open_of_scratches_is_one_open():
    (found,) = inspect(*((slice(20, 40), slice(x, x + 3), 1.0) for x in (50, 56, 62)))
    assert found.kind == "open" and (found.x0, found.x1) == (50, 65)


def test_far_pieces_are_several_defects_surest_first():
    found = inspect(CASES["pin-hole"], (slice(60, 80), slice(90, 100), 1.0), (slice(0, 4), slice(0, 4), 0.0))
    assert [box.kind for box in found] == ["open", "pin-hole", "copper"]
    assert found[0].score == pytest.approx(200) and found[1].score == pytest.approx(48)


def test_the_base_that_the_map_left_out_belongs_to_the_box():
    image = BOARD.copy()
    image[40:50, 50:55] = 0
    heatmap = np.abs(image - BOARD)
    heatmap[40:43] = 0  # within the tolerance of the track's edge
    (found,) = find_defects(heatmap, 0.5, image, BOARD, RULES)
    assert (found.y0, found.y1, found.kind) == (40, 50, "spur")


def test_boxes_get_a_margin_and_stay_within_the_picture():
    (found,) = inspect((slice(0, 5), slice(0, 5), 0.0), rules=BoardRules(margin=10))
    assert (found.x0, found.y0, found.x1, found.y1) == (0, 0, 15, 15)


@pytest.mark.parametrize("height", [0, 1])
def test_a_map_without_a_difference_of_copper_gives_nothing(height: float):
    heatmap = np.zeros((100, 120))
    heatmap[10:20, 10:20] = height
    assert find_defects(heatmap, 0.5, BOARD, BOARD, RULES) == []


def test_copper_is_dark_or_bright():
    with pytest.raises(UserError, match="dark or bright, not 'red'"):
        BoardRules(copper="red")
