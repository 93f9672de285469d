"""A panel with what was found drawn on it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anomalib_lite.registration.cropping import Found

_SIDE = 1600  # longer side of the picture, in pixels
_LINE, _SHADE = (90, 255, 120), (0, 0, 0)


def draw_overview(panel: np.ndarray, found: Sequence[Found]) -> np.ndarray:
    """The panel (H, W, 3) RGB, made smaller if need be, with outline, number and score of each product."""
    shrink = min(1.0, _SIDE / max(panel.shape[:2]))
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
