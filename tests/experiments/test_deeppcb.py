"""DeepPCB: types by what a piece touches, boxes around what differs; boxes' overlaps, matches and average precision."""

from typing import Any

import numpy as np
import pytest

from anomalib_lite.data.deeppcb import Box
from anomalib_lite.errors import UserError
from experiments.deeppcb.boards import BoardRules, find_defects
from experiments.deeppcb.boxes import BoxMetrics, match_boxes, overlaps

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


def box(x: float, y: float = 0, side: float = 10, kind: str = "open", score: float = 1.0) -> Box:
    return Box(x, y, x + side, y + side, kind, score)


def random_boxes(rng: np.random.Generator, count: int) -> list[Box]:
    corners, sides = rng.uniform(0, 40, (count, 2)), rng.uniform(5, 30, (count, 2))
    kinds, scores = rng.choice(["open", "short"], count), rng.random(count)
    rows = zip(corners, corners + sides, kinds, scores, strict=True)
    return [Box(*low, *high, str(kind), float(score)) for low, high, kind, score in rows]


def test_overlaps_of_known_boxes():
    a = box(0)
    found = overlaps([a], [a, box(5), box(10), box(30), Box(0, 0, 10, 5)])
    assert np.allclose(found, [[1, 1 / 3, 0, 0, 0.5]])
    assert overlaps([], [a]).shape == (0, 1) and overlaps([a], []).shape == (1, 0)
    assert overlaps([box(3, side=0)], [box(3, side=0)]).tolist() == [[0]], "a box of no size overlaps nothing"


@pytest.mark.parametrize(
    ("found", "true", "rule", "matches"),
    [
        ([Box(0, 0, 10, 5, "open")], [box(0)], {"min_iou": 0.5}, []),
        ([Box(0, 0, 10, 5, "open")], [box(0)], {"min_iou": 0.49}, [(0, 0)]),
        ([box(1)], [box(0), box(2)], {}, [(0, 0)]),
        ([box(1, score=0.4), box(2, score=0.9), box(0, score=0.1)], [box(0)], {}, [(1, 0)]),
        ([box(0, kind="short", score=0.9), box(1, score=0.5)], [box(0)], {"by_class": True}, [(1, 0)]),
    ],
    ids=["not above the limit", "above it", "one finds one", "the surest finds it", "a wrong class stands aside"],
)
def test_matches(found: list[Box], true: list[Box], rule: dict[str, Any], matches: list[tuple[int, int]]):
    assert match_boxes(found, true, **rule) == matches


def measured(*images: tuple[list[Box], list[Box]]) -> BoxMetrics:
    metrics = BoxMetrics()
    for found, true in images:
        metrics.update(found, true)
    return metrics


def test_a_true_box_is_found_once_by_the_surest():
    metrics = measured(([box(1, score=0.4), box(2, score=0.9), box(0, score=0.1)], [box(0)]))
    values = metrics.compute().values
    assert values["box_precision"] == pytest.approx(1 / 3) and values["box_recall"] == 1
    assert values["box_f1"] == pytest.approx(0.5) and values["box_ap"] == 1


def test_the_class_must_agree_only_where_it_counts():
    metrics = measured(([box(0, kind="short"), box(50)], [box(0, kind="open"), box(50)]))
    values, by_class = metrics.compute().values, metrics.compute_by_class()
    assert values["box_f1"] == 1 and values["typed_f1"] == 0.5
    assert metrics.confusion() == {("open", "short"): 1, ("open", "open"): 1}
    assert list(by_class) == ["open"] and by_class["open"].values["recall"] == 0.5


def test_confusion_counts_every_box_once():
    rng = np.random.default_rng(0)
    confusion = measured(*((random_boxes(rng, 6), random_boxes(rng, 4)) for _ in range(5))).confusion()
    assert sum(n for (true, _), n in confusion.items() if true) == 20
    assert sum(n for (_, found), n in confusion.items() if found) == 30


@pytest.mark.parametrize("kind", ["open", "short"])
def test_average_precision_as_a_loop_over_thresholds(kind: str):
    rng = np.random.default_rng(1)
    images = [(random_boxes(rng, 8), random_boxes(rng, 5)) for _ in range(12)]
    points = [(0.0, 0.0)]  # recall, precision
    for limit in sorted((f.score for found, _ in images for f in found), reverse=True):
        hits = count = total = 0
        for found, true in images:
            kept = [f for f in found if f.kind == kind and f.score >= limit]
            wanted = [t for t in true if t.kind == kind]
            hits, count, total = hits + len(match_boxes(kept, wanted)), count + len(kept), total + len(wanted)
        points.append((hits / total, hits / count if count else 0.0))
    area = sum((points[i][0] - points[i - 1][0]) * max(p for _, p in points[i:]) for i in range(1, len(points)))
    assert measured(*images).compute_by_class()[kind].values["ap"] == pytest.approx(area)


@pytest.mark.parametrize("order", [1, -1])
def test_boxes_of_equal_score_have_no_order(order: int):
    assert measured(([box(0), box(50)][::order], [box(0)])).compute().values["box_ap"] == 0.5


def test_what_cannot_be_had_has_a_reason():
    result = measured(([], [box(0)])).compute()
    assert result.values["box_precision"] is None and "box_precision" in result.missing
    assert result.values["box_recall"] == 0 and result.values["box_f1"] == 0
    assert BoxMetrics().compute().values["map"] is None
