"""The contact sheet: image, heat map and ground truth of a run's most telling images in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.cases import MISTAKES, Case, kind, outcome
from anomalib_lite.report.heatmap import colour_bar, draw_outline, overlay, tick_positions
from anomalib_lite.report.tiles import square_tile

_TILE, _GAP, _MARGIN, _CAPTION, _FOOT = 160, 6, 12, 30, 56  # pixels
_BLOCK = 3 * _TILE + 2 * _GAP + 2 * _MARGIN
_TRUTH = (64, 224, 190)


def contact_sheet(
    cases: Sequence[Case], image_threshold: float, pixel_threshold: float, columns: int = 3
) -> Figure | None:
    """Draws the cases in their order, each as image | heat map | ground truth, with the colour scale below.

    Made for `save_png` at 100 dpi, where one pixel of a tile is one pixel of the picture.
    """
    if not cases:
        return None
    columns = min(columns, len(cases))
    rows = -(-len(cases) // columns)
    width, height = columns * _BLOCK, rows * (_TILE + _CAPTION) + _FOOT
    canvas = np.full((height, width, 3), 255, np.uint8)
    drawing = Figure(figsize=(width / 100, height / 100), facecolor=ink.PAPER)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    for place, case in enumerate(cases):
        row, column = divmod(place, columns)
        left, top = column * _BLOCK + _MARGIN, row * (_TILE + _CAPTION) + _CAPTION - 4
        for position, tile in enumerate(_tiles(case, pixel_threshold)):
            x = left + position * (_TILE + _GAP)
            canvas[top : top + _TILE, x : x + _TILE] = tile
        _caption(axis, case, image_threshold, left, top - 7)
    _scale(axis, canvas)
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return drawing


def _caption(axis: Axes, case: Case, threshold: float, left: int, y: int) -> None:
    verdict = outcome(case, threshold)
    mistake = verdict in MISTAKES
    score = f"{case.score / threshold:.2f} × threshold" if 0 < threshold < np.inf else f"{case.score:.4g}"
    axis.text(left, y, _shorten(f"{kind(case)}   {case.name}"), fontsize=8, color=ink.INK, parse_math=False)
    right = left + 3 * _TILE + 2 * _GAP
    colour = ink.NOK if mistake else ink.MUTED
    axis.text(right, y, f"{verdict}   {score}", fontsize=8, color=colour, ha="right")


def _scale(axis: Axes, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    bar, top = min(360, width - 80), height - _FOOT + 14
    canvas[top : top + 10, _MARGIN : _MARGIN + bar] = colour_bar(bar, 10)
    for position, label in tick_positions():
        x, where = _MARGIN + position * (bar - 1), "center" if position else "left"
        axis.text(x, top + 28, label, fontsize=8, color=ink.MUTED, ha=where)


def _tiles(case: Case, pixel_threshold: float) -> list[np.ndarray]:
    image = np.ascontiguousarray(case.image)
    heat = overlay(image, case.map, pixel_threshold)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2
    if case.mask is not None:
        mask = cv2.resize(case.mask.astype(np.uint8), grey.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        grey[mask] = (0.6 * grey[mask] + 0.4 * np.array(_TRUTH)).astype(np.uint8)
        grey = draw_outline(grey, mask, _TRUTH)
    return [square_tile(image, _TILE), square_tile(heat, _TILE), square_tile(grey, _TILE)]


def _shorten(text: str, limit: int = 48) -> str:
    return text if len(text) <= limit else text[: limit // 3] + "…" + text[-(limit - limit // 3 - 1) :]
