"""How sharp a print is against the reference, and how alike the two are in what they draw."""

from __future__ import annotations

import cv2
import numpy as np

_TRACE = 0.08  # of an ink's cover: less is noise
_WIDTHS = (0.7, 1.0, 1.5, 2.0, 3.0, 4.5)  # of blurs, in px of a picture of 256


def gradients(image: np.ndarray) -> np.ndarray:
    """Central differences along x and y of a picture's grey values: float32 (H, W, 2), from RGB or grey."""
    grey = np.ascontiguousarray(image, np.float32)
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    border = cv2.BORDER_REPLICATE
    across = cv2.filter2D(grey, -1, kernel, borderType=border)
    return np.dstack([across, cv2.filter2D(grey, -1, kernel.T, borderType=border)])


def sharpness_loss(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """1 - the picture's gradient energy over the reference's, within the mask; 0 where it is as sharp or sharper.

    Both as `gradients` gives them (H, W, 2). Of an edge as wide as a Gaussian of s px, another Gaussian of t px takes
    1 - s / sqrt(s^2 + t^2): the energy falls with the edge's width.
    """
    wanted = float((reference[mask] ** 2).sum())
    return float(np.clip(1 - (image[mask] ** 2).sum() / wanted, 0, 1)) if wanted > 0 else 0.0


def drawing_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Correlation in [-1, 1] of two gradient fields (H, W, 2) within the mask; 0 where either is flat.

    A veil or another colour leaves it near 1, a part that is bent, missing or added does not.
    """
    a, b = image[mask].astype(np.float64), reference[mask].astype(np.float64)
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def ink_cover(image: np.ndarray, reference: np.ndarray, text: np.ndarray) -> np.ndarray:
    """How much ink lies on each pixel of a picture (H, W, 3): float32 (H, W), 0 on bare ground, 1 in a letter.

    Ground is the colour that the reference has along the text area's rim, ink the mean of the fifth of the area's
    pixels that differ most from it.
    """
    rim = text & ~cv2.erode(text.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).astype(bool)
    ground = np.median(reference[rim], axis=0).astype(np.float32)
    colours = reference[text] - ground
    away = np.linalg.norm(colours, axis=1)
    ink = colours[away >= np.quantile(away, 0.8)].mean(axis=0)
    return (image - ground) @ ink / max(float(ink @ ink), 1e-6)


def ink_gained(cover: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float | None:
    """Of all ink that a defect moved, the share that it brought: 0 where print is missing, 1/2 where it is blurred, 1
    where it is smeared; None where no ink moved. cover, wanted: as `ink_cover` gives them (H, W).
    """
    change = (cover - wanted)[mask]
    gained, lost = change[change > _TRACE].sum(), -change[change < -_TRACE].sum()
    return float(gained / (gained + lost)) if gained + lost > 0 else None


def blur_likeness(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """The share of a change within the mask that blurring the reference explains: 1 - least squared difference left by
    a Gaussian of any of a few widths over the difference without one. Pictures (H, W, 3) in linear light.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    unit = max(min(mask.shape) / 256, 0.4)
    margin = round(3 * _WIDTHS[-1] * unit)
    window = tuple(slice(max(0, line[0] - margin), line[-1] + margin + 1) for line in (rows, columns))
    seen, good, inside = image[window], reference[window], cv2.dilate(mask[window].astype(np.uint8), np.ones((3, 3)))
    left = [
        float(((seen - picture)[inside > 0] ** 2).sum())
        for picture in (good, *(cv2.GaussianBlur(good, (0, 0), width * unit) for width in _WIDTHS))
    ]
    return 1 - min(left) / left[0] if left[0] > 0 else 0.0
