"""Where a product lies in its picture, so that what is known of the perfect one can be laid over it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.registration.alignment import MOTIONS, align, between_centres

_SIDE = 256  # px of the shorter side at which pictures are aligned
_NEIGHBOURHOOD = 0.1  # of the shorter side: over which local contrast is evened out
STILL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class Placing:
    """pose: affine map (2, 3) from the frame's pixels to the picture's, counted from the first pixel's outer corner."""

    pose: np.ndarray

    def to_picture(self, plane: np.ndarray, *, nearest: bool = False) -> np.ndarray:
        """Something drawn in the frame, (H, W) or (H, W, C), as it lies in the picture."""
        return self._warp(plane, cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)

    def to_frame(self, picture: np.ndarray) -> np.ndarray:
        """The picture as it would look if the product lay as in the frame."""
        return self._warp(picture, cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    def _warp(self, plane: np.ndarray, flags: int) -> np.ndarray:
        if np.allclose(self.pose, STILL):
            return plane
        warp = between_centres(self.pose).astype(np.float32)
        return cv2.warpAffine(plane, warp, plane.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def place(picture: np.ndarray, frame: np.ndarray, motion: str = "affine") -> Placing:
    """Aligns the frame with a picture of its size, both uint8 RGB (H, W, 3).

    Where the alignment does not make the two more alike, they are left as they are.
    """
    if motion not in ("none", *MOTIONS):
        raise UserError(f"defects.alignment must be one of none, {', '.join(MOTIONS)}, not '{motion}'.")
    if picture.shape != frame.shape:
        raise ValueError(f"picture {picture.shape} and frame {frame.shape} differ in size")
    if motion == "none":
        return Placing(STILL)
    factor = min(1.0, _SIDE / min(frame.shape[:2]))
    small, model = (_contrast(_reduced(image, factor)) for image in (picture, frame))
    pose = align(small, model, STILL, motion)
    pose = np.column_stack([pose[:, :2], pose[:, 2] / factor])
    moved = Placing(pose)
    return moved if likeness(moved.to_frame(picture), frame) > likeness(picture, frame) else Placing(STILL)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two pictures' grey values in [-1, 1]; 1 where both are flat."""
    a, b = (_grey(image).ravel()[::2].astype(np.float64) for image in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float(not a.any() and not b.any())


def _reduced(image: np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return image
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _contrast(image: np.ndarray) -> np.ndarray:
    """Grey values less their surroundings' mean, in their surroundings' standard deviations."""
    grey = _grey(image).astype(np.float32)
    sigma = _NEIGHBOURHOOD * min(grey.shape)
    grey -= cv2.GaussianBlur(grey, (0, 0), sigma)
    return grey / (np.sqrt(cv2.GaussianBlur(grey**2, (0, 0), sigma)) + 4)
