import json

import numpy as np
import pytest

from anomalib_lite.defects.rules import accepts, classify, grade_of, read_settings, severity_of
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import DefectType, Evidence, Severity, Term
from tests.defects.conftest import settings

TYPES = {
    "text": DefectType(areas={"text": 1.0}),
    "shape": DefectType(areas={"edges": 1.0, "inside": 0.5}),
    "colour": DefectType(areas={"inside": 1.0}, evidence={"off_colour": Evidence(1.0, 3.0, 2.0)}),
    "redrawn": DefectType(evidence={"drawing_likeness": Evidence(0.6, 0.2, 1.5)}),
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
        ({"edges": 1.0}, {"drawing_likeness": 0.7}, "shape"),
        ({"edges": 1.0}, {"drawing_likeness": -0.3}, "redrawn"),
        ({}, {}, "text"),  # a draw: the first
    ],
)
def test_most_points_win(shares, measures, wanted):
    assert classify(TYPES, shares, measures)[0] == wanted


def test_confidence_falls_where_areas_are_mixed():
    sure, mixed = (classify(TYPES, shares, {})[1] for shares in ({"text": 1.0}, {"text": 0.55, "edges": 0.45}))
    assert 0.9 < sure < 1 and 0.3 < mixed < 0.7


SEVERITY = Severity(
    {"area_share": Term(0.01, 1.0), "colour_difference": Term(10, 3.0)},
    {"text": {"sharpness_loss": Term(0.5, 1.0)}},
    major_from=0.4, critical_from=0.7, reject={"minor": 3, "major": 1, "critical": 1},
)  # fmt: skip


def test_severity_by_hand_rises_with_each_measure_and_stays_below_one():
    both, alone = {"area_share": 0.01, "colour_difference": 30}, {"area_share": 0.01, "colour_difference": None}
    assert severity_of(SEVERITY, "shape", both) == pytest.approx((0.5 + 3 * 0.75) / 4)
    assert severity_of(SEVERITY, "text", {"sharpness_loss": 0.5, "area_share": 1.0}) == 0.5
    assert severity_of(SEVERITY, "shape", alone) == pytest.approx(0.125)
    assert severity_of(SEVERITY, "shape", {}) == 0
    fixed = {"area_share": 0.3, "colour_difference": 20.0}
    for name in fixed:
        rising = [severity_of(SEVERITY, "shape", fixed | {name: value}) for value in (0, 0.001, 0.1, 1, 100, 1e9)]
        assert all(np.diff(rising) > 0) and rising[0] >= 0 and rising[-1] <= 1


def test_grades_and_the_verdict_on_a_product():
    grades = [grade_of(SEVERITY, value) for value in (0, 0.39, 0.4, 0.69, 0.7, 1)]
    assert grades == ["minor", "minor", "major", "major", "critical", "critical"]
    assert accepts(SEVERITY, []) and accepts(SEVERITY, ["minor", "minor"])
    assert not any(accepts(SEVERITY, grades) for grades in (["minor"] * 3, ["major"], ["critical"]))
    lenient = Severity(reject={"minor": None, "major": 2})
    assert accepts(lenient, ["minor"] * 9 + ["critical"]) and not accepts(lenient, ["major", "critical"])


def severe(**entry) -> dict:
    measures = {"area_px": {"half": 1, "weight": 1}}
    return {"types": {"mine": {}}, "names": {}, "severity": {"measures": measures} | entry}


def of_type(**entry) -> dict:
    return severe() | {"types": {"mine": entry}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"typs": {}}, "'typs' not in 'Defects'. There are: regions, extent"),
        ({"regions": {"cor": 1}}, "regions.cor"),
        ({"regions": {"core": "half"}}, "^defects.regions.core: Value 'half' .* Float.$"),
        ({"regions": {"zone": 0.9}}, "zone <= core"),
        ({"names": {"scratch": "dent"}}, "no type dent. There are: blurry_text"),
        ({"types": {}}, "empty"),
        (of_type(areas={"logo": 1}), "no area logo. There are: background, inside, edges, text"),
        (of_type(evidence={"weight": {"zero": 0, "full": 1, "points": 1}}), "no measure weight. There are: area_px"),
        (of_type(evidence={"area_px": {"zero": 0, "full": 1}}), "evidence.area_px.points: .* missing mandatory value"),
        (of_type(evidence={"area_px": {"zero": 1, "full": 1, "points": 1}}), "differ"),
        (of_type(area={}), "'area' not in"),
        (of_type(colour="red"), "'#2f6fb0'"),
        (severe(by_type={"dent": {}}), "no type dent"),
        (severe(by_type={"mine": {"area_px": {"half": 1}}}), "mine.area_px.weight: .* missing mandatory value"),
        (severe(measures={"weight": {"half": 1, "weight": 1}}), "no measure weight"),
        (severe(measures={"area_px": {"half": 1}}), "missing mandatory value: weight"),
        (severe(measures={}), "at least one measure"),
        (severe(major_from=0.8), "major_from <= critical_from"),
        (severe(reject={"awful": 1}), "no grade awful. There are: minor"),
        (severe(reject={"minor": 0}), "numbers, 1 or more"),
    ],
)
def test_settings_that_are_wrong_are_named(changes, words):
    with pytest.raises(UserError, match=words):
        read_settings(settings(**changes))


def test_settings_survive_json():
    assert read_settings(json.loads(json.dumps(settings()))) == read_settings(settings())
