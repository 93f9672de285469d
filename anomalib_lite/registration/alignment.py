"""From a rough place to an exact one: a template registered on the panel by its pixels.

Evangelidis, Psarakis, "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", PAMI
2008 (OpenCV's findTransformECC). The measure ignores brightness and contrast.

A pose is the affine map (2, 3) from the template's pixels to the panel's, both counted from the outer corner
of the first pixel. When both pictures are reduced alike, only its shift changes.
"""

from __future__ import annotations

import logging

import cv2
import numpy as np

from anomalib_lite.registration.matching import Match

log = logging.getLogger(__name__)

MOTIONS = {
    "translation": cv2.MOTION_TRANSLATION,
    "euclidean": cv2.MOTION_EUCLIDEAN,
    "affine": cv2.MOTION_AFFINE,
}


def pose_of(match: Match, shape: tuple[int, int]) -> np.ndarray:
    """The pose that turns and scales a template of `shape` (h, w) about its centre and puts it on a match."""
    turn = np.deg2rad(match.angle)
    linear = match.scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = np.array([match.x, match.y]) - linear @ (shape[1] / 2, shape[0] / 2)
    return np.column_stack([linear, shift])


def corners_of(pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where the template's corners lie in the panel, (4, 2), from the upper left one clockwise."""
    height, width = shape
    return np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ pose[:, :2].T + pose[:, 2]


def between_centres(pose: np.ndarray) -> np.ndarray:
    """The pose as OpenCV's warps want it: between pixels counted from the middle of the first one."""
    shift = pose[:, 2] + pose[:, :2] @ (0.5, 0.5) - 0.5
    return np.column_stack([pose[:, :2], shift])


def cut(panel: np.ndarray, pose: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The product under the template, (h, w) or (h, w, 3); what lies outside the panel repeats its border."""
    warp = between_centres(pose).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(panel, warp, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def align(panel: np.ndarray, template: np.ndarray, pose: np.ndarray, motion: str, iterations: int = 25) -> np.ndarray:
    """The pose near `pose` at which panel and template correlate best; `pose` itself where none is found.

    panel (H, W) and template (h, w): float32, best of local contrast. motion: one of MOTIONS.
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
        _, warp = cv2.findTransformECC(template, window, start, MOTIONS[motion], criteria, None, 3)
    except cv2.error as error:  # raised where the correlation cannot grow: the start is far off, or all is flat
        log.debug("no alignment: %s", error)
        return pose
    shift = warp[:, 2] - warp[:, :2] @ (0.5, 0.5) + 0.5 + (left, top)
    return np.column_stack([warp[:, :2], shift]).astype(np.float64)
