"""Defects drawn into OK images, to choose between models where no defect may be looked at.

In the spirit of CutPaste (Li et al., CVPR 2021) and of DRAEM's textures under Perlin masks (Zavrtanik et al., ICCV
2021), with thin lines, spots, light and blur beside them, since a choice made on patches alone favours what finds
patches. They stand for no real defect type; what is learnt from them is a choice, never a weight.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Field = np.ndarray  # float32 (H, W) in [0, 1]: how much of the change each pixel gets
VISIBLE = 6  # grey levels by which a pixel must differ to count as defective


def synthesize(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An OK image with one drawn defect, and its mask.

    image, other: uint8 (H, W, 3) of one size; textures are taken from `other`. Returns uint8 (H, W, 3) and bool
    (H, W), True where the defect changed the image visibly; the mask may be empty on a flat image.
    """
    draw = KINDS[rng.integers(len(KINDS))]
    field, changed = draw(image.astype(np.float32), other.astype(np.float32), rng)
    mixed = image + field[..., None] * (changed - image)
    defective = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    difference = np.abs(defective.astype(np.int16) - image).max(axis=2)
    return defective, difference > VISIBLE


def spot(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """A dark or bright ellipse of 1 to 4 % of the image's side."""
    side = min(image.shape[:2])
    axes = rng.uniform(0.01, 0.035, 2) * side
    centre = rng.uniform(0.05, 0.95, 2) * image.shape[1::-1]
    field = np.zeros(image.shape[:2], np.float32)
    box = (tuple(map(float, centre)), tuple(map(float, 2 * axes)), float(rng.uniform(0, 180)))
    cv2.ellipse(field, box, 1.0, -1)
    return cv2.GaussianBlur(field, (0, 0), side / 256), image + _sign(rng) * rng.uniform(30, 90)


def line(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """A thin wandering line, dark or bright."""
    side = min(image.shape[:2])
    count = rng.integers(4, 8)
    headings = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.5, count))
    steps = rng.uniform(0.03, 0.12, (count, 1)) * side
    start = rng.uniform(0.05, 0.95, 2) * image.shape[1::-1]
    points = start + np.cumsum(steps * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
    field = np.zeros(image.shape[:2], np.float32)
    width = max(1, round(rng.integers(1, 4) * side / 256))
    cv2.polylines(field, [np.rint(points).astype(np.int32)], False, 1.0, width, cv2.LINE_AA)
    return field, image + _sign(rng) * rng.uniform(25, 80)


def texture(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """Smooth islands of another image's mirrored texture, a little darker or brighter."""
    islands = _islands(image.shape[:2], rng, cells=(4, 10), share=(0.015, 0.1), soft=1)
    return islands * np.float32(rng.uniform(0.3, 0.9)), other[:, ::-1] + rng.normal(0, 30)


def patch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """A rectangle cut from elsewhere in another image."""
    shape = np.array(image.shape[:2])
    size = np.maximum(2, np.rint(rng.uniform(0.04, 0.23, 2) * shape)).astype(int)
    (y, x), (v, u) = rng.integers(0, shape - size + 1), rng.integers(0, shape - size + 1)
    field, changed = np.zeros(image.shape[:2], np.float32), image.copy()
    field[y : y + size[0], x : x + size[1]] = 1
    changed[y : y + size[0], x : x + size[1]] = other[v : v + size[0], u : u + size[1]]
    return field, changed


def light(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """Large soft areas that are darker or brighter by a fifth to a half."""
    islands = _islands(image.shape[:2], rng, cells=(2, 5), share=(0.1, 0.4), soft=6)
    return islands, image * (1 + _sign(rng) * rng.uniform(0.2, 0.5))


def blur(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[Field, np.ndarray]:
    """Islands out of focus."""
    islands = _islands(image.shape[:2], rng, cells=(3, 7), share=(0.03, 0.2), soft=2)
    sigma = rng.uniform(1, 3) * min(image.shape[:2]) / 256
    return islands, cv2.GaussianBlur(image, (0, 0), sigma)


Kind = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[Field, np.ndarray]]
KINDS: tuple[Kind, ...] = (spot, line, texture, patch, light, blur)


def _sign(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _islands(
    shape: tuple[int, ...], rng: np.random.Generator, cells: tuple[int, int], share: tuple[float, float], soft: float
) -> Field:
    """Islands covering a drawn share of the image: a smooth random field above its quantile, edges softened."""
    count = int(rng.integers(*cells))
    noise = rng.standard_normal((count, count)).astype(np.float32)
    field = cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
    islands = (field > np.quantile(field, 1 - rng.uniform(*share))).astype(np.float32)
    return cv2.GaussianBlur(islands, (0, 0), soft * min(shape) / 256)
