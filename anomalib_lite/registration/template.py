"""Aligns a template to an image: globally by ECC, then locally by small shifts."""

import logging
from dataclasses import dataclass

import cv2
import numpy as np

SMALLEST, LARGEST = 96, 384  # px: bounds of the shorter side at the levels of the global alignment
ITERATIONS, BLUR = 40, 5  # of ECC at each level
FAINT = 1e-3  # standard deviation below which an image has nothing to align to
STEP_COST = 0.001  # mean absolute difference that each further pixel of a shift must gain

log = logging.getLogger(__name__)

MOTIONS = {"translation": cv2.MOTION_TRANSLATION, "euclidean": cv2.MOTION_EUCLIDEAN, "affine": cv2.MOTION_AFFINE}
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
IDENTITY.flags.writeable = False


def corners_of(pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Maps the corners of an image of `shape` (h, w) by a pose: (4, 2), clockwise from the upper left one."""
    height, width = shape
    return np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ pose[:, :2].T + pose[:, 2]


def rescaled(pose: np.ndarray, factor: float) -> np.ndarray:
    """Returns the same pose between images enlarged by `factor`."""
    return np.column_stack([pose[:, :2], pose[:, 2] * factor])


def between_centres(pose: np.ndarray) -> np.ndarray:
    """Converts a pose to OpenCV's convention, in which the origin is the centre of the first pixel."""
    shift = pose[:, 2] + pose[:, :2] @ (0.5, 0.5) - 0.5
    return np.column_stack([pose[:, :2], shift])


def cut(picture: np.ndarray, pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cuts the part under the pose out of an image, (h, w) or (h, w, 3); repeats the border beyond the image."""
    warp = between_centres(pose).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, warp, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the correlation coefficient of two arrays of equal shape, in [-1, 1]; 0 if one is constant."""
    a, b = (image - image.mean() for image in (a, b))
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else 0.0


def align(
    panel: np.ndarray, template: np.ndarray, pose: np.ndarray, motion: str, iterations: int = 25, blur: int = 3
) -> np.ndarray:
    """Refines a pose from template to panel by maximising their correlation (ECC); returns `pose` if that fails.

    Both images are float32 (H, W), preferably local contrast. motion: one of `MOTIONS`. iterations: at most. blur: odd
    size in px of the smoothing; it sets how large an error of the start is corrected.
    """
    height, width = template.shape
    corners = corners_of(pose, template.shape)
    margin = 0.06 * max(height, width) + 2
    left, top = np.maximum(np.floor(corners.min(0) - margin).astype(int), 0)
    right, bottom = np.ceil(corners.max(0) + margin).astype(int)
    window = panel[top : max(0, bottom), left : max(0, right)]
    if min(window.shape) < 8:
        return pose
    local = pose - np.array([[0, 0, left], [0, 0, top]])
    start = between_centres(local).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, iterations, 1e-4)
    try:
        _, warp = cv2.findTransformECC(  # type: ignore[call-overload]  # the stubs do not allow a mask of None
            template, window, start, MOTIONS[motion], criteria, None, blur
        )
    except cv2.error as error:  # ECC does not converge: the start is far off, or the images are uniform
        log.debug("no alignment: %s", error)
        return pose
    shift = warp[:, 2] - warp[:, :2] @ (0.5, 0.5) + 0.5 + (left, top)
    return np.column_stack([warp[:, :2], shift]).astype(np.float64)


@dataclass(frozen=True)
class Alignment:
    """Aligns a template to an image."""

    motion: str = "affine"  # of the whole template: one of `MOTIONS`, or none
    reach: int = 4  # largest local shift in px; 0 for none
    window: int = 49  # side in px of the parts that are shifted; much smaller defects do not affect the shifts
    light: bool = True  # match each colour channel's mean and spread to the image's

    def __call__(self, image: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the aligned template (H, W, 3), and the pixels that it covers, bool (H, W)."""
        height, width = image.shape[:2]
        covered = np.ones((height, width), bool)
        target = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.motion != "none":
            pose = global_motion(target, cv2.cvtColor(template, cv2.COLOR_RGB2GRAY), self.motion)
            warp = between_centres(pose).astype(np.float32)
            rows, columns = np.mgrid[:height, :width].astype(np.float32)
            x = warp[0, 0] * columns + warp[0, 1] * rows + warp[0, 2]
            y = warp[1, 0] * columns + warp[1, 1] * rows + warp[1, 2]
            covered = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
            template = cv2.remap(template, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if self.light:
            template = match_light(image, template, covered)
        if self.reach:
            shifts = local_shifts(target, cv2.cvtColor(template, cv2.COLOR_RGB2GRAY), self.reach, self.window)
            template = shifted(template, shifts)
            covered = shifted(covered.astype(np.float32), shifts) > 0.99
        return template, covered


def global_motion(image: np.ndarray, template: np.ndarray, motion: str) -> np.ndarray:
    """Estimates the pose (2, 3) from image to template, both grey, coarse to fine; the identity if that fits best."""
    if min(image.std(), template.std()) < FAINT:
        return IDENTITY
    pose, scales = IDENTITY, _scales(min(image.shape))
    for scale in scales:
        small_image, small_template = _reduced(image, scale), _reduced(template, scale)
        pose = _start(small_image, small_template) if scale == scales[0] else rescaled(pose, 2.0)
        pose = align(small_template, small_image, pose, motion, ITERATIONS, BLUR)
    return _better(image, template, rescaled(pose, 1 / scales[-1]))


def local_shifts(image: np.ndarray, template: np.ndarray, reach: int, window: int) -> np.ndarray:
    """Estimates for each pixel of the grey image the shift (dx, dy) at which the template matches it: (H, W, 2).

    Block matching: compares whole shifts of up to `reach` px, coarse to fine, by the mean absolute difference over
    about `window` px, and smooths the field of shifts over as much.
    """
    if reach <= 2 or min(image.shape) < 4 * window:
        return _search(image, template, reach, window)
    height, width = image.shape
    coarse = local_shifts(_reduced(image, 0.5), _reduced(template, 0.5), (reach + 1) // 2, max(window // 2, 3))
    coarse = 2 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return coarse + _search(image, shifted(template, coarse), 1, window)


def shifted(picture: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Samples the image at each pixel's position plus its shift; repeats the border beyond the image."""
    rows, columns = np.mgrid[: shifts.shape[0], : shifts.shape[1]].astype(np.float32)
    x, y = columns + shifts[..., 0], rows + shifts[..., 1]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def match_light(image: np.ndarray, template: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Gives each colour channel of the template the image's mean and standard deviation over `region`."""
    if not region.any():
        return template
    counted = region.astype(np.uint8)
    image_mean, image_std, mean, std = (
        part.ravel().astype(np.float32)
        for picture in (image, template)
        for part in cv2.meanStdDev(picture, mask=counted)
    )
    gain = image_std / np.maximum(std, np.float32(FAINT))
    return ((template - mean) * gain.clip(0.5, 2.0) + image_mean).clip(0, 1).astype(np.float32)


def _search(image: np.ndarray, template: np.ndarray, reach: int, window: int) -> np.ndarray:
    height, width = image.shape
    padded = cv2.copyMakeBorder(template, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    side = 2 * (window // 4) + 1  # two box filters give a triangle kernel of twice a box's side

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
    """Returns the scales, each twice the one before, from the coarsest to the finest level."""
    scales = [1.0]
    while side * scales[-1] / 2 >= SMALLEST:
        scales.append(scales[-1] / 2)
    return [s for s in scales if side * s <= LARGEST or s == scales[-1]][::-1]


def _reduced(picture: np.ndarray, scale: float) -> np.ndarray:
    return picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _start(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Returns the shift found by phase correlation if it correlates better than the identity."""
    window = cv2.createHanningWindow(image.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(image.copy(), template.copy(), window)  # may overwrite its inputs
    return _better(image, template, np.column_stack([IDENTITY[:, :2], shift]))


def _better(image: np.ndarray, template: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Returns the pose if the images correlate better by it than by the identity, else the identity."""
    gain = _overlap_correlation(image, template, pose) - _overlap_correlation(image, template, IDENTITY)
    return pose if gain > 0 else IDENTITY


def _overlap_correlation(image: np.ndarray, template: np.ndarray, pose: np.ndarray) -> float:
    """Computes the correlation over the pixels that both images cover; -1 if these are fewer than half."""
    warp, flags = between_centres(pose).astype(np.float32), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved, coverage = (
        cv2.warpAffine(picture, warp, image.shape[::-1], flags=flags) for picture in (template, np.ones_like(template))
    )
    both = coverage > 0.99
    return correlation(image[both], moved[both]) if both.mean() >= 0.5 else -1.0
