"""Renders the surface of a product: black card, embossed gold foil, matt gold print."""

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.rendering.flaws import NO_FLAW, Flaw
from anomalib_lite.rendering.layout import SUN, Layout
from anomalib_lite.rendering.photo import Light
from anomalib_lite.rendering.raster import BITS, Grid, Seed, clouds, coverage, project, smoothstep, stream, to_pixels

GOLD = np.array([1.0, 0.735, 0.335], np.float32)  # linear RGB
INK = np.array([0.60, 0.415, 0.165], np.float32)
CARD = np.array([0.0125, 0.0122, 0.0138], np.float32)


@dataclass(frozen=True)
class Wear:
    """How much a good product may differ from the perfect one; 1 is normal production."""

    texture: float = 1.0  # grain of card, foil and ink
    faults: float = 1.0  # uneven foil, pinholes in it, dust, offset of the word from the foil, thickness of the ink


PERFECT = Wear(texture=0.3, faults=0.0)


def render_surface(
    layout: Layout, grid: Grid, light: Light, seed: Seed, wear: Wear, flaw: Flaw = NO_FLAW
) -> np.ndarray:
    """Returns the linear RGB radiance (H, W, 3) of a product before the camera.

    Each part uses a separate random stream of `seed`, so that a flaw changes only the pixels that it touches.
    """
    layout = flaw.layout(layout)
    facets = [facet for element in layout.elements for facet in element.facets]
    outlines = to_pixels(grid.matrix, [facet.outline for facet in facets])
    foil = flaw.foil(_foil_cover(outlines, grid, wear, stream(seed, "pits")), grid)
    radiance = card_texture(grid.shape, grid.scale, wear, stream(seed, "card"))
    # The card is pressed down around the foil, which gives a soft shadow along its outline.
    shadow = 1 - np.float32(0.45) * cv2.GaussianBlur(foil, (0, 0), 0.007 * grid.scale)
    radiance *= cv2.merge([shadow] * 3)

    window = _word_window(layout, grid)
    part = grid.part(window)
    ink = flaw.ink(_ink_cover(layout, part, wear, stream(seed, "ink")), part)
    _lay_over(radiance[window], ink, _ink_colour(part, wear, stream(seed, "ink grain")))

    numbers = np.zeros(grid.shape, np.uint16)  # of the facet that covers each pixel, from 1; 0 for none
    for number, outline in enumerate(outlines, 1):
        cv2.fillPoly(numbers, [outline], number, cv2.LINE_8, BITS)
    # Anti-aliased coverage extends slightly beyond the facets' pixels; the nearest facet continues there.
    numbers = np.where(numbers == 0, cv2.dilate(numbers, np.ones((3, 3), np.uint8)), numbers)
    leans = np.array([(0.0, 0.0), *(facet.tilt for facet in facets)], np.float32)
    normals = _foil_normals(leans, numbers, foil, grid, wear, stream(seed, "foil"))
    gold = _foil_colour(light.reflections(*normals), wear, stream(seed, "foil grain"))
    _lay_over(radiance, foil, gold)

    radiance = flaw.finish(radiance, grid)
    rng = stream(seed, "dust")
    for x, y in rng.uniform(-0.52, 0.52, (rng.poisson(14 * wear.faults), 2)):
        _stamp(radiance, grid, x, y, rng.exponential(0.0018), rng.uniform(0.05, 0.4))
    return radiance


