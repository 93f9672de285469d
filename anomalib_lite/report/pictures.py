"""Pictures for a page: heat maps, small JPEG images as data URIs, outlines as vector paths.

A colour has the same meaning in every picture of a run: it depends only on the map's value and the pixel threshold,
never on other pixels. Scaling each map to its maximum would paint a defect into every good product.
"""

import base64
import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from anomalib_lite.data.decode import resize_image, shrunk
from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome
from anomalib_lite.report.cases import MISTAKES, kind, verdict
from anomalib_lite.report.words import evidence_words

if TYPE_CHECKING:
    from anomalib_lite.scoring import Threshold  # with torch

SATURATION = 4.0  # end of the scale, as a multiple of the threshold
CALM = 0.3  # share of the scale below the threshold
OUTLINE = (255, 255, 255)
_ABOVE = np.nextafter(np.float32(CALM), np.float32(1))  # lowest position above the threshold
_OPACITY = 0.75  # at the end of the scale
_HINT = 0.25  # opacity just below the threshold, which shows nearly detected defects
_HINT_COLOUR = np.array((132, 60, 190), np.float32)
_TICKS = ((0.0, "0"), (1.0, "threshold"), (2.0, "2×"), (SATURATION, f"{SATURATION:g}×"))
SIDE = 256  # longer side of a thumbnail in pixels
_QUALITY = 75  # of JPEG, which takes a tenth of WebP's time
_MOST_LOOPS = 300  # loops of an outline; a map of pure noise has thousands, which would cover the picture


def picture(outcome: Outcome, threshold: "Threshold") -> dict[str, Any]:
    """Returns the template's variables for an outcome with image and map: two data URIs and two SVG paths in a box of
    width x height, and the caption.
    """
    assert outcome.image is not None and outcome.map is not None
    small = thumbnail(outcome.image)
    height, width = small.shape[:2]
    limits, words = threshold.of(outcome.sample.category), verdict(outcome)
    return {
        "name": short_name(outcome.sample.image), "kind": kind(outcome.sample), "verdict": words,
        "mistake": words in MISTAKES, "score": outcome.score, "width": width, "height": height,
        "ratio": outcome.score / limits.image if limits.image > 0 else None,
        "evidence": evidence_words(outcome.evidence, outcome.nok),
        "image": data_uri(small),
        "heat": data_uri(overlay(small, outcome.map, limits.pixel, outline=False)),
        "truth": "" if outcome.mask is None else outline_path(outcome.mask, height, width),
        "region": outline_path(level(fit(outcome.map, height, width), limits.pixel) > CALM, height, width),
    }  # fmt: skip


def thumbnail(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Shrinks an image (H, W, 3) uint8 so that its longer side is at most `side` pixels."""
    return np.ascontiguousarray(resize_image(image, *shrunk(image.shape, side)))


def data_uri(image: np.ndarray, quality: int = _QUALITY) -> str:
    """Encodes a uint8 RGB image as a JPEG data URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def outline_path(mask: np.ndarray, height: int, width: int) -> str:
    """Returns the outline of a mask, scaled to height x width, as the `d` of an SVG path (fill rule even-odd)."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    inside = share >= 0.5
    if mask.any() and not inside.any():
        inside = share > 0  # keeps a defect thinner than a pixel of the thumbnail
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted(contours, key=len, reverse=True)[:_MOST_LOOPS]
    return "".join(_path(cv2.approxPolyDP(contour, 0.6, True)[:, 0]) for contour in contours)


def _path(points: np.ndarray) -> str:
    # Shifted by half a pixel, because contours run through pixel centres; a single pixel becomes a dot.
    corners = [f"{x + 0.5:g} {y + 0.5:g}" for x, y in points]
    return f"M{'L'.join(corners if len(corners) > 1 else corners * 2)}Z"


def level(values: np.ndarray, pixel_threshold: float) -> np.ndarray:
    """Returns positions on the colour scale, float32 in [0, 1]: `CALM` at the threshold, 1 at `SATURATION`.

    It is linear up to the threshold and logarithmic above it, because a strong defect exceeds it many times. NaN counts
    as saturated, so that a failed computation does not look normal.
    """
    smallest = float(np.finfo(np.float32).tiny)  # with a threshold of zero, all positive values are above it
    with np.errstate(over="ignore"):
        ratio = np.asarray(values, dtype=np.float32) / np.float32(max(pixel_threshold, smallest))
    ratio = np.clip(np.nan_to_num(ratio, nan=SATURATION, posinf=SATURATION), 0.0, SATURATION)
    above = CALM + (1.0 - CALM) * np.log(np.maximum(ratio, 1.0)) / math.log(SATURATION)
    return np.where(ratio > 1.0, np.maximum(above, _ABOVE), CALM * ratio).astype(np.float32)


def paint(position: np.ndarray) -> np.ndarray:
    """Returns the colours (H, W, 3) uint8 RGB of positions (H, W) on the scale: the darkest part of inferno up to the
    threshold, then, after a step, its bright half.
    """
    calm, bright = position / CALM, (position - CALM) / (1.0 - CALM)
    place = np.where(position > CALM, 0.50 + 0.47 * bright, 0.02 + 0.18 * calm)
    return cv2.applyColorMap((256 * place).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def overlay(image: np.ndarray, values: np.ndarray, pixel_threshold: float, outline: bool = True) -> np.ndarray:
    """Blends a map into its image (H, W, 3) uint8 RGB; the map is resized to the image if the sizes differ.

    Up to half the threshold the image is unchanged; from there to the threshold it is increasingly tinted violet. Above
    the threshold the colours of the scale start with a visible step. The region above it gets a thin outline.
    """
    position = level(fit(values, *image.shape[:2]), pixel_threshold)
    above = position > CALM
    strength = (position - CALM) / (1.0 - CALM)
    hint = _HINT * np.clip(2.0 * position / CALM - 1.0, 0.0, 1.0)
    opacity = np.where(above, _OPACITY * (0.5 + 0.5 * strength), hint)[..., None]
    colour = np.where(above[..., None], paint(position), _HINT_COLOUR)
    mixed = np.rint(image * (1.0 - opacity) + colour * opacity).astype(np.uint8)
    return draw_outline(mixed, above) if outline else mixed


def fit(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a map (H, W) bilinearly."""
    return cv2.resize(np.ascontiguousarray(values, dtype=np.float32), (width, height))


def draw_outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = OUTLINE) -> np.ndarray:
    """Returns a copy of the image with the mask's outline, one pixel wide per 256 px of the shorter side."""
    thickness = max(1, round(min(image.shape[:2]) / 256))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.array(image, order="C"), contours, -1, colour, thickness, cv2.LINE_AA)


def colour_bar(width: int, height: int) -> np.ndarray:
    """Returns the scale as a horizontal strip, uint8 RGB (height, width, 3); for its ticks see `tick_positions`."""
    return paint(np.tile(np.linspace(0.0, 1.0, width, dtype=np.float32), (height, 1)))


def tick_positions() -> list[tuple[float, str]]:
    """Returns the ticks of the colour bar as (position in [0, 1], label as a multiple of the threshold)."""
    return [(float(level(np.array(multiple), 1.0)), label) for multiple, label in _TICKS]
