"""One photograph of one product, with the truth about it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.panels.camera import CLEAN, Camera, draw_camera, photograph, tone_curve
from anomalib_lite.panels.flaws import DEFECTS, NO_FLAW, Flaw
from anomalib_lite.panels.layout import perfect_layout
from anomalib_lite.panels.light import Light, draw_light, steady_light
from anomalib_lite.panels.pose import Pose, draw_pose, homography
from anomalib_lite.panels.raster import Grid, make_grid
from anomalib_lite.panels.streams import Seed, stream
from anomalib_lite.panels.surface import PERFECT, Surface, Wear, render_surface

VISIBLE = 0.035  # a pixel belongs to a defect where it changes the display value by more than this
SEVERITIES = (0.1, 0.9)


@dataclass(frozen=True)
class Product:
    """An 8-bit RGB picture (H, W, 3) and its truth; all masks are bool (H, W)."""

    image: np.ndarray
    mask: np.ndarray
    defect: str | None
    severity: float | None
    pose: Pose
    text: np.ndarray
    structure: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """The outline of the foil, two pixels to each side."""
        kernel = np.ones((5, 5), np.uint8)
        return cv2.morphologyEx(self.structure.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(bool)


def render_product(
    size: int,
    seed: Seed,
    defect: str | None = None,
    severity: float | None = None,
    *,
    jitter: float = 1.0,
    wear: Wear | None = None,
    camera: Camera | None = None,
    supersampling: int = 2,
) -> Product:
    """A crop of `size` x `size` pixels that depends on its arguments alone.

    The same seed with and without a defect gives the same pose, light, texture, dust and noise. `severity` lies in
    [0, 1] and is drawn when a defect comes without one. `jitter` scales the pose's variation.
    """
    flaw, severity = draw_flaw(seed, defect, severity)
    pose = draw_pose(stream(seed, "pose"), jitter)
    light = draw_light(stream(seed, "light"))
    camera = camera or draw_camera(stream(seed, "camera"))
    return _expose(size, seed, flaw, pose, light, camera, wear or Wear(), supersampling, defect, severity)


def render_template(size: int, supersampling: int = 2) -> Product:
    """The perfect product: straight, evenly lit, without wear, dust or noise."""
    return _expose(size, 0, NO_FLAW, Pose(), steady_light(), CLEAN, PERFECT, supersampling, None, None)


def draw_flaw(seed: Seed, defect: str | None, severity: float | None) -> tuple[Flaw, float | None]:
    """The flaw that a name, a severity and a seed stand for, and the severity, drawn if it is None."""
    if defect is None:
        return NO_FLAW, None
    if defect not in DEFECTS:
        raise UserError(f"There is no defect named {defect!r}. Choose one of: {', '.join(DEFECTS)}.")
    if severity is None:
        severity = float(stream(seed, "severity").uniform(*SEVERITIES))
    if not 0 <= severity <= 1:
        raise UserError(f"The severity of a defect lies between 0 and 1, but {severity} was given.")
    return DEFECTS[defect](stream(seed, "defect"), severity, perfect_layout()), severity


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean of the finer pixels under each pixel; `size` is (H, W)."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where two pictures in linear light (H, W, 3) differ visibly: the mask of a defect, bool (H, W).

    Holes and slits narrower than three pixels are closed. Of a change too weak for the usual bar everything that
    reaches 40 % of its strongest pixel counts, so that no defect has an empty mask.
    """
    difference = np.abs(tone_curve(after) - tone_curve(before)).max(-1)
    mask = difference > min(VISIBLE, 0.4 * float(difference.max()))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)


def _expose(
    size: int, seed: Seed, flaw: Flaw, pose: Pose, light: Light, camera: Camera, wear: Wear, supersampling: int,
    defect: str | None, severity: float | None,
) -> Product:
    fine = size * supersampling
    grid = make_grid(homography(pose, fine), (fine, fine))
    surface = _surface(grid, light, seed, wear, flaw)
    radiance = shrink(surface.radiance, (size, size))
    mask = np.zeros((size, size), bool)
    if flaw is not NO_FLAW:
        perfect = _surface(grid, light, seed, wear, NO_FLAW)
        mask = changed(shrink(perfect.radiance, (size, size)), radiance)
        surface = perfect  # the layout masks show where word and foil belong
    radiance *= light.field((size, size))[..., None]
    image = photograph(radiance, camera, stream(seed, "noise"))
    text, structure = (shrink(cover, (size, size)) > 0.5 for cover in (surface.ink, surface.foil))
    return Product(image, mask, defect, severity, pose, text, structure)


def _surface(grid: Grid, light: Light, seed: Seed, wear: Wear, flaw: Flaw) -> Surface:
    return render_surface(perfect_layout(), grid, light, seed, wear, flaw)
