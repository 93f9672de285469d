"""Finds the defects of a bare board as regions that differ from the template, and classifies them by rules.

Surplus copper connects separate tracks (short), touches one track (spur) or is isolated (copper). Missing copper
interrupts a track (open), cuts its border (mousebite) or is a hole in it (pin-hole). The type follows from the number
of contacts, none, one or several, along the piece's outline in the template: with copper for a surplus piece, with bare
board for a missing one.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.data.deeppcb import Box
from anomalib_lite.errors import UserError

SURPLUS = ("copper", "spur", "short")  # by the number of contacts with copper
MISSING = ("pin-hole", "mousebite", "open")  # by the number of contacts with bare board


@dataclass(frozen=True)
class BoardRules:
    """Options of the rules; all lengths are in px.

    Attributes:
        copper: `dark` or `bright`.
        grow: Distance from the map's region up to which differing pixels belong to it, as the map has a tolerance at
            edges.
        join: Pieces closer than twice this are one defect.
        close: Radius of gaps that are closed before a piece is classified.
        contact: Width of the outline in which contacts are counted.
        min_contact: Least number of pixels of a contact.
        margin: Distance of a box from its defect on each side.
        min_pixels: Least number of differing pixels of a defect.
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
    anomaly_map: np.ndarray, threshold: float, image: np.ndarray, template: np.ndarray, rules: BoardRules
) -> list[Box]:
    """Returns the defects of one board as boxes with type and score, in descending order of the score.

    A box's score is the sum of the map over its region.

    Args:
        anomaly_map: (H, W) float.
        threshold: Threshold of the map.
        image, template: Grey (H, W) in [0, 1], aligned to each other.
        rules: Options.
    """
    actual, expected = (_copper(picture, rules) for picture in (image, template))
    anomalous = anomaly_map > threshold
    reached = cv2.dilate(anomalous.astype(np.uint8), _disk(rules.grow)) > 0
    differs = (actual != expected) & reached
    joined = cv2.dilate((anomalous | differs).astype(np.uint8), _disk(rules.join))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    boxes = []
    for label, (x, y, width, height, _) in enumerate(stats[1:], start=1):
        part = (slice(y, y + height), slice(x, x + width))
        inside = labels[part] == label
        region = inside & differs[part]
        if region.sum() < rules.min_pixels:
            continue
        padded = tuple(slice(max(0, s.start - _reach(rules)), s.stop + _reach(rules)) for s in part)
        own = differs[padded] & (labels[padded] == label)
        kind = type_of(own & actual[padded], own & expected[padded], expected[padded], rules)
        score = float(anomaly_map[part][inside & anomalous[part]].sum())
        boxes.append(_box(region, x, y, image.shape, kind, score, rules.margin))
    return sorted(boxes, key=lambda box: -box.score)


def type_of(surplus: np.ndarray, missing: np.ndarray, expected: np.ndarray, rules: BoardRules) -> str:
    """Returns the type of a defect from its surplus and missing copper and the template's copper, all (h, w) bool."""
    is_surplus = surplus.sum() >= missing.sum()
    piece, allowed = (surplus, ~expected) if is_surplus else (missing, expected)
    piece = (cv2.morphologyEx(piece.astype(np.uint8), cv2.MORPH_CLOSE, _disk(rules.close)) > 0) & allowed
    outline = (cv2.dilate(piece.astype(np.uint8), _disk(rules.contact + 1)) > 0) & ~piece
    _, _, stats, _ = cv2.connectedComponentsWithStats((outline & ~allowed).astype(np.uint8), connectivity=8)
    contacts = int((stats[1:, cv2.CC_STAT_AREA] >= rules.min_contact).sum())
    return (SURPLUS if is_surplus else MISSING)[min(contacts, 2)]


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
