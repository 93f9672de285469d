"""Defects that lie on card, foil and print alike."""

from __future__ import annotations

import cv2
import numpy as np

from anomalib_lite.rendering.flaws.base import Flaw, depth_inside, draw_outline
from anomalib_lite.rendering.layout import Layout
from anomalib_lite.rendering.raster import Grid, coverage, to_pixels

_SCRATCHED = np.array([0.17, 0.162, 0.15], np.float32)  # the paper under foil and black
_STAINS = np.array([[0.060, 0.042, 0.022], [0.030, 0.050, 0.036], [0.075, 0.072, 0.068]], np.float32)
_TINTS = np.array([[1.15, 0.55, 0.40], [0.95, 1.25, 2.5], [0.50, 0.95, 0.70], [0.75, 0.45, 0.95]])


def scratch(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """A tapered, curved and interrupted line down to the paper; longer, wider, deeper with severity."""
    middle = rng.uniform((-0.28, -0.26), (0.28, 0.26))
    angle, curve = rng.uniform(0, np.pi), rng.normal(0, 0.10)
    length = 0.09 + 0.5 * severity
    width = 0.0032 + 0.0058 * severity
    depth = 0.6 + 0.38 * severity
    skips = rng.uniform(0.35, 1.0, 24)

    def cut(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        along = np.linspace(-0.5, 0.5, 49)
        axis, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        line = middle + length * (along[:, None] * axis + curve * (along**2)[:, None] * normal)
        taper = np.sqrt(np.clip(1 - (2 * along) ** 2, 0.02, 1)) * np.interp(along, np.linspace(-0.5, 0.5, 24), skips)
        edge = (width / 2 * taper)[:, None] * normal
        outline = np.concatenate([line + edge, (line - edge)[::-1]])
        cover = coverage(grid.shape, [to_pixels(grid.matrix, [outline])])
        return radiance + (depth * cover)[..., None].astype(np.float32) * (_SCRATCHED - radiance)

    return Flaw(finish=cut)


def stain(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """A dried drop: a veil over everything, denser along its rim."""
    centre = rng.uniform((-0.30, -0.30), (0.30, 0.30))
    radius = 0.022 + 0.085 * severity
    opacity = rng.uniform(0.36, 0.48) + 0.4 * severity
    colour = _STAINS[rng.integers(len(_STAINS))]
    outline = draw_outline(rng, 0.12)

    def veil(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        inside = depth_inside(grid, centre, radius, outline)
        cover = np.clip(inside / np.float32(0.006) + np.float32(0.5), 0, 1)
        rim = np.exp(-(((inside - np.float32(0.006)) / np.float32(0.0055)) ** 2))
        dense = np.clip(opacity * cover * (np.float32(0.62) + np.float32(0.45) * rim), 0, 0.95)[..., None]
        return radiance + dense.astype(np.float32) * (colour - radiance)

    return Flaw(finish=veil)


def wrong_color(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """A few neighbouring spikes or letters came from another roll: copper, silver, green or violet."""
    pieces = [e for e in layout.elements if e.kind in ("spike", "disc", "arc") and e.length > 0.1]
    spikes = [[facet.outline for facet in piece.facets] for piece in pieces]
    group = [list(letter) for letter in layout.letters] if rng.random() < 0.3 else spikes
    middles = np.array([np.concatenate(outlines).mean(0) for outlines in group])
    first = middles[rng.integers(len(middles))]
    nearest = np.argsort(np.hypot(*(middles - first).T))[: 1 + rng.integers(3)]
    tint = 1 + (_TINTS[rng.integers(len(_TINTS))] - 1) * (0.35 + 0.75 * severity)

    def colour(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        # Each outline is filled on its own: the card in a letter's hole is too dark for its tint to show.
        outlines = [outline for index in nearest for outline in group[index]]
        cover = coverage(grid.shape, [[outline] for outline in to_pixels(grid.matrix, outlines)])
        cover = cv2.dilate(cover, np.ones((3, 3), np.uint8), iterations=max(1, round(0.004 * grid.scale)))
        return radiance * (1 + cover[..., None] * (tint - 1).astype(np.float32))

    return Flaw(finish=colour)
