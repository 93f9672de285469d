"""The product's areas: text, edges of its structure, its inside, the background, and what else a user names."""

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

_SIDE = 512  # px of the shorter side at least: letters of a few pixels are found when they are enlarged
_READ = 0.8  # confidence in what was read; round parts and rows of ornaments, taken for letters, come lower
_LETTERS = 2  # at least: a ring is read as an O


@dataclass(frozen=True)
class Layout:
    """names: the areas, the background first. numbers: uint8 (H, W), each pixel's area as its place in `names`.
    foreground: bool (H, W), text included. found_by: how each area came about, in words.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    foreground: np.ndarray
    found_by: Mapping[str, str]

    def area(self, name: str) -> np.ndarray:
        """bool (H, W); empty where there is no such area."""
        return self.numbers == (self.names.index(name) if name in self.names else len(self.names))


def find_layout(image: np.ndarray, config: DefectLayout | None = None) -> Layout:
    """The areas of a product, uint8 RGB (H, W, 3). Text lies over edges, edges over the inside, and areas that a user
    names over these; one with a built-in name replaces what was found.

    Errors: UserError for masks that cannot be read and boxes outside.
    """
    config = config or DefectLayout()
    shape = image.shape[:2]
    foreground, how = find_foreground(image, config.foreground)
    text, seen = _text(image, config)
    band = f"the contour, {config.edge_width:.1%} to each side"
    words = {BACKGROUND: "the rest", INSIDE: how, EDGES: band, TEXT: seen}
    structure = foreground & ~text
    areas = {INSIDE: structure, EDGES: edge_band(structure, config.edge_width), TEXT: text}
    for name, given in config.areas.items():
        areas[name], words[name] = _drawn(given, shape, f"defects.layout.areas.{name}")
    names, numbers = tuple(dict.fromkeys((BACKGROUND, *areas))), np.zeros(shape, np.uint8)
    for name in (*names[1:], *names[:1]):  # a background that was drawn lies over all
        numbers[areas.get(name, False)] = names.index(name)
    return Layout(names, numbers, foreground | text, words)


def find_foreground(image: np.ndarray, method: str = "otsu") -> tuple[np.ndarray, str]:
    """The product's pixels, bool (H, W), and how they were found.

    Otsu's threshold (1979) parts bright from dark; the product is the side that has less of the picture's border.
    GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) starts from there.
    """
    if method == "none":
        return np.ones(image.shape[:2], bool), "the whole picture"
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
    """The pixels within `width` (a share of the shorter side, one pixel at least) of a mask's contour, to both sides;
    the picture's own border is no edge of the product.
    """
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inner, outer = (cv2.distanceTransform(plane, cv2.DIST_L2, 5)[1:-1, 1:-1] for plane in (padded, 1 - padded))
    return (np.where(mask, inner, outer) <= max(1.0, width * min(mask.shape))) & bool(mask.any() and not mask.all())


def find_text(image: np.ndarray) -> tuple[list[np.ndarray], str]:
    """Boxes (4, 2) around lines of text in an uint8 RGB picture (H, W, 3), in px, and what was read, in words.

    A line counts if it can be read, because a detector alone takes rings and ornaments for text. PP-OCR's networks as
    rapidocr brings them in its package (Cui et al., "PaddleOCR 3.0 Technical Report", 2025); nothing is downloaded.
    """
    scale = max(1.0, _SIDE / min(image.shape[:2]))
    enlarged = cv2.resize(image[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    found = _reader()(enlarged, text_score=_READ)
    lines = [] if found.boxes is None else list(zip(found.boxes, found.txts, strict=True))
    lines = [(box, words) for box, words in lines if sum(letter.isalnum() for letter in words) >= _LETTERS]
    read = ", ".join(words for _, words in lines[:5]) + ", ..." * (len(lines) > 5)
    log.info("Text on the product: %s.", read or "none")
    return [np.asarray(box) / scale for box, _ in lines], f"read: {read}" if lines else "no text found"


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR  # with its runtime it takes a second to import

    threads = int(os.environ.get("OMP_NUM_THREADS") or -1)  # -1: all cores
    given = {"Det.limit_side_len": _SIDE, "EngineConfig.onnxruntime.intra_op_num_threads": threads}
    return RapidOCR(params={"Global.log_level": "error", **given})


def _text(image: np.ndarray, config: DefectLayout) -> tuple[np.ndarray, str]:
    shape = image.shape[:2]
    if config.text == "none":
        return np.zeros(shape, bool), "none asked for"
    if config.text != "auto":
        return _drawn(config.text, shape, "defects.layout.text")
    boxes, how = find_text(image)
    text = np.zeros(shape, np.uint8)
    for box in boxes:
        cv2.fillConvexPoly(text, np.round(box).astype(np.int32), 1)
    margin = round(config.text_margin * min(shape))
    return cv2.dilate(text, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0, how


def _drawn(given: str | list[list[float]], shape: tuple[int, int], name: str) -> tuple[np.ndarray, str]:
    """A mask image's or boxes' pixels at the layout's size, and which it was."""
    if isinstance(given, str):
        try:
            return resize_mask(read_mask(Path(given).expanduser()), *shape), f"the mask {given}"
        except UnreadableImage as error:
            raise UserError(f"{name}: {error} Give a mask image, or boxes [[x, y, width, height], ...].") from error
    drawn = np.zeros(shape, bool)
    for box in given:
        if len(box) != 4 or min(box) < 0 or box[0] + box[2] > 1.001 or box[1] + box[3] > 1.001:
            wanted = "[x, y, width, height] in shares of the picture, 0 to 1"
            raise UserError(f"{name}: a box is {wanted}, not {list(box)}.")
        x, y, width, height = box
        rows = slice(round(y * shape[0]), round((y + height) * shape[0]))
        drawn[rows, round(x * shape[1]) : round((x + width) * shape[1])] = True
    return drawn, "drawn boxes"
