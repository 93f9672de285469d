"""Renders photographs with their ground truth: of one product, of panels with several, and data sets of either.

A data set of single products has the layout of MVTec AD.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from anomalib_lite.errors import UserError
from anomalib_lite.rendering.flaws import DEFECTS, NO_FLAW, Flaw
from anomalib_lite.rendering.layout import perfect_layout
from anomalib_lite.rendering.photo import STUDIO, Camera, Light, draw_camera, draw_light, photograph, tone_curve
from anomalib_lite.rendering.raster import Grid, Pose, Seed, image_seed, make_grid, project, smoothstep, stream
from anomalib_lite.rendering.surface import PERFECT, Wear, card_texture, render_surface
from anomalib_lite.runs.artifacts import artifact
from anomalib_lite.runs.atomic import write_image, write_json
from anomalib_lite.settings.data import PanelsConfig, SheetConfig

VERSION = 4  # increase it when the same settings give other pixels, so that older folders are not reused
VISIBLE = 0.035  # a pixel belongs to a defect if its display value changes by more than this
SEVERITIES = (0.1, 0.9)
CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


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
    """Draws the conditions of normal production. At `jitter` 1, poses deviate by 1.3 pixels of 256 and 0.75 degrees."""
    rng = stream(seed, "pose")
    dx, dy = rng.normal(0, 0.005 * jitter, 2).clip(-0.015, 0.015).tolist()
    angle = float(np.clip(rng.normal(0, 0.75 * jitter), -2.5, 2.5))
    scale = 1 + float(np.clip(rng.normal(0, 0.0065 * jitter), -0.02, 0.02))
    pose = Pose(dx, dy, angle, scale, *rng.normal(0, 0.007 * jitter, 2).tolist())
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

    def radiance(flaw: Flaw) -> np.ndarray:
        surface = render_surface(perfect_layout(), grid, light, seed, wear, flaw)
        return cv2.resize(surface, shape[::-1], interpolation=cv2.INTER_AREA)

    good = radiance(NO_FLAW)
    if flaw is NO_FLAW:
        return good, np.zeros(shape, bool)
    flawed = radiance(flaw)
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

    It has the layout of MVTec AD, and template.png. An image depends only on the seed and on its split, class and
    number, so larger sets contain the smaller ones. Raises UserError for unknown defects and for a severity range that
    is not ascending.
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
        severity = float(stream(seed, "severity").uniform(low, high)) if defect else None
        product = render_product(config.size, seed, defect, severity, draw_conditions(seed, config.jitter))
        write_image(folder / split / name / f"{number:03d}.png", product.image)
        if defect is not None:
            write_image(folder / "ground_truth" / defect / f"{number:03d}_mask.png", product.mask)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        list(tqdm(pool.map(render, jobs), "rendering products", len(jobs), unit="image", leave=False))


@dataclass(frozen=True)
class Placed:
    """A product on a sheet: its corners (4, 2) in pixels, clockwise from the upper left, its angle and its defect."""

    corners: np.ndarray
    angle: float
    defect: str | None
    severity: float | None


@dataclass(frozen=True)
class Sheet:
    """A photograph (H, W, 3) uint8, its products row by row, and the mask of all defects (H, W) bool."""

    image: np.ndarray
    products: tuple[Placed, ...]
    mask: np.ndarray


def render_sheet(config: SheetConfig, seed: Seed) -> Sheet:
    """Renders a panel, which depends only on the arguments."""
    words = (seed,) if isinstance(seed, int) else seed
    rng = stream(seed, "sheet")
    light = draw_light(rng)
    light = replace(light, exposure=float(rng.uniform(1 - config.brightness, 1 + config.brightness)))
    camera = draw_camera(rng)
    # The camera is slightly tilted: a homography of the panel's pixels.
    middle = np.array([[1, 0, -config.width / 2], [0, 1, -config.height / 2], [0, 0, 1.0]])
    lean = rng.uniform(-config.perspective, config.perspective, 2) / (config.width, config.height)
    view = np.linalg.inv(middle) @ np.array([[1, 0, 0], [0, 1, 0], [*lean, 1.0]]) @ middle
    shape = (config.height, config.width)
    radiance = card_texture(shape, config.product_size, Wear(), stream(seed, "card"))
    mask = np.zeros(shape, bool)
    products = []
    for number in range(config.rows * config.columns):
        row, column = divmod(number, config.columns)
        centre = ((column + 0.5) * config.width / config.columns, (row + 0.5) * config.height / config.rows)
        dx, dy = rng.uniform(-config.shift, config.shift, 2).tolist()
        pose = Pose(dx, dy, float(rng.uniform(-config.angle, config.angle)))
        matrix = view @ pose.homography(config.product_size, centre)
        flawed = rng.random() < config.nok_share
        defect = list(DEFECTS)[rng.integers(len(DEFECTS))] if flawed else None
        lamps = light.lamps.copy()  # foil at the side of the sheet reflects them at another angle than in the middle
        lamps[:, 0] += 0.10 * (centre[0] / shape[1] - 0.5)
        lamps[:, 1] += 0.10 * (centre[1] / shape[0] - 0.5)
        own_seed = image_seed(words[0], *words[1:], number)
        severity = _lay_down(radiance, mask, matrix, replace(light, lamps=lamps), own_seed, defect)
        products.append(Placed(project(matrix, CORNERS), pose.angle, defect, severity))
    radiance *= light.field(shape)[..., None]
    return Sheet(photograph(radiance, camera, stream(seed, "noise")), tuple(products), mask)


def _lay_down(
    radiance: np.ndarray, mask: np.ndarray, matrix: np.ndarray, light: Light, seed: Seed, defect: str | None
) -> float | None:
    """Draws a product on the sheet, in place; returns the severity of its defect."""
    flaw = draw_flaw(seed, defect)
    corners = project(matrix, CORNERS * 1.04)
    left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int), radiance.shape[1::-1])
    local = np.diag([2.0, 2.0, 1.0]) @ np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix
    grid = make_grid(local, (2 * (bottom - top), 2 * (right - left)))
    patch, own_mask = render_with_mask(grid, light, seed, Wear(), flaw)
    # The product's card fades into the sheet's card at the border of its square.
    border = np.maximum(np.abs(grid.x), np.abs(grid.y))[::2, ::2]
    weight = cv2.merge([smoothstep((np.float32(0.505) - border) / np.float32(0.03))] * 3)
    window = (slice(top, bottom), slice(left, right))
    radiance[window] += weight * (patch - radiance[window])
    mask[window] |= own_mask
    return flaw.severity


def write_sheets(folder: Path, count: int, config: SheetConfig, seed: int = 0, workers: int = 1) -> Path:
    """Writes panels/, masks/, template.png and truth.json, unless the folder exists; a panel depends on its number."""

    def make(unfinished: Path) -> None:
        write_image(unfinished / "template.png", render_template(config.product_size))

        def write_one(number: int) -> tuple[str, list[dict[str, Any]]]:
            sheet, name = render_sheet(config, image_seed(seed, "panel", number)), f"panel_{number:03d}.png"
            write_image(unfinished / "panels" / name, sheet.image)
            write_image(unfinished / "masks" / name, sheet.mask)
            return f"panels/{name}", [vars(one) | {"corners": one.corners.tolist()} for one in sheet.products]

        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(write_one, range(count))
            truth = dict(tqdm(done, "rendering panels", count, unit="panel", leave=False))
        write_json(unfinished / "truth.json", truth)

    artifact(folder, make)
    return folder


def read_truth(path: Path) -> dict[str, list[Placed]]:
    """Reads the products of each panel, by the panel's name, from a truth.json of `write_sheets`."""
    panels = json.loads(path.read_text(encoding="utf-8"))
    return {name: [Placed(**p | {"corners": np.array(p["corners"])}) for p in found] for name, found in panels.items()}
