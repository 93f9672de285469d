"""The same images seen by several runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.heatmap import colour_bar, draw_outline, overlay, tick_positions
from anomalib_lite.report.tiles import square_tile

_TILE, _GAP, _HEAD, _CAPTION, _FOOT, _SIDE = 200, 8, 34, 22, 52, 14  # pixels
_TRUTH = (64, 224, 190)


@dataclass(frozen=True)
class Seen:
    """One image by one run: its map (h, w), the image score, and the thresholds of that run."""

    map: np.ndarray
    score: float
    image_threshold: float
    pixel_threshold: float


@dataclass(frozen=True)
class Row:
    """image: uint8 RGB (H, W, 3). mask: bool (H, W) or None. seen: by each run, in the columns' order."""

    name: str
    image: np.ndarray
    mask: np.ndarray | None
    seen: Sequence[Seen]


def side_by_side(rows: Sequence[Row], runs: Sequence[str]) -> Figure:
    """One line an image: the image with its true defect outlined, then its heat map by each run.

    Each map is coloured on its own run's threshold, so that a colour means the same in all columns: how far above what
    OK images show. Made for `ink.save_png` at 100 dpi, where one pixel of a tile is one pixel of the picture.
    """
    columns = 1 + len(runs)
    width = 2 * _SIDE + columns * _TILE + (columns - 1) * _GAP
    height = _HEAD + len(rows) * (_TILE + _CAPTION) + _FOOT
    canvas = np.full((height, width, 3), 255, np.uint8)
    drawing = Figure(figsize=(width / 100, height / 100), facecolor=ink.PAPER)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set_axis_off()

    def left(column: int) -> int:
        return _SIDE + column * (_TILE + _GAP)

    for column, title in enumerate(["image and true defect", *runs]):
        axis.text(left(column), _HEAD - 14, title, fontsize=9, color=ink.INK, parse_math=False)
    for place, row in enumerate(rows):
        top = _HEAD + place * (_TILE + _CAPTION)
        for column, tile in enumerate([_truth(row), *(overlay(row.image, s.map, s.pixel_threshold) for s in row.seen)]):
            canvas[top : top + _TILE, left(column) : left(column) + _TILE] = square_tile(tile, _TILE)
        below = top + _TILE + 13
        axis.text(left(0), below, row.name, fontsize=7.5, color=ink.MUTED, parse_math=False)
        for column, seen in enumerate(row.seen, 1):
            flagged = seen.score > seen.image_threshold
            words = f"score {seen.score / seen.image_threshold:.2f} × threshold" + (": NOK" if flagged else ": OK")
            axis.text(left(column), below, words, fontsize=7.5, color=ink.NOK if flagged else ink.OK)
    bar, top = min(360, width - 80), height - _FOOT + 12
    canvas[top : top + 10, _SIDE : _SIDE + bar] = colour_bar(bar, 10)
    for position, label in tick_positions():
        x = _SIDE + position * (bar - 1)
        axis.text(x, top + 26, label, fontsize=8, color=ink.MUTED, ha="center" if position else "left")
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return drawing


def _truth(row: Row) -> np.ndarray:
    return row.image if row.mask is None else draw_outline(np.ascontiguousarray(row.image), row.mask, _TRUTH)
