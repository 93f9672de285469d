"""Pictures made comparable: brightness relative to its neighbourhood."""

from __future__ import annotations

import cv2
import numpy as np


def local_contrast(image: np.ndarray, radius: float) -> np.ndarray:
    """Grey uint8 (H, W) -> float32 (H, W), in which edges count by their place and not by their brightness.

    `radius`, in pixels, sets how large a neighbourhood is. A label stuck to a product then costs it as much
    correlation as it hides, however bright it is; and shiny parts do not pull an alignment to wherever they
    mirror a lamp.
    """
    grey = np.log(image.astype(np.float32) + 10)  # the offset keeps the noise of dark pixels small
    grey -= _blur(grey, radius)
    spread = _blur(grey * grey, 2 * radius)
    return grey / (np.sqrt(np.maximum(spread, 0)) + np.float32(0.15))


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Nearly a Gaussian, at a cost that does not grow with `sigma`."""
    side = 2 * max(1, round(2.45 * sigma)) + 1  # the deviation of a triangle of this width
    return cv2.stackBlur(image, (side, side))
