from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from anomalib_lite.data.sample import Outcome
from anomalib_lite.report.cases import kind, select_cases, thin_out, verdict

from .conftest import THRESHOLD, judged


def ok(score: float, **others) -> Outcome:
    return judged(0, score, **others)


def bad(score: float, defect: str | None = "scratch", **others) -> Outcome:
    return judged(1, score, defect, **others)


def test_verdicts_and_kinds() -> None:
    items = [ok(1.0), ok(3.0), bad(1.0), bad(3.0, None), judged(None, 3.0), judged(None, 1.0)]
    assert [verdict(item) for item in items] == ["passed", "false alarm", "missed", "found", "rejected", "accepted"]
    assert [kind(item.sample) for item in items[1:5]] == ["OK", "scratch", "NOK", "unlabelled"]


def test_mistakes_come_first_and_the_worst_of_them_before() -> None:
    #         FA 1.5x   missed 0.5x  fine     missed 0.9x  FA 4x    fine
    scores = [ok(3.0), bad(1.0), bad(7.0), bad(1.8), ok(8.0), ok(0.1)]
    assert select_cases(scores, THRESHOLD) == [4, 1, 0, 3, 2, 5]
    assert select_cases([bad(2.0 / (place + 2)) for place in range(10)], THRESHOLD, 3) == [9, 8, 7]


def test_the_rest_is_spread_over_kinds_and_scores() -> None:
    items = [ok(0.01 * i) for i in range(100)] + [bad(3.0 + i) for i in range(50)] + [bad(90.0, "dent")]
    chosen = select_cases(items, THRESHOLD, 11)
    assert len(chosen) == len(set(chosen)) == 11
    assert Counter(kind(items[i].sample) for i in chosen) == {"OK": 5, "scratch": 5, "dent": 1}
    scores = [items[i].score for i in chosen]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0.0 and 0.4 < scores[-3] < 0.6 and scores[-5] == 0.99  # OK: both ends, and the middle


@pytest.mark.parametrize("count", [0, 1, 2, 7, 200])
def test_never_more_than_asked_for_and_all_where_there_is_room(count: int) -> None:
    items = [ok(1.0 + 0.3 * i) for i in range(5)] + [bad(1.5 + i, "abc"[i % 3]) for i in range(5)]
    assert len(select_cases(items, THRESHOLD, count)) == min(count, 10)
    assert select_cases([], THRESHOLD, count) == []


def test_what_is_no_number_is_the_worst_and_a_category_has_its_own_threshold() -> None:
    threshold = replace(THRESHOLD, categories={"cable": replace(THRESHOLD, image=0.0)})
    of_cable = replace(ok(1e-3), nok=True, sample=replace(ok(1e-3).sample, category="cable"))
    assert select_cases([ok(3.0), of_cable, ok(float("nan"))], threshold) == [2, 1, 0]


def test_thinning_out_bounds_the_pixels_and_keeps_every_mistake_that_a_page_shows() -> None:
    rng = np.random.default_rng(0)
    everything = [judged(int(rng.random() < 0.5), score, image=np.zeros((1, 1, 3))) for score in rng.gamma(2, 1, 300)]
    kept: list[Outcome] = []
    for start in range(0, 300, 16):
        kept = thin_out(kept + everything[start : start + 16], THRESHOLD, most=20)
        assert sum(outcome.image is not None for outcome in kept) <= 40
    assert [o.score for o in kept] == [o.score for o in everything]
    shown = [kept[i] for i in select_cases(kept, THRESHOLD, 20)]
    assert all(outcome.image is not None for outcome in shown if verdict(outcome) in ("missed", "false alarm"))
