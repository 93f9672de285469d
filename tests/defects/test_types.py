from __future__ import annotations

import pytest

from anomalib_lite.defects.types import classify, read_types
from anomalib_lite.errors import UserError

AREAS = ("background", "inside", "edges", "text")
CONFIG = {
    "text": {"areas": {"text": 1.0}},
    "shape": {"areas": {"edges": 1.0, "inside": 0.5}, "colour": "#d1571b"},
    "colour": {"areas": {"inside": 1.0}, "evidence": {"off_colour": {"zero": 1.0, "full": 3.0, "points": 2.0}}},
}


@pytest.mark.parametrize(
    ("shares", "measures", "wanted"),
    [
        ({"text": 1.0}, {}, "text"),
        ({"edges": 0.6, "inside": 0.4}, {}, "shape"),
        ({"edges": 0.1, "inside": 0.9}, {}, "colour"),
        ({"text": 1.0}, {"off_colour": 3.0}, "colour"),
        ({"text": 1.0}, {"off_colour": 1.5}, "text"),
        ({"edges": 1.0}, {"off_colour": None}, "shape"),
        ({}, {}, "text"),  # a draw: the first
    ],
)
def test_most_points_win(shares, measures, wanted):
    assert classify(read_types(CONFIG, AREAS), shares, measures)[0].name == wanted


def test_confidence_falls_where_areas_are_mixed():
    rules = read_types(CONFIG, AREAS)
    sure = classify(rules, {"text": 1.0}, {})[1]
    mixed = classify(rules, {"text": 0.55, "edges": 0.45}, {})[1]
    assert 0.9 < sure < 1 and 0.3 < mixed < 0.7


def test_falling_evidence():
    config = {
        "a": {"areas": {"edges": 0.5}},
        "b": {"evidence": {"drawing_likeness": {"zero": 0.6, "full": 0.2, "points": 1}}},
    }
    rules = read_types(config, AREAS)
    assert classify(rules, {"edges": 1.0}, {"drawing_likeness": 0.7})[0].name == "a"
    assert classify(rules, {"edges": 1.0}, {"drawing_likeness": -0.3})[0].name == "b"


def test_a_users_area_and_type():
    config = CONFIG | {"logo": {"title": "damaged logo", "areas": {"logo": 2.0}}}
    rules = read_types(config, (*AREAS, "logo"))
    assert classify(rules, {"logo": 0.6, "edges": 0.4}, {})[0].title == "damaged logo"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"areas": {"logo": 1}}, "no area logo. There are: background, inside, edges, text"),
        ({"evidence": {"weight": {"zero": 0, "full": 1, "points": 1}}}, "no measure weight. There are: area_px"),
        ({"evidence": {"area_px": {"zero": 0, "full": 1}}}, "three numbers"),
        ({"evidence": {"area_px": {"zero": 1, "full": 1, "points": 1}}}, "must differ"),
        ({"area": {}}, "no key area"),
        ({"colour": "red"}, "'#2f6fb0'"),
    ],
)
def test_what_is_wrong_is_named(entry, words):
    with pytest.raises(UserError, match=words):
        read_types({"mine": entry}, AREAS)


def test_no_types_at_all():
    with pytest.raises(UserError, match="empty"):
        read_types({}, AREAS)
