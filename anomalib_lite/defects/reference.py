"""Fits a pixel-wise reference of the good product, against which defects are measured."""

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

MOST_IMAGES = 64  # more images hardly change the median
ALIKE = 0.6  # least correlation of OK images with their median for a product with a fixed look
_SMOOTH = 0.8 / 256  # blur of differences, as a share of the shorter side, which suppresses noise
_STEP, _CLASSES = 4.0, 26  # width and number of the palette's bins of lightness L*


@dataclass(frozen=True)
class Palette:
    """Mean (26, 2) and inverse covariance (26, 2, 2) of a* and b* in each of 26 bins of lightness.

    Separates stains, which have a foreign colour, from defects in the product's colours, such as missing foil that
    exposes the card.
    """

    mean: np.ndarray
    precision: np.ndarray

    def distance(self, lab: np.ndarray) -> np.ndarray:
        """Computes the Mahalanobis distance of colours (..., 3) to the palette; about 1 for the product's colours."""
        bins = _lightness(lab)
        difference = lab[..., 1:] - self.mean[bins]
        return np.sqrt(np.einsum("...i,...ij,...j->...", difference, self.precision[bins], difference).clip(0))


@dataclass(frozen=True)
class Reference:
    """Reference of the good product."""

    image: np.ndarray  # median of aligned OK images, uint8 RGB (H, W, 3)
    precision: np.ndarray  # inverse covariance of their CIE Lab difference from it, float32 (H, W, 9)
    palette: Palette  # their colours
    usual: float  # value of `change` that 3 % of a good product's pixels exceed
    rare: float  # the same for 0.1 %
    alike: float  # median correlation of OK images with `image`
    motion: str  # by which images are aligned

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.shape[:2]

    @property
    def fixed(self) -> bool:
        """Whether the product has a fixed look; textures and loose parts have none to compare pixels with."""
        return self.alike >= ALIKE


def fit_reference(
    images: Iterable[np.ndarray], template: np.ndarray | None = None, motion: str = "affine"
) -> Reference:
    """Fits the reference to OK images. Raises UserError without images.

    Args:
        images: uint8 RGB (H, W, 3), all of one size; the first 64 are used.
        template: Image of their size that they are aligned to; None aligns to their median.
        motion: One of `MOTIONS`, or `none`.
    """
    used = list(islice(images, MOST_IMAGES))
    if not used:
        raise UserError("Defects are measured against OK images, but there are none: add some to the training split.")
    frame = template if template is not None else np.median(np.stack(used[:16]), axis=0).astype(np.uint8)
    poses = [find_pose(image, frame, motion) for image in tqdm(used, "align", delay=2, leave=False)]
    aligned = np.stack([cut(image, pose, frame.shape[:2]) for image, pose in zip(used, poses, strict=True)])
    median = np.median(aligned, axis=0).astype(np.uint8)
    alike = float(np.median([likeness(image, median) for image in aligned]))
    # two-fold cross-fitting: the change of images that the median and covariance were fitted to would be too small
    halves = [aligned[0::2], aligned[1::2]] if len(aligned) >= 8 else [aligned, aligned]
    changes = []
    for fitted, held_out in (halves, halves[::-1]):
        middle = np.median(fitted, axis=0).astype(np.uint8)
        precision = _precision(fitted, middle)
        changes += [change(image, relit(image, middle), precision)[::3, ::3] for image in held_out]
    usual, rare = np.quantile(np.stack(changes), (0.97, 0.999))
    palette = fit_palette(aligned)
    return Reference(median, _precision(aligned, median), palette, float(usual), float(rare), alike, motion)


def find_pose(picture: np.ndarray, frame: np.ndarray, motion: str = "affine") -> np.ndarray:
    """Estimates the pose (2, 3) that maps the frame to an image of its size, both uint8 RGB (H, W, 3)."""
    if motion not in ("none", *MOTIONS):
        raise UserError(f"defects.alignment must be one of none, {', '.join(MOTIONS)}, not '{motion}'.")
    if motion == "none":
        return IDENTITY
    grey_frame, grey = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255 for image in (frame, picture))
    return global_motion(grey_frame, grey, motion)


