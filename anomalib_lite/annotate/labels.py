"""labels.csv: what was answered, as the reader of a folder takes it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from anomalib_lite.errors import UserError

COLUMNS = ("crop", "label", "defect", "mask")
OK, NOK, SKIP = "OK", "NOK", "skip"


@dataclass(frozen=True)
class Answer:
    """`label` is OK, NOK, skip or None (not labelled); only a NOK has a defect, and need not."""

    label: str | None = None
    defect: str | None = None

    def __post_init__(self) -> None:
        if self.label not in (OK, NOK, SKIP, None):
            raise ValueError(f"a label is OK, NOK or skip, not {self.label!r}")
        if self.defect is not None and (self.label != NOK or not self.defect.strip()):
            raise ValueError("only a NOK crop has a defect, and its name is not empty")


UNLABELLED = Answer()


@dataclass(frozen=True)
class Row:
    answer: Answer
    mask: str | None


def csv_line(*fields: str) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue()


def label_line(key: str, answer: Answer, mask: str | None) -> str:
    """One line of labels.csv, empty for a crop that has no place there. An OK crop has no defect to mask."""
    if answer.label not in (OK, NOK):
        return ""
    return csv_line(key, answer.label, answer.defect or "", (mask or "") if answer.label == NOK else "")


def read_labels(path: Path) -> dict[str, Row]:
    """The rows by crop. Raises UserError with the line where a column is missing or a label is unknown."""
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = {"crop", "label"} - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{path} has no column {' and no '.join(sorted(missing))}: move the file away.")
        rows = {}
        for row in reader:
            label = (row["label"] or "").strip().upper()
            if label not in (OK, NOK):
                raise UserError(f"{path}, line {reader.line_num}: the label is OK or NOK, not {label!r}.")
            defect = (row.get("defect") or "").strip() or None
            mask = (row.get("mask") or "").strip().replace("\\", "/") or None
            key = (row["crop"] or "").strip().replace("\\", "/")
            rows[key] = Row(Answer(label, defect if label == NOK else None), mask)
    return rows
