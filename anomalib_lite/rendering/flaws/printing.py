"""Defects of the printed word."""

from __future__ import annotations

import cv2
import numpy as np

from anomalib_lite.rendering.flaws.base import Flaw, draw_outline, patch
from anomalib_lite.rendering.layout import WORD_CENTRE, WORD_HEIGHT, WORD_WIDTH, Layout
from anomalib_lite.rendering.raster import Grid, smoothstep


def blurred(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """The stamp slipped: a part of the word loses its edges, more of it and more strongly with severity."""
    centre = rng.uniform(-0.4, 0.4) * WORD_WIDTH
    half_width = rng.uniform(0.12, 0.2) + 0.2 * severity
    sigma = 0.0030 + 0.0125 * severity

    def spread(ink: np.ndarray, grid: Grid) -> np.ndarray:
        share = smoothstep((np.float32(half_width) - np.abs(grid.x - np.float32(centre))) * 12 + 0.5)
        return ink + share * (cv2.GaussianBlur(ink, (0, 0), sigma * grid.scale) - ink)

    return Flaw(ink=spread)


def smeared(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Something wiped over the wet ink: it is drawn out in one direction and thins out."""
    centre = rng.uniform(-0.4, 0.4) * WORD_WIDTH
    half_width = rng.uniform(0.05, 0.09) + 0.12 * severity
    angle = rng.choice([0.0, np.pi]) + rng.normal(0, 0.5)
    length = 0.011 + 0.065 * severity
    strength = rng.uniform(0.45, 0.6) + 0.35 * severity
    steps = 14

    def wipe(ink: np.ndarray, grid: Grid) -> np.ndarray:
        share = smoothstep((np.float32(half_width) - np.abs(grid.x - np.float32(centre))) * 18 + 0.5)
        wet = cv2.GaussianBlur(ink * share, (0, 0), 0.003 * grid.scale)
        wiped = np.zeros_like(ink)
        for step in range(1, steps + 1):
            reach = length * grid.scale * step / steps
            shift = np.float32([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]])
            moved = cv2.warpAffine(wet, shift, ink.shape[::-1], flags=cv2.INTER_LINEAR)
            np.maximum(wiped, moved * np.float32(strength * (1 - 0.8 * step / steps)), out=wiped)
        return np.maximum(ink, wiped)

    return Flaw(ink=wipe)


def missing(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Ink did not stick: a ragged patch of the word is bare."""
    letter = np.concatenate(layout.letters[rng.integers(len(layout.letters))])
    on_ink = letter[rng.integers(len(letter))]
    centre = on_ink + (letter.mean(0) - on_ink) * 0.15 + rng.normal(0, 0.003, 2)
    centre[1] = np.clip(centre[1], WORD_CENTRE[1] - WORD_HEIGHT / 2, WORD_CENTRE[1] + WORD_HEIGHT / 2)
    radius = 0.011 + 0.055 * severity
    outline = draw_outline(rng)

    def take_off(ink: np.ndarray, grid: Grid) -> np.ndarray:
        return ink * (1 - np.float32(0.96) * patch(grid, centre, radius, outline))

    return Flaw(ink=take_off)