def lay_over(plane: np.ndarray, pose: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    """Warps an array from the frame, (H, W) or (H, W, C), to the image."""
    warp, flags = between_centres(pose).astype(np.float32), cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(plane, warp, plane.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the correlation of two images' grey values, in [-1, 1]; 0 if one is constant."""
    return correlation(*(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).ravel()[::2].astype(np.float64) for p in (first, second)))


def relit(image: np.ndarray, reference: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Matches the reference to the image's light, float32 (H, W, 3) in [0, 255].

    valid: pixels (H, W) whose mean and spread of each colour channel are matched; None for all.
    """
    region = np.ones(image.shape[:2], bool) if valid is None or valid.sum() < 100 else valid
    return 255 * match_light(image / np.float32(255), reference / np.float32(255), region)


def change(image: np.ndarray, matched: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Computes how unusual each pixel's difference from the relit reference is: float32 (H, W), about 1 on good images.

    This is the Mahalanobis distance of the CIE Lab difference, divided by the square root of its three dimensions.
    """
    difference, matrices = _lab_difference(image, matched), precision.reshape(*precision.shape[:2], 3, 3)
    squared = np.einsum("hwi,hwij,hwj->hw", difference, matrices, difference) / 3
    return np.sqrt(np.maximum(squared, 0)).astype(np.float32)


def to_lab(image: np.ndarray) -> np.ndarray:
    """Converts RGB in [0, 255] to CIE Lab (D65), float32 (H, W, 3)."""
    return cv2.cvtColor(np.clip(image, 0, 255).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def fit_palette(images: np.ndarray) -> Palette:
    """Fits a palette to OK images, uint8 RGB (n, H, W, 3); bins with few pixels copy the nearest fitted bin."""
    colours = np.concatenate([to_lab(image)[::2, ::2].reshape(-1, 3) for image in images])
    bins = _lightness(colours)
    mean, precision, fitted = np.zeros((_CLASSES, 2)), np.zeros((_CLASSES, 2, 2)), []
    for number in range(_CLASSES):
        members = colours[bins == number, 1:].astype(np.float64)
        if len(members) < 30:
            continue
        middle = np.median(members, axis=0)
        spread = 1.4826 * np.median(np.abs(members - middle), axis=0) + 1
        inliers = members[(np.abs(members - middle) < 6 * spread).all(axis=1)]  # without dust and specks
        mean[number] = inliers.mean(axis=0)
        precision[number] = np.linalg.inv(np.cov(inliers.T) + np.eye(2))
        fitted.append(number)
    nearest = [min(fitted, key=lambda other: abs(other - number)) for number in range(_CLASSES)]
    return Palette(mean[nearest].astype(np.float32), precision[nearest].astype(np.float32))


def _lightness(lab: np.ndarray) -> np.ndarray:
    return np.clip(lab[..., 0] / _STEP, 0, _CLASSES - 1).astype(int)


def _lab_difference(image: np.ndarray, matched: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(to_lab(image) - to_lab(matched), (0, 0), max(0.8, _SMOOTH * min(image.shape[:2])))


def _precision(images: np.ndarray, median: np.ndarray) -> np.ndarray:
    """Computes the inverse of each pixel's covariance, pooled with its neighbours' to dilute dust on single images."""
    height, width = median.shape[:2]
    covariance = np.zeros((height, width, 3, 3), np.float32)
    for image in images:
        difference = _lab_difference(image, relit(image, median))
        covariance += difference[..., :, None] * difference[..., None, :] / len(images)
    pooled = cv2.GaussianBlur(covariance.reshape(height, width, 9), (0, 0), 2 * max(0.8, _SMOOTH * min(height, width)))
    floor = np.eye(3, dtype=np.float32)  # one Lab unit is about the smallest visible difference
    return np.linalg.inv(pooled.reshape(height, width, 3, 3) + floor).reshape(height, width, 9).astype(np.float32)
