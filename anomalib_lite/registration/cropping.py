"""A panel and a template in; out come its products: their places, and crops that lie over the template."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.registration.matching import ALIGN_DETAIL, APART, Match, Pyramid, find_matches
from anomalib_lite.registration.template import align, corners_of, correlation, cut, rescaled
from anomalib_lite.settings.data import SegmentOptions

_TRUSTED = 0.12  # an alignment that moves a corner farther, in template sides, has lost the product
_SURE = 0.75  # products whose median score is lower may have a border that the template does not show
_BETTER = 1.1  # by this factor must an assumed border raise the sum of scores
_OVERVIEW_SIDE = 1600  # px, at most
_LINE, _SHADE = (90, 255, 120), (0, 0, 0)


@dataclass(frozen=True)
class Found:
    """One product. pose: (2, 3), template's pixels to the panel's. score: correlation after alignment."""

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
        """x, y, width and height of the product if it were turned upright about its centre."""
        width, height = self.shape[1] * self.scale, self.shape[0] * self.scale
        x, y = self.corners.mean(0)
        return float(x - width / 2), float(y - height / 2), width, height


def segment(panel: np.ndarray, template: np.ndarray, options: SegmentOptions) -> list[Found]:
    """The products of a panel, row by row. panel (H, W, 3) and template (h, w, 3): RGB uint8.

    Errors: UserError for a template that is larger than the panel, too small, or has no contrast.
    """
    (height, width), (full_height, full_width) = template.shape[:2], panel.shape[:2]
    if height * options.min_scale > full_height or width * options.min_scale > full_width:
        raise UserError(
            f"The template ({width} x {height}) is larger than the panel ({full_width} x {full_height}). "
            "Take a template cut from a panel of this resolution, or allow smaller scales."
        )
    if min(height, width) < 8 or np.ptp(template) < 8:
        shows = f"The template ({width} x {height}) shows nothing to match"
        raise UserError(f"{shows}: it needs 8 x 8 pixels and contrast.")
    grey, pattern = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (panel, template))
    pyramid = Pyramid(grey, pattern)
    found = _search(pyramid, options)
    if found and np.median([product.score for product in found]) >= _SURE:
        return found
    # A template cut exactly at the product's edge lacks the strongest line that the panel shows there: the step to the
    # ground. Where little is found, it is drawn around the template, once for darker and once for brighter ground.
    most = _BETTER * _total(found)
    for tone in pyramid.grounds():
        pyramid.ground = tone
        other = _search(pyramid, options)
        if _total(other) > most:
            found, most = other, _total(other)
    return found


def _search(pyramid: Pyramid, options: SegmentOptions) -> list[Found]:
    matches = find_matches(pyramid, options)
    if options.motion != "none":
        return _best(_aligned(matches, pyramid, options.motion), options)
    upright = [Found(match.pose(pyramid.shape), pyramid.shape, match.score) for match in matches]
    for match, product in zip(matches, upright, strict=True):
        if match.angle == 0 and match.scale == 1:
            product.pose[:, 2] = np.round(product.pose[:, 2])
    return _best(upright, options)


def _total(found: Sequence[Found]) -> float:
    return sum(product.score for product in found)


def crop(panel: np.ndarray, found: Found) -> np.ndarray:
    """The product as the template shows it, (h, w, 3), so that crops lie over each other pixel by pixel."""
    return cut(panel, found.pose, found.shape)


def _aligned(matches: Sequence[Match], pyramid: Pyramid, motion: str) -> list[Found]:
    """Each aligned at the finest level of the search, and scored there."""
    panel, template = pyramid.at(pyramid.finest)
    sharp = pyramid.at(pyramid.finest, ALIGN_DETAIL)
    found = []
    for match in matches:
        rough = rescaled(match.pose(pyramid.shape), 1 / pyramid.finest)
        fine = align(*sharp, rough, motion)
        moved = np.abs(corners_of(fine, template.shape) - corners_of(rough, template.shape)).max()
        before, after = (correlation(cut(panel, pose, template.shape), template) for pose in (rough, fine))
        lost = moved > _TRUSTED * max(template.shape) or after < before
        pose, score = (rough, before) if lost else (fine, after)
        found.append(Found(rescaled(pose, pyramid.finest), pyramid.shape, score))
    return found


def _best(found: list[Found], options: SegmentOptions) -> list[Found]:
    """Those that score enough and do not overlap after alignment, in reading order: a new row begins where a product is
    half its height below the first of the row.
    """
    sure = [product for product in found if product.score >= options.min_score]
    boxes, scores = [product.box for product in sure], [product.score for product in sure]
    kept = cv2.dnn.NMSBoxes(boxes, scores, 0.0, APART)[: options.max_objects]
    rows: list[list[Found]] = []
    for product in sorted((sure[place] for place in kept), key=lambda f: f.box[1]):
        if rows and product.box[1] - rows[-1][0].box[1] < product.box[3] / 2:
            rows[-1].append(product)
        else:
            rows.append([product])
    return [product for row in rows for product in sorted(row, key=lambda f: f.box[0])]


def draw_overview(panel: np.ndarray, found: Sequence[Found]) -> np.ndarray:
    """The panel (H, W, 3) RGB, made smaller if need be, with outline, number and score of each product."""
    shrink = min(1.0, _OVERVIEW_SIDE / max(panel.shape[:2]))
    size = (max(1, round(panel.shape[1] * shrink)), max(1, round(panel.shape[0] * shrink)))
    picture = cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
    letter = max(0.4, max(size) / 1600 * 0.8)
    for number, product in enumerate(found):
        outline = np.round(product.corners * shrink * 16 - 8).astype(np.int32)  # 4 bits after the binary point
        text = f"{number}  {product.score:.2f}"
        x, y = (product.corners.min(0) * shrink).astype(int)
        at = (int(np.clip(x + 4, 0, size[0])), int(np.clip(y - 6, 12, size[1])))
        for colour, width in ((_SHADE, 4), (_LINE, 2)):
            cv2.polylines(picture, [outline], True, colour, width, cv2.LINE_AA, 4)
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, letter, colour, width, cv2.LINE_AA)
    return picture
