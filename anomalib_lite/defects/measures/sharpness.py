"""How sharp a print is against the reference, and how alike the two are in what they draw."""

from __future__ import annotations

import cv2
import numpy as np


def gradients(image: np.ndarray) -> np.ndarray:
    """Central differences along x and y of a picture's grey values: float32 (H, W, 2), from RGB or grey."""
    grey = np.ascontiguousarray(image, np.float32)
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    border = cv2.BORDER_REPLICATE
    across = cv2.filter2D(grey, -1, kernel, borderType=border)
    return np.dstack([across, cv2.filter2D(grey, -1, kernel.T, borderType=border)])


def sharpness_loss(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """1 - the picture's gradient energy over the reference's, within the mask; 0 where it is as sharp or sharper.

    Both as `gradients` gives them (H, W, 2). Of an edge as wide as a Gaussian of s px, another Gaussian of t px takes
    1 - s / sqrt(s^2 + t^2): the energy falls with the edge's width.
    """
    wanted = float((reference[mask] ** 2).sum())
    return float(np.clip(1 - (image[mask] ** 2).sum() / wanted, 0, 1)) if wanted > 0 else 0.0


def drawing_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Correlation in [-1, 1] of two gradient fields (H, W, 2) within the mask; 0 where either is flat.

    A veil or another colour leaves it near 1, a part that is bent, missing or added does not.
    """
    a, b = image[mask].astype(np.float64), reference[mask].astype(np.float64)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0
