"""One photograph of one product, with the truth about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.camera import CLEAN, Camera, draw_camera, photograph, tone_curve
from anomalib_lite.rendering.flaws import DEFECTS, NO_FLAW, Flaw
from anomalib_lite.rendering.layout import perfect_layout
from anomalib_lite.rendering.light import Light, draw_light, steady_light
from anomalib_lite.rendering.pose import Pose, draw_pose, homography
from anomalib_lite.rendering.raster import Grid, make_grid
from anomalib_lite.rendering.streams import Seed, stream
from anomalib_lite.rendering.surface import PERFECT, Surface, Wear, render_surface

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


@dataclass(frozen=True)
class Conditions:
    """What differs between the pictures of two good products."""

    pose: Pose = field(default_factory=Pose)
    light: Light = field(default_factory=steady_light)
    camera: Camera = CLEAN
    wear: Wear = PERFECT


def draw_conditions(seed: Seed, jitter: float = 1.0) -> Conditions:
    """Those of a normal production; `jitter` scales the pose's variation."""
    pose = draw_pose(stream(seed, "pose"), jitter)
    return Conditions(pose, draw_light(stream(seed, "light")), draw_camera(stream(seed, "camera")), Wear())


def render_product(
    size: int,
    seed: Seed,
    defect: str | None = None,
    severity: float | None = None,
    conditions: Conditions | None = None,
    supersampling: int = 2,
) -> Product:
    """A crop of `size` x `size` pixels that depends on its arguments alone.

    The same seed with and without a defect gives the same pose, light, texture, dust and noise. `severity` is
    in [0, 1]; it is drawn when a defect comes without one. `conditions` are drawn from the seed if not given.
    """
    flaw = draw_flaw(seed, defect, severity)
    conditions = conditions or draw_conditions(seed)
    fine = size * supersampling
    grid = make_grid(homography(conditions.pose, fine), (fine, fine))
    radiance, mask, good = render_with_mask(grid, conditions.light, seed, conditions.wear, flaw, (size, size))
    radiance *= conditions.light.field((size, size))[..., None]
    image = photograph(radiance, conditions.camera, stream(seed, "noise"))
    text, structure = (shrink(cover, (size, size)) > 0.5 for cover in (good.ink, good.foil))
    return Product(image, mask, flaw.name, flaw.severity, conditions.pose, text, structure)


def render_template(size: int) -> Product:
    """The perfect product: straight, evenly lit, without wear, dust or noise."""
    return render_product(size, 0, conditions=Conditions())


def render_with_mask(
    grid: Grid, light: Light, seed: Seed, wear: Wear, flaw: Flaw, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, Surface]:
    """Reduced to `shape`: the radiance (H, W, 3), the defect's mask (H, W); and the finer good surface."""
    good = render_surface(perfect_layout(), grid, light, seed, wear, NO_FLAW)
    radiance = shrink(good.radiance, shape)
    if flaw is NO_FLAW:
        return radiance, np.zeros(shape, bool), good
    flawed = shrink(render_surface(perfect_layout(), grid, light, seed, wear, flaw).radiance, shape)
    return flawed, changed(radiance, flawed), good


def draw_flaw(seed: Seed, defect: str | None, severity: float | None) -> Flaw:
    """The flaw that a name, a severity and a seed stand for; the severity is drawn if it is None."""
    if defect is None:
        return NO_FLAW
    if defect not in DEFECTS:
        raise UserError(f"There is no defect named {defect!r}. Choose one of: {', '.join(DEFECTS)}.")
    if severity is None:
        severity = float(stream(seed, "severity").uniform(*SEVERITIES))
    if not 0 <= severity <= 1:
        raise UserError(f"The severity of a defect lies between 0 and 1, but {severity} was given.")
    flaw = DEFECTS[defect](stream(seed, "defect"), severity, perfect_layout())
    return replace(flaw, name=defect, severity=severity)


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean of the finer pixels under each pixel; `size` is (H, W)."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where two pictures in linear light (H, W, 3) differ visibly: the mask of a defect, bool (H, W).

    Holes and slits narrower than three pixels are closed. Of a change too weak for the usual bar, all that
    reaches 40 % of its strongest pixel counts, so that no defect has an empty mask.
    """
    difference = np.abs(tone_curve(after) - tone_curve(before)).max(-1)
    mask = difference > min(VISIBLE, 0.4 * float(difference.max()))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
