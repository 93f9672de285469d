"""Divides a product into areas: text, edges and inside of its structure, background, and areas that a user defines."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.data.decode import UnreadableImage, read_mask, resize_mask
from anomalib_lite.errors import UserError
from anomalib_lite.settings.training import DefectLayout

log = logging.getLogger(__name__)

BACKGROUND, INSIDE, EDGES, TEXT = "background", "inside", "edges", "text"
BUILT_IN = (BACKGROUND, INSIDE, EDGES, TEXT)

_SIDE = 512  # px; smaller images are enlarged to this shorter side, so that OCR finds letters of a few pixels
_READ = 0.8  # least OCR confidence of text; round parts and ornaments, taken for letters, have less
_LETTERS = 2  # least number of letters or digits of a text: a ring is read as an O


@dataclass(frozen=True)
class Layout:
    """The areas of a product."""

    names: tuple[str, ...]  # the background comes first
    numbers: np.ndarray  # uint8 (H, W), each pixel's area as an index into `names`
    foreground: np.ndarray  # bool (H, W), including text
    found_by: Mapping[str, str]  # where each area comes from, in words

    def area(self, name: str) -> np.ndarray:
        """Returns an area's pixels, bool (H, W); none if there is no such area."""
        return self.numbers == (self.names.index(name) if name in self.names else len(self.names))


def find_layout(image: np.ndarray, config: DefectLayout | None = None) -> Layout:
    """Finds the areas of a product, uint8 RGB (H, W, 3).

    Text takes precedence over edges, edges over the inside, and the user's areas over all of these; a user's area with
    a built-in name replaces the automatic one. Raises UserError for unreadable masks and boxes outside the image.
    """
    config = config or DefectLayout()
    shape = image.shape[:2]
    foreground, foreground_source = find_foreground(image, config.foreground)
    text, text_source = _text(image, config)
    band = f"the contour, {config.edge_width:.1%} to each side"
    found_by = {BACKGROUND: "the rest", INSIDE: foreground_source, EDGES: band, TEXT: text_source}
    structure = foreground & ~text
    areas = {INSIDE: structure, EDGES: edge_band(structure, config.edge_width), TEXT: text}
    for name, region in config.areas.items():
        areas[name], found_by[name] = _drawn(region, shape, f"defects.layout.areas.{name}")
    names, numbers = tuple(dict.fromkeys((BACKGROUND, *areas))), np.zeros(shape, np.uint8)
    for name in (*names[1:], *names[:1]):  # a drawn background takes precedence over all
        numbers[areas.get(name, False)] = names.index(name)
    return Layout(names, numbers, foreground | text, found_by)


def find_foreground(image: np.ndarray, method: str = "otsu") -> tuple[np.ndarray, str]:
    """Returns the product's pixels, bool (H, W), and how they were found, in words.

    Otsu's threshold (1979) separates bright from dark; the side that covers less of the image border is the product.
    GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) refines this result.
    """
    if method == "none":
        return np.ones(image.shape[:2], bool), "the whole image"
    if method not in ("otsu", "grabcut"):
        return _drawn(method, image.shape[:2], "defects.layout.foreground")
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), max(0.5, min(image.shape[:2]) / 512))
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    foreground = bright.astype(bool) if border.mean() <= 0.5 else ~bright.astype(bool)
    if method == "otsu" or foreground.all() or not foreground.any():
        return foreground, "Otsu's threshold"
    guess = np.where(foreground, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    models, bgr = np.zeros((2, 1, 65)), np.ascontiguousarray(image[..., ::-1])
    cv2.setRNGSeed(0)
    cv2.grabCut(bgr, guess, (0, 0, 0, 0), models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    return np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)), "GrabCut, from Otsu's threshold"


def edge_band(mask: np.ndarray, width: float) -> np.ndarray:
    """Returns the pixels within `width` of a mask's contour, to both sides; the image border does not count.

    width: as a share of the shorter side, at least one pixel.
    """
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inner, outer = (cv2.distanceTransform(plane, cv2.DIST_L2, 5)[1:-1, 1:-1] for plane in (padded, 1 - padded))
    return (np.where(mask, inner, outer) <= max(1.0, width * min(mask.shape))) & bool(mask.any() and not mask.all())


def find_text(image: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Returns boxes (4, 2), in px, around lines of text in an RGB image, uint8 (H, W, 3), and a summary of the text.

    Only legible lines count, as a text detector also finds rings and ornaments. Uses the PP-OCR networks in the
    rapidocr package (Cui et al., "PaddleOCR 3.0 Technical Report", 2025); nothing is downloaded.
    """
    scale = max(1.0, _SIDE / min(image.shape[:2]))
    enlarged = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    result = _reader()(enlarged, text_score=_READ)
    lines = [] if result.boxes is None else list(zip(result.boxes, result.txts, strict=True))
    lines = [(box, words) for box, words in lines if sum(letter.isalnum() for letter in words) >= _LETTERS]
    read = ", ".join(words for _, words in lines[:5]) + ", ..." * (len(lines) > 5)
    log.info("Text on the product: %s", read or "none")
    return [np.asarray(box) / scale for box, _ in lines], f"read: {read}" if lines else "no text found"


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR  # takes a second to import, with its runtime

    threads = int(os.environ.get("OMP_NUM_THREADS") or -1)  # -1: all cores
    options = {"Det.limit_side_len": _SIDE, "EngineConfig.onnxruntime.intra_op_num_threads": threads}
    return RapidOCR(params={"Global.log_level": "error", **options})


def _text(image: np.ndarray, config: DefectLayout) -> tuple[np.ndarray, str]:
    shape = image.shape[:2]
    if config.text == "none":
        return np.zeros(shape, bool), "none, as text=none"
    if config.text != "auto":
        return _drawn(config.text, shape, "defects.layout.text")
    boxes, source = find_text(image)
    text = np.zeros(shape, np.uint8)
    for box in boxes:
        cv2.fillConvexPoly(text, np.round(box).astype(np.int32), 1)
    margin = round(config.text_margin * min(shape))
    return cv2.dilate(text, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0, source


def _drawn(region: str | list[list[float]], shape: tuple[int, int], option: str) -> tuple[np.ndarray, str]:
    """Returns the pixels of a user's region, a mask file or boxes, at the layout's size, and its source in words."""
    if isinstance(region, str):
        try:
            return resize_mask(read_mask(Path(region).expanduser()), *shape), f"the mask {region}"
        except UnreadableImage as error:
            raise UserError(f"{option}: {error} Give a mask image, or boxes [[x, y, width, height], ...].") from error
    drawn = np.zeros(shape, bool)
    for box in region:
        if len(box) != 4 or min(box) < 0 or box[0] + box[2] > 1.001 or box[1] + box[3] > 1.001:
            wanted = "[x, y, width, height] as shares of the image, 0 to 1"
            raise UserError(f"{option}: a box must be {wanted}, not {list(box)}.")
        x, y, width, height = box
        rows = slice(round(y * shape[0]), round((y + height) * shape[0]))
        drawn[rows, round(x * shape[1]) : round((x + width) * shape[1])] = True
    return drawn, "drawn boxes"
