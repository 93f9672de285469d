"""What the page of a run says of the generated images that took part in its training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2

from anomalib_lite.data.decode import read_image
from anomalib_lite.report.pictures import data_uri
from anomalib_lite.report.quality_words import Row, guard_words, quality_rows

FOLDER = "generated"  # of a run: the report of its generated images
_WIDTH = 1000  # px of the contact sheet


@dataclass(frozen=True)
class GeneratedView:
    """sheet: data URI of the contact sheet. page: of the generated images, relative to the run's."""

    words: str
    rows: list[Row]
    missing: dict[str, str]
    sheet: str
    page: str


def generated_view(run: Path) -> GeneratedView | None:
    """None for a run without generated images."""
    folder = run / FOLDER
    if not (folder / "quality.json").is_file():
        return None
    quality = json.loads((folder / "quality.json").read_text(encoding="utf-8"))
    sheet = read_image(folder / "contact_sheet.png")
    height = round(sheet.shape[0] * min(1.0, _WIDTH / sheet.shape[1]))
    small = cv2.resize(sheet, (min(_WIDTH, sheet.shape[1]), height), interpolation=cv2.INTER_AREA)
    return GeneratedView(
        guard_words(quality), quality_rows(quality), quality["missing"], data_uri(small), f"{FOLDER}/generated.html"
    )
