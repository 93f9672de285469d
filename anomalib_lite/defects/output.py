"""What was found, as files and as rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib_lite.defects.confusion import Confusion
from anomalib_lite.defects.defect import Inspection
from anomalib_lite.defects.inspect import Inspector
from anomalib_lite.defects.measures import UNITS
from anomalib_lite.runs.atomic import atomic_path, write_json

COLUMNS = (
    "image",
    "defect",
    "type",
    "confidence",
    "severity",
    "grade",
    "accepted",
    "x",
    "y",
    "width",
    "height",
    "peak",
    "mean",
)


def write_defects(
    folder: Path,
    inspector: Inspector,
    images: Sequence[str],
    inspections: Sequence[Inspection],
    table: Confusion | None = None,
) -> None:
    """Writes defects.json (every image, its verdict and its defects) and defects.csv (a line a defect).

    images: one name for each inspection. table: types beside the data set's names, where it has any.
    """
    height, width = inspector.reference.shape
    entries = [
        {"image": image, "accepted": found.accepted, "defects": [defect.record() for defect in found.defects]}
        for image, found in zip(images, inspections, strict=True)
    ]
    types = {rule.name: {"title": rule.title, "colour": rule.colour} for rule in inspector.settings.types}
    record: dict[str, Any] = {"resolution": [height, width], "units": UNITS, "types": types, "images": entries}
    if table is not None:
        record["confusion"] = table.to_dict()
    write_json(folder / "defects.json", record)
    columns, rows = table_rows(images, inspections)
    with atomic_path(folder / "defects.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(["" if value is None else value for value in row] for row in rows)


def table_rows(images: Sequence[str], inspections: Sequence[Inspection]) -> tuple[list[str], list[list[Any]]]:
    """Column names, and a row for each defect, with None for measures that were not taken; as for `wandb.Table`.

    The measures' columns have the names of `measures.UNITS`, the areas' shares end in `_share`.
    """
    areas = sorted({name for found in inspections for defect in found.defects for name in defect.areas})
    columns = [*COLUMNS, *UNITS, *(f"{name}_share" for name in areas)]
    rows = []
    for image, found in zip(images, inspections, strict=True):
        for number, defect in enumerate(found.defects, start=1):
            record = defect.record()
            head = [
                image,
                number,
                *(record[key] for key in ("type", "confidence", "severity", "grade")),
                int(found.accepted),
            ]
            measures = [record["measures"].get(name) for name in UNITS]
            shares = [record["areas"].get(name, 0.0) for name in areas]
            rows.append([*head, *defect.box, record["peak"], record["mean"], *measures, *shares])
    return columns, rows


def summary(inspections: Sequence[Inspection], types: Sequence[str]) -> Mapping[str, Any]:
    """Numbers for metrics.json: defects in all and by type and grade, and products rejected."""
    defects = [defect for found in inspections for defect in found.defects]
    return {
        "defects": len(defects),
        "rejected": sum(not found.accepted for found in inspections),
        "by_type": {name: sum(defect.kind == name for defect in defects) for name in types},
        "by_grade": {grade: sum(d.grade == grade for d in defects) for grade in ("minor", "major", "critical")},
    }
