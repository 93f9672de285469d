"""Renders a photograph of one product with its ground truth, or a data set of them in the layout of MVTec AD."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.flaws import DEFECTS, NO_FLAW, Flaw
from anomalib_lite.rendering.layout import perfect_layout
from anomalib_lite.rendering.photo import STUDIO, Camera, Light, draw_camera, draw_light, photograph, tone_curve
from anomalib_lite.rendering.raster import Grid, Pose, Seed, draw_pose, image_seed, make_grid, shrink, stream
from anomalib_lite.rendering.surface import PERFECT, Wear, render_surface
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image
from anomalib_lite.settings.data import PanelsConfig

VERSION = 4  # increase it when the same settings give other pixels, so that older folders are not reused
VISIBLE = 0.035  # a pixel belongs to a defect if its display value changes by more than this
SEVERITIES = (0.1, 0.9)


class Product(NamedTuple):
    """An 8-bit RGB image (H, W, 3), and the mask of its defect, bool (H, W)."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Conditions:
    """What varies between photographs of good products; the defaults are those of the perfect product."""

    pose: Pose = field(default_factory=Pose)
    light: Light = field(default_factory=lambda: Light(STUDIO))
    camera: Camera = field(default_factory=Camera)
    wear: Wear = PERFECT


def draw_conditions(seed: Seed, jitter: float = 1.0) -> Conditions:
    """Draws the conditions of normal production; `jitter` scales the variation of the pose."""
    pose = draw_pose(stream(seed, "pose"), jitter)
    return Conditions(pose, draw_light(stream(seed, "light")), draw_camera(stream(seed, "camera")), Wear())


def render_product(
    size: int,
    seed: Seed,
    defect: str | None = None,
    severity: float | None = None,
    conditions: Conditions | None = None,
) -> Product:
    """Renders a crop of `size` x `size` pixels, which depends only on the arguments.

    The same seed with and without a defect gives the same pose, light, texture, dust and noise. Without `severity`, in
    [0, 1], or `conditions`, these are drawn from the seed.
    """
    flaw = draw_flaw(seed, defect, severity)
    conditions = conditions or draw_conditions(seed)
    grid = make_grid(conditions.pose.homography(2 * size), (2 * size, 2 * size))
    radiance, mask = render_with_mask(grid, conditions.light, seed, conditions.wear, flaw)
    radiance *= conditions.light.field((size, size))[..., None]
    return Product(photograph(radiance, conditions.camera, stream(seed, "noise")), mask)


def render_template(size: int) -> np.ndarray:
    """Renders the perfect product (size, size, 3): straight, evenly lit, without wear, dust or noise."""
    return render_product(size, 0, conditions=Conditions()).image


def draw_flaw(seed: Seed, defect: str | None, severity: float | None = None) -> Flaw:
    """Returns the flaw with a name, a severity (drawn if it is None) and a seed."""
    if defect is None:
        return NO_FLAW
    if severity is None:
        severity = float(stream(seed, "severity").uniform(*SEVERITIES))
    return replace(DEFECTS[defect](stream(seed, "defect"), severity, perfect_layout()), severity=severity)


def render_with_mask(grid: Grid, light: Light, seed: Seed, wear: Wear, flaw: Flaw) -> tuple[np.ndarray, np.ndarray]:
    """Renders the radiance (H, W, 3) and the defect's mask (H, W), at half the resolution of the grid."""
    shape = (grid.shape[0] // 2, grid.shape[1] // 2)
    good = shrink(render_surface(perfect_layout(), grid, light, seed, wear), shape)
    if flaw is NO_FLAW:
        return good, np.zeros(shape, bool)
    flawed = shrink(render_surface(perfect_layout(), grid, light, seed, wear, flaw), shape)
    return flawed, _changed(good, flawed)


def _changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Returns where two images in linear light (H, W, 3) differ visibly, bool (H, W).

    Holes and slits narrower than three pixels are closed. If a change is too weak for the usual limit, pixels above
    40 % of its maximum count, so that no defect has an empty mask.
    """
    difference = np.abs(tone_curve(after) - tone_curve(before)).max(-1)
    mask = difference > min(VISIBLE, 0.4 * float(difference.max()))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)


def write_dataset(artifacts: str | os.PathLike[str], config: PanelsConfig, workers: int | None = None) -> Path:
    """Renders the data set below `artifacts`, if it does not exist yet, and returns its folder.

    It contains train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png and template.png. An image
    depends only on the seed and on its split, class and number, so larger sets contain the smaller ones.

    Raises UserError for unknown defects and for a severity range that is not ascending.
    """
    names, severity = list(DEFECTS if config.defects is None else config.defects), list(config.severity)
    if unknown := set(names) - set(DEFECTS):
        raise UserError(f"Unknown defects {sorted(unknown)}. Choose from: {', '.join(DEFECTS)}.")
    if severity != sorted(severity):
        raise UserError(f"The severity range must be ascending, but is {severity}.")
    values = vars(config) | {"version": VERSION, "severity": severity, "defects": names}
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
    target = Path(artifacts) / f"panels-{key}"
    artifact(target, lambda folder: _render_into(folder, config, names, workers))
    return target


def _render_into(folder: Path, config: PanelsConfig, defects: Sequence[str], workers: int | None) -> None:
    counts = {("train", "good"): config.n_train, ("test", "good"): config.n_test_good}
    counts |= {("test", defect): config.n_per_defect for defect in defects}
    low, high = config.severity
    write_image(folder / "template.png", render_template(config.size))
    jobs = [(*place, number) for place, count in counts.items() for number in range(count)]

    def render(job: tuple[str, str, int]) -> None:
        split, name, number = job
        seed = image_seed(config.seed, *job)
        defect = None if name == "good" else name
        severity = None if defect is None else float(stream(seed, "severity").uniform(low, high))
        product = render_product(config.size, seed, defect, severity, draw_conditions(seed, config.jitter))
        write_image(folder / split / name / f"{number:03d}.png", product.image)
        if defect is not None:
            write_image(folder / "ground_truth" / defect / f"{number:03d}_mask.png", product.mask)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(tqdm(pool.map(render, jobs), "rendering products", len(jobs), unit="image", leave=False))
