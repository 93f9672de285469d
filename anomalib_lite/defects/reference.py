"""What a good product looks like, pixel by pixel: the yardstick that a region is measured against."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.registration.template import (
    IDENTITY,
    MOTIONS,
    between_centres,
    correlation,
    cut,
    global_motion,
    match_light,
)

MOST_IMAGES = 64  # more change the median no longer
ALIKE = 0.6  # correlation of OK images with their median, below which the product has no fixed look
_SMOOTH = 0.8 / 256  # of the shorter side: differences are looked at a little blurred, so that noise falls away
_STEP, _CLASSES = 4.0, 26  # of lightness L*, for the palette


@dataclass(frozen=True)
class Palette:
    """The mean (26, 2) of a* and b* at each of 26 levels of lightness, and the inverse covariance (26, 2, 2).

    Where foil is missing, black card shows: both colours are the product's own. A stain brings in a foreign one.
    """

    mean: np.ndarray
    precision: np.ndarray

    def distance(self, lab: np.ndarray) -> np.ndarray:
        """How foreign colours (..., 3) are: about 1 for the product's own, in standard deviations."""
        place = _lightness(lab)
        difference = lab[..., 1:] - self.mean[place]
        return np.sqrt(np.einsum("...i,...ij,...j->...", difference, self.precision[place], difference).clip(0))


@dataclass(frozen=True)
class Reference:
    """image: uint8 RGB (H, W, 3), the median of aligned OK images. precision: float32 (H, W, 9), the inverse covariance
    of their CIE Lab difference from it. usual, rare: what the `change` of 3 % and of 0.1 % of a good product's pixels
    exceeds. alike: median correlation of OK images with `image`. motion: how pictures are aligned.
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


def fit_reference(
    images: Iterable[np.ndarray], template: np.ndarray | None = None, motion: str = "affine"
) -> Reference:
    """From OK images, uint8 RGB (H, W, 3) of one size each; the first 64 are used.

    Args:
        template: What they are aligned to; without one, their own median.
        motion: translation, euclidean, affine or none.
    Errors: UserError without images.
    """
    taken = list(islice(images, MOST_IMAGES))
    if not taken:
        raise UserError("Defects are measured against OK images, and there are none: give the training split some.")
    frame = template if template is not None else np.median(np.stack(taken[:16]), axis=0).astype(np.uint8)
    poses = [find_pose(image, frame, motion) for image in tqdm(taken, "align", delay=2, leave=False)]
    aligned = np.stack([cut(image, pose, frame.shape[:2]) for image, pose in zip(taken, poses, strict=True)])
    median = np.median(aligned, axis=0).astype(np.uint8)
    alike = float(np.median([likeness(image, median) for image in aligned]))
    # Each image was one of those that the median and the spread were made of; held apart by halves, it was not.
    halves = [aligned[0::2], aligned[1::2]] if len(aligned) >= 8 else [aligned, aligned]
    changes = []
    for fitted, held in (halves, halves[::-1]):
        middle = np.median(fitted, axis=0).astype(np.uint8)
        precision = _precision(fitted, middle)
        changes += [change(image, relit(image, middle), precision)[::3, ::3] for image in held]
    usual, rare = np.quantile(np.stack(changes), (0.97, 0.999))
    palette = fit_palette(aligned)
    return Reference(median, _precision(aligned, median), palette, float(usual), float(rare), alike, motion)


def find_pose(picture: np.ndarray, frame: np.ndarray, motion: str = "affine") -> np.ndarray:
    """The pose (2, 3) that lays the frame over a picture of its size, both uint8 RGB (H, W, 3)."""
    if motion not in ("none", *MOTIONS):
        raise UserError(f"defects.alignment must be one of none, {', '.join(MOTIONS)}, not '{motion}'.")
    if motion == "none":
        return IDENTITY
    good, seen = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for image in (frame, picture))
    return global_motion(good, seen, motion)


def lay_over(plane: np.ndarray, pose: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    """Something drawn in the frame, (H, W) or (H, W, C), as it lies in the picture."""
    warp, flags = between_centres(pose).astype(np.float32), cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(plane, warp, plane.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two pictures' grey values in [-1, 1]; 0 where one is flat."""
    return correlation(*(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).ravel()[::2].astype(np.float64) for p in (first, second)))


def relit(image: np.ndarray, reference: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The reference in the picture's light, by each colour's mean and spread over the pixels `valid` (H, W); float32
    (H, W, 3) in [0, 255].
    """
    seen = np.ones(image.shape[:2], bool) if valid is None or valid.sum() < 100 else valid
    return 255 * match_light(image / np.float32(255), reference / np.float32(255), seen)


def change(image: np.ndarray, matched: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """How unusually a picture differs from the relit reference at each pixel: float32 (H, W), about 1 on good ones.

    The Mahalanobis distance of the CIE Lab difference, divided by the square root of its three dimensions.
    """
    difference, matrices = _lab_difference(image, matched), precision.reshape(*precision.shape[:2], 3, 3)
    squared = np.einsum("hwi,hwij,hwj->hw", difference, matrices, difference) / 3
    return np.sqrt(np.maximum(squared, 0)).astype(np.float32)


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab (D65), float32 (H, W, 3), of RGB in [0, 255]."""
    return cv2.cvtColor(np.clip(image, 0, 255).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def fit_palette(images: np.ndarray) -> Palette:
    """From OK images, uint8 RGB (n, H, W, 3). Lightness too rare to judge takes the nearest one's colours."""
    colours = np.concatenate([to_lab(image)[::2, ::2].reshape(-1, 3) for image in images])
    place = _lightness(colours)
    mean, precision, known = np.zeros((_CLASSES, 2)), np.zeros((_CLASSES, 2, 2)), []
    for number in range(_CLASSES):
        members = colours[place == number, 1:].astype(np.float64)
        if len(members) < 30:
            continue
        middle = np.median(members, axis=0)
        scatter = 1.4826 * np.median(np.abs(members - middle), axis=0) + 1
        usual = members[(np.abs(members - middle) < 6 * scatter).all(axis=1)]  # dust and specks left out
        mean[number] = usual.mean(axis=0)
        precision[number] = np.linalg.inv(np.cov(usual.T) + np.eye(2))
        known.append(number)
    nearest = [min(known, key=lambda other: abs(other - number)) for number in range(_CLASSES)]
    return Palette(mean[nearest].astype(np.float32), precision[nearest].astype(np.float32))


def _lightness(lab: np.ndarray) -> np.ndarray:
    return np.clip(lab[..., 0] / _STEP, 0, _CLASSES - 1).astype(int)


def _lab_difference(image: np.ndarray, matched: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(to_lab(image) - to_lab(matched), (0, 0), max(0.8, _SMOOTH * min(image.shape[:2])))


def _precision(images: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Each pixel's covariance, pooled with its neighbours', as dust on one image says little about one place."""
    height, width = median.shape[:2]
    covariance = np.zeros((height, width, 3, 3), np.float32)
    for image in images:
        difference = _lab_difference(image, relit(image, median))
        covariance += difference[..., :, None] * difference[..., None, :] / len(images)
    pooled = cv2.GaussianBlur(covariance.reshape(height, width, 9), (0, 0), 2 * max(0.8, _SMOOTH * min(height, width)))
    floor = np.eye(3, dtype=np.float32)  # a Lab unit is about what an eye can see
    return np.linalg.inv(pooled.reshape(height, width, 3, 3) + floor).reshape(height, width, 9).astype(np.float32)
