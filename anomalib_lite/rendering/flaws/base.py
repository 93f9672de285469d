"""What a defect changes: four stages of making a product at which it may step in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.rendering.layout import Layout
from anomalib_lite.rendering.raster import Grid

OnPixels = Callable[[np.ndarray, Grid], np.ndarray]


def _unchanged(value: np.ndarray, grid: Grid) -> np.ndarray:
    return value


@dataclass(frozen=True)
class Flaw:
    """Changes the foil's drawing, the foil's cover (H, W), the ink's cover (H, W), the finish (H, W, 3)."""

    layout: Callable[[Layout], Layout] = lambda layout: layout
    foil: OnPixels = _unchanged
    ink: OnPixels = _unchanged
    finish: OnPixels = _unchanged
    name: str | None = None
    severity: float | None = None


NO_FLAW = Flaw()


def draw_outline(rng: np.random.Generator, raggedness: float = 0.25) -> np.ndarray:
    """The ragged border of a patch: its radius, 1 on average, in 512 directions around its centre."""
    depths = rng.normal(0, raggedness, 9) / np.arange(1, 10) ** 0.7
    phases = rng.uniform(0, 2 * np.pi, 9)
    angles = np.linspace(0, 2 * np.pi, 512, endpoint=False)
    waves = depths.clip(-0.3, 0.3)[:, None] * np.cos(np.arange(1, 10)[:, None] * angles + phases[:, None])
    return np.maximum(1 + waves.sum(0), 0.25).astype(np.float32)


def depth_inside(grid: Grid, centre: np.ndarray, radius: float, outline: np.ndarray) -> np.ndarray:
    """How far each pixel lies inside a ragged patch, in crop sides; negative outside. (H, W) float32."""
    distance, angle = cv2.cartToPolar(grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1]))
    direction = (angle * np.float32(len(outline) / (2 * np.pi))).astype(np.int32) % len(outline)
    return np.float32(radius) * outline[direction] - distance


def patch(grid: Grid, centre: np.ndarray, radius: float, outline: np.ndarray, soft: float = 0.0) -> np.ndarray:
    """1 inside a ragged patch, 0 outside, with a passage of `soft` crop sides or at least one pixel."""
    width = max(soft, 1.2 / grid.scale)
    return np.clip(depth_inside(grid, centre, radius, outline) / np.float32(width) + np.float32(0.5), 0, 1)
