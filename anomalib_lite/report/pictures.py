"""Pictures for a page: small JPEG images as data URIs and outlines as vector paths."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.data.files import short_name
from anomalib_lite.data.sample import Outcome
from anomalib_lite.report.cases import MISTAKES, kind, verdict
from anomalib_lite.report.heatmap import fit, overlay, region
from anomalib_lite.report.words import evidence_words

SIDE = 256  # pixels of a thumbnail's longer side
BUDGET = 12_000_000  # bytes of encoded pictures in one page
_QUALITY = 75  # of JPEG, which takes a tenth of WebP's time
_MOST_LOOPS = 300  # of an outline; a map of pure noise has thousands, and they would bury the picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it: two data URIs and two SVG paths, in a box of width x height."""

    name: str
    kind: str
    verdict: str
    mistake: bool
    score: float
    ratio: float | None
    evidence: str
    width: int
    height: int
    image: str
    heat: str
    truth: str
    region: str


def pictures(outcomes: Sequence[Outcome], threshold: float, pixel_threshold: float) -> list[Picture]:
    """Encodes the images in their order; what is over the budget is left out.

    Args:
        outcomes: with image and map.
        threshold: of the score.
        pixel_threshold: of the map, to which the colours are tied.
    """
    made = [_picture(outcome, threshold, pixel_threshold) for outcome in outcomes]
    kept = int(np.searchsorted(np.cumsum([_size(picture) for picture in made]), BUDGET, side="right"))
    if kept < len(made):
        _log.warning("The page shows %d of %d images: with more it would be slow to open.", kept, len(made))
    return made[:kept]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 with its longer side at most `SIDE` pixels; a smaller one stays as it is."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1.0:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def data_uri(image: np.ndarray, quality: int = _QUALITY) -> str:
    """A uint8 RGB image as a JPEG data URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def outline_path(mask: np.ndarray, height: int, width: int) -> str:
    """The edge of a mask, brought to height x width, as the `d` of an SVG path (fill rule even-odd)."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    inside = share >= 0.5
    if mask.any() and not inside.any():
        inside = share > 0  # a defect thinner than a thumbnail's pixel must not vanish
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted(contours, key=len, reverse=True)[:_MOST_LOOPS]
    return "".join(_path(cv2.approxPolyDP(contour, 0.6, True)[:, 0]) for contour in contours)


def _picture(outcome: Outcome, threshold: float, pixel_threshold: float) -> Picture:
    if outcome.image is None or outcome.map is None:
        raise ValueError(f"{outcome.sample.image} has no image or no map to show")
    small = thumbnail(outcome.image)
    height, width = small.shape[:2]
    words = verdict(outcome)
    return Picture(
        name=short_name(outcome.sample.image),
        kind=kind(outcome.sample),
        verdict=words,
        mistake=words in MISTAKES,
        score=float(outcome.score),
        ratio=float(outcome.score) / threshold if 0 < threshold < np.inf else None,
        evidence=evidence_words(outcome.evidence, outcome.nok),
        width=width,
        height=height,
        image=data_uri(small),
        heat=data_uri(overlay(small, outcome.map, pixel_threshold, outline=False)),
        truth="" if outcome.mask is None else outline_path(outcome.mask, height, width),
        region=outline_path(region(fit(outcome.map, height, width), pixel_threshold), height, width),
    )


def _path(points: np.ndarray) -> str:
    # Half a pixel on, because a contour runs through pixel centres; a single pixel becomes a dot.
    corners = [f"{x + 0.5:g} {y + 0.5:g}" for x, y in points]
    return f"M{'L'.join(corners if len(corners) > 1 else corners * 2)}Z"


def _size(picture: Picture) -> int:
    return len(picture.image) + len(picture.heat) + len(picture.truth) + len(picture.region)
