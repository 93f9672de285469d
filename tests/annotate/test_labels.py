from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_lite.annotate.labels import Answer, Row, csv_line, label_line, read_labels
from anomalib_lite.errors import UserError


@pytest.mark.parametrize(("label", "defect"), [("ok", None), ("OK", "stain"), (None, "stain"), ("NOK", " ")])
def test_an_answer_that_makes_no_sense_is_refused(label: str | None, defect: str | None) -> None:
    with pytest.raises(ValueError):
        Answer(label, defect)


def test_lines_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = {
        "a.png": Row(Answer("OK"), None),
        'b, "quoted".png': Row(Answer("NOK", 'long, "odd" name'), "masks/b, c.png"),
        "ü.png": Row(Answer("NOK"), None),
    }
    path = tmp_path / "labels.csv"
    lines = [label_line(key, row.answer, row.mask) for key, row in rows.items()]
    path.write_text(csv_line("crop", "label", "defect", "mask") + "".join(lines), encoding="utf-8")
    assert read_labels(path) == rows


def test_only_answers_have_a_line_and_only_a_nok_has_a_mask() -> None:
    assert label_line("a", Answer(), "m") == "" and label_line("a", Answer("skip"), "m") == ""
    assert label_line("a", Answer("OK"), "m") == "a,OK,,\n"
    assert label_line("a", Answer("NOK"), "m") == "a,NOK,,m\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop,defect\na,b\n", "no column label"),
        ("", "crop and no label"),
        ("crop,label\na,OK\nb,perhaps\n", "line 3.*'PERHAPS'"),
    ],
)
def test_an_unfit_file_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / "labels.csv")
