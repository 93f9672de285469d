"""Images of any proportions as equal squares of a figure."""

from __future__ import annotations

import cv2
import numpy as np

PAPER = 242  # grey beside an image that is not square


def square_tile(image: np.ndarray, side: int, enlarge: int = cv2.INTER_LINEAR) -> np.ndarray:
    """The image (H, W, 3) fitted into a tile of side x side pixels, its proportions kept, on pale grey."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else enlarge)
    tile = np.full((side, side, 3), PAPER, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
