"""The defects of many images: found one by one, counted beside the names that a data set gives them, written, drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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

PICTURED = 120
NOTHING = "nothing found"
AREA_COLOURS = {BACKGROUND: "#6f7680", INSIDE: "#3d8b6f", EDGES: "#d1571b", TEXT: "#e0a100"}
_MORE_COLOURS = ("#2f6fb0", "#8a63a8", "#a3802a", "#16b894")
_DARK = (20, 20, 20)
_WORDS = ("type", "confidence", "severity", "grade")


class DefectCollector:
    """Inspects images and keeps their outcomes, in the order in which they came; pictures and masks of those with the
    worst defects alone, so that memory does not grow with their number.
    """

    def __init__(self, inspector: Inspector, threshold: float, pictured: int = PICTURED) -> None:
        self.inspector, self.threshold, self.pictured = inspector, threshold, pictured
        self.outcomes: list[Outcome] = []
        self._matched: list[str | None] = []
        self._shown: list[int] = []

    def add(self, outcome: Outcome) -> Outcome:
        """The same outcome with its defects. It must hold its image and its map, and its mask where that is known."""
        assert outcome.map is not None and outcome.image is not None
        found = self.inspector.inspect(outcome.map, outcome.image, self.threshold)
        match = matching(found, outcome.mask)
        small = resize_image(outcome.image, *self.inspector.reference.shape) if found else None
        self.outcomes.append(replace(outcome, defects=found, image=small, map=None, mask=None))
        self._matched.append(match.kind if match else None)
        if found:
            self._shown.append(len(self.outcomes) - 1)
        if len(self._shown) > self.pictured:
            mildest = min(self._shown, key=lambda i: self.outcomes[i].defects[0].severity)
            self._shown.remove(mildest)
            bare = tuple(replace(d, mask=np.zeros((0, 0), bool)) for d in self.outcomes[mildest].defects)
            self.outcomes[mildest] = replace(self.outcomes[mildest], image=None, defects=bare)
        return replace(outcome, defects=found)

    @property
    def confusion(self) -> Confusion | None:
        """Types found beside the data set's names; None where it has none that stand for a type."""
        settings = self.inspector.settings
        names = [outcome.sample.defect if outcome.sample.label else None for outcome in self.outcomes]
        if not any(name in settings.names for name in names):
            return None
        return confusion(names, self._matched, settings.names, list(settings.types))

    def write(self, folder: Path) -> None:
        """Writes defects.json (every image, its verdict and its defects) and defects.csv (a line a defect)."""
        entries = []
        for outcome in self.outcomes:
            defects = [defect.record() for defect in outcome.defects]
            accepted = self.inspector.accepts(outcome.defects)
            entries.append({"image": str(outcome.sample.image), "accepted": accepted, "defects": defects})
        record = {**key(self.inspector), "images": entries}
        if (table := self.confusion) is not None:
            record["confusion"] = asdict(table) | {"counts": table.counts.tolist()}
        write_json(folder / "defects.json", record)
        names, rows = self.rows()
        write_csv(folder / "defects.csv", [names, *rows])

    def metrics(self) -> dict[str, Any]:
        """Numbers for metrics.json: defects in all and by type and grade, and products rejected."""
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
        """Column names, and a row for each defect, as for `wandb.Table`; see `columns`."""
        rows = []
        for outcome in self.outcomes:
            accepted, records = self.inspector.accepts(outcome.defects), [d.record() for d in outcome.defects]
            rows += rows_of(self.inspector, str(outcome.sample.image), accepted, records)
        return columns(self.inspector), rows


def key(inspector: Inspector) -> dict[str, Any]:
    """What defects.json says beside the images: px, units and types."""
    types = {name: {"title": rule.title, "colour": rule.colour} for name, rule in inspector.settings.types.items()}
    return {"resolution": list(inspector.reference.shape), "units": UNITS, "types": types}


def columns(inspector: Inspector) -> list[str]:
    """Of defects.csv. The measures' columns have the names of `UNITS`, the areas' shares end in `_share`."""
    return [
        "image", "defect", *_WORDS, "accepted", "x", "y", "width", "height", "peak", "mean",
        *UNITS, *(f"{name}_share" for name in sorted(inspector.layout.names)),
    ]  # fmt: skip


