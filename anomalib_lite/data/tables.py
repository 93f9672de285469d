"""CSV tables as people, spreadsheets and this program write them, and the labels that one holds."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_lite.data.files import same_form
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

LABELS = ("OK", "NOK")
COLUMNS = ("crop", "label", "defect", "mask")


@dataclass(frozen=True)
class LabelRow:
    """A line of a labels table; paths as written, with forward slashes, relative to the table's folder."""

    line: int
    crop: str
    label: str
    defect: str | None
    mask: str | None


def read_table(path: Path, needed: Iterable[str], what: str = "") -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of each row; columns by their names in lower case, an absent field is empty.

    Commas, semicolons or tabs; UTF-8, UTF-16 with its mark, or else Windows-1252, which is said.
    Errors: UserError for columns that are missing (`what` says which table was wanted), and an unknown encoding.
    """
    text = _decoded(path)
    header = text.split("\n", 1)[0].split("\r", 1)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if lacking := [name for name in needed if name not in columns]:
            there = ", ".join(columns) or "none"
            raise UserError(f"{path} lacks the column {' and '.join(lacking)}; it has: {there}. {what}".rstrip())
        empty = dict.fromkeys(columns, "")
        return [
            (rows.line_num, empty | {n: v.strip() for n, v in zip(columns, row, strict=False)}) for row in rows if row
        ]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}.") from error


def read_labels(path: Path) -> list[LabelRow]:
    """The rows of a labels table, a crop that is listed twice alike once.

    Errors: UserError for a label that is neither OK nor NOK, and for a crop with two answers, with its lines.
    """
    wanted = "A labels table has crop, label (OK or NOK) and, if known, defect and mask; `annotate` writes one."
    seen: dict[str, LabelRow] = {}
    for line, row in read_table(path, ("crop", "label"), wanted):
        label = row["label"].upper()
        if label not in LABELS:
            raise UserError(f"{path}, line {line}: the label must be OK or NOK, not '{row['label']}'.")
        crop, mask = (row.get(name, "").replace("\\", "/") for name in ("crop", "mask"))
        new = LabelRow(line, crop, label, (row.get("defect") or None) if label == "NOK" else None, mask or None)
        old = seen.setdefault(same_form(crop), new)
        if (old.label, old.defect, old.mask) != (new.label, new.defect, new.mask):
            raise UserError(f"{path}: {crop} has two answers, in line {old.line} and in line {line}. Remove one.")
    return list(seen.values())


def csv_line(*fields: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(fields)
    return stream.getvalue()


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            continue
        if encoding == "cp1252":
            log.warning("%s, line %d is not UTF-8: the table is read as Windows-1252.", path, line)
        return text
    raise UserError(f"{path}, line {line} is in an encoding that is not known here: save the table as UTF-8.")
