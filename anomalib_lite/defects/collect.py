"""Collects the defects of many images: compares them with a data set's defect names, writes tables, draws outlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomalib_lite.data.decode import resize_image, resize_mask
from anomalib_lite.data.sample import Outcome
from anomalib_lite.defects.inspect import Defect, Inspector
from anomalib_lite.defects.layout import BACKGROUND, EDGES, INSIDE, TEXT, Layout
from anomalib_lite.defects.measures import UNITS
from anomalib_lite.defects.rules import GRADES
from anomalib_lite.runs.atomic import write_csv, write_json
from anomalib_lite.settings.training import DefectType

if TYPE_CHECKING:
    from anomalib_lite.scoring import Threshold  # with torch

PICTURED = 120  # images kept for display
NOTHING = "nothing found there"
AREA_COLOURS = {BACKGROUND: "#6f7680", INSIDE: "#3d8b6f", EDGES: "#d1571b", TEXT: "#e0a100"}
_MORE_COLOURS = ("#2f6fb0", "#8a63a8", "#a3802a", "#16b894")
_DARK = (20, 20, 20)
_WORDS = ("type", "confidence", "severity", "grade")


class DefectCollector:
    """Inspects images and keeps their outcomes; to bound the memory, images and masks only of the `pictured` worst."""

    def __init__(self, inspector: Inspector, threshold: Threshold, pictured: int = PICTURED) -> None:
        self.inspector, self.threshold, self.pictured = inspector, threshold, pictured
        self.outcomes: list[Outcome] = []
        self._matched_types: list[str | None] = []
        self._pictured: list[int] = []

    def add(self, outcome: Outcome, shown: tuple[float, float] | None = None) -> Outcome:
        """Returns the outcome with its defects; it must have its image and map, and its mask if known.

        shown: See `Inspector.inspect`.
        """
        assert outcome.map is not None and outcome.image is not None
        limit = self.threshold.of(outcome.sample.category).pixel
        defects = self.inspector.inspect(outcome.map, outcome.image, limit, shown)
        match = matching(defects, outcome.mask)
        small = resize_image(outcome.image, *self.inspector.reference.shape) if defects else None
        self.outcomes.append(replace(outcome, defects=defects, image=small, map=None, mask=None))
        self._matched_types.append(match.kind if match else None)
        if defects:
            self._pictured.append(len(self.outcomes) - 1)
        if len(self._pictured) > self.pictured:
            mildest = min(self._pictured, key=lambda i: self.outcomes[i].defects[0].severity)
            self._pictured.remove(mildest)
            without_masks = tuple(replace(d, mask=np.zeros((0, 0), bool)) for d in self.outcomes[mildest].defects)
            self.outcomes[mildest] = replace(self.outcomes[mildest], image=None, defects=without_masks)
        return replace(outcome, defects=defects)

    @property
    def confusion(self) -> Confusion | None:
        """Confusion of the data set's defect names and the types found; None if no name stands for a type."""
        settings = self.inspector.settings
        names = [outcome.sample.defect if outcome.sample.label else None for outcome in self.outcomes]
        if not any(name in settings.names for name in names):
            return None
        return confusion(names, self._matched_types, settings.names, list(settings.types))

    def write(self, folder: Path) -> None:
        """Writes defects.json (each image with its verdict and defects) and defects.csv (one line per defect)."""
        keys = ("image", "accepted", "defects")
        entries = [dict(zip(keys, judged, strict=True)) for judged in self._judged()]
        record = {**header(self.inspector), "images": entries}
        if (table := self.confusion) is not None:
            record["confusion"] = asdict(table) | {"counts": table.counts.tolist()}
        write_json(folder / "defects.json", record)
        names, rows = self.rows()
        write_csv(folder / "defects.csv", [names, *rows])

    def metrics(self) -> dict[str, Any]:
        """Returns the numbers for metrics.json: defects in total, by type and by grade, and rejected products."""
        defects = [defect for outcome in self.outcomes for defect in outcome.defects]
        kinds, grades = Counter(defect.kind for defect in defects), Counter(defect.grade for defect in defects)
        table = self.confusion
        return {
            "defects": len(defects),
            "rejected": sum(not self.inspector.accepts(outcome.defects) for outcome in self.outcomes),
            "by_type": {name: kinds[name] for name in self.inspector.settings.types},
            "by_grade": {grade: grades[grade] for grade in GRADES},
            **({} if table is None else {"type_accuracy": table.accuracy}),
        }

    def rows(self) -> tuple[list[str], list[list[Any]]]:
        """Returns the column names (see `columns`), and one row per defect."""
        return columns(self.inspector), [row for judged in self._judged() for row in rows_of(self.inspector, *judged)]

    def _judged(self) -> Iterator[tuple[str, bool, list[dict[str, Any]]]]:
        """Yields each image's path, whether its product is accepted, and its defects' records."""
        for outcome in self.outcomes:
            accepted = self.inspector.accepts(outcome.defects)
            yield str(outcome.sample.image), accepted, [defect.record() for defect in outcome.defects]