def rows_of(inspector: Inspector, image: str, accepted: bool, records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """One image's rows of defects.csv, from `Defect.record`; None for measures that were not taken."""
    rows = []
    for number, record in enumerate(records, start=1):
        row = [image, number, *(record[word] for word in _WORDS), int(accepted)]
        row += [*record["box"], record["peak"], record["mean"], *map(record["measures"].get, UNITS)]
        rows.append(row + [record["areas"].get(name, 0.0) for name in sorted(inspector.layout.names)])
    return rows


@dataclass(frozen=True)
class Confusion:
    """Types found beside types that a data set names.

    truth, found: names of the rows and columns of counts, int (n, m); the last column is `NOTHING`. accuracy: of images
    on which a defect was found, if any.
    """

    truth: tuple[str, ...]
    found: tuple[str, ...]
    counts: np.ndarray
    accuracy: float | None


def confusion(
    names: Sequence[str | None], found: Sequence[str | None], mapping: Mapping[str, str], types: Sequence[str]
) -> Confusion:
    """Over images: the data set's names of their defects, None for those that do not count; the types that were found
    (see `matching`), None where there was nothing; and which type a name stands for.
    """
    columns = (*types, NOTHING)
    counts: np.ndarray = np.zeros((len(types), len(columns)), int)
    for name, kind in zip(names, found, strict=True):
        if name is not None and name in mapping:
            counts[columns.index(mapping[name]), columns.index(kind or NOTHING)] += 1
    detected = int(counts[:, :-1].sum())
    accuracy = float(np.trace(counts[:, :-1]) / detected) if detected else None
    return Confusion(tuple(types), columns, counts, accuracy)


def matching(defects: Sequence[Defect], mask: np.ndarray | None) -> Defect | None:
    """The defect that covers most of a true mask, or the worst one where there is no mask; None where none does."""
    if mask is None or not mask.any():
        return defects[0] if defects else None
    common = [int((defect.mask & resize_mask(mask, *defect.mask.shape)).sum()) for defect in defects]
    return defects[int(np.argmax(common))] if any(common) else None


def draw_defects(image: np.ndarray, defects: Sequence[Defect], types: Mapping[str, DefectType]) -> np.ndarray:
    """A copy of a picture, uint8 RGB (H, W, 3) of any size, with each defect's outline in its type's colour, between
    dark lines that keep it visible on any ground.
    """
    drawn = np.array(image, order="C")
    thickness = max(1, round(min(drawn.shape[:2]) / 256))
    outlines = []
    for defect in defects:
        # One pixel outside the defect, so that the line does not hide a thin one.
        grown = cv2.dilate(resize_mask(defect.mask, *drawn.shape[:2]).astype(np.uint8), np.ones((3, 3), np.uint8))
        lines = cv2.findContours(grown, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
        outlines.append((lines, rgb(types[defect.kind].colour)))
    for lines, _ in outlines:
        cv2.drawContours(drawn, lines, -1, _DARK, thickness + 2, cv2.LINE_AA)
    for lines, colour in outlines:
        cv2.drawContours(drawn, lines, -1, colour, thickness, cv2.LINE_AA)
    return drawn


def draw_layout(layout: Layout, image: np.ndarray) -> np.ndarray:
    """The picture that the layout was found on, (H, W, 3) uint8 RGB, each area but the background tinted."""
    drawn = image.astype(np.float32)
    for name in layout.names:
        if name != BACKGROUND:
            inside = layout.area(name)
            drawn[inside] = 0.45 * drawn[inside] + 0.55 * np.array(rgb(area_colour(layout, name)))
    return np.rint(drawn).astype(np.uint8)


def area_colour(layout: Layout, name: str) -> str:
    """Of the form #2f6fb0; a user's own areas take theirs in order."""
    own = [other for other in layout.names if other not in AREA_COLOURS]
    return AREA_COLOURS.get(name) or _MORE_COLOURS[own.index(name) % len(_MORE_COLOURS)]


def rgb(colour: str) -> tuple[int, int, int]:
    """(red, green, blue) of '#2f6fb0'."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
