"""What the renderer knows about its panels, laid beside what segmentation found."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.registration.cropping import Found, crop
from anomalib_lite.rendering.sheet import Placed

SAME = 0.5  # a found product is a placed one where their outlines' intersection over union is above this


def read_truth(path: Path) -> dict[str, list[Placed]]:
    """The products of each panel, by the panel's name in the truth.csv that write_sheets wrote."""
    panels: dict[str, list[Placed]] = {}
    with open(path, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            corners = np.array([[float(row[f"{axis}{i}"]) for axis in "xy"] for i in range(4)])
            defect = None if row["defect"] == "good" else row["defect"]
            severity = float(row["severity"]) if row["severity"] else None
            panels.setdefault(row["panel"], []).append(Placed(corners, float(row["angle"]), defect, severity))
    return panels


def match_truth(found: Sequence[Found], placed: Sequence[Placed]) -> list[Placed | None]:
    """Which product each found one is, None for one that is none; no product is taken twice."""
    from scipy.optimize import linear_sum_assignment

    overlaps = np.zeros((len(found), len(placed)))
    for i, j in np.ndindex(overlaps.shape):
        overlaps[i, j] = overlap(found[i].corners, placed[j].corners)
    pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
    same = {int(f): placed[p] for f, p in pairs if overlaps[f, p] > SAME}
    return [same.get(number) for number in range(len(found))]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two convex outlines, each (n, 2) in order around it."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    common = cv2.intersectConvexConvex(a, b)[0]
    return common / (cv2.contourArea(a) + cv2.contourArea(b) - common)


def crop_mask(mask: np.ndarray, found: Found) -> np.ndarray:
    """A panel's mask (H, W) bool, cut as the product's picture is: bool (h, w), where at least half is marked.

    A mark too fine for that keeps every pixel that it touches.
    """
    share = crop(mask.astype(np.float32), found)
    return share >= 0.5 if (share >= 0.5).any() else share > 0
