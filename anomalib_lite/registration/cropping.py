"""Segments a panel into its products: finds them with a template, aligns them and crops them.

The search, by normalised cross-correlation over all angles and scales, runs on a reduced panel, where it is cheap; its
matches are refined at finer resolutions in small windows. Positions are in pixels from the outer corner of the first
pixel.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import align, corners_of, correlation, cut, rescaled
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
_TRUSTED = 0.12  # an alignment that moves a corner by a larger share of the template's side is rejected
_SURE = 0.75  # below this median score, the products may have a border that the template lacks
_BETTER = 1.1  # factor by which an assumed border must raise the sum of scores
_OVERVIEW_SIDE = 1600  # px, longest side
_LINE, _SHADE = (90, 255, 120), (0, 0, 0)


@dataclass(frozen=True)
class Product:
    """A product found in a panel.

    pose: (2, 3), maps the template's pixels to the panel's. shape: (h, w) of the template. score: correlation with it.
    """

    pose: np.ndarray
    shape: tuple[int, int]
    score: float

    @property
    def angle(self) -> float:
        """Clockwise, in degrees."""
        linear = self.pose[:, :2]
        return float(np.rad2deg(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))

    @property
    def scale(self) -> float:
        return float(np.sqrt(abs(np.linalg.det(self.pose[:, :2]))))

    @property
    def corners(self) -> np.ndarray:
        return corners_of(self.pose, self.shape)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x, y, width and height of the product, rotated upright about its centre."""
        width, height = self.shape[1] * self.scale, self.shape[0] * self.scale
        x, y = self.corners.mean(0)
        return float(x - width / 2), float(y - height / 2), width, height


def segment(panel: np.ndarray, template: np.ndarray, options: SegmentOptions) -> list[Product]:
    """Finds the products of a panel, sorted row by row. panel (H, W, 3) and template (h, w, 3): RGB uint8.

    Raises UserError for a template that is larger than the panel, too small, or has no contrast.
    """
    (height, width), (full_height, full_width) = template.shape[:2], panel.shape[:2]
    if height * options.min_scale > full_height or width * options.min_scale > full_width:
        raise UserError(
            f"The template ({width} x {height}) is larger than the panel ({full_width} x {full_height}). "
            "Cut a template from a panel of this resolution, or lower min_scale."
        )
    if min(height, width) < 8 or np.ptp(template) < 8:
        fault = "is too small or too uniform to match: it needs 8 x 8 pixels and contrast."
        raise UserError(f"The template ({width} x {height}) {fault}")
    grey, pattern = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (panel, template))
    pyramid = Pyramid(grey, pattern)
    products = _search(pyramid, options)
    if products and np.median([product.score for product in products]) >= _SURE:
        return products
    # A template cut exactly at the product's edge lacks that edge, the panel's strongest line. If scores are low,
    # repeat the search with an edge drawn around the template: for a darker and for a brighter background.
    highest = _BETTER * sum(product.score for product in products)
    for tone in pyramid.grounds():
        pyramid.ground = tone
        candidates = _search(pyramid, options)
        if (total := sum(product.score for product in candidates)) > highest:
            products, highest = candidates, total
    return products


def _search(pyramid: Pyramid, options: SegmentOptions) -> list[Product]:
    matches = find_matches(pyramid, options)
    if options.motion != "none":
        return _best(_aligned(matches, pyramid, options.motion), options)
    products = [Product(match.pose(pyramid.shape), pyramid.shape, match.score) for match in matches]
    for match, product in zip(matches, products, strict=True):
        if match.angle == 0 and match.scale == 1:
            product.pose[:, 2] = np.round(product.pose[:, 2])
    return _best(products, options)


def crop(panel: np.ndarray, product: Product) -> np.ndarray:
    """Cuts out a product aligned to the template, (h, w, 3), so that all crops match pixel by pixel."""
    return cut(panel, product.pose, product.shape)


def _aligned(matches: Sequence[Match], pyramid: Pyramid, motion: str) -> list[Product]:
    """Aligns each match at the finest pyramid level and scores it there."""
    panel, template = pyramid.at(pyramid.finest)
    sharp = pyramid.at(pyramid.finest, ALIGN_DETAIL)
    products = []
    for match in matches:
        rough = rescaled(match.pose(pyramid.shape), 1 / pyramid.finest)
        fine = align(*sharp, rough, motion)
        moved = np.abs(corners_of(fine, template.shape) - corners_of(rough, template.shape)).max()
        before, after = (correlation(cut(panel, pose, template.shape), template) for pose in (rough, fine))
        lost = moved > _TRUSTED * max(template.shape) or after < before
        pose, score = (rough, before) if lost else (fine, after)
        products.append(Product(rescaled(pose, pyramid.finest), pyramid.shape, score))
    return products


def _best(products: list[Product], options: SegmentOptions) -> list[Product]:
    """Keeps products that score at least `min_score` and do not overlap, and sorts them in reading order.

    A new row begins with a product that lies half its height below the first one of the row.
    """
    confident = [product for product in products if product.score >= options.min_score]
    boxes, scores = [product.box for product in confident], [product.score for product in confident]
    kept = cv2.dnn.NMSBoxes(boxes, scores, 0.0, APART)[: options.max_objects]
    rows: list[list[Product]] = []
    for product in sorted((confident[index] for index in kept), key=lambda p: p.box[1]):
        if not rows or product.box[1] - rows[-1][0].box[1] >= product.box[3] / 2:
            rows.append([])
        rows[-1].append(product)
    return [product for row in rows for product in sorted(row, key=lambda p: p.box[0])]


def draw_overview(panel: np.ndarray, products: Sequence[Product]) -> np.ndarray:
    """Draws each product's outline, number and score on a panel (H, W, 3) RGB, reduced to at most 1600 px."""
    shrink = min(1.0, _OVERVIEW_SIDE / max(panel.shape[:2]))
    size = (max(1, round(panel.shape[1] * shrink)), max(1, round(panel.shape[0] * shrink)))
    picture = cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
    letter = max(0.4, max(size) / 1600 * 0.8)
    for number, product in enumerate(products):
        outline = np.round(product.corners * shrink * 16 - 8).astype(np.int32)  # fixed point with 4 fractional bits
        text = f"{number}  {product.score:.2f}"
        x, y = (product.corners.min(0) * shrink).astype(int)
        at = (int(np.clip(x + 4, 0, size[0])), int(np.clip(y - 6, 12, size[1])))
        for colour, width in ((_SHADE, 4), (_LINE, 2)):
            cv2.polylines(picture, [outline], True, colour, width, cv2.LINE_AA, 4)
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, letter, colour, width, cv2.LINE_AA)
    return picture


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