def _lay_over(radiance: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    colour -= radiance
    colour *= cv2.merge([cover] * 3)  # three times faster than broadcasting over the last axis
    radiance += colour


def _foil_cover(outlines: list[np.ndarray], grid: Grid, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    cover = coverage(grid.shape, [[outline] for outline in outlines])
    # Facets meet without a gap, but anti-aliasing leaves a faint seam, which is closed here.
    cover = np.minimum(cv2.blur(cover, (3, 3)) * np.float32(1.6), np.float32(1))
    for x, y in rng.uniform(-0.45, 0.45, (rng.poisson(9 * wear.faults), 2)):
        _stamp(cover, grid, x, y, rng.exponential(0.0022), 0.0)
    return cover


def card_texture(shape: tuple[int, int], scale: float, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    """Returns black card with paper fibres, (H, W, 3) linear; `scale` is the width of a product in pixels."""
    fibres = np.ones(shape, np.float32)
    for cells, depth in ((12, 0.06), (90, 0.13), (220, 0.11)):
        cells = round(cells * max(shape) / scale)
        fibres += clouds(rng, shape, cells) * np.float32(depth * wear.texture)
    np.maximum(fibres, np.float32(0.2), out=fibres)
    return cv2.merge([fibres * channel for channel in CARD])


def _word_window(layout: Layout, grid: Grid) -> tuple[slice, slice]:
    """Returns the pixels that ink may reach: equal for all flaws, because the ink's grain is drawn for them."""
    points = np.concatenate([outline for letter in layout.letters for outline in letter])
    (left, top), (right, bottom) = points.min(0) - 0.09, points.max(0) + 0.09
    corners = project(grid.matrix, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    (x0, y0), (x1, y1) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return slice(max(0, y0), max(0, y1)), slice(max(0, x0), max(0, x1))


def _ink_cover(layout: Layout, grid: Grid, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    """Returns the coverage of the ink, whose edge is soft and ragged because ink spreads along the card's grain."""
    dx, dy = rng.normal(0, 0.0015 * wear.faults, 2)
    gain = np.float32(rng.normal(0, 0.05 * wear.faults))
    shifted = grid.matrix @ np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
    cover = coverage(grid.shape, [to_pixels(shifted, list(letter)) for letter in layout.letters])
    cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.0022 * grid.scale), np.float32)
    ragged = clouds(rng, grid.shape, 90) * np.float32(0.09 * wear.texture)
    cover += ragged * (cover > 0.02) + (gain - np.float32(0.5))
    return smoothstep(cover * np.float32(1.7) + np.float32(0.5))


def _ink_colour(grid: Grid, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    """Returns the colour of metal powder in varnish: matt, slightly cloudy, with single bright flakes."""
    shade = 1 + clouds(rng, grid.shape, 24) * np.float32(0.07 * wear.texture)
    flakes = clouds(rng, grid.shape, 170) * np.float32(0.14 * wear.texture)
    shade += flakes + np.maximum(flakes - np.float32(0.24), 0) * 3
    np.maximum(shade, np.float32(0.15), out=shade)
    return cv2.merge([shade * channel for channel in INK])


def _foil_normals(
    leans: np.ndarray, numbers: np.ndarray, foil: np.ndarray, grid: Grid, wear: Wear, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of the foil's normal: the facet's tilt, viewing angle, waves, brush marks, the rounded edge."""
    east, south = grid.x - np.float32(SUN[0]), grid.y - np.float32(SUN[1])
    radius, angle = cv2.cartToPolar(east, south)
    angle *= np.float32(1024 / (2 * np.pi))
    brushed, rows = rng.standard_normal((64, 1024), np.float32), radius * np.float32(80)
    marks = np.asarray(cv2.remap(brushed, angle, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)
    marks *= np.float32(0.075 * wear.texture)
    marks /= radius + np.float32(1e-4)
    waves = np.float32(0.065 * wear.faults)
    edge = cv2.GaussianBlur(foil, (0, 0), 0.0028 * grid.scale)
    step = -0.0019 * grid.scale
    normals = []
    views = ((leans[:, 0], grid.x, south, (1, 0)), (leans[:, 1], grid.y, -east, (0, 1)))
    for lean, along, across, axis in views:
        normal = cv2.blur(lean[numbers], (3, 3))
        normal += np.float32(0.16) * along
        normal += clouds(rng, grid.shape, 7) * waves
        normal += clouds(rng, grid.shape, 45) * (waves * np.float32(0.8))
        normal += marks * across
        normal += cv2.Sobel(edge, cv2.CV_32F, *axis, scale=step)
        normals.append(normal)
    return normals[0], normals[1]


def _foil_colour(bright: np.ndarray, wear: Wear, rng: np.random.Generator) -> np.ndarray:
    """Returns the colour of gold foil: browner where it reflects darkness, paler where it reflects a lamp, grainy."""
    log = cv2.log(np.maximum(bright, np.float32(0.02)))
    log += rng.standard_normal(bright.shape, np.float32) * np.float32(0.24 * wear.texture)
    np.minimum(log, np.float32(0.5), out=log)
    powers = (0.95, 1.12, 1.42)
    return cv2.merge([cv2.exp(log * power) * gold for power, gold in zip(powers, GOLD.tolist(), strict=True)])


def _stamp(image: np.ndarray, grid: Grid, x: float, y: float, size: float, tone: float) -> None:
    """Draws a soft dot of radius `size` (crop sides) and brightness `tone`, in place."""
    mapped = grid.matrix @ (x, y, 1.0)
    column, row = mapped[:2] / mapped[2]
    reach = max(2, round(3 * size * grid.scale))
    top, left = max(0, int(row) - reach), max(0, int(column) - reach)
    window = image[top : max(0, int(row) + reach + 1), left : max(0, int(column) + reach + 1)]
    if window.size == 0:
        return
    dy = np.arange(window.shape[0])[:, None] + top + 0.5 - row
    dx = np.arange(window.shape[1])[None] + left + 0.5 - column
    weight = np.clip(size * grid.scale + 0.5 - np.hypot(dx, dy), 0, 1).astype(np.float32)
    if window.ndim == 3:
        weight = weight[..., None]
    window += weight * (np.float32(tone) - window)
