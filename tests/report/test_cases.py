from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_lite.errors import UserError
from anomalib_lite.report.cases import ScoredImage, decision, kind, outcome, read_predictions, select_cases


def ok(score: float, nok: bool | None = None) -> ScoredImage:
    return ScoredImage("ok.png", 0, None, score, nok)


def bad(score: float, defect: str | None = "scratch", nok: bool | None = None) -> ScoredImage:
    return ScoredImage("bad.png", 1, defect, score, nok)


def test_outcomes() -> None:
    items = [ok(1.0), ok(3.0), bad(1.0), bad(3.0), ScoredImage("u.png", None, None, 3.0)]
    assert [outcome(item, 2.0) for item in items] == ["passed", "false alarm", "missed", "found", "rejected"]


def test_a_score_equal_to_the_threshold_does_not_exceed_it() -> None:
    assert not decision(ok(2.0), 2.0)


def test_the_runs_own_decision_counts_before_the_threshold() -> None:
    assert outcome(ok(9.0, nok=False), 2.0) == "passed"
    assert outcome(bad(9.0, nok=False), 2.0) == "missed"


def test_a_score_that_is_no_number_is_rejected() -> None:
    assert decision(ok(float("nan")), 2.0)


def test_kinds() -> None:
    names = [kind(item) for item in (ok(1), bad(1), bad(1, None), ScoredImage("u", None, None, 1.0))]
    assert names == ["OK", "scratch", "NOK", "unlabelled"]


def test_mistakes_come_first_and_the_worst_of_them_before() -> None:
    #         FA 1.5x   missed 0.5x  fine     missed 0.9x  FA 4x    fine
    scores = [ok(3.0), bad(1.0), bad(7.0), bad(1.8), ok(8.0), ok(0.1)]
    assert select_cases(scores, 2.0) == [4, 1, 0, 3, 2, 5]


def test_when_mistakes_alone_are_too_many_the_worst_stay() -> None:
    scores = [bad(2.0 / (place + 2)) for place in range(10)]
    assert select_cases(scores, 2.0, max_cases=3) == [9, 8, 7]


def test_the_rest_is_spread_over_kinds_and_scores() -> None:
    items = [ok(0.01 * i) for i in range(100)] + [bad(3.0 + i) for i in range(50)] + [bad(90.0, "dent")]
    chosen = select_cases(items, 2.0, max_cases=11)
    assert len(chosen) == len(set(chosen)) == 11
    kinds = [kind(items[i]) for i in chosen]
    assert (kinds.count("OK"), kinds.count("scratch"), kinds.count("dent")) == (5, 5, 1)
    good = sorted(items[i].score for i in chosen if items[i].label == 0)
    assert good[0] == 0.0 and good[-1] == 0.99  # both ends of the scores, and the middle
    assert 0.4 < good[2] < 0.6
    scores = [items[i].score for i in chosen]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 200])
def test_never_more_than_asked_for_and_all_where_there_is_room(count: int) -> None:
    items = [ok(1.0 + 0.3 * i) for i in range(5)] + [bad(1.5 + i, "abc"[i % 3]) for i in range(5)]
    assert len(select_cases(items, 2.0, count)) == min(count, 10)
    assert select_cases([], 2.0, count) == []


@pytest.mark.parametrize("threshold, first", [(float("inf"), 0), (0.0, 3)])
def test_order_without_a_ratio(threshold: float, first: int) -> None:
    items = [bad(1.0), bad(5.0), ok(1.0), ok(5.0)]
    assert select_cases(items, threshold)[0] == first


def test_predictions_are_read_with_empty_and_missing_columns(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("score,label,nok,defect,extra\n1.5,1,True,dent,x\n0.5,,,,\n,0,0,,\n")
    first, second, third = read_predictions(path)
    assert first == ScoredImage("", 1, "dent", 1.5, True)
    assert second == ScoredImage("", None, None, 0.5, None)
    assert third.label == 0 and third.nok is False and third.score != third.score


def test_predictions_without_scores_are_refused_clearly(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text("image,label\na.png,1\n")
    with pytest.raises(UserError, match="no column 'score'"):
        read_predictions(path)
