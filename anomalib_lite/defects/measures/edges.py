"""How far the product's edges lie from where they belong."""

from __future__ import annotations

import cv2
import numpy as np


def edge_displacement(found: np.ndarray, wanted: np.ndarray, near: np.ndarray) -> float:
    """Within `near`, how far found edges lie from wanted ones and the other way round, in px: the larger of the two.

    found, wanted: the product's pixels in the picture and as they should be, near: the defect's; all bool (H, W). Of
    each direction the 90th percentile counts (a robust Hausdorff distance: Huttenlocher, Klanderman, Rucklidge, PAMI
    1993). An edge that was shifted by d gives d. No edge counts as moved farther than the diagonal of the defect's box,
    so that a part which lies far from any other does not seem displaced by the way to the next one.
    """
    outlines = [outline(mask) for mask in (found, wanted)]
    if not any((edge & near).any() for edge in outlines):
        return 0.0
    rows, columns = near.any(axis=1), near.any(axis=0)
    reach = float(np.hypot(np.ptp(np.flatnonzero(rows)) + 1, np.ptp(np.flatnonzero(columns)) + 1))
    return min(reach, max(_directed(*outlines, near), _directed(*outlines[::-1], near)))


def outline(mask: np.ndarray) -> np.ndarray:
    """A mask's outermost pixels, bool (H, W); the picture's border is none."""
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inner = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    return mask & ~inner[1:-1, 1:-1].astype(bool)


def _directed(edge: np.ndarray, other: np.ndarray, near: np.ndarray) -> float:
    here = edge & near
    if not here.any():
        return 0.0
    if not other.any():
        return float(np.hypot(*near.shape))
    away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.quantile(away[here], 0.9))
