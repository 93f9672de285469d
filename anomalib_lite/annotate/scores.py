"""Anomaly scores of a run, matched to the crops they speak of."""

from __future__ import annotations

import csv
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from anomalib_lite.annotate.crops import Crop
from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """`nok` is the run's own verdict at its threshold, None where the file has none."""

    value: float
    nok: bool | None


def read_scores(source: str | Path, crops: Sequence[Crop]) -> dict[str, Score]:
    """Scores by the crop's key, from predictions.csv or a run folder that holds one.

    The column `image` is matched by the file's name and, among namesakes, by the most folders it shares from
    the end; a crop for which that stays ambiguous gets none. Raises UserError where the file does not fit.
    """
    path = Path(source).expanduser()
    path = path / "predictions.csv" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"There is no {path}: set scores=RUN_FOLDER or scores=PREDICTIONS.csv.")
    by_name: dict[str, list[tuple[PurePosixPath, Score]]] = defaultdict(list)
    for image, score in _read_rows(path):
        by_name[image.name].append((image, score))
    namesakes: dict[str, list[Crop]] = defaultdict(list)
    for crop in crops:
        namesakes[crop.path.name].append(crop)
    found = {}
    for crop in crops:
        score = _best(crop, by_name[crop.path.name], namesakes[crop.path.name])
        if score is not None:
            found[crop.key] = score
    if not found:
        raise UserError(f"None of the {len(crops)} crops is in {path}: it belongs to other images.")
    if len(found) < len(crops):
        log.warning("%d of %d crops have no score in %s", len(crops) - len(found), len(crops), path)
    return found


def _read_rows(path: Path) -> list[tuple[PurePosixPath, Score]]:
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = {"image", "score"} - set(reader.fieldnames or ())
        if missing:
            columns = " and no ".join(sorted(missing))
            raise UserError(f"{path} has no column {columns}: it is no predictions.csv.")
        rows = []
        for row in reader:
            try:
                value = float(row["score"])
            except (TypeError, ValueError):
                raise UserError(f"{path}, line {reader.line_num}: {row['score']!r} is no score.") from None
            if math.isfinite(value):
                image = PurePosixPath((row["image"] or "").replace("\\", "/"))
                rows.append((image, Score(value, _verdict(row.get("nok")))))
    return rows


def _verdict(text: str | None) -> bool | None:
    return {"1": True, "true": True, "nok": True, "0": False, "false": False, "ok": False}.get(
        (text or "").strip().lower().removesuffix(".0")
    )


def _best(crop: Crop, rows: list[tuple[PurePosixPath, Score]], namesakes: list[Crop]) -> Score | None:
    """The row nearest to this crop, if no other is as near and no namesake of the crop is as near to it."""
    depths = [_common_tail(crop.path, image) for image, _ in rows]
    best = max(depths, default=0)
    if depths.count(best) != 1:
        return None
    image, score = rows[depths.index(best)]
    as_near = sum(_common_tail(other.path, image) >= best for other in namesakes)
    return score if as_near == 1 else None


def _common_tail(one: PurePath, other: PurePath) -> int:
    depth = 0
    for a, b in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if a != b:
            break
        depth += 1
    return depth
