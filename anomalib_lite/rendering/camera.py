"""From light to a photograph: lens, sensor, white balance, tone curve, JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.rendering.raster import white_noise

_STEPS = 8192  # of the tone curve's table
_PER_UNIT = (_STEPS - 1) / 1.6


@dataclass(frozen=True)
class Camera:
    """Blur in output pixels, noise in parts of full scale, gains of R, G, B, JPEG quality (0: none)."""

    blur: float = 0.6
    shot: float = 0.00055  # variance a unit of signal
    read: float = 0.0022  # deviation
    glow: float = 0.03  # part of the bright light that the lens spreads
    white: tuple[float, float, float] = (1.0, 1.0, 1.0)
    quality: int = 0


CLEAN = Camera(shot=0.0, read=0.0)


def draw_camera(rng: np.random.Generator) -> Camera:
    """How differently two photographs of good products come out."""
    return Camera(
        blur=float(rng.uniform(0.5, 0.85)),
        shot=float(rng.uniform(0.0004, 0.0009)),
        read=float(rng.uniform(0.0016, 0.0032)),
        white=tuple(1 + rng.normal(0, 0.025, 3)),
        quality=int(rng.integers(88, 97)),
    )


def _tone_table() -> np.ndarray:
    """Display values in [0, 1] for light from 0 to 1.6: sRGB, with a shoulder that saves the highlights."""
    linear = np.arange(_STEPS) / _PER_UNIT
    rolled = np.where(linear < 0.6, linear, 0.6 + 0.4 * np.tanh((linear - 0.6) / 0.4))
    return np.where(rolled < 0.0031308, 12.92 * rolled, 1.055 * rolled ** (1 / 2.4) - 0.055)


_TONES = _tone_table()
_TONES_8_BIT = (_TONES * 255 + 0.5).astype(np.uint8)
_TONES_FLOAT = _TONES.astype(np.float32)


def tone_curve(linear: np.ndarray) -> np.ndarray:
    """Display value in [0, 1] of linear light, as the camera shows it; float32."""
    return _TONES_FLOAT[_to_steps(linear)]


def _to_steps(linear: np.ndarray) -> np.ndarray:
    return np.clip(linear * np.float32(_PER_UNIT) + np.float32(0.5), 0, _STEPS - 1).astype(np.uint16)


def photograph(radiance: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """An 8-bit RGB picture (H, W, 3) of linear light (H, W, 3); the numbers drawn do not depend on it."""
    height, width = radiance.shape[:2]
    picture = cv2.GaussianBlur(radiance, (0, 0), camera.blur) if camera.blur else radiance.copy()
    if camera.glow:
        small = cv2.resize(picture, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
        glow = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.5), (width, height), interpolation=cv2.INTER_LINEAR)
        picture += np.float32(camera.glow) * (glow - picture)
    if camera.shot or camera.read:
        grain = white_noise(rng, picture.shape)
        grain = 0.75 * grain + 0.9 * cv2.blur(grain, (3, 3))  # demosaicing correlates neighbours
        grain *= cv2.sqrt(np.maximum(picture, 0) * np.float32(camera.shot) + np.float32(camera.read**2))
        picture += grain
    picture *= np.float32(camera.white)
    image = _TONES_8_BIT[_to_steps(picture)]
    return jpeg(image, camera.quality) if camera.quality else image


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression; shapes as given."""
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
