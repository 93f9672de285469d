"""Pictures for a page: small WebP images as data URIs and outlines as vector paths."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anomalib_lite.report.cases import MISTAKES, Case, kind, outcome
from anomalib_lite.report.heatmap import fit, overlay, region

SIDE = 256  # pixels of a thumbnail's longer side
BUDGET = 12_000_000  # bytes of encoded pictures in one page
_QUALITY = 84  # of WebP
_QUALITIES = (60, 40)  # where the pages would become too large
_MOST_LOOPS = 300  # of an outline; a map of pure noise has thousands, and they would bury the picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """One case as the page shows it: two data URIs and two SVG paths, in a box of width x height."""

    name: str
    kind: str
    outcome: str
    mistake: bool
    score: float
    ratio: float | None
    width: int
    height: int
    image: str
    heat: str
    truth: str
    region: str


def pictures(cases: Sequence[Case], image_threshold: float, pixel_threshold: float) -> list[Picture]:
    """Encodes the cases in their order; to keep to the budget the quality falls, then the last are cut."""
    made = [_picture(case, image_threshold, pixel_threshold) for case in cases]
    for quality in _QUALITIES:
        if sum(map(_size, made)) <= BUDGET:
            break
        encoded = (_encode(case, pixel_threshold, quality) for case in cases)
        made = [replace(old, image=image, heat=heat) for old, (image, heat) in zip(made, encoded, strict=True)]
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
    """A uint8 RGB image as a WebP data URI."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def outline_path(mask: np.ndarray, height: int, width: int) -> str:
    """The edge of a mask, brought to height x width, as the `d` of an SVG path (fill rule even-odd)."""
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    inside = share >= 0.5
    if mask.any() and not inside.any():
        inside = share > 0  # a defect thinner than a thumbnail's pixel must not vanish
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = sorted(contours, key=len, reverse=True)[:_MOST_LOOPS]
    return "".join(_path(cv2.approxPolyDP(contour, 0.6, True)[:, 0]) for contour in contours)


def _picture(case: Case, image_threshold: float, pixel_threshold: float) -> Picture:
    image, heat = _encode(case, pixel_threshold, _QUALITY)
    height, width = thumbnail(case.image).shape[:2]
    verdict = outcome(case, image_threshold)
    return Picture(
        name=case.name,
        kind=kind(case),
        outcome=verdict,
        mistake=verdict in MISTAKES,
        score=float(case.score),
        ratio=float(case.score) / image_threshold if 0 < image_threshold < np.inf else None,
        width=width,
        height=height,
        image=image,
        heat=heat,
        truth="" if case.mask is None else outline_path(case.mask, height, width),
        region=outline_path(region(fit(case.map, height, width), pixel_threshold), height, width),
    )


def _encode(case: Case, pixel_threshold: float, quality: int) -> tuple[str, str]:
    small = thumbnail(case.image)
    heat = overlay(small, case.map, pixel_threshold, outline=False)
    return data_uri(small, quality), data_uri(heat, quality)


def _path(points: np.ndarray) -> str:
    # Half a pixel on, because a contour runs through pixel centres; a single pixel becomes a dot.
    corners = [f"{x + 0.5:g} {y + 0.5:g}" for x, y in points]
    return f"M{'L'.join(corners if len(corners) > 1 else corners * 2)}Z"


def _size(picture: Picture) -> int:
    return len(picture.image) + len(picture.heat) + len(picture.truth) + len(picture.region)
