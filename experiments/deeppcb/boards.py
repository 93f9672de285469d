"""Defects of a bare board: regions that differ from the template, their boxes, and their types by rule.

The types are those of copper: a piece that is too much joins what was apart (short), hangs on a track (spur) or lies
alone (copper); a piece that lacks parts a track (open), is bitten off its border (mousebite) or is a hole in it
(pin-hole). What a piece touches is told from its own surroundings in the template: go once around it, and count the
stretches of copper that a surplus piece meets, or the stretches without copper that a lacking one meets: none, one, or
several.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.data.deeppcb import Box
from anomalib_lite.errors import UserError

SURPLUS = ("copper", "spur", "short")  # by how many stretches of copper are met
LACKING = ("pin-hole", "mousebite", "open")  # by how many stretches without copper


@dataclass(frozen=True)
class BoardRules:
    """All lengths in px of the image.

    copper: `dark` or `bright`. grow: how far beyond the map's region pixels belong to it that differ from the template;
    the map leaves out what lies within its tolerance of an edge. join: pieces whose gap is below twice this are one
    defect. close: gaps in a piece that are filled before its type is told. contact: distance at which a piece is gone
    around. min_contact: pixels that a stretch has at least. margin: by which boxes are larger than their defect on each
    side. min_pixels: of differing pixels, below which nothing is reported.
    """

    copper: str = "dark"
    grow: int = 3
    join: int = 6
    close: int = 3
    contact: int = 2
    min_contact: int = 8
    margin: float = 10.0
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if self.copper not in ("dark", "bright"):
            raise UserError(f"copper must be dark or bright, not '{self.copper}'.")


def find_defects(
    map: np.ndarray, threshold: float, image: np.ndarray, template: np.ndarray, rules: BoardRules
) -> list[Box]:
    """The defects of one board as boxes with type and score, surest first.

    map (H, W) float, anomalous where > threshold. image, template: grey (H, W) in [0, 1] that lie over each other. A
    box's score is the sum of the map over its region.
    """
    has, wants = (_copper(picture, rules) for picture in (image, template))
    found = map > threshold
    reached = cv2.dilate(found.astype(np.uint8), _disk(rules.grow)) > 0
    differs = (has != wants) & reached
    joined = cv2.dilate((found | differs).astype(np.uint8), _disk(rules.join))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    boxes = []
    for label, (x, y, width, height, _) in enumerate(stats[1:], start=1):
        part = (slice(y, y + height), slice(x, x + width))
        inside = labels[part] == label
        region = inside & differs[part]
        if region.sum() < rules.min_pixels:
            continue
        padded = tuple(slice(max(0, s.start - _reach(rules)), s.stop + _reach(rules)) for s in part)
        alone = differs[padded] & (labels[padded] == label)
        kind = type_of(alone & has[padded], alone & wants[padded], wants[padded], rules)
        score = float(map[part][inside & found[part]].sum())
        boxes.append(_box(region, x, y, image.shape, kind, score, rules.margin))
    return sorted(boxes, key=lambda box: -box.score)


def type_of(surplus: np.ndarray, lacking: np.ndarray, wants: np.ndarray, rules: BoardRules) -> str:
    """The type of one defect from its pixels of too much and of lacking copper and from the template's copper around
    it; all (h, w) bool.
    """
    more = surplus.sum() >= lacking.sum()
    piece, own = (surplus, ~wants) if more else (lacking, wants)
    piece = (cv2.morphologyEx(piece.astype(np.uint8), cv2.MORPH_CLOSE, _disk(rules.close)) > 0) & own
    around = (cv2.dilate(piece.astype(np.uint8), _disk(rules.contact + 1)) > 0) & ~piece
    _, _, stats, _ = cv2.connectedComponentsWithStats((around & ~own).astype(np.uint8), connectivity=8)
    stretches = int((stats[1:, cv2.CC_STAT_AREA] >= rules.min_contact).sum())
    return (SURPLUS if more else LACKING)[min(stretches, 2)]


def _box(region: np.ndarray, x: int, y: int, shape: tuple[int, ...], kind: str, score: float, margin: float) -> Box:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    left, right = x + columns[0] - margin, x + columns[-1] + 1 + margin
    top, bottom = y + rows[0] - margin, y + rows[-1] + 1 + margin
    height, width = shape[:2]
    return Box(max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom), kind, score)


def _copper(picture: np.ndarray, rules: BoardRules) -> np.ndarray:
    return (picture < 0.5) == (rules.copper == "dark")


def _reach(rules: BoardRules) -> int:
    return rules.contact + rules.close + 2


def _disk(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
