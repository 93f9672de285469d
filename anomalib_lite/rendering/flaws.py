"""The ten defects that the renderer can draw.

Each is made from a random generator, a severity in [0, 1] and the perfect layout. The random numbers do not depend on
the severity: one seed gives one defect, which grows with the severity.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from anomalib_lite.rendering import layout as plan
from anomalib_lite.rendering.layout import SUN, Element, Facet, Layout
from anomalib_lite.rendering.raster import Grid, coverage, smoothstep, to_pixels

_SCRATCHED = np.array([0.17, 0.162, 0.15], np.float32)  # colour of the paper under foil and black card
_STAINS = np.array([[0.060, 0.042, 0.022], [0.030, 0.050, 0.036], [0.075, 0.072, 0.068]], np.float32)
_TINTS = np.array([[1.15, 0.55, 0.40], [0.95, 1.25, 2.5], [0.50, 0.95, 0.70], [0.75, 0.45, 0.95]])

OnPixels = Callable[[np.ndarray, Grid], np.ndarray]


@dataclass(frozen=True)
class Flaw:
    """Functions that change the layout, the coverage (H, W) of foil and ink, and the finished radiance (H, W, 3)."""

    layout: Callable[[Layout], Layout] = lambda layout: layout
    foil: OnPixels = lambda cover, grid: cover
    ink: OnPixels = lambda cover, grid: cover
    finish: OnPixels = lambda radiance, grid: radiance
    severity: float | None = None


NO_FLAW = Flaw()


def print_blurred(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Blurs a part of the word, as if the stamp had slipped; a larger part and more strongly with severity."""
    centre = rng.uniform(-0.4, 0.4) * plan.WORD_WIDTH
    half_width = rng.uniform(0.12, 0.2) + 0.2 * severity
    sigma = 0.0030 + 0.0125 * severity

    def spread(ink: np.ndarray, grid: Grid) -> np.ndarray:
        return ink + _band(grid, centre, half_width, 12) * (cv2.GaussianBlur(ink, (0, 0), sigma * grid.scale) - ink)

    return Flaw(ink=spread)


