"""Draws contact sheets: groups of tiles side by side, with a caption above each group."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomalib_lite.report import ink
from anomalib_lite.report.pictures import colour_bar, tick_positions

TILE = 160  # side of a tile in pixels
TRUTH = (64, 224, 190)  # colour of the true defect
BESIDE = 242  # grey level around an image that is not square
_GAP, _MARGIN, _CAPTION, _FOOT = 6, 12, 30, 56  # pixels


@dataclass(frozen=True)
class Block:
    """A group of tiles, uint8 RGB (H, W, 3) of any size, with captions above at the left and the right."""

    tiles: Sequence[np.ndarray]
    left: str
    right: str = ""
    alarming: bool = False  # the right caption has the colour of defects


def draw_sheet(
    blocks: Sequence[Block], columns: int, scale: bool = False, side: int = TILE, one: str = "threshold"
) -> Figure | None:
    """Draws a contact sheet for `ink.save_png` at 100 dpi, where one pixel of a tile is one pixel of the picture.

    Args:
        blocks: Groups with equal numbers of tiles.
        columns: Largest number of blocks per row.
        scale: Whether the colour scale of heat maps is drawn below.
        side: Side of a tile in pixels.
        one: Label of the scale's unit.

    Returns:
        None without blocks.
    """
    if not blocks:
        return None
    columns, tiles = min(columns, len(blocks)), len(blocks[0].tiles)
    across, down = tiles * side + (tiles - 1) * _GAP + 2 * _MARGIN, side + _CAPTION
    height, width = -(-len(blocks) // columns) * down + (_FOOT if scale else _MARGIN), columns * across
    canvas = np.full((height, width, 3), 255, np.uint8)
    drawing = Figure(figsize=(width / 100, height / 100), facecolor=ink.PAPER)
    axis = drawing.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    for place, block in enumerate(blocks):
        row, column = divmod(place, columns)
        _draw_block(axis, canvas, block, column * across + _MARGIN, row * down + _CAPTION - 4, side)
    if scale:
        _draw_scale(axis, canvas, one)
    axis.imshow(canvas, interpolation="nearest", aspect="auto")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return drawing


def square_tile(image: np.ndarray, side: int = TILE) -> np.ndarray:
    """Fits an image (H, W, 3) into a square tile on pale grey, keeping its aspect ratio."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    tile = np.full((side, side, 3), BESIDE, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile


def _draw_block(axis: Axes, canvas: np.ndarray, block: Block, left: int, top: int, side: int) -> None:
    for position, tile in enumerate(block.tiles):
        x = left + position * (side + _GAP)
        canvas[top : top + side, x : x + side] = square_tile(tile, side)
    right = left + len(block.tiles) * (side + _GAP) - _GAP
    axis.text(left, top - 7, block.left, fontsize=8, color=ink.INK, parse_math=False)
    colour = ink.NOK if block.alarming else ink.MUTED
    axis.text(right, top - 7, block.right, fontsize=8, color=colour, ha="right", parse_math=False)


def _draw_scale(axis: Axes, canvas: np.ndarray, one: str) -> None:
    height, width = canvas.shape[:2]
    bar, top = min(360, width - 80), height - _FOOT + 14
    canvas[top : top + 10, _MARGIN : _MARGIN + bar] = colour_bar(bar, 10)
    for position, label in tick_positions():
        x, where = _MARGIN + position * (bar - 1), "center" if position else "left"
        axis.text(x, top + 28, one if label == "threshold" else label, fontsize=8, color=ink.MUTED, ha=where)
