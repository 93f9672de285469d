"""Defects and areas drawn into pictures, each type and each area in its colour."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from anomalib_lite.data.decode import resize_mask
from anomalib_lite.defects.inspect import Defect
from anomalib_lite.defects.layout import BACKGROUND, EDGES, INSIDE, TEXT, Layout
from anomalib_lite.defects.rules import TypeRule

AREA_COLOURS = {BACKGROUND: "#6f7680", INSIDE: "#3d8b6f", EDGES: "#d1571b", TEXT: "#e0a100"}
_MORE_COLOURS = ("#2f6fb0", "#8a63a8", "#a3802a", "#16b894")
_DARK = (20, 20, 20)


def draw_defects(image: np.ndarray, defects: Sequence[Defect], types: Mapping[str, TypeRule]) -> np.ndarray:
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
