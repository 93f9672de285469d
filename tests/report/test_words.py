from dataclasses import replace

from anomalib_lite.report import words as view

from .conftest import THRESHOLD


def test_shares_durations_and_values_in_words() -> None:
    """A share is never rounded to none or all."""
    shares = {0: "0 %", 1: "100 %", 0.5: "50 %", 0.125: "12.5 %", 0.9999: "99.99 %", 0.0002: "0.02 %", 0.29: "29 %"}
    assert {share: view.percent(share) for share in shares} == shares
    words = {0.04: "0.0 s", 3.21: "3.2 s", 9.96: "10 s", 59.4: "59 s", 59.6: "1 min 0 s", 3600: "1 h 0 min"}
    assert {seconds: view.duration(seconds) for seconds in words} == words
    given = [None, "", True, 0.30000000000000004, ["a", 1], [], {"a": None}, {}, 0, "x\ny"]
    assert [view.plain_words(value) for value in given] == [
        "–", "–", "yes", "0.3", "a, 1", "–", "a –", "–", "0", "x\ny",
    ]  # fmt: skip


def test_threshold_words_state_the_promise_and_the_measurement_for_each_category() -> None:
    said = view.threshold_words(THRESHOLD, {"image_false_alarm_rate": 0.1})
    assert said == [
        f"{THRESHOLD.in_words()} A pixel is marked where the map exceeds 2.",
        "Of the good test images it rejected 10 %.",
    ]
    assert view.threshold_words(THRESHOLD, {"image_false_alarm_rate": None}) == said[:1]
    threshold = replace(THRESHOLD, categories={name: replace(THRESHOLD, image=9.0) for name in ("cap", "nut")})
    cap, nut = view.threshold_words(threshold, {"image_false_alarm_rate": None})
    assert cap.startswith("cap: Threshold 9: a new OK image") and nut.startswith("nut: Threshold 9")


def test_the_lowest_recall_stands_first_and_products_in_their_order_with_their_mean_last() -> None:
    rows = view.defect_rows({"per_defect": {"a": {"recall": 1.0}, "c": {"recall": 0.2, "n": 3}}})
    assert rows == [("c", [3, None, None, None, 0.2]), ("a", [None, None, None, None, 1.0])]

    row = {"n": 3, "image_auroc": 0.5, "auspro": 0.25, "image_detection_rate": 1.0}
    metrics = {"auspro": 0.3, "categories": {"nut": row, "bolt": row}, "mean_of_categories": row}
    values = [3, 0.5, None, None, 0.25, 1.0]
    assert view.category_rows(metrics) == [("nut", values), ("bolt", values), ("mean", values)]
    assert view.category_rows({}) == []


def test_stages_and_tables() -> None:
    assert view.stages({"fit": 100, "test": 25.0}) == [("fit", "1 min 40 s", 1.0), ("test", "25 s", 0.25)]
    assert view.tables({"command": ["anomalib-lite train", "a=b c"], "model_mb": 1.5}) == [
        ("", [("command", "anomalib-lite train 'a=b c'"), ("Model (MB)", "1.5")])
    ]
    assert view.tables({"a": 1, "b": {"c": None}, "skip": 2, "empty": {}}, skip=["skip"]) == [
        ("", [("a", "1")]), ("b", [("c", "–")]),
    ]  # fmt: skip


def test_evidence_is_named_by_its_share() -> None:
    assert view.evidence_words({"colour": 0.25, "STFPM": 0.747, "edges": 0.003}, True) == (
        "alarm raised by STFPM 75\u00a0%, colour 25\u00a0%"
    )
    assert view.evidence_words({}, True) == ""


def test_the_choice_is_a_table_of_whatever_was_measured() -> None:
    candidates = [
        {"name": "STFPM", "image_auroc": 0.91, "seconds": 75.0, "taken": True},
        {"name": "colour", "image_auroc": None, "taken": False},
    ]
    found = view.choice({"choice": {"candidates": candidates, "words": "Why."}})
    assert found == {
        "head": ["candidate", "Image AUROC", "seconds", "taken"],
        "rows": [
            {"cells": [("STFPM", None), ("0.9100", 0.91), ("1 min 15 s", 75.0), ("yes", "")], "marked": True},
            {"cells": [("colour", None), ("–", ""), ("–", ""), ("no", "")], "marked": False},
        ],
        "words": 1,
        "why": "Why.",
    }
    assert view.choice({}) is None
