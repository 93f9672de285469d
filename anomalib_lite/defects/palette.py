"""Which colours a product has, so that a colour which it has not can be told from a part in the wrong place.

Where foil is missing, black card shows: the difference is large, and yet both colours are the product's own. A stain
or a spike from another roll brings in a colour that good products show nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_STEP = 4.0  # of lightness L* a class
_CLASSES = 26
_FLOOR = 1.0  # variance of a* and b* added, in squared Lab units


@dataclass(frozen=True)
class Palette:
    """For each class of lightness the mean (26, 2) of a* and b*, and their inverse covariance (26, 2, 2)."""

    mean: np.ndarray
    precision: np.ndarray

    def distance(self, lab: np.ndarray) -> np.ndarray:
        """How foreign colours (..., 3) are: about 1 for the product's own, in standard deviations."""
        place = _class(lab[..., 0])
        difference = lab[..., 1:] - self.mean[place]
        squared = np.einsum("...i,...ij,...j->...", difference, self.precision[place], difference)
        return np.sqrt(np.maximum(squared, 0))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"palette_mean": self.mean, "palette_precision": self.precision}


def fit_palette(images: np.ndarray) -> Palette:
    """From OK images, uint8 RGB (n, H, W, 3). Classes too rare to judge take the nearest one's colours."""
    small = [
        cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[::2, ::2].reshape(-1, 3) for image in images
    ]
    colours = np.concatenate(small)
    place = _class(colours[:, 0])
    mean, precision, known = np.zeros((_CLASSES, 2)), np.tile(np.eye(2), (_CLASSES, 1, 1)), []
    for number in range(_CLASSES):
        members = colours[place == number, 1:].astype(np.float64)
        if len(members) < 30:
            continue
        middle = np.median(members, axis=0)
        scatter = 1.4826 * np.median(np.abs(members - middle), axis=0) + 1
        usual = members[(np.abs(members - middle) < 6 * scatter).all(axis=1)]  # dust and specks left out
        mean[number] = usual.mean(axis=0)
        precision[number] = np.linalg.inv(np.cov(usual.T) + _FLOOR * np.eye(2))
        known.append(number)
    nearest = [min(known, key=lambda other: abs(other - number)) for number in range(_CLASSES)]
    return Palette(mean[nearest].astype(np.float32), precision[nearest].astype(np.float32))


def _class(lightness: np.ndarray) -> np.ndarray:
    return np.clip(lightness / _STEP, 0, _CLASSES - 1).astype(int)
