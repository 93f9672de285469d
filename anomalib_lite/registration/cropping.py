"""Segments a panel into its products: finds them with a template, aligns them and crops them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.registration.matching import ALIGN_DETAIL, APART, Match, Pyramid, find_matches
from anomalib_lite.registration.template import align, corners_of, correlation, cut, rescaled
from anomalib_lite.settings.data import SegmentOptions

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
