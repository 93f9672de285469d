"""What the product is lit by: lamps that the foil mirrors, and an uneven field of light on everything."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_EXTENT = 1.3  # the table of reflections covers normals with |x|, |y| up to this
_TABLE = 160


@dataclass(frozen=True)
class Light:
    """Lamps as rows (x, y, width, strength) over the normals that mirror them, and the light field."""

    lamps: np.ndarray  # (n, 4)
    ambient: float = 0.085
    exposure: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)  # change of the light from one side of the picture to the other
    spot: tuple[float, float, float, float] = (0.0, 0.0, 0.5, 0.0)  # centre x, y, width, strength
    vignette: float = 0.12  # loss of light in the corners

    def reflections(self, normal_x: np.ndarray, normal_y: np.ndarray) -> np.ndarray:
        """How bright a mirror looks that leans by the given normals, (H, W) float32."""
        axis = np.linspace(-_EXTENT, _EXTENT, _TABLE, dtype=np.float32)
        x, y = axis[None], axis[:, None]
        table = np.full((_TABLE, _TABLE), self.ambient, np.float32)
        for centre_x, centre_y, width, strength in self.lamps.astype(np.float32):
            table += strength * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * width**2))
        to_table = np.float32((_TABLE - 1) / (2 * _EXTENT))
        middle = np.float32((_TABLE - 1) / 2)
        columns, rows = normal_x * to_table + middle, normal_y * to_table + middle
        return cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def field(self, shape: tuple[int, int]) -> np.ndarray:
        """The light that falls on each pixel of a picture, around 1, (H, W) float32."""
        x = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None]
        y = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None] * np.float32(shape[0] / shape[1])
        centre_x, centre_y, width, strength = self.spot
        spot = strength * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * width**2))
        falloff = 1 - self.vignette * 2 * (x * x + y * y)
        return (self.exposure * (1 + self.slope[0] * x + self.slope[1] * y + spot) * falloff).astype(np.float32)


STUDIO = np.array(
    [
        [-0.30, -0.34, 0.20, 1.25],  # large soft box, upper left
        [0.42, -0.10, 0.14, 0.62],  # strip light, right
        [0.05, 0.45, 0.22, 0.22],  # the table's white edge, below
        [0.0, 0.0, 0.10, 0.16],  # the camera's own ring
    ]
)


def steady_light() -> Light:
    """The light of the perfect product's picture."""
    return Light(STUDIO)


def draw_light(rng: np.random.Generator) -> Light:
    """How differently the light falls on two good products."""
    lamps = STUDIO.copy()
    lamps[:, :2] += rng.normal(0, 0.055, (len(lamps), 2))
    lamps[:, 2] *= rng.uniform(0.88, 1.14, len(lamps))
    lamps[:, 3] *= rng.uniform(0.78, 1.22, len(lamps))
    return Light(
        lamps,
        ambient=float(rng.uniform(0.07, 0.105)),
        exposure=float(rng.uniform(0.85, 1.17)),
        slope=tuple(rng.normal(0, 0.13, 2)),
        spot=(*rng.uniform(-0.5, 0.5, 2), float(rng.uniform(0.2, 0.5)), float(rng.uniform(0, 0.22))),
        vignette=float(rng.uniform(0.06, 0.2)),
    )
