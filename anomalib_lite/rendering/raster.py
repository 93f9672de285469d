"""Drawing tools: named random streams, poses, anti-aliased outlines, noise.

Pixel coordinates start at the outer corner of the first pixel, whose centre is at 0.5.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import cv2
import numpy as np

Seed = int | tuple[int, ...]
BITS = 6  # fractional bits of OpenCV's fixed-point coordinates


def stream(seed: Seed, name: str) -> np.random.Generator:
    """Returns a generator that depends only on the seed and a name, so that parts of a drawing are independent."""
    words = (seed,) if isinstance(seed, int) else seed
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([*words, zlib.crc32(name.encode())])))


def image_seed(seed: int, *place: str | int) -> tuple[int, ...]:
    """Returns the seed of an image from its place in a set, e.g. split, class name and number."""
    return (seed, *(word if isinstance(word, int) else zlib.crc32(word.encode()) for word in place))


@dataclass(frozen=True)
class Pose:
    """Shift in crop sides, rotation in degrees (clockwise), scale, and the two perspective terms of a homography."""

    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0

    def homography(self, size: float, centre: tuple[float, float] | None = None) -> np.ndarray:
        """Returns the 3 x 3 map from product coordinates to pixels of a product `size` pixels wide.

        `centre` is the position of the product's centre without shift; by default the centre of a crop of that size.
        """
        cx, cy = centre if centre is not None else (size / 2, size / 2)
        turn = np.deg2rad(self.angle)
        cos, sin = self.scale * np.cos(turn), self.scale * np.sin(turn)
        in_plane = np.array([[cos, -sin, self.dx], [sin, cos, self.dy], [self.tilt_x, self.tilt_y, 1.0]])
        return np.array([[size, 0, cx], [0, size, cy], [0, 0, 1.0]]) @ in_plane


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps points (..., 2) by a homography."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


@dataclass(frozen=True)
class Grid:
    """The pixels on which a product is drawn, and the product coordinates of each."""

    matrix: np.ndarray  # (3, 3), product coordinates to pixels
    shape: tuple[int, int]
    x: np.ndarray  # (H, W) float32
    y: np.ndarray
    scale: float  # pixels for one product width

    def part(self, window: tuple[slice, slice]) -> Grid:
        """Returns the grid of a rectangle of the pixels."""
        moved = np.array([[1, 0, -window[1].start], [0, 1, -window[0].start], [0, 0, 1.0]]) @ self.matrix
        x = self.x[window]
        return Grid(moved, x.shape, x, self.y[window], self.scale)


def make_grid(matrix: np.ndarray, shape: tuple[int, int]) -> Grid:
    inverse = np.linalg.inv(matrix)
    inverse /= np.abs(inverse).max()
    columns = np.arange(shape[1], dtype=np.float32)[None] + np.float32(0.5)
    rows = np.arange(shape[0], dtype=np.float32)[:, None] + np.float32(0.5)
    a = inverse.astype(np.float32)
    depth = 1 / (a[2, 0] * columns + (a[2, 1] * rows + a[2, 2]))
    x, y = ((a[i, 0] * columns + (a[i, 1] * rows + a[i, 2])) * depth for i in (0, 1))
    ends = project(matrix, np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, -0.5], [0.0, 0.5]]))
    scale = (np.linalg.norm(ends[1] - ends[0]) + np.linalg.norm(ends[3] - ends[2])) / 2
    return Grid(matrix, shape, x, y, float(scale))


def to_pixels(matrix: np.ndarray, outlines: list[np.ndarray]) -> list[np.ndarray]:
    """Converts outlines (K, 2) to OpenCV's fixed-point pixels, which start at the centre of the first pixel."""
    pixels = project(matrix, np.concatenate(outlines)) - 0.5
    fixed = np.round(pixels * 2**BITS).astype(np.int32)
    return np.split(fixed, np.cumsum([len(outline) for outline in outlines])[:-1])


def coverage(shape: tuple[int, int], shapes: list[list[np.ndarray]]) -> np.ndarray:
    """Returns the covered share of each pixel, (H, W) float32 in [0, 1].

    A shape is a list of fixed-point outlines; an outline inside another one of the same shape is a hole.
    """
    canvas = np.zeros(shape, np.uint8)
    for outlines in shapes:
        cv2.fillPoly(canvas, outlines, 255, cv2.LINE_AA, BITS)
    return canvas * np.float32(1 / 255)


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> np.ndarray:
    """Returns smooth noise (H, W) float32 of unit deviation, with about `cells` hills along the longer side."""
    small = rng.standard_normal([max(4, round(cells * side / max(shape)) + 3) for side in shape], np.float32)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def smoothstep(value: np.ndarray) -> np.ndarray:
    """Returns 0 below 0, 1 above 1, and a smooth transition between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)