def print_smeared(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Smears wet ink in one direction, thinning it out."""
    centre = rng.uniform(-0.4, 0.4) * plan.WORD_WIDTH
    half_width = rng.uniform(0.05, 0.09) + 0.12 * severity
    angle = rng.choice([0.0, np.pi]) + rng.normal(0, 0.5)
    length = 0.011 + 0.065 * severity
    strength = rng.uniform(0.45, 0.6) + 0.35 * severity
    steps = 14

    def wipe(ink: np.ndarray, grid: Grid) -> np.ndarray:
        wet = cv2.GaussianBlur(ink * _band(grid, centre, half_width, 18), (0, 0), 0.003 * grid.scale)
        wiped = np.zeros_like(ink)
        for step in range(1, steps + 1):
            reach = length * grid.scale * step / steps
            shift = np.array([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]], np.float32)
            moved = cv2.warpAffine(wet, shift, ink.shape[::-1], flags=cv2.INTER_LINEAR)
            np.maximum(wiped, moved * np.float32(strength * (1 - 0.8 * step / steps)), out=wiped)
        return np.maximum(ink, wiped)

    return Flaw(ink=wipe)


def print_missing(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Removes the ink in a ragged patch of the word."""
    letter = np.concatenate(layout.letters[rng.integers(len(layout.letters))])
    on_ink = letter[rng.integers(len(letter))]
    centre = on_ink + (letter.mean(0) - on_ink) * 0.15 + rng.normal(0, 0.003, 2)
    centre[1] = centre[1].clip(*(plan.WORD_CENTRE[1] + np.array([-0.5, 0.5]) * plan.WORD_HEIGHT))
    radius = 0.011 + 0.055 * severity
    outline = _draw_outline(rng)
    return Flaw(ink=lambda ink, grid: ink * (1 - np.float32(0.96) * _patch(grid, centre, radius, outline)))


def structure_broken(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Snaps a spike: a jagged gap across it, and the part beyond is slightly tilted."""
    index, spike = _pick_spike(rng, layout)
    at = rng.uniform(0.25, 0.6)
    gap = 0.008 + 0.030 * severity
    lean = np.deg2rad(rng.choice([-1, 1]) * (1 + 5 * severity))
    jags = rng.uniform(-0.006, 0.006, 25)

    def snap(cover: np.ndarray, grid: Grid) -> np.ndarray:
        along, across, jag = _axes(spike, grid, jags)
        open_by = np.float32(gap / 2) - np.abs(along - np.float32(at * spike.length) - jag)
        return cover * _kept(np.minimum(open_by, np.float32(0.028) - np.abs(across)), grid)

    return Flaw(layout=lambda whole: whole.with_element(index, _bend(spike, at, lean, abrupt=True)), foil=snap)


def structure_bent(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Bends a spike beyond a point."""
    index, spike = _pick_spike(rng, layout)
    at = rng.uniform(0.1, 0.35)
    angle = np.deg2rad(rng.choice([-1, 1]) * (5 + 32 * severity))
    return Flaw(layout=lambda whole: whole.with_element(index, _bend(spike, at, angle, abrupt=False)))


def structure_missing(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Removes the tip of a spike, the whole spike, or its neighbours as well, as if foil had not transferred."""
    _, first = _pick_spike(rng, layout)
    spikes = [element for element in layout.elements if element.kind == "spike"]
    spikes.sort(key=lambda spike: np.hypot(*(spike.centre - first.centre)))
    shares = (0.16 + 1.9 * severity - np.arange(3)).clip(0, 1).tolist()
    jags = rng.uniform(-0.012, 0.012, 25)

    def take_off(cover: np.ndarray, grid: Grid) -> np.ndarray:
        for spike, share in zip(spikes, shares, strict=False):
            if share:
                along, across, jag = _axes(spike, grid, jags)
                start = (1 - share) * (spike.length + 0.02) - 0.012
                gone = np.minimum(along - np.float32(start) - jag, np.float32(0.024) - np.abs(across))
                cover = cover * _kept(np.minimum(gone, np.float32(spike.length + 0.006) - along), grid)
        return cover

    return Flaw(foil=take_off)


def structure_extra(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Adds foil where none belongs: a ragged patch, or an extra small spike or bead between the others."""
    gap = rng.integers(16)
    angle = np.pi * (0.02 + 0.96 * (gap + 0.5) / 16) + rng.normal(0, 0.012)
    ray = np.array([np.cos(angle), -np.sin(angle)])
    reach = rng.uniform(0.23, 0.34)
    kind = rng.integers(3)
    outline = _draw_outline(rng, 0.35)
    start = SUN + reach * ray
    if kind == 0:
        radius = 0.010 + 0.034 * severity
        return Flaw(foil=lambda cover, grid: np.maximum(cover, _patch(grid, start, radius, outline)))
    if kind == 1:
        tip = SUN + (reach + (0.045 + 0.13 * severity)) * ray
        more = plan.lance("spike", start, tip, 0.006 + 0.011 * severity)
    else:
        half = 0.014 + 0.028 * severity
        more = plan.diamond("bead", start, half, 0.6 * half, float(-angle))
    return Flaw(layout=lambda whole: replace(whole, elements=(*whole.elements, more)))


def scratch(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Draws a tapered, curved and interrupted scratch down to the paper; longer, wider and deeper with severity."""
    middle = rng.uniform((-0.28, -0.26), (0.28, 0.26))
    angle, curve = rng.uniform(0, np.pi), rng.normal(0, 0.10)
    length = 0.09 + 0.5 * severity
    width = 0.0032 + 0.0058 * severity
    depth = 0.6 + 0.38 * severity
    along = np.linspace(-0.5, 0.5, 49)
    skips = np.interp(along, np.linspace(-0.5, 0.5, 24), rng.uniform(0.35, 1.0, 24))
    axis, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    line = middle + length * (along[:, None] * axis + curve * (along**2)[:, None] * normal)
    edge = (width / 2 * (np.sqrt(np.clip(1 - (2 * along) ** 2, 0.02, 1)) * skips))[:, None] * normal
    outline = np.concatenate([line + edge, (line - edge)[::-1]])

    def cut(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        cover = coverage(grid.shape, [to_pixels(grid.matrix, [outline])])
        return radiance + (depth * cover)[..., None].astype(np.float32) * (_SCRATCHED - radiance)

    return Flaw(finish=cut)


def stain(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Draws a dried drop: a veil over everything, denser along its rim."""
    centre = rng.uniform((-0.30, -0.30), (0.30, 0.30))
    radius = 0.022 + 0.085 * severity
    opacity = rng.uniform(0.36, 0.48) + 0.4 * severity
    colour = _STAINS[rng.integers(len(_STAINS))]
    outline = _draw_outline(rng, 0.12)

    def veil(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        inside = _depth_inside(grid, centre, radius, outline)
        cover = np.clip(inside / np.float32(0.006) + np.float32(0.5), 0, 1)
        rim = np.exp(-(((inside - np.float32(0.006)) / np.float32(0.0055)) ** 2))
        dense = np.clip(opacity * cover * (np.float32(0.62) + np.float32(0.45) * rim), 0, 0.95)[..., None]
        return radiance + dense.astype(np.float32) * (colour - radiance)

    return Flaw(finish=veil)


def wrong_color(rng: np.random.Generator, severity: float, layout: Layout) -> Flaw:
    """Tints a few neighbouring spikes or letters copper, silver, green or violet, as if from another roll of foil."""
    pieces = [e for e in layout.elements if e.kind in ("spike", "disc", "arc") and e.length > 0.1]
    spikes = [[facet.outline for facet in piece.facets] for piece in pieces]
    group = [list(letter) for letter in layout.letters] if rng.random() < 0.3 else spikes
    middles = np.array([np.concatenate(outlines).mean(0) for outlines in group])
    first = middles[rng.integers(len(middles))]
    nearest = np.argsort(np.hypot(*(middles - first).T))[: 1 + rng.integers(3)]
    tint = 1 + (_TINTS[rng.integers(len(_TINTS))] - 1) * (0.35 + 0.75 * severity)
    # Each outline is filled separately: the card in a letter's hole is too dark for the tint to be visible.
    outlines = [outline for index in nearest for outline in group[index]]

    def colour(radiance: np.ndarray, grid: Grid) -> np.ndarray:
        cover = coverage(grid.shape, [[outline] for outline in to_pixels(grid.matrix, outlines)])
        cover = cv2.dilate(cover, np.ones((3, 3), np.uint8), iterations=max(1, round(0.004 * grid.scale)))
        return radiance * (1 + cover[..., None] * (tint - 1).astype(np.float32))

    return Flaw(finish=colour)


def _band(grid: Grid, centre: float, half_width: float, steepness: float) -> np.ndarray:
    """Returns 1 in a vertical band of the product and 0 outside, with a soft transition."""
    return smoothstep((np.float32(half_width) - np.abs(grid.x - np.float32(centre))) * steepness + 0.5)


def _draw_outline(rng: np.random.Generator, raggedness: float = 0.25) -> np.ndarray:
    """Draws the ragged border of a patch: its radius, 1 on average, in 512 directions around its centre."""
    depths = rng.normal(0, raggedness, 9) / np.arange(1, 10) ** 0.7
    phases = rng.uniform(0, 2 * np.pi, 9)
    angles = np.linspace(0, 2 * np.pi, 512, endpoint=False)
    waves = depths.clip(-0.3, 0.3)[:, None] * np.cos(np.arange(1, 10)[:, None] * angles + phases[:, None])
    return np.maximum(1 + waves.sum(0), 0.25).astype(np.float32)


def _depth_inside(grid: Grid, centre: np.ndarray, radius: float, outline: np.ndarray) -> np.ndarray:
    """Returns the depth of each pixel inside a ragged patch, in crop sides, negative outside; (H, W) float32."""
    distance, angle = cv2.cartToPolar(grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1]))
    direction = (angle * np.float32(len(outline) / (2 * np.pi))).astype(np.int32) % len(outline)
    return np.float32(radius) * outline[direction] - distance


def _patch(grid: Grid, centre: np.ndarray, radius: float, outline: np.ndarray) -> np.ndarray:
    """Returns 1 inside a ragged patch and 0 outside, with a transition of about one pixel."""
    depth = _depth_inside(grid, centre, radius, outline)
    return np.clip(depth / np.float32(1.2 / grid.scale) + np.float32(0.5), 0, 1)


def _pick_spike(rng: np.random.Generator, layout: Layout) -> tuple[int, Element]:
    """Picks a random spike, long ones more often, because a defect of the fringe's tiny spikes would be invisible."""
    spikes = [(i, e) for i, e in enumerate(layout.elements) if e.kind == "spike"]
    lengths = np.array([e.length for _, e in spikes])
    return spikes[rng.choice(len(spikes), p=lengths**2 / (lengths**2).sum())]


def _axes(spike: Element, grid: Grid, jags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each pixel the distance along a spike, across it, and the offset of a jagged break there."""
    along = ((spike.tip - spike.root) / spike.length).astype(np.float32)
    east, south = grid.x - np.float32(spike.root[0]), grid.y - np.float32(spike.root[1])
    across = south * along[0] - east * along[1]
    jag = np.interp(across, np.linspace(-0.03, 0.03, len(jags)), jags).astype(np.float32)
    return east * along[0] + south * along[1], across, jag


def _kept(depth: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns the remaining share of the foil, given the depth of each pixel inside a hole, in crop sides."""
    return 1 - np.clip(depth * np.float32(grid.scale) + np.float32(0.5), 0, 1)


def _bend(spike: Element, at: float, angle: float, *, abrupt: bool) -> Element:
    """Turns a spike by `angle` beyond the share `at` of its length, abruptly or along an arc."""
    axis = (spike.tip - spike.root) / spike.length
    normal = np.array([-axis[1], axis[0]])
    start = at * spike.length

    def move(points: np.ndarray) -> np.ndarray:
        along, across = (points - spike.root) @ axis, (points - spike.root) @ normal
        beyond = np.maximum(along - start, 0)
        if abrupt:
            turn = np.where(beyond > 0, angle, 0.0)
            middle_along, middle_across = beyond * np.cos(turn), beyond * np.sin(turn)
        else:  # an arc of a circle
            turn = angle * beyond / (spike.length - start)
            middle_along = np.sinc(turn / np.pi) * beyond
            middle_across = np.where(turn == 0, 0, (1 - np.cos(turn)) / np.where(turn == 0, 1, turn)) * beyond
        along = np.minimum(along, start) + middle_along - across * np.sin(turn)
        across = middle_across + across * np.cos(turn)
        return spike.root + along[..., None] * axis + across[..., None] * normal

    # The normals turn with the bent part, so that a bent spike reflects light differently.
    half = angle if abrupt else angle / 2
    turned = np.array([[np.cos(half), -np.sin(half)], [np.sin(half), np.cos(half)]])
    facets = tuple(Facet(move(facet.outline), turned @ facet.tilt) for facet in spike.facets)
    return Element(spike.kind, spike.root, move(spike.tip[None])[0], facets)


DEFECTS: dict[str, Callable[[np.random.Generator, float, Layout], Flaw]] = {
    make.__name__: make
    for make in (
        print_blurred, print_smeared, print_missing, structure_broken, structure_bent, structure_missing,
        structure_extra, scratch, stain, wrong_color,
    )
}  # fmt: skip
