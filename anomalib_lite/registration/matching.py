"""Finds a template in a panel by normalised cross-correlation, coarse to fine.

The search over all angles and scales runs on a reduced panel, where it is cheap; its matches are refined at finer
resolutions in small windows. Positions are in pixels from the outer corner of the first pixel.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anomalib_lite.settings.data import SegmentOptions

COARSE_SIDE = 40  # px, at least, of the template's shorter side in the coarse search
FINE_SIDE = 128  # px, at least, of the template's longer side at the finest level (less than twice as many)
SEARCH_DETAIL = 20  # radius of local contrast is 1 / this of a template side: tolerates two degrees of rotation
ALIGN_DETAIL = 55  # the same for alignment: precise to a tenth of a pixel
APART = 0.3  # largest overlap (intersection over union) of two products' boxes
_SAME_PLACE = 0.85  # coarse matches that overlap more, such as those of two angles, count as one
_SCALE_STEP = 0.04  # as a share of the template's size
_FLAT = 0.15  # a place with less than this share of the template's contrast shows no product
_SLACK = 0.7  # share of `min_score` that a coarse match needs, as its angle and position are not exact yet


@dataclass(frozen=True)
class Match:
    """Position of the template's centre in the panel, its angle (degrees clockwise), scale and correlation."""

    x: float
    y: float
    angle: float
    scale: float
    score: float

    def pose(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the affine map (2, 3) that places a template of `shape` (h, w) here, rotated and scaled."""
        turn = np.deg2rad(self.angle)
        linear = self.scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = np.array([self.x, self.y]) - linear @ (shape[1] / 2, shape[0] / 2)
        return np.column_stack([linear, shift])


class Pyramid:
    """Local contrast (float32) of a panel (H, W) and a template (h, w), grey uint8, at reduced sizes.

    The search begins with both reduced by the factor `coarsest`, a power of two, and ends at `finest`.
    """

    def __init__(self, panel: np.ndarray, template: np.ndarray) -> None:
        self.shape = template.shape
        self.coarsest = _reduction(min(template.shape), COARSE_SIDE)
        self.finest = min(self.coarsest, _reduction(max(template.shape), FINE_SIDE))
        self.ground: int | None = None  # grey value around the template; None repeats its border
        height, width = (side // self.coarsest * self.coarsest for side in template.shape)  # whole blocks
        self._panel, self._template = (reduce(image, self.finest) for image in (panel, template[:height, :width]))
        self._panel_contrast = functools.cache(  # does not depend on `ground`
            lambda factor, radius: local_contrast(reduce(self._panel, factor // self.finest), radius)
        )

    def at(self, factor: int, detail: float = SEARCH_DETAIL) -> tuple[np.ndarray, np.ndarray]:
        """Returns the contrast of panel and template, reduced by `factor`, at a radius of 1 / `detail` of a side."""
        template = reduce(self._template, factor // self.finest)
        radius = max(self.shape) / factor / detail
        return self._panel_contrast(factor, radius), local_contrast(template, radius, self.ground)

    def grounds(self) -> list[int]:
        """Returns a dark and a bright grey value of the panel, as guesses of its background."""
        return np.quantile(self._panel, (0.05, 0.95)).astype(int).tolist()


def local_contrast(image: np.ndarray, radius: float, ground: int | None = None) -> np.ndarray:
    """Normalises grey uint8 (H, W) by local mean and spread to float32 (H, W): weak and strong edges count alike.

    A bright label on a product then lowers the correlation only by the area that it hides, and reflections do not pull
    the alignment. radius: of the neighbourhood in px. ground: grey value beyond the border; None repeats the border.
    """
    if ground is not None:  # one pixel is enough, as the filters repeat it
        framed = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=ground)
        return np.ascontiguousarray(local_contrast(framed, radius)[1:-1, 1:-1])
    grey = np.log(image.astype(np.float32) + 10)  # the offset keeps the noise of dark pixels small
    grey -= _blur(grey, radius)
    spread = _blur(grey * grey, 2 * radius)
    return grey / (np.sqrt(np.maximum(spread, 0)) + np.float32(0.15))


def find_matches(pyramid: Pyramid, options: SegmentOptions) -> list[Match]:
    """Finds matches, in descending order of their score at the finest level.

    Returns up to twice `max_objects` matches, some below `min_score`: angles are only as fine as `angle_step`, so the
    alignment decides.
    """
    turns = np.arange(1, int(options.max_angle / options.angle_step + 1e-6) + 1) * options.angle_step
    angles = [*(-turns[::-1]).tolist(), 0.0, *turns.tolist()]
    count = int(np.ceil((options.max_scale - options.min_scale) / _SCALE_STEP - 1e-6)) + 1
    scales = np.linspace(options.min_scale, options.max_scale, max(1, count)).tolist()
    factor = pyramid.coarsest
    small, pattern = pyramid.at(factor)
    matches: list[Match] = []
    for scale, angle in itertools.product(scales, angles):
        turned = _turned(pattern, angle, scale)
        if turned.shape[0] <= small.shape[0] and turned.shape[1] <= small.shape[1]:
            matches += _local_maxima(_correlate(small, turned), turned.shape, angle, scale, _SLACK * options.min_score)
    while True:
        matches = suppress(matches, pattern.shape, _SAME_PLACE)
        matches = [m for m in matches if m.score >= _SLACK * options.min_score][: 4 * options.max_objects + 8]
        if factor == pyramid.finest or not matches:
            break
        factor //= 2
        small, pattern = pyramid.at(factor)
        matches = [_follow(small, pattern, replace(m, x=2 * m.x, y=2 * m.y)) for m in matches]
    best = suppress(matches, pattern.shape, APART)[: 2 * options.max_objects]
    return [replace(m, x=m.x * factor, y=m.y * factor) for m in best]


def suppress(matches: Sequence[Match], shape: tuple[int, int], max_overlap: float) -> list[Match]:
    """Non-maximum suppression of the upright boxes, by intersection over union; `shape` is the template's (h, w)."""
    sides = [(shape[1] * m.scale, shape[0] * m.scale) for m in matches]
    boxes = [(m.x - w / 2, m.y - h / 2, w, h) for m, (w, h) in zip(matches, sides, strict=True)]
    return [matches[k] for k in cv2.dnn.NMSBoxes(boxes, [m.score for m in matches], 0.0, max_overlap)]


def reduce(image: np.ndarray, factor: int) -> np.ndarray:
    """Averages each `factor` x `factor` block; repeats the last row and column to fill the last blocks."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    image = cv2.copyMakeBorder(image, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // factor, image.shape[0] // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs by nearly a Gaussian, at a cost independent of `sigma`."""
    side = 2 * max(1, round(2.45 * sigma)) + 1  # width of the triangle kernel with this standard deviation
    return cv2.stackBlur(image, (side, side))


def _reduction(side: int, least: int) -> int:
    """Returns the largest power of two that reduces `side` pixels to no fewer than `least`."""
    return 2 ** max(0, (side // least).bit_length() - 1)


def _correlate(panel: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Returns the correlation coefficient at each position, 0 where the panel has too little contrast.

    Otherwise rounding errors on a uniform background, divided by its tiny variance, would look like perfect matches.
    """
    response = cv2.matchTemplate(panel, template, cv2.TM_CCOEFF_NORMED)
    height, width = template.shape
    sums, squares = (
        total[height:, width:] - total[height:, :-width] - total[:-height, width:] + total[:-height, :-width]
        for total in cv2.integral2(panel, sdepth=cv2.CV_64F, sqdepth=cv2.CV_64F)
    )
    variance = squares / template.size - (sums / template.size) ** 2
    return np.where(variance > (_FLAT * template.std()) ** 2, response, np.float32(0))


def _turned(template: np.ndarray, angle: float, scale: float) -> np.ndarray:
    """Rotates the template about its centre and resizes it; fills the corners with its border pixels."""
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
    highest = cv2.dilate(response, np.ones((5, 5), np.uint8))
    rows, columns = np.nonzero((response == highest) & (response >= floor))
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return [Match(x + shape[1] / 2, y + shape[0] / 2, angle, scale, float(response[y, x])) for y, x in places]


def _follow(panel: np.ndarray, template: np.ndarray, match: Match, reach: int = 3) -> Match:
    """Refines a match to the best position within `reach` pixels, to a fraction of a pixel."""
    pattern = _turned(template, match.angle, match.scale)
    height, width = pattern.shape
    left = int(np.clip(round(match.x - width / 2) - reach, 0, max(0, panel.shape[1] - width)))
    top = int(np.clip(round(match.y - height / 2) - reach, 0, max(0, panel.shape[0] - height)))
    window = panel[top : top + height + 2 * reach, left : left + width + 2 * reach]
    if window.shape[0] < height or window.shape[1] < width:
        return match
    response = _correlate(window, pattern)
    row, column = np.unravel_index(int(response.argmax()), response.shape)
    dy, dx = _peak(response[:, column], int(row)), _peak(response[row], int(column))
    x, y = left + column + dx + width / 2, top + row + dy + height / 2
    return replace(match, x=float(x), y=float(y), score=float(response[row, column]))


def _peak(values: np.ndarray, index: int) -> float:
    """Returns the offset, within half a pixel, of the peak of the parabola through a maximum and its neighbours."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, at, after = values[index - 1 : index + 2].tolist()
    curvature = before - 2 * at + after
    return 0.0 if curvature >= 0 else float(np.clip((before - after) / (2 * curvature), -0.5, 0.5))
