"""Whether two images show the same structure, whatever their colours and light."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.metrics import structural_similarity

SMOOTHING = 1.4  # px, sigma before the gradient: a camera's noise draws no edges
STRONG, WEAK = 0.35, 0.15  # of the gradient's 99th percentile: where an edge starts, and how far it is followed
FLAT = 1.5  # grey levels a pixel: below this, the 99th percentile is noise and there is no edge at all


def edge_overlap(a: np.ndarray, b: np.ndarray, tolerance_px: float = 2) -> float:
    """How far the edges of two images agree, in [0, 1]: the F-measure of edges that have one of the other image near.

    a, b: uint8 (H, W, 3) or (H, W) of one size. tolerance_px: how far apart two edges may lie and still match. Two
    images without any edge agree fully; an image with edges and one without do not at all.
    Errors: ValueError where the sizes differ.
    Source: Canny, PAMI 1986; matching as in the boundary measure of Martin et al., PAMI 2004, with a distance instead
    of an assignment.
    """
    if a.shape[:2] != b.shape[:2]:
        raise ValueError(f"edges of images of different sizes: {a.shape[:2]} and {b.shape[:2]}")
    return overlap_of(edges(a), edges(b), tolerance_px)


def overlap_of(ours: np.ndarray, theirs: np.ndarray, tolerance_px: float = 2) -> float:
    """`edge_overlap` of edges that are there already, bool (H, W)."""
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision, recall = _near(ours, theirs, tolerance_px), _near(theirs, ours, tolerance_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edges(image: np.ndarray) -> np.ndarray:
    """Bool (H, W): Canny's edges with thresholds relative to the image's own gradient.

    At each pixel the colour channel with the steepest gradient counts, as edges between colours of one lightness do
    not show in grey.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING).reshape(*image.shape[:2], -1).astype(np.float32)
    x, y = (np.stack([_slope(smooth[..., c], *d) for c in range(smooth.shape[2])], 2) for d in ((1, 0), (0, 1)))
    steepest = np.argmax(x**2 + y**2, axis=2)[..., None]
    x, y = (np.take_along_axis(slope, steepest, 2)[..., 0] for slope in (x, y))
    high = float(np.quantile(np.hypot(x, y), 0.99))
    if high < FLAT:
        return np.zeros(image.shape[:2], bool)
    # Canny wants whole numbers: a scale of its own keeps the precision of dark images
    x, y = (np.clip(np.rint(slope * (4000 / high)), -32767, 32767).astype(np.int16) for slope in (x, y))
    return cv2.Canny(x, y, 4000 * WEAK, 4000 * STRONG, L2gradient=True) > 0


def luminance_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of the luminance, at most 1 (Wang et al., IEEE TIP 2004: Gaussian window, sigma 1.5).

    a, b: uint8 (H, W, 3) of one size, at least 11 px a side. Errors: ValueError where the sizes differ.
    """
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (a, b))
    return float(
        structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    )


def _near(ours: np.ndarray, theirs: np.ndarray, tolerance_px: float) -> float:
    """The share of our edge pixels that have one of theirs within the tolerance."""
    away = cv2.distanceTransform((~theirs).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.mean(away[ours] <= tolerance_px))


def _slope(channel: np.ndarray, x: int, y: int) -> np.ndarray:
    """Grey levels a pixel, Sobel's way."""
    return cv2.Sobel(channel, cv2.CV_32F, x, y, ksize=3, scale=0.125, borderType=cv2.BORDER_REPLICATE)
