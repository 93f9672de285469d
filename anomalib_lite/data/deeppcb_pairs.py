"""What a good board's scan may look like beside its template."""

from __future__ import annotations

import cv2
import numpy as np

SHIFT = 2.0  # px, standard deviation of the whole picture's shift
STRETCH = 0.005  # standard deviation of the change of scale, of each axis for itself, and of shear and turn (rad)
BEND, BEND_LENGTH = 0.7, 60.0  # px: how far parts lie off beyond that, and over which length this changes
ETCHING = 0.12  # standard deviation of the level, of black to white, at which the scan is cut in two: +-0.5 px of edge
ROUGHNESS, GRAIN = 0.18, 1.2  # likewise of the level from place to place, and its length in px
OPTICS = 1.5  # px, blur of the scanner


def simulated_pair(template: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A scan of a board as its template (H, W) uint8 wants it, black and white.

    Moved, stretched and sheared, bent a little along the way of the scanner, blurred, and cut into black and white at a
    level that differs from scan to scan, as etching and exposure do, and from place to place, as edges are rough.
    """
    height, width = template.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    linear = np.eye(2) + rng.normal(0, STRETCH, (2, 2)) * [[0.2, 0.2], [0.2, 1.0]]  # the scanner's way is vertical
    shift = rng.normal(0, SHIFT, 2)
    x, y = columns - width / 2, rows - height / 2
    x, y = (linear[i, 0] * x + linear[i, 1] * y + shift[i] + s / 2 for i, s in enumerate((width, height)))
    x, y = (t.astype(np.float32) + BEND * _smooth_noise(template.shape, BEND_LENGTH, rng) for t in (x, y))
    moved = cv2.remap(template, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32) / 255
    grey = cv2.GaussianBlur(moved, (0, 0), OPTICS)
    level = 0.5 + rng.normal(0, ETCHING) + ROUGHNESS * _smooth_noise(template.shape, GRAIN, rng)
    return np.where(grey > level.clip(0.1, 0.9), 255, 0).astype(np.uint8)


def _smooth_noise(shape: tuple[int, int], length: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of variance 1 that changes over `length` px."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), length)
    return noise / max(float(noise.std()), 1e-9)
