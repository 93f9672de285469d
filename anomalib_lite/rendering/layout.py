"""The product as a drawing: a rising sun of foil spikes over a printed word.

Product coordinates: the origin is the centre, x goes right, y goes down, the crop's side is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

WORD = "AURELIA"
SUN = np.array([0.0, 0.08])  # the point from which all spikes radiate
WORD_CENTRE = np.array([0.0, 0.212])
WORD_WIDTH = 0.70
WORD_HEIGHT = 0.098
RELIEF = 0.40  # tilt of the embossed facets: length of the x and y part of their unit normals


@dataclass(frozen=True)
class Facet:
    """A flat face of the embossed foil: its outline (K, 2) and the x and y part (2,) of its unit normal."""

    outline: np.ndarray
    tilt: np.ndarray


@dataclass(frozen=True)
class Element:
    """A piece of foil; `root` and `tip` are the ends of its long axis."""

    kind: str
    root: np.ndarray
    tip: np.ndarray
    facets: tuple[Facet, ...]

    @property
    def centre(self) -> np.ndarray:
        return (self.root + self.tip) / 2

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.tip - self.root))


@dataclass(frozen=True)
class Layout:
    """All foil elements, and the word as closed outlines (K, 2) per letter, including holes."""

    elements: tuple[Element, ...]
    letters: tuple[tuple[np.ndarray, ...], ...]

    def with_element(self, index: int, element: Element) -> Layout:
        return replace(self, elements=(*self.elements[:index], element, *self.elements[index + 1 :]))


@cache
def perfect_layout() -> Layout:
    """Returns the layout of every good product."""
    return Layout(tuple(_sun() + _frame() + _fringe()), _letters())


def lance(kind: str, root: np.ndarray, tip: np.ndarray, half_width: float, belly: float = 0.25) -> Element:
    """Makes a tapered spike with a ridge along its axis, whose largest `half_width` is at `belly` of its length."""
    along = np.linspace(0.0, 1.0, 13)
    swell = np.where(along < belly, 0.45 + 0.55 * along / belly, (1 - along) / (1 - belly))
    axis = tip - root
    left = np.array([axis[1], -axis[0]]) / np.linalg.norm(axis)
    ridge = root + along[:, None] * axis
    offset = (half_width * swell)[:, None] * left
    outlines = [(side, np.concatenate([ridge, (ridge + side * offset)[::-1]])) for side in (1, -1)]
    return Element(kind, root, tip, tuple(Facet(outline, side * RELIEF * left) for side, outline in outlines))


def diamond(kind: str, centre: np.ndarray, half_long: float, half_wide: float, angle: float = -np.pi / 2) -> Element:
    """Makes a four-faced pyramid seen from above; `angle` is the direction of its long axis."""
    long = np.array([np.cos(angle), np.sin(angle)])
    wide = np.array([-long[1], long[0]])
    corners = [centre + offset for offset in (half_long * long, half_wide * wide, -half_long * long, -half_wide * wide)]
    facets = []
    for first, second in pairwise([*corners, corners[0]]):
        out = (first + second) / 2 - centre
        facets.append(Facet(np.array([centre, first, second]), RELIEF * out / np.linalg.norm(out)))
    return Element(kind, corners[2], corners[0], tuple(facets))


def _ray(angle: float, radius: float) -> np.ndarray:
    return SUN + radius * np.array([np.cos(angle), -np.sin(angle)])


def _sun() -> list[Element]:
    """Makes the half disc, two arcs, long and short spikes, and beads between their tips."""
    elements = [_half_disc(0.112, wedges=14), _arc(0.128, 0.139), _arc(0.150, 0.166)]
    for i in range(17):
        angle = np.pi * (0.02 + 0.96 * i / 16)
        reach = (0.437, 0.345)[i % 2] + 0.03 * np.sin(angle) ** 2
        elements.append(lance("spike", _ray(angle, 0.180), _ray(angle, reach), (0.0195, 0.0145)[i % 2]))
    for i in range(8):
        angle = np.pi * (0.02 + 0.96 * (2 * i + 1) / 16)
        middle = _ray(angle, 0.412 + 0.03 * np.sin(angle) ** 2)
        elements.append(diamond("bead", middle, 0.016, 0.0095, -angle))
    return elements


def _half_disc(radius: float, wedges: int) -> Element:
    facets = []
    for start in np.linspace(0, np.pi, wedges, endpoint=False):
        middle, end = start + np.pi / wedges / 2, start + np.pi / wedges
        lean = 0.8 * RELIEF * np.array([np.sin(middle), np.cos(middle)])
        for a, b, side in ((start, middle, 1), (middle, end, -1)):
            outline = np.array([_ray(a, 0.022), _ray(a, radius), _ray(b, radius), _ray(b, 0.022)])
            facets.append(Facet(outline, side * lean))
    return Element("disc", _ray(np.pi, radius), _ray(0, radius), tuple(facets))


def _arc(inner: float, outer: float, steps: int = 48) -> Element:
    """Makes a half ring with a rounded profile, from an inner and an outer row of facets."""
    facets = []
    middle = (inner + outer) / 2
    angles = np.linspace(0.0, np.pi, steps + 1)
    for a, b in pairwise(angles):
        out = _ray((a + b) / 2, 1.0) - SUN
        for near, far, side in ((inner, middle, -1), (middle, outer, 1)):
            outline = np.array([_ray(a, near), _ray(a, far), _ray(b, far), _ray(b, near)])
            facets.append(Facet(outline, side * RELIEF * 0.8 * out))
    return Element("arc", _ray(np.pi, middle), _ray(0, middle), tuple(facets))


def _frame() -> list[Element]:
    """Makes the line under the sun: two tapered bars that meet in a diamond."""
    y = SUN[1] + 0.030
    bars = [lance("bar", np.array([s * 0.030, y]), np.array([s * 0.445, y]), 0.0075, belly=0.08) for s in (-1, 1)]
    return [*bars, diamond("bead", np.array([0.0, y]), 0.022, 0.013, 0.0)]


def _fringe() -> list[Element]:
    """Makes the row of small spikes below the word."""
    elements = []
    for i in range(11):
        x = 0.062 * (i - 5)
        depth = 0.034 + 0.044 * np.cos(x * 2.9) ** 2 * (1 - 0.45 * (i % 2))
        elements.append(lance("spike", np.array([x, 0.315]), np.array([x, 0.315 + depth]), 0.011, belly=0.2))
    return elements + [diamond("bead", np.array([0.062 * (i - 4.5), 0.318]), 0.0085, 0.0065) for i in range(10)]


def _letters() -> tuple[tuple[np.ndarray, ...], ...]:
    """Makes the word from a font that comes with matplotlib, so that no system font is needed."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Serif", weight="bold")
    letters, pen = [], 0.0
    for character in WORD:
        outlines = [np.asarray(o) for o in TextPath((0, 0), character, size=1, prop=font).to_polygons()]
        left, right = min(o[:, 0].min() for o in outlines), max(o[:, 0].max() for o in outlines)
        letters.append([o + np.array([pen - left, 0]) for o in outlines])
        pen += right - left + 0.10  # wide letter spacing, as in engraved words
    width = pen - 0.10
    height = max(o[:, 1].max() for letter in letters for o in letter)
    size = np.array([WORD_WIDTH / width, -WORD_HEIGHT / height])
    return tuple(tuple((o - (width / 2, height / 2)) * size + WORD_CENTRE for o in letter) for letter in letters)
