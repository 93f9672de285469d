"""Outlines to pixels: anti-aliased coverage, facet numbers, product coordinates and noise fields."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.rendering.pose import project

_SHIFT = 6  # bits after the binary point that OpenCV's rasteriser takes


@dataclass(frozen=True)
class Grid:
    """The pixels a product is drawn on: the map to them, their shape, and the product coordinates of each."""

    matrix: np.ndarray  # (3, 3), product coordinates to pixels
    shape: tuple[int, int]
    x: np.ndarray  # (H, W) float32
    y: np.ndarray
    scale: float  # pixels for one product width

    def part(self, window: tuple[slice, slice]) -> Grid:
        """The same product on a rectangle of the pixels alone."""
        rows, columns = window
        moved = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1.0]]) @ self.matrix
        x = self.x[window]
        return Grid(moved, x.shape, x, self.y[window], self.scale)


def make_grid(matrix: np.ndarray, shape: tuple[int, int]) -> Grid:
    inverse = np.linalg.inv(matrix)
    inverse /= np.abs(inverse).max()
    columns = np.arange(shape[1], dtype=np.float32)[None] + np.float32(0.5)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + np.float32(0.5)
    a = inverse.astype(np.float32)
    depth = 1 / (a[2, 0] * columns + (a[2, 1] * rows + a[2, 2]))
    x = (a[0, 0] * columns + (a[0, 1] * rows + a[0, 2])) * depth
    y = (a[1, 0] * columns + (a[1, 1] * rows + a[1, 2])) * depth
    ends = project(matrix, np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]]))
    scale = (np.linalg.norm(ends[1] - ends[0]) + np.linalg.norm(ends[3] - ends[2])) / 2
    return Grid(matrix, shape, x, y, float(scale))


def to_pixels(matrix: np.ndarray, outlines: list[np.ndarray]) -> list[np.ndarray]:
    """Outlines (K, 2) in OpenCV's fixed-point pixels, which count from the middle of the first pixel."""
    pixels = project(matrix, np.concatenate(outlines)) - 0.5
    fixed = np.round(pixels * (1 << _SHIFT)).astype(np.int32)
    ends = np.cumsum([len(outline) for outline in outlines])
    return [fixed[end - len(outline) : end] for end, outline in zip(ends.tolist(), outlines, strict=True)]


def coverage(shape: tuple[int, int], shapes: list[list[np.ndarray]]) -> np.ndarray:
    """How much of each pixel the shapes cover, (H, W) float32 in [0, 1].

    A shape is a list of fixed-point outlines; an outline inside an outline of the same shape is a hole.
    """
    canvas = np.zeros(shape, np.uint8)
    for outlines in shapes:
        cv2.fillPoly(canvas, outlines, 255, cv2.LINE_AA, _SHIFT)
    return canvas * np.float32(1 / 255)


def shape_numbers(shape: tuple[int, int], outlines: list[np.ndarray]) -> np.ndarray:
    """The number of the fixed-point outline that covers each pixel, from 1; 0 for none. (H, W) uint16."""
    canvas = np.zeros(shape, np.uint16)
    for number, outline in enumerate(outlines, 1):
        cv2.fillPoly(canvas, [outline], number, cv2.LINE_8, _SHIFT)
    return canvas


def white_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def cloud_noise(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of unit deviation with about `cells` hills across the longer side, (H, W) float32."""
    longest = max(shape)
    small = white_noise(rng, tuple(max(4, round(cells * side / longest) + 3) for side in shape))
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def smoothstep(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a soft passage between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)
