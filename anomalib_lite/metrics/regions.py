"""Connected regions of a defect mask, for the per-region overlap."""

from __future__ import annotations

import cv2
import numpy as np

# Weights are integers, so that sums are the same in whatever order images and processes are added up; 63 bits
# hold 33 million regions.
ONE_REGION = 1 << 38


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight of each defect pixel, such that every 8-connected region weighs ONE_REGION in all.

    mask (H, W) bool -> weights int64 of mask[mask]'s shape, number of regions. Rounding moves the weight of a
    region of a million pixels by 2e-6 of itself, of a smaller one by less.
    """
    found, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    region = labels[mask] - 1
    by_region = np.rint(ONE_REGION / np.bincount(region, minlength=found - 1)).astype(np.int64)
    return by_region[region], found - 1
