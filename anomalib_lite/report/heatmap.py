"""Anomaly maps as colour, on one fixed scale that is tied to the pixel threshold.

A colour means the same in every picture of a run: it depends on the value and the threshold alone, never on
the other pixels. A map stretched to its own maximum paints a fault into every good part; this one does not.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

from anomalib_lite.errors import UserError

SATURATION = 4.0  # times the threshold: where the scale ends
CALM = 0.3  # the part of the scale that lies below the threshold
OUTLINE = (255, 255, 255)
_HINT = 0.25  # opacity just below the threshold: shows where a missed defect nearly was
_HINT_COLOUR = np.array((132, 60, 190), np.float32)
_TICKS = ((0.0, "0"), (1.0, "threshold"), (2.0, "2×"), (SATURATION, f"{SATURATION:g}×"))
_FIRST_BRIGHT = math.floor(CALM * 255) + 1  # of the 256 colours, the first that lies above the threshold


def level(values: np.ndarray, pixel_threshold: float) -> np.ndarray:
    """Position on the colour scale, float32 in [0, 1]: 0 at zero, `CALM` at the threshold, 1 at `SATURATION`.

    Linear up to the threshold and logarithmic above it, because a strong defect exceeds it many times. NaN
    counts as saturated: what could not be computed must not look calm.
    """
    if math.isnan(pixel_threshold) or pixel_threshold < 0:
        raise UserError(f"The pixel threshold must be 0 or more, got {pixel_threshold}: set it from OK images.")
    smallest = float(np.finfo(np.float32).tiny)  # a threshold of zero: whatever is not zero lies above it
    with np.errstate(over="ignore"):
        ratio = np.asarray(values, dtype=np.float32) / np.float32(max(pixel_threshold, smallest))
    ratio = np.clip(np.nan_to_num(ratio, nan=SATURATION, posinf=SATURATION), 0.0, SATURATION)
    above = CALM + (1.0 - CALM) * np.log(np.maximum(ratio, 1.0)) / math.log(SATURATION)
    return np.where(ratio > 1.0, above, CALM * ratio).astype(np.float32)


def region(values: np.ndarray, pixel_threshold: float) -> np.ndarray:
    """Where the map lies above the pixel threshold, bool (H, W); NaN lies above it."""
    return ~(values <= pixel_threshold)


def heatmap(values: np.ndarray, pixel_threshold: float) -> np.ndarray:
    """Colours a map (H, W) as uint8 RGB (H, W, 3): dark and flat below the threshold, bright above it."""
    return _paint(level(values, pixel_threshold), region(values, pixel_threshold))


def overlay(
    image: np.ndarray, values: np.ndarray, pixel_threshold: float, alpha: float = 0.75, outline: bool = True
) -> np.ndarray:
    """Lays a map over its image (H, W, 3) uint8 RGB; the map is resized to the image where the sizes differ.

    Up to half the threshold the image is untouched, from there a faint violet hint grows. At the threshold
    the colour sets in with a visible step; `alpha` is its opacity at the end of the scale. The region above
    the threshold gets a thin outline.
    """
    values = fit(values, *image.shape[:2])
    position, above = level(values, pixel_threshold), region(values, pixel_threshold)
    strength = (position - CALM) / (1.0 - CALM)
    hint = _HINT * np.clip(2.0 * position / CALM - 1.0, 0.0, 1.0)
    opacity = np.where(above, alpha * (0.5 + 0.5 * strength), hint)[..., None]
    colour = np.where(above[..., None], _paint(position, above), _HINT_COLOUR)
    mixed = np.rint(image * (1.0 - opacity) + colour * opacity).astype(np.uint8)
    return draw_outline(mixed, above) if outline else mixed


def fit(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (H, W) brought to another size, bilinearly."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.shape == (height, width):
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)


def draw_outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = OUTLINE) -> np.ndarray:
    """A copy of the image with the mask's edge drawn, one pixel wide for each 256 of the shorter side."""
    thickness = max(1, round(min(image.shape[:2]) / 256))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.array(image, order="C"), contours, -1, colour, thickness, cv2.LINE_AA)


def colour_bar(width: int, height: int) -> np.ndarray:
    """The scale as a horizontal strip, uint8 RGB (height, width, 3); for its ticks see `tick_positions`."""
    position = np.linspace(0.0, 1.0, width, dtype=np.float32)
    return np.repeat(_paint(position, position > CALM)[None], height, axis=0)


def tick_positions() -> list[tuple[float, str]]:
    """Ticks of the colour bar as (position in [0, 1], label), labels being multiples of the threshold."""
    return [(float(level(np.array(multiple), 1.0)), label) for multiple, label in _TICKS]


def _paint(position: np.ndarray, above: np.ndarray) -> np.ndarray:
    index = np.rint(position * 255).astype(np.intp)
    # Rounding must not carry a value over the threshold's step, in either direction.
    index = np.where(above, np.maximum(index, _FIRST_BRIGHT), np.minimum(index, _FIRST_BRIGHT - 1))
    return _table()[index]


@functools.cache
def _table() -> np.ndarray:
    """256 colours: the darkest part of inferno up to the threshold, then a step, then its bright half."""
    from matplotlib import colormaps  # here, because it is slow to import and not every caller paints

    calm = np.linspace(0.02, 0.20, _FIRST_BRIGHT)
    bright = np.linspace(0.50, 0.97, 256 - _FIRST_BRIGHT)
    return np.rint(colormaps["inferno"](np.concatenate([calm, bright]))[:, :3] * 255).astype(np.uint8)
