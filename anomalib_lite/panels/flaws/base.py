"""What a defect changes: four stages of making a product at which it may step in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anomalib_lite.panels.layout import Layout
from anomalib_lite.panels.raster import Grid

OnPixels = Callable[[np.ndarray, Grid], np.ndarray]


def _unchanged(value: np.ndarray, grid: Grid) -> np.ndarray:
    return value


@dataclass(frozen=True)
class Flaw:
    """The foil's drawing, the foil's cover, the ink's cover (H, W), and the finished surface (H, W, 3)."""

    layout: Callable[[Layout], Layout] = lambda layout: layout
    foil: OnPixels = _unchanged
    ink: OnPixels = _unchanged
    finish: OnPixels = _unchanged


NO_FLAW = Flaw()


@dataclass(frozen=True)
class Outline:
    """The ragged border of a patch: its radius is 1 on average and varies with the angle."""

    depths: np.ndarray
    phases: np.ndarray

    def radius(self, angle: np.ndarray) -> np.ndarray:
        total = np.ones_like(angle)
        for k, (depth, phase) in enumerate(zip(self.depths.tolist(), self.phases.tolist(), strict=True), 1):
            total += depth * np.cos(k * angle + phase)
        return total


def draw_outline(rng: np.random.Generator, raggedness: float = 0.25) -> Outline:
    depths = rng.normal(0, raggedness, 9) / np.arange(1, 10) ** 0.7
    return Outline(depths.clip(-0.3, 0.3), rng.uniform(0, 2 * np.pi, 9))


def depth_inside(grid: Grid, centre: np.ndarray, radius: float, outline: Outline) -> np.ndarray:
    """How far each pixel lies inside a ragged patch, in crop sides; negative outside. (H, W) float32."""
    east, south = grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1])
    reach = np.float32(radius) * np.maximum(outline.radius(np.arctan2(south, east)), np.float32(0.25))
    return reach - np.hypot(east, south)


def patch(grid: Grid, centre: np.ndarray, radius: float, outline: Outline, soft: float = 0.0) -> np.ndarray:
    """1 inside a ragged patch, 0 outside, with a passage of `soft` crop sides or at least one pixel."""
    width = max(soft, 1.2 / grid.scale)
    return np.clip(depth_inside(grid, centre, radius, outline) / np.float32(width) + np.float32(0.5), 0, 1)
