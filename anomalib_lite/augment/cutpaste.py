"""CutPaste and its scar variant: pastes pieces of an image into itself, for self-supervised learning.

Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021. Sizes
are the paper's, for sides of 256 px, and scale with the image. One addition: an invisible paste (flat background onto
flat background) is drawn again, because its label would be wrong.

`UNLEARNED` are kinds, as in `augment.synthetic`, that no detector is trained on, so they evaluate all detectors
equally. CutPaste's rectangle is not among them, since it is close to `synthetic.patch`.
"""

from collections.abc import Callable

import cv2
import numpy as np

from anomalib_lite.augment.synthetic import VISIBLE, Drawn, Kind

TRIES = 8
JITTER = 0.1  # of brightness, contrast, saturation and hue

Paste = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def cutpaste(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pastes a rectangle of 2 to 15 % of the area elsewhere; uint8 (H, W, 3) in and out."""
    return _paste_visibly(image, _rectangle, rng)


def scar(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pastes a thin strip, 2-16 px by 10-25 px, rotated by up to 45 degrees, elsewhere; uint8 (H, W, 3) in and out."""
    return _paste_visibly(image, _strip, rng)


def blended(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Pastes a rectangle of 0.2 to 8 % of another image's area seamlessly, by solving Poisson's equation.

    Schlüter et al., "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization", ECCV 2022;
    their sizes depend on the product, these do not. Sides are at least 12 px, since OpenCV does not change the rim.
    """
    target, source = image.astype(np.uint8), other.astype(np.uint8)
    area, aspect = rng.uniform(0.002, 0.08) * image.shape[0] * image.shape[1], rng.uniform(0.4, 2.5)
    h, w = _clipped_size(image[2:, 2:], *np.maximum(np.sqrt([area * aspect, area / aspect]), 12))
    patch = _crop(source, h, w, rng)
    y, x = int(rng.integers(1, image.shape[0] - h)), int(rng.integers(1, image.shape[1] - w))
    inside, centre = np.full((h, w), 255, np.uint8), (x + w // 2, y + h // 2)
    changed = cv2.seamlessClone(patch, target, inside, centre, cv2.NORMAL_CLONE)
    return np.ones(image.shape[:2], np.float32), changed.astype(np.float32)


def scarred(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> Drawn:
    """CutPaste's scar, as a kind."""
    return np.ones(image.shape[:2], np.float32), scar(image.astype(np.uint8), rng).astype(np.float32)


UNLEARNED: tuple[Kind, ...] = (scarred, blended)


def _paste_visibly(image: np.ndarray, paste: Paste, rng: np.random.Generator) -> np.ndarray:
    for _ in range(TRIES):
        pasted = paste(image, rng)
        if np.abs(pasted.astype(np.int16) - image).max() > VISIBLE:
            break
    return pasted


def _rectangle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    area = rng.uniform(0.02, 0.15) * height * width
    aspect = rng.uniform(0.3, 1) if rng.random() < 0.5 else rng.uniform(1, 3.3)
    h, w = _clipped_size(image, np.sqrt(area / aspect), np.sqrt(area * aspect))
    patch = _jitter(_crop(image, h, w, rng), rng)
    y, x = _place(image, h, w, rng)
    pasted = image.copy()
    pasted[y : y + h, x : x + w] = patch
    return pasted


def _strip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = min(image.shape[:2]) / 256
    h, w = _clipped_size(image, rng.uniform(10, 25) * scale, rng.uniform(2, 16) * scale)
    patch = _jitter(_crop(image, h, w, rng), rng)
    turn = cv2.getRotationMatrix2D((w / 2, h / 2), rng.uniform(-45, 45), 1)
    cos, sin = np.abs(turn[0, :2])
    box_h, box_w = _clipped_size(image, np.ceil(h * cos + w * sin), np.ceil(h * sin + w * cos))
    turn[:, 2] = turn[:, 2] + np.array([box_w - w, box_h - h]) / 2
    turned = cv2.warpAffine(patch, turn, (box_w, box_h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones((h, w), np.uint8), turn, (box_w, box_h), flags=cv2.INTER_NEAREST) > 0
    y, x = _place(image, box_h, box_w, rng)
    pasted = image.copy()
    pasted[y : y + box_h, x : x + box_w][inside] = turned[inside]
    return pasted


def _clipped_size(image: np.ndarray, height: float, width: float) -> tuple[int, int]:
    return int(np.clip(round(height), 1, image.shape[0])), int(np.clip(round(width), 1, image.shape[1]))


def _place(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(image.shape[0] - height + 1)), int(rng.integers(image.shape[1] - width + 1))


def _crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = _place(image, height, width, rng)
    return image[y : y + height, x : x + width]


def _jitter(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3)
    colours = patch.astype(np.float32) / 255
    colours = (colours * brightness - colours.mean()) * contrast + colours.mean()
    hsv = cv2.cvtColor(np.clip(colours, 0, 1).astype(np.float32), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * rng.uniform(-JITTER, JITTER)) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    return np.rint(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)
