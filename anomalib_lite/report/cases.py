"""The images of a run, judged: which of them a page shows, and in which order."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from anomalib_lite.errors import UserError

MISTAKES = ("missed", "false alarm")


class Judged(Protocol):
    """What it takes to judge an image; a decision `nok` of None is made from the score and the threshold."""

    @property
    def label(self) -> int | None: ...
    @property
    def defect(self) -> str | None: ...
    @property
    def score(self) -> float: ...
    @property
    def nok(self) -> bool | None: ...


@dataclass(frozen=True)
class ScoredImage:
    """One row of predictions.csv; label 0 OK, 1 NOK, None unknown."""

    image: str
    label: int | None
    defect: str | None
    score: float
    nok: bool | None = None


@dataclass(frozen=True)
class Case:
    """One image to look at: uint8 RGB (H, W, 3), map float32 (h, w), mask bool (h, w) or None."""

    name: str
    label: int | None
    defect: str | None
    score: float
    image: np.ndarray
    map: np.ndarray
    mask: np.ndarray | None = None
    nok: bool | None = None


def read_predictions(path: Path) -> list[ScoredImage]:
    """Reads predictions.csv (image, label, defect, score, nok); all but the score may be missing or empty."""
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if "score" not in (reader.fieldnames or []):
            raise UserError(f"{path} has no column 'score'. Evaluate the run again to write it anew.")
        return [_scored(row) for row in reader]


def decision(item: Judged, threshold: float) -> bool:
    """True where the image is judged NOK: by its own decision, or because its score exceeds the threshold."""
    return bool(item.nok) if item.nok is not None else not item.score <= threshold


def outcome(item: Judged, threshold: float) -> str:
    """'missed', 'false alarm', 'found' or 'passed'; 'rejected' or 'accepted' where the truth is unknown."""
    nok = decision(item, threshold)
    if item.label is None:
        return "rejected" if nok else "accepted"
    if item.label:
        return "found" if nok else "missed"
    return "false alarm" if nok else "passed"


def kind(item: Judged) -> str:
    """The group an image belongs to: its defect type, else 'OK', 'NOK' or 'unlabelled'."""
    if item.label is None:
        return item.defect or "unlabelled"
    return (item.defect or "NOK") if item.label else "OK"


def select_cases(predictions: Sequence[Judged], threshold: float, max_cases: int = 120) -> list[int]:
    """Indices of the images to show, in display order.

    All mistakes come first, the worst before: how far a score lies on the wrong side, as a ratio to the
    threshold. What room remains is spread evenly over the kinds of image, and within each over the range of
    its scores; these are ordered by falling score.
    """
    verdicts = [outcome(item, threshold) for item in predictions]
    mistakes = [i for i, verdict in enumerate(verdicts) if verdict in MISTAKES]
    mistakes.sort(key=lambda i: (-_wrongness(predictions[i], threshold), i))
    mistakes = mistakes[:max_cases]

    groups: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(predictions)), key=lambda i: predictions[i].score):
        if verdicts[i] not in MISTAKES:
            groups[kind(predictions[i])].append(i)
    rest = _spread(list(groups.values()), max_cases - len(mistakes))
    return mistakes + sorted(rest, key=lambda i: (-predictions[i].score, i))


def _spread(groups: list[list[int]], room: int) -> list[int]:
    """Takes equal shares of the groups, what a small one leaves going to the others, evenly along each."""
    chosen: list[int] = []
    for done, group in enumerate(sorted(groups, key=len)):
        share = min(len(group), math.ceil((room - len(chosen)) / (len(groups) - done)))
        places = np.linspace(0, len(group) - 1, share).round().astype(int)
        chosen += [group[place] for place in places[::-1]]
    return chosen


def _wrongness(item: Judged, threshold: float) -> float:
    """How far a mistake lies on the wrong side, as the logarithm of a ratio; larger is worse."""
    if math.isnan(item.score):
        return math.inf
    side = -1.0 if item.label else 1.0
    if not 0 < threshold < math.inf:
        return side * item.score  # there is no ratio, but all mistakes are then of one sort
    return side * math.log(min(max(item.score / threshold, 1e-300), 1e300))


def _scored(row: dict[str, str | None]) -> ScoredImage:
    label = (row.get("label") or "").strip()
    nok = (row.get("nok") or "").strip().lower()
    return ScoredImage(
        image=row.get("image") or "",
        label=int(float(label)) if label else None,
        defect=row.get("defect") or None,
        score=float(row["score"] or "nan"),
        nok=nok in ("1", "true", "yes", "1.0") if nok else None,
    )
