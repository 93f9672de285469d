from __future__ import annotations

import numpy as np
import pytest

from anomalib_lite.defects.severity import read_severity
from anomalib_lite.errors import UserError

CONFIG = {
    "measures": {"area_share": {"half": 0.01, "weight": 1.0}, "colour_difference": {"half": 10, "weight": 3.0}},
    "by_type": {"text": {"sharpness_loss": {"half": 0.5, "weight": 1.0}}},
    "major_from": 0.4, "critical_from": 0.7, "reject": {"minor": 3, "major": 1, "critical": 1},
}  # fmt: skip


def rules(**changes):
    return read_severity(CONFIG | changes, ["text", "shape"])


def test_the_formula_by_hand():
    assert rules().severity("shape", {"area_share": 0.01, "colour_difference": 30}) == pytest.approx(
        (0.5 + 3 * 0.75) / 4
    )
    assert rules().severity("text", {"sharpness_loss": 0.5, "area_share": 1.0}) == 0.5
    assert rules().severity("shape", {"area_share": 0.01, "colour_difference": None}) == pytest.approx(0.125)
    assert rules().severity("shape", {}) == 0


def test_rises_with_each_measure_and_stays_below_one():
    rng = np.random.default_rng(0)
    for name in ("area_share", "colour_difference"):
        fixed = {"area_share": rng.random(), "colour_difference": 50 * rng.random()}
        values = [rules().severity("shape", fixed | {name: value}) for value in (0, 0.001, 0.1, 1, 100, 1e9)]
        assert all(np.diff(values) > 0) and values[0] >= 0 and values[-1] <= 1


def test_grades_begin_at_their_cuts():
    assert [rules().grade(value) for value in (0, 0.39, 0.4, 0.69, 0.7, 1)] == [
        "minor", "minor", "major", "major", "critical", "critical",
    ]  # fmt: skip


def test_the_verdict_on_a_product():
    accepts = rules().accepts
    assert accepts([]) and accepts(["minor", "minor"])
    assert not accepts(["minor"] * 3) and not accepts(["major"]) and not accepts(["critical"])
    assert rules(reject={"minor": None, "major": 2}).accepts(["minor"] * 9 + ["critical"])
    assert not rules(reject={"minor": None, "major": 2}).accepts(["major", "critical"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by_type": {"dent": {}}}, "no type dent. There are: text, shape"),
        ({"measures": {"mass": {"half": 1, "weight": 1}}}, "no measure mass"),
        ({"measures": {"area_px": {"half": 0, "weight": 1}}}, "above 0"),
        ({"measures": {"area_px": {"half": 1}}}, "two numbers"),
        ({"measures": {}}, "at least one measure"),
        ({"major_from": 0.8}, "major_from <= critical_from"),
        ({"reject": {"awful": 1}}, "grades are minor"),
        ({"reject": {"minor": 0}}, "numbers 1 or more"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        rules(**changes)
