"""Simulates a photograph: lighting, then lens, sensor, white balance, tone curve and JPEG."""

from dataclasses import dataclass

import cv2
import numpy as np

_EXTENT, _TABLE = 1.3, 160  # largest |x|, |y| of normals in the table of reflections, and its side
_STEPS = 8192  # entries of the tone curve's table
_PER_UNIT = (_STEPS - 1) / 1.6

STUDIO = np.array([
    [-0.30, -0.34, 0.20, 1.25],  # large soft box, upper left
    [0.42, -0.10, 0.14, 0.62],  # strip light, right
    [0.05, 0.45, 0.22, 0.22],  # the table's white edge, below
    [0.0, 0.0, 0.10, 0.16],  # the camera's ring light
])  # fmt: skip


@dataclass(frozen=True)
class Light:
    """Lamps that the foil reflects, and uneven light on everything; the defaults are those of the template."""

    lamps: np.ndarray  # rows (x, y, width, strength), positioned by the normals that reflect them
    ambient: float = 0.085
    exposure: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)  # change of the light from one side of the image to the other
    spot: tuple[float, float, float, float] = (0.0, 0.0, 0.5, 0.0)  # centre x, y, width, strength
    vignette: float = 0.12  # loss of light in the corners

    def reflections(self, normal_x: np.ndarray, normal_y: np.ndarray) -> np.ndarray:
        """Returns the brightness (H, W) float32 of a mirror with the given normals."""
        axis = np.linspace(-_EXTENT, _EXTENT, _TABLE, dtype=np.float32)
        table = np.full((_TABLE, _TABLE), self.ambient, np.float32)
        for centre_x, centre_y, width, strength in self.lamps.astype(np.float32):
            table += strength * _hill(axis[None], axis[:, None], centre_x, centre_y, width)
        to_table, middle = np.float32((_TABLE - 1) / (2 * _EXTENT)), np.float32((_TABLE - 1) / 2)
        columns, rows = normal_x * to_table + middle, normal_y * to_table + middle
        return cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def field(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the illumination of each pixel, around 1, (H, W) float32."""
        x = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None]
        y = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None] * np.float32(shape[0] / shape[1])
        spot = self.spot[3] * _hill(x, y, *self.spot[:3])
        falloff = 1 - self.vignette * 2 * (x * x + y * y)
        return (self.exposure * (1 + self.slope[0] * x + self.slope[1] * y + spot) * falloff).astype(np.float32)


def _hill(x: np.ndarray, y: np.ndarray, centre_x: float, centre_y: float, width: float) -> np.ndarray:
    return np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * width**2))


def draw_light(rng: np.random.Generator) -> Light:
    """Draws the lighting of a good product."""
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


@dataclass(frozen=True)
class Camera:
    """The camera's properties; noise is relative to full scale."""

    blur: float = 0.6  # output pixels
    shot: float = 0.0  # variance per unit of signal
    read: float = 0.0  # standard deviation
    glow: float = 0.03  # share of the light that the lens scatters
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gains of R, G, B
    quality: int = 0  # of JPEG; 0: no compression


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draws the camera properties of a photograph."""
    return Camera(
        blur=float(rng.uniform(0.5, 0.85)),
        shot=float(rng.uniform(0.0004, 0.0009)),
        read=float(rng.uniform(0.0016, 0.0032)),
        white=tuple(1 + rng.normal(0, 0.025, 3)),
        quality=int(rng.integers(88, 97)),
    )


# Display values in [0, 1] for light from 0 to 1.6: sRGB, with a shoulder that preserves highlights.
_LINEAR = np.arange(_STEPS) / _PER_UNIT
_ROLLED = np.where(_LINEAR < 0.6, _LINEAR, 0.6 + 0.4 * np.tanh((_LINEAR - 0.6) / 0.4))
_TONES = np.where(_ROLLED < 0.0031308, 12.92 * _ROLLED, 1.055 * _ROLLED ** (1 / 2.4) - 0.055)
_TONES_8_BIT, _TONES_FLOAT = (_TONES * 255 + 0.5).astype(np.uint8), _TONES.astype(np.float32)


def tone_curve(linear: np.ndarray, table: np.ndarray = _TONES_FLOAT) -> np.ndarray:
    """Converts linear light to display values in [0, 1], float32."""
    return table[np.clip(linear * np.float32(_PER_UNIT) + np.float32(0.5), 0, _STEPS - 1).astype(np.uint16)]


def photograph(radiance: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Returns an 8-bit RGB image (H, W, 3) of linear light (H, W, 3); the random numbers do not depend on the light."""
    height, width = radiance.shape[:2]
    picture = cv2.GaussianBlur(radiance, (0, 0), camera.blur) if camera.blur else radiance.copy()
    if camera.glow:
        small = cv2.resize(picture, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
        glow = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.5), (width, height), interpolation=cv2.INTER_LINEAR)
        picture += np.float32(camera.glow) * (glow - picture)
    if camera.shot or camera.read:
        grain = rng.standard_normal(picture.shape, np.float32)
        grain = 0.75 * grain + 0.9 * cv2.blur(grain, (3, 3))  # demosaicing correlates neighbours
        grain *= cv2.sqrt(np.maximum(picture, 0) * np.float32(camera.shot) + np.float32(camera.read**2))
        picture += grain
    picture *= np.array(camera.white, np.float32)
    image = tone_curve(picture, _TONES_8_BIT)
    if not camera.quality:
        return image
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])
