"""Whether two images show the same structure, and which generated images are kept for theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from anomalib_lite.errors import UserError

TOLERANCE = 2  # px that two edges may lie apart and still meet
SMOOTHING = 1.4  # px, sigma before the gradient: a camera's noise draws no edges
STRONG, WEAK = 0.35, 0.15  # of the gradient's 99th percentile: where an edge starts, and how far it is followed
DIRECTIONS = 8  # of edges; those of neighbouring numbers are alike
FLAT = 1.5  # grey levels a pixel: below this, the 99th percentile is noise and there is no edge at all


def edge_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """How far the edges of two images agree, in [0, 1]: the F-measure of edges that meet one of the other image nearby
    that runs the same way, within 45 degrees.

    a, b: uint8 (H, W, 3) or (H, W) of one size. Two images without any edge agree fully; an image with edges and one
    without do not at all. Where edges are dense, some meet by chance: without their directions most would.
    Errors: ValueError where the sizes differ.
    Source: Canny, PAMI 1986; matching after the boundary measure of Martin et al., PAMI 2004, by distance and direction
    instead of an assignment.
    """
    if a.shape[:2] != b.shape[:2]:
        raise ValueError(f"edges of images of different sizes: {a.shape[:2]} and {b.shape[:2]}")
    return overlap_of(edges(a), edges(b))


def overlap_of(ours: np.ndarray, theirs: np.ndarray) -> float:
    """`edge_overlap` of edges that are there already, as `edges` gives them."""
    if not ours.any() or not theirs.any():
        return float(bool(ours.any()) == bool(theirs.any()))
    precision, recall = _met(ours, theirs), _met(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edges(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W): 0 where there is no edge, else 1 to `DIRECTIONS`, the way in which it runs, without its sign.

    Canny's edges with thresholds relative to the image's own gradient. At each pixel the colour channel with the
    steepest gradient counts, as edges between colours of one lightness do not show in grey.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING).reshape(*image.shape[:2], -1).astype(np.float32)
    x, y = (  # grey levels a pixel; OpenCV drops a single channel's axis
        cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=0.125, borderType=cv2.BORDER_REPLICATE).reshape(
            smooth.shape
        )
        for dx in (1, 0)
    )
    steepest = np.argmax(x**2 + y**2, axis=2)[..., None]
    x, y = (np.take_along_axis(slope, steepest, 2)[..., 0] for slope in (x, y))
    high = float(np.quantile(np.hypot(x, y), 0.99))
    if high < FLAT:
        return np.zeros(image.shape[:2], np.uint8)
    way = np.rint(np.arctan2(y, x) * (DIRECTIONS / np.pi)).astype(np.int8) % DIRECTIONS + 1
    # Canny wants whole numbers: a scale of its own keeps the precision of dark images
    x, y = (np.clip(np.rint(slope * (4000 / high)), -32767, 32767).astype(np.int16) for slope in (x, y))
    found = cv2.Canny(x, y, 4000 * WEAK, 4000 * STRONG, L2gradient=True) > 0
    return np.where(found, way, 0).astype(np.uint8)


def luminance_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of the luminance, at most 1 (Wang et al., IEEE TIP 2004: Gaussian window, sigma 1.5).

    a, b: uint8 (H, W, 3) of one size, at least 11 px a side. Errors: ValueError where the sizes differ.
    """
    grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (a, b))
    return float(
        structural_similarity(*grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    )


def _met(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The share of our edge pixels that have one of theirs within the tolerance and in a like direction."""
    y, x = np.mgrid[-TOLERANCE : TOLERANCE + 1, -TOLERANCE : TOLERANCE + 1]
    disc = (x**2 + y**2 <= TOLERANCE**2).astype(np.uint8)
    met: int | np.integer = 0
    for way in range(1, DIRECTIONS + 1):
        like = [(way - 1 + turn) % DIRECTIONS + 1 for turn in (-1, 0, 1)]
        near = cv2.dilate(np.isin(theirs, like).astype(np.uint8), disc)
        met += np.count_nonzero(near[ours == way])
    return float(met / np.count_nonzero(ours))


COPIES = 200  # over all images, at least one of each
MOST_IMAGES = 200
SHIFT, TURN, SCALE = 0.005, 0.5, 0.005  # of a side; degrees; factor: within what a generator may move
BLUR, NOISE = 1 / 128, 4.0  # sigmas at most: of a side, grey levels


@dataclass(frozen=True)
class StructureGuard:
    """Keeps generated images whose structure is damaged out of the training: SinGAN may bend and tear products.

    What counts as damage is learned from real OK images alone: each is photographed anew, so to say, with other colours
    and light, a little out of place and out of focus. A generated image must agree with its content image as well as
    all but a small share of those copies agree with theirs.

    Attributes:
        threshold: Of the edge overlap; below it an image counts as damaged.
        quantile: That share.
        caught: Share of real images with parts out of place that fall below the threshold; near 0, this product has
            too little structure for the guard.
    """

    threshold: float
    quantile: float
    caught: float

    def keeps(self, overlap: float) -> bool:
        return bool(overlap >= self.threshold)


def fit_guard(images: Sequence[np.ndarray], quantile: float, seed: int) -> StructureGuard:
    """The guard for images like these real OK ones.

    images: uint8 (H, W, 3), as large as the generated ones. quantile: share of undamaged images that may be lost.
    """
    if not images:
        raise UserError("The structure guard needs real OK images to learn from, and there are none.")
    rng = np.random.default_rng(seed)
    images = [images[i] for i in rng.permutation(len(images))[:MOST_IMAGES]]
    repeats = -(-COPIES // len(images))
    kept, damaged = [], []
    for image in images:
        own = edges(image)
        kept += [overlap_of(own, edges(photographed_anew(image, rng))) for _ in range(repeats)]
        damaged += [overlap_of(own, edges(put_out_of_place(image, rng))) for _ in range(repeats)]
    threshold = float(np.quantile(kept, quantile))
    return StructureGuard(threshold, quantile, float(np.mean(np.array(damaged) < threshold)))


def photographed_anew(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same product under other light, with other colours, a little moved, blurred and noisy; uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    side = max(height, width)
    matrix = cv2.getRotationMatrix2D(
        ((width - 1) / 2, (height - 1) / 2), rng.uniform(-TURN, TURN), 1 + rng.uniform(-SCALE, SCALE)
    )
    matrix[:, 2] += rng.uniform(-SHIFT, SHIFT, 2) * side
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    blurred = cv2.GaussianBlur(moved, (0, 0), max(0.05, rng.uniform(0, BLUR) * side))
    light = (blurred / 255.0) ** rng.uniform(0.8, 1.25) * 255
    colour = light * rng.uniform(0.75, 1.2, 3) + rng.uniform(-15, 15)
    return np.clip(np.rint(colour + rng.normal(0, rng.uniform(0, NOISE), image.shape)), 0, 255).astype(np.uint8)


def put_out_of_place(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two of the image's nine parts changed places; uint8 (H, W, 3)."""
    height, width = (max(1, size // 3) for size in image.shape[:2])
    a, b = rng.choice(9, 2, replace=False)
    places = [np.s_[p // 3 * height : p // 3 * height + height, p % 3 * width : p % 3 * width + width] for p in (a, b)]
    swapped = image.copy()
    swapped[places[0]], swapped[places[1]] = image[places[1]], image[places[0]]
    return swapped
