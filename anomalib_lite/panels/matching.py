"""Where a template occurs in a panel: normalised correlation, coarse to fine.

The search runs on a reduced panel, where it is cheap, for every angle and scale asked for. What it finds is
followed to finer pixels in small windows alone. Positions are in pixels that count from the outer corner of
the first one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np

COARSE_SIDE = 40  # the search runs where the template's shorter side still has this many pixels
FINE_SIDE = 160  # and is followed until the longer side has at least this many
_SLACK = 0.7  # a coarse score may be this much lower than asked for: the angle and place are not exact yet


@dataclass(frozen=True)
class Match:
    """A place: the template's centre in the panel, its angle (degrees clockwise), scale and correlation."""

    x: float
    y: float
    angle: float
    scale: float
    score: float


@dataclass(frozen=True)
class Search:
    """At most `max_objects` places that score `min_score` and overlap a better one by `max_overlap`."""

    max_objects: int = 8
    min_score: float = 0.4
    max_overlap: float = 0.3
    angles: tuple[float, ...] = (0.0,)
    scales: tuple[float, ...] = (1.0,)


def find_matches(panel: np.ndarray, template: np.ndarray, search: Search) -> list[Match]:
    """Matches in falling order of score. panel (H, W) and template (h, w): grey uint8.

    Scores are those of the finest level used. There may be more matches than `max_objects`, and some score
    below `min_score`, since an angle is only as fine as the list of angles: alignment has the last word.
    """
    factor = reduction(min(template.shape), COARSE_SIDE)
    last = min(factor, reduction(max(template.shape), FINE_SIDE))
    small, pattern = reduce_panel(panel, factor), reduce_template(template, factor)
    matches = _search_whole(small, pattern, search)
    while True:
        matches = suppress(matches, pattern.shape, search.max_overlap)
        matches = [m for m in matches if m.score >= _SLACK * search.min_score][: 4 * search.max_objects + 8]
        if factor == last or not matches:
            break
        factor //= 2
        small, pattern = reduce_panel(panel, factor), reduce_template(template, factor)
        matches = [_follow(small, pattern, replace(m, x=2 * m.x, y=2 * m.y)) for m in matches]
    return [replace(m, x=m.x * factor, y=m.y * factor) for m in matches]


def suppress(matches: Iterable[Match], shape: tuple[int, int], max_overlap: float) -> list[Match]:
    """Non-maximum suppression: the best first, without those that overlap a better one too much.

    shape: (h, w) of the template, in the matches' pixels. Overlap is the upright boxes' IoU.
    """
    kept: list[Match] = []
    for match in sorted(matches, key=lambda m: -m.score):
        if all(overlap(match, other, shape) <= max_overlap for other in kept):
            kept.append(match)
    return kept


def overlap(a: Match, b: Match, shape: tuple[int, int]) -> float:
    """Intersection over union of two matches' upright boxes."""
    height, width = shape
    shared = 1.0
    for distance, side in ((abs(a.x - b.x), width), (abs(a.y - b.y), height)):
        sides = side * a.scale, side * b.scale
        shared *= max(0.0, min(*sides, sum(sides) / 2 - distance))
    return shared / (height * width * (a.scale**2 + b.scale**2) - shared)


def reduce_panel(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each `factor` x `factor` block; the last row and column are repeated to full blocks."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    image = cv2.copyMakeBorder(image, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def reduce_template(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each whole `factor` x `factor` block: what does not fill a block is left out."""
    height, width = (side // factor * factor for side in image.shape[:2])
    return reduce_panel(image[:height, :width], factor)


def reduction(side: int, wanted: int) -> int:
    """The largest power of two by which `side` pixels can be divided so that `wanted` are left."""
    return 2 ** max(0, (side // wanted).bit_length() - 1)


def _search_whole(panel: np.ndarray, template: np.ndarray, search: Search) -> list[Match]:
    matches = []
    for scale in search.scales:
        for angle in search.angles:
            pattern = _turned(template, angle, scale)
            if any(p > s for p, s in zip(pattern.shape, panel.shape, strict=True)):
                continue
            response = cv2.matchTemplate(panel, pattern, cv2.TM_CCOEFF_NORMED)
            matches += _local_maxima(response, pattern.shape, angle, scale, _SLACK * search.min_score)
    return matches


def _turned(template: np.ndarray, angle: float, scale: float) -> np.ndarray:
    """The template turned about its centre and resized; its corners are filled with its border's pixels."""
    if angle == 0 and scale == 1:
        return template
    height, width = template.shape
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, scale)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(template, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _local_maxima(
    response: np.ndarray, shape: tuple[int, int], angle: float, scale: float, floor: float
) -> list[Match]:
    response = np.where(np.abs(response) <= 1.001, response, 0)  # a flat window divides by zero
    around = cv2.dilate(response, np.ones([max(3, side // 4 | 1) for side in shape], np.uint8))
    rows, columns = np.nonzero((response == around) & (response >= floor))
    centre_x, centre_y = shape[1] / 2, shape[0] / 2
    return [
        Match(x + centre_x, y + centre_y, angle, scale, float(response[y, x]))
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _follow(panel: np.ndarray, template: np.ndarray, match: Match, reach: int = 3) -> Match:
    """The best place within `reach` pixels around a match, to a fraction of a pixel."""
    pattern = _turned(template, match.angle, match.scale)
    height, width = pattern.shape
    left = int(np.clip(round(match.x - width / 2) - reach, 0, max(0, panel.shape[1] - width)))
    top = int(np.clip(round(match.y - height / 2) - reach, 0, max(0, panel.shape[0] - height)))
    window = panel[top : top + height + 2 * reach, left : left + width + 2 * reach]
    if window.shape[0] < height or window.shape[1] < width:
        return match
    response = cv2.matchTemplate(window, pattern, cv2.TM_CCOEFF_NORMED)
    response = np.where(np.abs(response) <= 1.001, response, 0)
    row, column = np.unravel_index(int(response.argmax()), response.shape)
    dy, dx = _peak(response[:, column], int(row)), _peak(response[row], int(column))
    x, y = left + column + dx + width / 2, top + row + dy + height / 2
    return replace(match, x=float(x), y=float(y), score=float(response[row, column]))


def _peak(values: np.ndarray, index: int) -> float:
    """How far from a maximum the parabola through it and its neighbours peaks, within half a pixel."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, at, after = values[index - 1 : index + 2].tolist()
    bend = before - 2 * at + after
    return 0.0 if bend >= 0 else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))
