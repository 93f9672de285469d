"""A template brought over an image: as a whole, then locally by some pixels.

Evangelidis, Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", PAMI 2008
(OpenCV's findTransformECC). Pictures are float32 (H, W, 3) in [0, 1]; grey ones (H, W).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError

log = logging.getLogger(__name__)

MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
}
SMALLEST, LARGEST = 96, 384  # px of the shorter side between which the parameters are sought
ITERATIONS = 40
FAINT = 1e-3  # local contrast (standard deviation) below which there is nothing to align on
STEP_COST = 0.001  # mean absolute difference by which a shift of one more pixel must be better


@dataclass(frozen=True)
class Alignment:
    """How a template is brought over an image.

    motion: of the whole, `none`, `translation`, `euclidean` or `affine`. reach: px by which parts may be shifted
    further, 0 to leave that out. window: px, side of the part that is shifted as one; a defect much smaller than it
    moves nothing. light: whether each colour's mean and spread are made equal to the image's.
    """

    motion: str = "affine"
    reach: int = 4
    window: int = 49
    light: bool = True

    def __post_init__(self) -> None:
        if self.motion != "none" and self.motion not in MOTIONS:
            raise UserError(f"alignment.motion must be none, {', '.join(MOTIONS)}, not '{self.motion}'.")
        if self.reach < 0 or self.window < 3:
            raise UserError("alignment.reach must be at least 0 px and alignment.window at least 3 px.")

    def __call__(self, image: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The template over the image (H, W, 3), and where the template shows anything at all (H, W) bool."""
        height, width = image.shape[:2]
        seen = np.ones((height, width), bool)
        target = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.motion != "none":
            warp = whole_motion(target, cv2.cvtColor(template, cv2.COLOR_RGB2GRAY), self.motion)
            rows, columns = np.mgrid[:height, :width].astype(np.float32)
            x = warp[0, 0] * columns + warp[0, 1] * rows + warp[0, 2]
            y = warp[1, 0] * columns + warp[1, 1] * rows + warp[1, 2]
            seen = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
            template = cv2.remap(template, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if self.light:
            template = same_light(image, template, seen)
        if self.reach:
            shifts = local_shifts(target, cv2.cvtColor(template, cv2.COLOR_RGB2GRAY), self.reach, self.window)
            template = shifted(template, shifts)
            seen = shifted(seen.astype(np.float32), shifts) > 0.99
        return template, seen


def whole_motion(image: np.ndarray, template: np.ndarray, motion: str) -> np.ndarray:
    """The map (2, 3) from the image's pixels to the template's at which the two grey pictures correlate best.

    Sought from coarse to fine; where nothing better than the identity is found, it is the identity.
    """
    warp = np.eye(2, 3, dtype=np.float32)
    if min(image.std(), template.std()) < FAINT:
        return warp
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ITERATIONS, 1e-4)
    scales = _scales(min(image.shape))
    for scale in scales:
        small, other = _reduced(image, scale), _reduced(template, scale)
        warp = _start(small, other) if scale == scales[0] else _rescaled(warp, 2.0)
        try:
            _, warp = cv2.findTransformECC(small, other, warp.copy(), MOTIONS[motion], criteria, None, 5)
        except cv2.error as error:  # raised where the correlation cannot grow
            log.debug("no alignment at scale %g: %s", scale, error)
    warp = _rescaled(warp, 1 / scales[-1])
    identity = np.eye(2, 3, dtype=np.float32)
    better = _correlation(image, template, warp) > _correlation(image, template, identity)
    return warp if better else identity


def local_shifts(image: np.ndarray, template: np.ndarray, reach: int, window: int) -> np.ndarray:
    """For each pixel of the grey image, how far away (dx, dy) the template looks like its surroundings: (H, W, 2).

    Whole shifts of up to `reach` px are compared by the mean absolute difference over about `window` px, coarse to
    fine, and their field is smoothed over as much.
    """
    if reach <= 2 or min(image.shape) < 4 * window:
        return _search(image, template, reach, window)
    height, width = image.shape
    coarse = local_shifts(_reduced(image, 0.5), _reduced(template, 0.5), (reach + 1) // 2, max(window // 2, 3))
    coarse = 2 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return coarse + _search(image, shifted(template, coarse), 1, window)


def shifted(picture: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The picture at each pixel's place plus its shift; beyond the border it repeats."""
    rows, columns = np.mgrid[: shifts.shape[0], : shifts.shape[1]].astype(np.float32)
    x, y = columns + shifts[..., 0], rows + shifts[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def same_light(image: np.ndarray, template: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The template with each colour's mean and standard deviation over `seen` as in the image."""
    if not seen.any():
        return template
    a, b = image[seen], template[seen]
    gain = a.std(0) / np.maximum(b.std(0), FAINT)
    return ((template - b.mean(0)) * gain.clip(0.5, 2.0) + a.mean(0)).clip(0, 1).astype(np.float32)


def _search(image: np.ndarray, template: np.ndarray, reach: int, window: int) -> np.ndarray:
    height, width = image.shape
    padded = cv2.copyMakeBorder(template, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    side = 2 * (window // 4) + 1  # two boxes after one another weigh the middle most, over twice a box's side

    def smooth(picture: np.ndarray) -> np.ndarray:
        return cv2.blur(cv2.blur(picture, (side, side)), (side, side))

    steps = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    best = np.full((height, width), np.inf, np.float32)
    chosen = np.zeros((height, width), np.intp)
    for number, (dx, dy) in enumerate(steps):
        moved = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        cost = smooth(cv2.absdiff(image, moved)) + np.float32(STEP_COST * np.hypot(dx, dy))
        np.putmask(chosen, cost < best, number)
        np.minimum(best, cost, out=best)
    return smooth(np.array(steps, np.float32)[chosen])


def _scales(side: int) -> list[float]:
    """Halvings between the coarsest and the finest size, coarsest first."""
    scales = [1.0]
    while side * scales[-1] / 2 >= SMALLEST:
        scales.append(scales[-1] / 2)
    return [s for s in scales if side * s <= LARGEST or s == scales[-1]][::-1]


def _reduced(picture: np.ndarray, scale: float) -> np.ndarray:
    return picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _rescaled(warp: np.ndarray, factor: float) -> np.ndarray:
    """The same motion in a picture `factor` times as large; pixels are counted from the middle of the first one."""
    centre = np.array([0.5, 0.5])
    shift = warp[:, 2] - centre + warp[:, :2] @ centre  # between pixels counted from the outer corner
    shift = factor * shift + centre - warp[:, :2] @ centre
    return np.column_stack([warp[:, :2], shift]).astype(np.float32)


def _start(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The shift of the strongest phase correlation, where it is better than none."""
    window = cv2.createHanningWindow(image.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(image.copy(), template.copy(), window)  # it may write the windowed picture back
    found, identity = np.eye(2, 3, dtype=np.float32), np.eye(2, 3, dtype=np.float32)
    found[:, 2] = shift
    return found if _correlation(image, template, found) > _correlation(image, template, identity) else identity


def _correlation(image: np.ndarray, template: np.ndarray, warp: np.ndarray) -> float:
    """Of the pixels that both pictures show; -1 where these are fewer than half."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(template, warp, image.shape[::-1], flags=flags)
    seen = cv2.warpAffine(np.ones_like(template), warp, image.shape[::-1], flags=flags) > 0.99
    if seen.mean() < 0.5:
        return -1.0
    a, b = image[seen] - image[seen].mean(), moved[seen] - moved[seen].mean()
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-12))
