"""Defects of the foil ornament's shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anomalib_lite.rendering.flaws.base import Flaw, draw_outline, patch
from anomalib_lite.rendering.layout import SUN, Element, Facet, Layout, diamond, lance
from anomalib_lite.rendering.raster import Grid


def broken(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """A spike snapped: a jagged gap across it, and the part beyond stands a little askew."""
    index, spike = _pick_spike(rng, layout)
    at = rng.uniform(0.25, 0.6)
    gap = 0.008 + 0.030 * severity
    lean = np.deg2rad(rng.choice([-1, 1]) * (1 + 5 * severity))
    jags = rng.uniform(-0.006, 0.006, 25)

    def snap(cover: np.ndarray, grid: Grid) -> np.ndarray:
        along, across = _axes(spike, grid)
        jag = np.interp(across, np.linspace(-0.03, 0.03, 25), jags).astype(np.float32)
        open_by = np.float32(gap / 2) - np.abs(along - np.float32(at * spike.length) - jag)
        open_by = np.minimum(open_by, np.float32(0.028) - np.abs(across))
        return cover * (1 - np.clip(open_by * np.float32(grid.scale) + np.float32(0.5), 0, 1))

    return Flaw(layout=lambda whole: whole.with_element(index, _bend(spike, at, lean, abrupt=True)), foil=snap)


def bent(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """A spike curves away from its direction beyond a point."""
    index, spike = _pick_spike(rng, layout)
    at = rng.uniform(0.1, 0.35)
    angle = np.deg2rad(rng.choice([-1, 1]) * (5 + 32 * severity))
    return Flaw(layout=lambda whole: whole.with_element(index, _bend(spike, at, angle, abrupt=False)))


def missing(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Foil did not transfer: a spike lacks its tip, all of itself, or its neighbour as well."""
    _, first = _pick_spike(rng, layout)
    spikes = [element for element in layout.elements if element.kind == "spike"]
    spikes.sort(key=lambda spike: np.hypot(*(spike.centre - first.centre)))
    amount = 0.16 + 1.9 * severity
    jags = rng.uniform(-0.012, 0.012, 25)

    def take_off(cover: np.ndarray, grid: Grid) -> np.ndarray:
        for number, spike in enumerate(spikes[:3]):
            share = float(np.clip(amount - number, 0, 1))
            if share == 0:
                break
            along, across = _axes(spike, grid)
            jag = np.interp(across, np.linspace(-0.03, 0.03, 25), jags).astype(np.float32)
            start = (1 - share) * (spike.length + 0.02) - 0.012
            gone = np.minimum(along - np.float32(start) - jag, np.float32(0.024) - np.abs(across))
            gone = np.minimum(gone, np.float32(spike.length + 0.006) - along)
            cover = cover * (1 - np.clip(gone * np.float32(grid.scale) + np.float32(0.5), 0, 1))
        return cover

    return Flaw(foil=take_off)


def extra(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Foil where none belongs: a ragged flash, or one more small spike or bead between the others."""
    gap = rng.integers(16)
    angle = np.pi * (0.02 + 0.96 * (gap + 0.5) / 16) + rng.normal(0, 0.012)
    ray = np.array([np.cos(angle), -np.sin(angle)])
    reach = rng.uniform(0.23, 0.34)
    kind = rng.integers(3)
    outline = draw_outline(rng, 0.35)
    if kind == 0:
        radius = 0.010 + 0.034 * severity
        return Flaw(foil=lambda cover, grid: np.maximum(cover, patch(grid, SUN + reach * ray, radius, outline)))
    if kind == 1:
        length = 0.045 + 0.13 * severity
        more = lance("spike", SUN + reach * ray, SUN + (reach + length) * ray, 0.006 + 0.011 * severity)
    else:
        half = 0.014 + 0.028 * severity
        more = diamond("bead", SUN + reach * ray, half, 0.6 * half, float(-angle))
    return Flaw(layout=lambda whole: replace(whole, elements=(*whole.elements, more)))


def _pick_spike(rng: np.random.Generator, layout: Layout) -> tuple[int, Element]:
    """Any spike, long ones more often; the defects of 3 px tips of the fringe would hardly be one."""
    spikes = [(i, e) for i, e in enumerate(layout.elements) if e.kind == "spike"]
    lengths = np.array([e.length for _, e in spikes])
    return spikes[rng.choice(len(spikes), p=lengths**2 / (lengths**2).sum())]


def _axes(spike: Element, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Distance along a spike from its root and across it, in crop sides, (H, W) float32 each."""
    along = ((spike.tip - spike.root) / spike.length).astype(np.float32)
    east, south = grid.x - np.float32(spike.root[0]), grid.y - np.float32(spike.root[1])
    return east * along[0] + south * along[1], south * along[0] - east * along[1]


def _bend(spike: Element, at: float, angle: float, *, abrupt: bool) -> Element:
    """The spike turned by `angle` beyond the share `at` of its length: at once, or as an even curve."""
    axis = (spike.tip - spike.root) / spike.length
    normal = np.array([-axis[1], axis[0]])
    start = at * spike.length
    bow = spike.length - start

    def move(points: np.ndarray) -> np.ndarray:
        along, across = (points - spike.root) @ axis, (points - spike.root) @ normal
        beyond = np.maximum(along - start, 0)
        turn = np.where(beyond > 0, angle, 0.0) if abrupt else angle * beyond / bow
        if abrupt:
            middle_along, middle_across = beyond * np.cos(turn), beyond * np.sin(turn)
        else:  # an arc of a circle
            middle_along = np.sinc(turn / np.pi) * beyond
            middle_across = np.where(turn == 0, 0, (1 - np.cos(turn)) / np.where(turn == 0, 1, turn)) * beyond
        along = np.minimum(along, start) + middle_along - across * np.sin(turn)
        across = middle_across + across * np.cos(turn)
        return spike.root + along[..., None] * axis + across[..., None] * normal

    # The normals of the bent part turn with it, which is what makes a bent spike glint differently.
    half = angle if abrupt else angle / 2
    turned = np.array([[np.cos(half), -np.sin(half)], [np.sin(half), np.cos(half)]])
    facets = tuple(Facet(move(facet.outline), turned @ facet.tilt) for facet in spike.facets)
    return Element(spike.kind, spike.root, move(spike.tip[None])[0], facets)
