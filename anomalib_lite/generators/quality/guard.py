"""Keeps generated images whose structure is damaged out of the training.

SinGAN is known to bend and tear products when it starts from a coarse scale. What counts as damage is learned from real
OK images alone: each is photographed anew, so to say, with other colours and light, a little out of place and out of
focus. A generated image must agree with its content image at least as well as all but a small share of those copies
agree with theirs. What the guard would catch is measured on the same images, with parts of them put out of place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.generators.quality.structure import edges, overlap_of

COPIES = 200  # over all images, at least one of each
MOST_IMAGES = 200
SHIFT, TURN, SCALE = 0.005, 0.5, 0.005  # of a side; degrees; factor: within what a generator may move
BLUR, NOISE = 1 / 128, 4.0  # sigmas at most: of a side, grey levels


@dataclass(frozen=True)
class StructureGuard:
    """threshold: of the edge overlap; below it an image counts as damaged. caught: share of real images with parts out
    of place that fall below it; near 0, this product has too little structure for the guard.
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
    if not 0 < quantile < 1:
        raise UserError(f"generator.structure_guard.quantile must lie between 0 and 1, but is {quantile}.")
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
