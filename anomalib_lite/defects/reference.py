"""What a good product looks like, pixel by pixel: the yardstick that a region is measured against.

The median of aligned OK images, how much each pixel's colour varies among them, and which colours the product has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.defects.palette import Palette, fit_palette
from anomalib_lite.defects.placing import Placing, likeness, place
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path

MOST_IMAGES = 64  # more change the median no longer
SMOOTH = 0.8 / 256  # of the shorter side: differences are looked at a little blurred, so that noise falls away
ALIKE = 0.6  # correlation of OK images with their median, below which the product has no fixed look


@dataclass(frozen=True)
class Reference:
    """image: uint8 RGB (H, W, 3). precision: float32 (H, W, 9), the inverse covariance of the CIE Lab difference of an
    OK image from `image`. palette: the product's colours. usual, rare: values that the change exceeds on 3 % and on
    0.1 % of a good product's pixels. alike: median correlation of OK images with `image`, 1 at most.
    motion: how images are aligned to it.
    """

    image: np.ndarray
    precision: np.ndarray
    palette: Palette
    usual: float
    rare: float
    alike: float
    motion: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[:2]

    @property
    def fixed(self) -> bool:
        """False for textures and loose heaps: there is then nothing to compare a pixel with."""
        return self.alike >= ALIKE

    def place(self, image: np.ndarray) -> Placing:
        """Where the product of a picture (H, W, 3) of the reference's size lies."""
        return place(image, self.image, self.motion)

    def save(self, folder: Path) -> None:
        with atomic_path(folder / "reference.npz") as temporary:
            numbers = {"usual": self.usual, "rare": self.rare, "alike": self.alike, "motion": self.motion}
            np.savez_compressed(
                temporary, image=self.image, precision=self.precision, **self.palette.arrays(), **numbers
            )

    @classmethod
    def load(cls, folder: Path) -> Reference:
        with np.load(folder / "reference.npz", allow_pickle=False) as stored:
            palette = Palette(stored["palette_mean"], stored["palette_precision"])
            levels = [float(stored[name]) for name in ("usual", "rare", "alike")]
            return cls(stored["image"], stored["precision"], palette, *levels, motion=str(stored["motion"]))


def fit_reference(
    images: Iterable[np.ndarray], template: np.ndarray | None = None, motion: str = "affine"
) -> Reference:
    """From OK images, uint8 RGB (H, W, 3) of one size each; the first 64 are used.

    template: what they are aligned to; without one, their own median. motion: translation, euclidean, affine or none.
    Errors: UserError without images.
    """
    taken = _first(images)
    frame = template if template is not None else np.median(np.stack(taken[:16]), axis=0).astype(np.uint8)
    aligned = np.stack(
        [place(image, frame, motion).to_frame(image) for image in tqdm(taken, "align", delay=2, leave=False)]
    )
    median = np.median(aligned, axis=0).astype(np.uint8)
    alike = float(np.median([likeness(image, median) for image in aligned]))
    # Each image was one of those that the median and the spread were made of; held apart by halves, it was not.
    halves = [aligned[0::2], aligned[1::2]] if len(aligned) >= 8 else [aligned, aligned]
    changes = []
    for fitted, held in (halves, halves[::-1]):
        middle = np.median(fitted, axis=0).astype(np.uint8)
        precision = _precision(fitted, middle)
        changes += [change(image, photometric(image, middle), precision)[::3, ::3] for image in held]
    usual, rare = np.quantile(np.stack(changes), (0.97, 0.999))
    palette = fit_palette(aligned)
    return Reference(median, _precision(aligned, median), palette, float(usual), float(rare), alike, motion)


def photometric(image: np.ndarray, reference: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The reference (H, W, 3) in the picture's light: a gain and an offset a channel, by robust regression (Huber).

    valid: bool (H, W), pixels to fit to. Returns float32 in [0, 255].
    """
    chosen = slice(None) if valid is None or valid.sum() < 100 else valid
    matched = np.empty(reference.shape, np.float32)
    for channel in range(3):
        x = reference[..., channel][chosen].ravel()[::7].astype(np.float64)
        y = image[..., channel][chosen].ravel()[::7].astype(np.float64)
        weight = np.ones_like(x)
        gain, offset = 1.0, 0.0
        for _ in range(4):
            mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
            spread = np.average((x - mean_x) ** 2, weights=weight)
            gain = np.average((x - mean_x) * (y - mean_y), weights=weight) / spread if spread > 1 else 1.0
            gain = float(np.clip(gain, 0.25, 4.0))
            offset = mean_y - gain * mean_x
            residual = np.abs(y - gain * x - offset)
            weight = np.minimum(1, 3 * (np.median(residual) + 0.5) / np.maximum(residual, 1e-6))
        matched[..., channel] = gain * reference[..., channel] + offset
    return np.clip(matched, 0, 255)


def change(image: np.ndarray, matched: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """How unusually a picture differs from the matched reference at each pixel: float32 (H, W), about 1 on good ones.

    The Mahalanobis distance of the CIE Lab difference, divided by the square root of its three dimensions.
    """
    difference = _lab_difference(image, matched)
    matrices = precision.reshape(*precision.shape[:2], 3, 3)
    squared = np.einsum("hwi,hwij,hwj->hw", difference, matrices, difference) / 3
    return np.sqrt(np.maximum(squared, 0)).astype(np.float32)


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab (D65), float32 (H, W, 3), of RGB in [0, 255]."""
    return cv2.cvtColor(np.clip(image, 0, 255).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _lab_difference(image: np.ndarray, matched: np.ndarray) -> np.ndarray:
    sigma = max(0.8, SMOOTH * min(image.shape[:2]))
    return cv2.GaussianBlur(to_lab(image) - to_lab(matched), (0, 0), sigma)


def _precision(images: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Each pixel's covariance, pooled with its neighbours', as dust on one image says little about one place."""
    height, width = median.shape[:2]
    covariance = np.zeros((height, width, 3, 3), np.float32)
    for image in images:
        difference = _lab_difference(image, photometric(image, median))
        covariance += difference[..., :, None] * difference[..., None, :] / len(images)
    pooled = cv2.GaussianBlur(covariance.reshape(height, width, 9), (0, 0), 2 * max(0.8, SMOOTH * min(height, width)))
    floor = np.eye(3, dtype=np.float32)  # a Lab unit is about what an eye can see
    return np.linalg.inv(pooled.reshape(height, width, 3, 3) + floor).reshape(height, width, 9).astype(np.float32)


def _first(images: Iterable[np.ndarray]) -> list[np.ndarray]:
    taken: list[np.ndarray] = []
    walk: Iterator[np.ndarray] = iter(images)
    while len(taken) < MOST_IMAGES and (image := next(walk, None)) is not None:
        taken.append(image)
    if not taken:
        raise UserError("Defects are measured against OK images, and there are none: give the training split some.")
    return taken