def header(inspector: Inspector) -> dict[str, Any]:
    """Returns the part of defects.json that applies to all images: resolution, units and types."""
    types = {name: {"title": rule.title, "colour": rule.colour} for name, rule in inspector.settings.types.items()}
    return {"resolution": list(inspector.reference.shape), "units": UNITS, "types": types}


def columns(inspector: Inspector) -> list[str]:
    """Returns the columns of defects.csv; measures are named as in `UNITS`, shares in areas end in `_share`."""
    return [
        "image", "defect", *_WORDS, "accepted", "x", "y", "width", "height", "peak", "mean",
        *UNITS, *(f"{name}_share" for name in sorted(inspector.layout.names)),
    ]  # fmt: skip


def rows_of(inspector: Inspector, image: str, accepted: bool, records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Returns one image's rows of defects.csv from its `Defect.record`s; None for measures that do not apply."""
    rows = []
    for number, record in enumerate(records, start=1):
        row = [image, number, *(record[word] for word in _WORDS), int(accepted)]
        row += [*record["box"], record["peak"], record["mean"], *map(record["measures"].get, UNITS)]
        rows.append(row + [record["areas"].get(name, 0.0) for name in sorted(inspector.layout.names)])
    return rows


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of true (rows) and predicted types (columns), the last one `NOTHING`.

    accuracy: share of correct types among the images with a detected defect; None without such images.
    """

    truth: tuple[str, ...]
    found: tuple[str, ...]
    counts: np.ndarray
    accuracy: float | None


def confusion(
    names: Sequence[str | None], predicted: Sequence[str | None], mapping: Mapping[str, str], types: Sequence[str]
) -> Confusion:
    """Counts the predicted types of images (None: no defect found) against those that their defect names stand for.

    Images with no name, or with one that is not in `mapping`, are left out.
    """
    columns = (*types, NOTHING)
    counts: np.ndarray = np.zeros((len(types), len(columns)), int)
    for name, kind in zip(names, predicted, strict=True):
        if name is not None and name in mapping:
            counts[columns.index(mapping[name]), columns.index(kind or NOTHING)] += 1
    detected = int(counts[:, :-1].sum())
    return Confusion(tuple(types), columns, counts, float(np.trace(counts) / detected) if detected else None)


def matching(defects: Sequence[Defect], mask: np.ndarray | None) -> Defect | None:
    """Returns the defect that overlaps the true mask most, or the worst one if there is no mask; None if none does."""
    if mask is None or not mask.any():
        return defects[0] if defects else None
    overlaps = [int((defect.mask & resize_mask(mask, *defect.mask.shape)).sum()) for defect in defects]
    return defects[int(np.argmax(overlaps))] if any(overlaps) else None


def draw_defects(image: np.ndarray, defects: Sequence[Defect], types: Mapping[str, DefectType]) -> np.ndarray:
    """Draws the defects' outlines in their types' colours, edged dark, on a copy of an RGB image, uint8 (H, W, 3)."""
    drawn = np.array(image, order="C")
    thickness = max(1, round(min(drawn.shape[:2]) / 256))
    outlines = []
    for defect in defects:
        # one pixel outside the defect, so that the line does not hide a thin defect
        grown = cv2.dilate(resize_mask(defect.mask, *drawn.shape[:2]).astype(np.uint8), np.ones((3, 3), np.uint8))
        lines = cv2.findContours(grown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        outlines.append((lines, rgb(types[defect.kind].colour)))
    for lines, _ in outlines:
        cv2.drawContours(drawn, lines, -1, _DARK, thickness + 2, cv2.LINE_AA)
    for lines, colour in outlines:
        cv2.drawContours(drawn, lines, -1, colour, thickness, cv2.LINE_AA)
    return drawn


def draw_layout(layout: Layout, image: np.ndarray) -> np.ndarray:
    """Tints each area except the background in the layout's image, uint8 RGB (H, W, 3)."""
    drawn = image.astype(np.float32)
    for name in layout.names:
        if name != BACKGROUND:
            inside = layout.area(name)
            drawn[inside] = 0.45 * drawn[inside] + 0.55 * np.array(rgb(area_colour(layout, name)))
    return np.rint(drawn).astype(np.uint8)


def area_colour(layout: Layout, name: str) -> str:
    """Returns an area's colour, such as #2f6fb0; user-defined areas take the further colours in order."""
    custom = [other for other in layout.names if other not in AREA_COLOURS]
    return AREA_COLOURS.get(name) or _MORE_COLOURS[custom.index(name) % len(_MORE_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """Converts a colour like '#2f6fb0' to (red, green, blue)."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
