"""The product's areas: text, edges of its structure, its inside, the background, and what else a user names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from anomalib_lite.data.decode import UnreadableImage, read_mask, resize_mask
from anomalib_lite.defects.text_finder import find_text
from anomalib_lite.errors import UserError
from anomalib_lite.runs.atomic import atomic_path, write_json

BACKGROUND, INSIDE, EDGES, TEXT = "background", "inside", "edges", "text"
BUILT_IN = (BACKGROUND, INSIDE, EDGES, TEXT)


@dataclass(frozen=True)
class LayoutConfig:
    """foreground: otsu, grabcut, none (all is inside), or a mask image. edge_width: of the band around the
    structure's contour, to each side, as a share of the shorter side. text: auto (rapidocr where it is installed),
    none, a mask image, or boxes [[x, y, width, height], ...] as shares of the picture. text_margin: added around found
    text, as a share of the shorter side. areas: more areas, name -> mask image or boxes; a later one lies over the
    earlier ones, and a built-in name replaces what was found.
    """

    foreground: str = "otsu"
    edge_width: float = 0.012
    text: str | list[list[float]] = "auto"
    text_margin: float = 0.016
    areas: Mapping[str, str | list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """names: the areas, the background first. numbers: uint8 (H, W), each pixel's area as its place in `names`.
    foreground: bool (H, W), text included. found_by: how each area came about, in words.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    foreground: np.ndarray
    found_by: Mapping[str, str]

    @property
    def shape(self) -> tuple[int, int]:
        return self.numbers.shape

    def area(self, name: str) -> np.ndarray:
        return self.numbers == self.names.index(name)

    def save(self, folder: Path) -> None:
        """layout.png, the areas' numbers; layout_foreground.png; layout.json, their names and origin."""
        for name, plane in (
            ("layout.png", self.numbers),
            ("layout_foreground.png", self.foreground.astype(np.uint8) * 255),
        ):
            with atomic_path(folder / name) as temporary:
                cv2.imwrite(str(temporary), plane)
        sizes = {name: int(self.area(name).sum()) for name in self.names}
        write_json(folder / "layout.json", {"areas": self.names, "pixels": sizes, "found_by": dict(self.found_by)})

    @classmethod
    def load(cls, folder: Path) -> Layout:
        known = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        numbers = cv2.imread(str(folder / "layout.png"), cv2.IMREAD_GRAYSCALE)
        foreground = cv2.imread(str(folder / "layout_foreground.png"), cv2.IMREAD_GRAYSCALE)
        if numbers is None or foreground is None:
            raise UserError(f"The product's layout in {folder} cannot be read. Train again, or copy the folder whole.")
        return cls(tuple(known["areas"]), numbers, foreground > 0, known["found_by"])


def find_layout(image: np.ndarray, config: LayoutConfig | None = None) -> Layout:
    """The areas of a perfect or of a typical product, uint8 RGB (H, W, 3).

    Text lies over edges, edges over the inside. Errors: UserError for masks of another shape and boxes outside.
    """
    config = config or LayoutConfig()
    shape = image.shape[:2]
    foreground, how = find_foreground(image, config.foreground)
    text, seen = _text(image, config)
    words = {
        BACKGROUND: "the rest",
        INSIDE: how,
        EDGES: f"the contour, {config.edge_width:.1%} to each side",
        TEXT: seen,
    }
    structure = foreground & ~text
    areas = {INSIDE: structure, EDGES: edge_band(structure, config.edge_width) if structure.any() else structure}
    areas[TEXT] = text
    for name, given in config.areas.items():
        areas[name], words[name] = _drawn(given, shape, f"defects.layout.areas.{name}"), _origin(given)
    names = (BACKGROUND, *(name for name in areas if name != BACKGROUND))
    numbers = np.zeros(shape, np.uint8)
    for number, name in enumerate(names[1:], start=1):
        numbers[areas[name]] = number
    if BACKGROUND in areas:
        numbers[areas[BACKGROUND]] = 0
    return Layout(names, numbers, foreground | text, words)


def find_foreground(image: np.ndarray, method: str = "otsu") -> tuple[np.ndarray, str]:
    """The product's pixels, bool (H, W), and how they were found.

    Otsu ("A Threshold Selection Method from Gray-Level Histograms", 1979) parts bright from dark; the product is the
    side that has less of the picture's border. GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) starts from there.
    """
    if method == "none":
        return np.ones(image.shape[:2], bool), "the whole picture"
    if method not in ("otsu", "grabcut"):
        return _drawn(method, image.shape[:2], "defects.layout.foreground"), f"the mask {method}"
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), max(0.5, min(image.shape[:2]) / 512))
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    foreground = bright.astype(bool) if border.mean() <= 0.5 else ~bright.astype(bool)
    if method == "otsu" or foreground.all() or not foreground.any():
        return foreground, "Otsu's threshold"
    guess = np.where(foreground, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(image[..., ::-1]), guess, None, models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    return np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)), "GrabCut, from Otsu's threshold"


def edge_band(mask: np.ndarray, width: float) -> np.ndarray:
    """The pixels within `width` (a share of the shorter side, one pixel at least) of a mask's contour, both sides.

    The picture's own border is no edge of the product.
    """
    reach = max(1.0, width * min(mask.shape))
    padded = np.pad(mask, 1, mode="edge").astype(np.uint8)
    inner, outer = (cv2.distanceTransform(plane, cv2.DIST_L2, 5)[1:-1, 1:-1] for plane in (padded, 1 - padded))
    return (np.where(mask, inner, outer) <= reach) & bool(mask.any() and not mask.all())


def _text(image: np.ndarray, config: LayoutConfig) -> tuple[np.ndarray, str]:
    shape = image.shape[:2]
    if config.text == "none":
        return np.zeros(shape, bool), "none asked for"
    if config.text != "auto":
        return _drawn(config.text, shape, "defects.layout.text"), _origin(config.text)
    boxes, how = find_text(image)
    text = np.zeros(shape, np.uint8)
    for box in boxes:
        cv2.fillConvexPoly(text, np.round(box).astype(np.int32), 1)
    margin = round(config.text_margin * min(shape))
    return cv2.dilate(text, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0, how


def _drawn(given: str | list[list[float]], shape: tuple[int, int], name: str) -> np.ndarray:
    """A mask image's or boxes' pixels at the layout's size."""
    if isinstance(given, str):
        try:
            return resize_mask(read_mask(Path(given).expanduser()), *shape)
        except UnreadableImage as error:
            raise UserError(f"{name}: {error} Give a mask image, or boxes [[x, y, width, height], ...].") from error
    drawn = np.zeros(shape, bool)
    for box in given:
        if len(box) != 4 or min(box) < 0 or box[0] + box[2] > 1.001 or box[1] + box[3] > 1.001:
            raise UserError(
                f"{name}: a box is [x, y, width, height] in shares of the picture (0 to 1), not {list(box)}."
            )
        x, y, width, height = box
        rows = slice(round(y * shape[0]), round((y + height) * shape[0]))
        drawn[rows, round(x * shape[1]) : round((x + width) * shape[1])] = True
    return drawn


def _origin(given: str | list[list[float]]) -> str:
    return f"the mask {given}" if isinstance(given, str) else "drawn boxes"
