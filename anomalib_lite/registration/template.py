"""A template brought over an image: one ECC aligner of the whole, then of its parts."""

import logging
from dataclasses import dataclass

import cv2
import numpy as np

SMALLEST, LARGEST = 96, 384  # px of the shorter side between which the parameters are sought
ITERATIONS, BLUR = 40, 5
FAINT = 1e-3  # local contrast (standard deviation) below which there is nothing to align on
STEP_COST = 0.001  # mean absolute difference by which a shift of one more pixel must be better


log = logging.getLogger(__name__)

MOTIONS = {"translation": cv2.MOTION_TRANSLATION, "euclidean": cv2.MOTION_EUCLIDEAN, "affine": cv2.MOTION_AFFINE}
STILL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
STILL.flags.writeable = False


def corners_of(pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where the corners of a picture of `shape` (h, w) go, (4, 2), from the upper left one clockwise."""
    height, width = shape
    return np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ pose[:, :2].T + pose[:, 2]


def rescaled(pose: np.ndarray, factor: float) -> np.ndarray:
    """The same pose between pictures enlarged by `factor`."""
    return np.column_stack([pose[:, :2], pose[:, 2] * factor])


def between_centres(pose: np.ndarray) -> np.ndarray:
    """The pose as OpenCV's warps want it: between pixels counted from the middle of the first one."""
    shift = pose[:, 2] + pose[:, :2] @ (0.5, 0.5) - 0.5
    return np.column_stack([pose[:, :2], shift])


def cut(picture: np.ndarray, pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What lies under the pose, (h, w) or (h, w, 3); beyond the picture its border repeats."""
    warp = between_centres(pose).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, warp, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The normalised correlation coefficient of two arrays of one shape, in [-1, 1]; 0 where one is flat."""
    a, b = (image - image.mean() for image in (a, b))
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else 0.0


def align(
    panel: np.ndarray, template: np.ndarray, pose: np.ndarray, motion: str, iterations: int = 25, blur: int = 3
) -> np.ndarray:
    """The pose near `pose`, from template to panel, at which they correlate best; `pose` itself where none is found.

    Args:
        panel, template: float32 (H, W) and (h, w), best of local contrast.
        motion: one of MOTIONS.
        iterations: at most so many steps.
        blur: px, odd, by which both are smoothed, so that a gradient reaches as far as the pose is off.
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
        _, warp = cv2.findTransformECC(  # type: ignore[call-overload]  # the stubs forget that there may be no mask
            template, window, start, MOTIONS[motion], criteria, None, blur
        )
    except cv2.error as error:  # raised where the correlation cannot grow: the start is far off, or all is flat
        log.debug("no alignment: %s", error)
        return pose
    shift = warp[:, 2] - warp[:, :2] @ (0.5, 0.5) + 0.5 + (left, top)
    return np.column_stack([warp[:, :2], shift]).astype(np.float64)


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

    def __call__(self, image: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The template over the image (H, W, 3), and where the template shows anything at all (H, W) bool."""
        height, width = image.shape[:2]
        seen = np.ones((height, width), bool)
        target = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self.motion != "none":
            pose = whole_motion(target, cv2.cvtColor(template, cv2.COLOR_RGB2GRAY), self.motion)
            warp = between_centres(pose).astype(np.float32)
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
    """The pose (2, 3) from the image to the template at which the two grey pictures correlate best.

    Sought from coarse to fine; where nothing better is found than the identity, it is the identity.
    """
    if min(image.std(), template.std()) < FAINT:
        return STILL
    pose, scales = STILL, _scales(min(image.shape))
    for scale in scales:
        small, other = _reduced(image, scale), _reduced(template, scale)
        pose = _start(small, other) if scale == scales[0] else rescaled(pose, 2.0)
        pose = align(other, small, pose, motion, ITERATIONS, BLUR)
    pose = rescaled(pose, 1 / scales[-1])
    return pose if _shared(image, template, pose) > _shared(image, template, STILL) else STILL


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
    counted = seen.astype(np.uint8)
    mean, spread, own, own_spread = (
        part.ravel().astype(np.float32)
        for picture in (image, template)
        for part in cv2.meanStdDev(picture, mask=counted)
    )
    gain = spread / np.maximum(own_spread, np.float32(FAINT))
    return ((template - own) * gain.clip(0.5, 2.0) + mean).clip(0, 1).astype(np.float32)


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


def _start(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The shift of the strongest phase correlation, where it is better than none."""
    window = cv2.createHanningWindow(image.shape[::-1], cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(image.copy(), template.copy(), window)  # it may write the windowed picture back
    found = STILL.copy()
    found[:, 2] = shift
    return found if _shared(image, template, found) > _shared(image, template, STILL) else STILL


def _shared(image: np.ndarray, template: np.ndarray, pose: np.ndarray) -> float:
    """Correlation of the pixels that both pictures show; -1 where these are fewer than half."""
    warp, flags = between_centres(pose).astype(np.float32), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved, seen = (
        cv2.warpAffine(picture, warp, image.shape[::-1], flags=flags) for picture in (template, np.ones_like(template))
    )
    both = seen > 0.99
    return correlation(image[both], moved[both]) if both.mean() >= 0.5 else -1.0
