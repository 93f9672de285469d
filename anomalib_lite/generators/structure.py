"""Compares the structure of two images, and decides which generated images have an intact one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from anomalib_lite.errors import UserError

TOLERANCE = 2  # px, largest distance of matching edges
SMOOTHING = 1.4  # px, sigma of the blur before the gradient, which suppresses camera noise
STRONG, WEAK = 0.35, 0.15  # Canny's thresholds, as shares of the gradient's 99th percentile
DIRECTIONS = 8  # bins of edge direction; edges in neighbouring bins match
FLAT = 1.5  # grey levels per px: below this, the 99th percentile is noise and the image has no edges


def edge_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Computes how well the edges of two images agree, in [0, 1]: the F-measure of matching edge pixels.

    An edge pixel matches if the other image has one nearby with the same direction, within 45 degrees; without the
    direction, most pixels would match by chance where edges are dense. Two images without edges give 1, an image with
    edges and one without give 0. a, b: uint8 (H, W, 3) or (H, W) of one size, else raises ValueError.
    Source: Canny, PAMI 1986; matching after the boundary measure of Martin et al., PAMI 2004, but by distance and
    direction instead of an assignment.
    """
    if a.shape[:2] != b.shape[:2]:
        raise ValueError(f"edges of images of different sizes: {a.shape[:2]} and {b.shape[:2]}")
    return overlap_of(edges(a), edges(b))


def overlap_of(a: np.ndarray, b: np.ndarray) -> float:
    """Computes `edge_overlap` from precomputed `edges`."""
    if not a.any() or not b.any():
        return float(bool(a.any()) == bool(b.any()))
    precision, recall = _matched(a, b), _matched(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edges(image: np.ndarray) -> np.ndarray:
    """Detects edges: uint8 (H, W), 0 for none, else the bin of the edge's direction without sign, 1 to `DIRECTIONS`.

    Uses Canny with thresholds relative to the image's gradient. Each pixel takes the colour channel with the steepest
    gradient, as edges between colours of equal lightness do not show in grey.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING).reshape(*image.shape[:2], -1).astype(np.float32)
    options: Any = {"ksize": 3, "scale": 0.125, "borderType": cv2.BORDER_REPLICATE}  # gives grey levels per px
    # OpenCV drops the axis of a single channel
    x, y = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, **options).reshape(smooth.shape) for dx in (1, 0))
    steepest = np.argmax(x**2 + y**2, axis=2)[..., None]
    x, y = (np.take_along_axis(slope, steepest, 2)[..., 0] for slope in (x, y))
    high = float(np.quantile(np.hypot(x, y), 0.99))
    if high < FLAT:
        return np.zeros(image.shape[:2], np.uint8)
    direction = np.rint(np.arctan2(y, x) * (DIRECTIONS / np.pi)).astype(np.int8) % DIRECTIONS + 1
    # Canny needs integers: scaling by the image's gradient keeps the precision of dark images
    x, y = (np.clip(np.rint(slope * (4000 / high)), -32767, 32767).astype(np.int16) for slope in (x, y))
    is_edge = cv2.Canny(x, y, 4000 * WEAK, 4000 * STRONG, L2gradient=True) > 0
    return np.where(is_edge, direction, 0).astype(np.uint8)


def luminance_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the structural similarity of the luminance, at most 1 (Wang et al., IEEE TIP 2004; sigma 1.5).

    a, b: uint8 (H, W, 3) of one size, at least 11 px per side, else raises ValueError.
    """
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(structural_similarity(*grey, **options))


def _matched(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the share of edge pixels in `a` that match one in `b`."""
    y, x = np.mgrid[-TOLERANCE : TOLERANCE + 1, -TOLERANCE : TOLERANCE + 1]
    disc = (x**2 + y**2 <= TOLERANCE**2).astype(np.uint8)
    matched = 0
    for direction in range(1, DIRECTIONS + 1):
        similar = [(direction - 1 + turn) % DIRECTIONS + 1 for turn in (-1, 0, 1)]
        near = cv2.dilate(np.isin(b, similar).astype(np.uint8), disc)
        matched += int(np.count_nonzero(near[a == direction]))
    return float(matched / np.count_nonzero(a))


COPIES = 200  # simulated photographs in total, at least one of each image
MOST_IMAGES = 200
SHIFT, TURN, SCALE = 0.005, 0.5, 0.005  # largest motion of a copy: share of a side; degrees; change of scale
BLUR, NOISE = 1 / 128, 4.0  # largest sigmas: share of a side; grey levels


@dataclass(frozen=True)
class StructureGuard:
    """Rejects generated images with a damaged structure, such as products that SinGAN has bent or torn.

    The threshold comes from real OK images alone: each is compared with simulated photographs of the same product, with
    other colours and light, slightly moved and out of focus. All but a small share of these copies pass.
    """

    threshold: float  # edge overlap below which an image is rejected
    quantile: float  # share of the copies below the threshold
    caught: float  # rejected share of real images with swapped parts; near 0: too little structure for the guard

    def keeps(self, overlap: float) -> bool:
        return bool(overlap >= self.threshold)


def fit_guard(images: Sequence[np.ndarray], quantile: float, seed: int) -> StructureGuard:
    """Fits the guard to real OK images, uint8 (H, W, 3), of the generated images' size.

    quantile: share of intact images that may be rejected.
    """
    if not images:
        raise UserError("The structure guard needs real OK images to learn from, but there are none: add some.")
    rng = np.random.default_rng(seed)
    images = [images[i] for i in rng.permutation(len(images))[:MOST_IMAGES]]
    repeats = -(-COPIES // len(images))
    intact, damaged = [], []
    for image in images:
        image_edges = edges(image)
        intact += [overlap_of(image_edges, edges(rephotographed(image, rng))) for _ in range(repeats)]
        damaged += [overlap_of(image_edges, edges(with_swapped_parts(image, rng))) for _ in range(repeats)]
    threshold = float(np.quantile(intact, quantile))
    return StructureGuard(threshold, quantile, float(np.mean(np.array(damaged) < threshold)))


def rephotographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulates another photograph of the product: other light and colours, slightly moved, blurred and noisy."""
    height, width = image.shape[:2]
    side = max(height, width)
    centre = (width - 1) / 2, (height - 1) / 2
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-TURN, TURN), 1 + rng.uniform(-SCALE, SCALE))
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * side
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    blurred = cv2.GaussianBlur(moved, (0, 0), max(0.05, rng.uniform(0, BLUR) * side))
    light = (blurred / 255.0) ** rng.uniform(0.8, 1.25) * 255
    colour = light * rng.uniform(0.75, 1.2, 3) + rng.uniform(-15, 15)
    return np.clip(np.rint(colour + rng.normal(0, rng.uniform(0, NOISE), image.shape)), 0, 255).astype(np.uint8)


def with_swapped_parts(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Swaps two of the nine parts of an image, uint8 (H, W, 3)."""
    height, width = (max(1, size // 3) for size in image.shape[:2])
    a, b = rng.choice(9, 2, replace=False)
    places = [np.s_[p // 3 * height : p // 3 * height + height, p % 3 * width : p % 3 * width + width] for p in (a, b)]
    swapped = image.copy()
    swapped[places[0]], swapped[places[1]] = image[places[1]], image[places[0]]
    return swapped
