"""How differently a defect is coloured, as an eye sees it and as a camera does."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.color import deltaE_ciede2000


def colour_difference(first: np.ndarray, second: np.ndarray) -> float:
    """CIEDE2000 between the mean colours of two sets of CIE Lab pixels (n, 3) and (m, 3); 1 is just noticeable.

    Luo, Cui, Rigg, "The development of the CIE 2000 colour-difference formula", Color Research & Application 2001.
    """
    a, b = (pixels.astype(np.float64).mean(axis=0) for pixels in (first, second))
    return float(deltaE_ciede2000(a[None], b[None])[0])


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Michelson contrast in [0, 1] of the mean luminances of two sets of sRGB pixels (n, 3) in [0, 255]."""
    a, b = luminance(first).mean(), luminance(second).mean()
    return float(abs(a - b) / (a + b)) if a + b > 0 else 0.0


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance in [0, 1] (IEC 61966-2-1) of sRGB pixels (..., 3) in [0, 255]."""
    return linear(rgb) @ np.array([0.2126, 0.7152, 0.0722])


def linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 255] in linear light, in [0, 1] (IEC 61966-2-1): there, blurring keeps the sum."""
    share = np.asarray(rgb, np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def surroundings(mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A ring around a defect, bool (H, W), as wide as a third of a disc of its area, without other defects.

    Empty where the defect fills the picture.
    """
    width = max(2.0, (mask.sum() / np.pi) ** 0.5 * 2 / 3)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return (away > 1) & (away <= 1 + width) & ~others
