import pytest

from anomalib_lite.report import words as view
from anomalib_lite.report.words import duration, number, percent, plain_words, yaml_lines


def test_percent_never_rounds_to_none_or_all() -> None:
    shares = [0, 1, 0.5, 0.125, 0.9999, 0.0002, 0.29]
    assert [percent(share) for share in shares] == ["0 %", "100 %", "50 %", "12.5 %", "99.99 %", "0.02 %", "29 %"]


def test_duration() -> None:
    words = ["0.0 s", "3.2 s", "10 s", "59 s", "1 min 0 s", "1 h 0 min"]
    assert [duration(seconds) for seconds in (0.04, 3.21, 9.96, 59.4, 59.6, 3600)] == words


def test_number_refuses_what_is_none() -> None:
    assert [number(v) for v in (1, 0.5, None, "1", True, float("nan"), float("inf"))] == [1.0, 0.5] + [None] * 5


def test_plain_words() -> None:
    given = [None, True, 0.30000000000000004, ["a", 1], {"a": None}, "2025-11-22T01:20:11.123+00:00", "x\ny"]
    expected = ["–", "yes", "0.3", "a, 1", "a –", "2025-11-22 01:20:11 UTC", "x\ny"]
    assert [plain_words(value) for value in given] == expected


def test_yaml_lines_lose_nothing() -> None:
    text = "# head\na:\n  - b: 'x # y'  \n  url: s3://c#d # note\nlist: [1, 2]\n\n  plain text: of a block\n"
    lines = yaml_lines(text)
    assert ["".join(parts) for parts in lines] == text.splitlines()
    assert [parts[0] for parts in lines] == ["", "a:", "  - b:", "  url:", "list:", "", ""]
    assert lines[0][2] == "# head" and lines[3][2] == " # note"
    assert lines[2][2] == ""


def test_cards_give_the_reason_where_there_is_no_value() -> None:
    cards = view.cards({"image_auroc": 0.98765, "aupro": None, "missing": {"aupro": "no masks"}})
    by_title = {card.title: card for card in cards}
    assert by_title["Image AUROC"].value == "0.9877"
    assert (by_title["AUPRO"].value, by_title["AUPRO"].reason) == ("–", "no masks")
    assert by_title["Pixel AP"].reason == "not measured in this run"
    assert view.cards({}) == []


def test_notes_hold_the_reasons_of_no_metric() -> None:
    missing = {"aupro": "no masks", "images": "2 left out", "pixel_f1_max": "no masks"}
    assert view.notes({"missing": missing, "pixel_f1_max": None}) == ["2 left out"]


def test_threshold_words_state_the_promise_and_the_measurement() -> None:
    threshold = {"image": 1.5, "pixel": 0.5, "false_alarm_rate": 0.01, "n": 30, "promised_rate": 1 / 31,
                 "interval": [0.0017, 0.0921], "note": "too few images"}  # fmt: skip
    metrics = {"threshold": threshold, "image_false_alarm_rate": 0.1}
    text = " ".join(view.threshold_words(metrics))
    for part in ("exceeds 1.5.", "exceeds 0.5.", "at most 3.2 %, where 1 % were asked for", "0.2 % and 9.2 %",
                 "30 held-out", "rejected 10 %"):  # fmt: skip
        assert part in text
    assert view.caution(metrics) == "Too few images." and view.caution({}) == ""
    assert view.threshold_words({}) == []


def test_threshold_words_promise_no_more_than_so_few_images_can() -> None:
    text = " ".join(view.threshold_words({"threshold": {"image": 1.0, "false_alarm_rate": 0.01, "n": 9}}))
    assert "at most 10 %" in text


def test_defect_rows_put_the_lowest_recall_first_and_the_unknown_last() -> None:
    rows = view.defect_rows({"per_defect": {"a": {"recall": 1.0}, "b": {}, "c": {"recall": 0.2, "n": 3}, "d": None}})
    assert [name for name, _ in rows] == ["c", "a", "b", "d"]
    assert rows[0][1] == [3.0, None, None, None, 0.2]


def test_stages_and_tables_take_what_they_find() -> None:
    expected = [("fit", "1 min 40 s", 1.0), ("test", "25 s", 0.25)]
    assert view.stages({"timings": {"fit": 100, "test": 25.0, "odd": "x"}}) == expected
    assert view.stages({}) == [] and view.stages({"timings": 3}) == []
    assert view.tables({"a": 1, "b": {"c": None}, "skip": 2, "empty": {}}, skip=["skip"]) == [
        ("", [("a", "1")]), ("b", [("c", "–")]),
    ]  # fmt: skip


def test_evidence_is_named_by_its_share() -> None:
    assert view.evidence_words({"colour": 0.25, "STFPM": 0.75, "edges": 0.0}, True) == (
        "alarm raised by STFPM 75 %, colour 25 %"
    )
    assert view.evidence_words({"STFPM": 1.0}, False) == "score from STFPM 100 %"
    assert view.evidence_words({}, True) == ""


def test_the_choice_is_a_table_of_whatever_was_measured() -> None:
    candidates = [{"name": "STFPM", "image_auroc": 0.91, "seconds": 75.0}, {"name": "colour", "image_auroc": None}]
    found = view.choice({"choice": {"candidates": candidates, "words": "Why."}})
    assert found == {
        "columns": ["Image AUROC", "seconds"],
        "rows": [("STFPM", [("0.9100", 0.91), ("1 min 15 s", 75.0)]), ("colour", [("–", None), ("–", None)])],
        "words": "Why.",
    }


@pytest.mark.parametrize("status", [{}, {"choice": None}, {"choice": "STFPM"}, {"choice": {"a": 1}}])
def test_nothing_chosen_is_no_table(status) -> None:
    assert view.choice(status) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("data: {_target_: anomalib_lite.data.panels.read, size: 96}", "panels"),
        ("data: {_target_: anomalib_lite.data.layouts.mvtec_ad, category: bottle}", "mvtec_ad bottle"),
        ("detector: {_target_: anomalib_lite.detectors.stfpm.STFPM}", "STFPM"),
        ("backbone: {_target_: anomalib_lite.backbones.build, name: resnet18}\nmode: no_template\nseed: 3",
         "resnet18 · no template · seed 3"),
        ("data: 7\ndetector: {}\ngenerator: none", "7"),
        ("{", ""),
    ],
)  # fmt: skip
def test_the_subtitle_names_the_choices_as_the_groups_do(config: str, words: str) -> None:
    assert view.subtitle(config) == words
