"""From a rough place to an exact one: two pictures registered by their pixels.

Evangelidis, Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", PAMI
2008 (OpenCV's findTransformECC). The measure ignores brightness and contrast.

A pose is the affine map (2, 3) from one picture's pixels to the other's, both counted from the outer corner of
the first pixel: where both pictures are reduced alike, only its shift changes.
"""

from __future__ import annotations

import logging

import cv2
import numpy as np

log = logging.getLogger(__name__)

MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
}
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
