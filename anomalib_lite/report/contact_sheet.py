"""The contact sheet of generated images: each beside the real image whose structure it is meant to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.tiles import square_tile

_TILE, _GAP, _BETWEEN, _MARGIN, _CAPTION, _HEADING = 160, 4, 24, 16, 24, 34  # pixels
_BLOCK = 2 * _TILE + _GAP


@dataclass(frozen=True)
class Pair:
    """content, generated: uint8 RGB (H, W, 3). kept: False where the structure guard dropped it. words: below it."""

    content: np.ndarray
    generated: np.ndarray
    kept: bool
    words: str


def pairs_sheet(pairs: Sequence[Pair], columns: int = 4) -> Figure | None:
    """Draws the kept pairs, then the dropped ones under a heading of their own, each as real | generated.

    Made for `ink.save_png` at 100 dpi, where one pixel of a tile is one pixel of the picture. None without pairs.
    """
    if not pairs:
        return None
    kept, dropped = [p for p in pairs if p.kept], [p for p in pairs if not p.kept]
    parts = [("real | generated", kept), ("dropped for their structure: real | generated", dropped)]
    parts = [(words, shown) for words, shown in parts if shown]
    columns = min(columns, max(len(shown) for _, shown in parts))
    width = 2 * _MARGIN + columns * (_BLOCK + _BETWEEN) - _BETWEEN
    heights = [_HEADING + -(-len(shown) // columns) * (_TILE + _CAPTION) for _, shown in parts]
    canvas = np.full((sum(heights) + _MARGIN, width, 3), 255, np.uint8)
    drawing = Figure(figsize=(width / 100, canvas.shape[0] / 100), facecolor=ink.PAPER)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    for (words, shown), top in zip(parts, np.cumsum([0, *heights[:-1]]).tolist(), strict=True):
        axis.text(_MARGIN, top + _HEADING - 12, words, fontsize=9, color=ink.INK if shown is kept else ink.NOK)
        for place, pair in enumerate(shown):
            row, column = divmod(place, columns)
            y, x = top + _HEADING + row * (_TILE + _CAPTION), _MARGIN + column * (_BLOCK + _BETWEEN)
            canvas[y : y + _TILE, x : x + _TILE] = square_tile(pair.content, _TILE, cv2.INTER_CUBIC)
            canvas[y : y + _TILE, x + _TILE + _GAP : x + _BLOCK] = square_tile(pair.generated, _TILE, cv2.INTER_CUBIC)
            axis.text(x, y + _TILE + 14, pair.words, fontsize=7.5, color=ink.MUTED, parse_math=False)
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(canvas.shape[0] - 0.5, -0.5))
    return drawing
